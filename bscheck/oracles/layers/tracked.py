"""Numbers that know their rounding error and their derivative: no Keras in here.

A formula written with `Tracked` numbers gives, in one pass: its value in float64; a bound on what arithmetic of
unit roundoff u may make of it (running error analysis, Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., section 3.3, to first order, every sum in whatever order); its derivative along a direction; and a bound
on the rounding error of that derivative, forward or backward through the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.special

from bscheck.oracles.rounding import summed

Array = np.ndarray[Any, Any]

#: Relative error, in units of u, that a library's elementary function may make: vectorised ones err by up to 4
#: units in the last place, which are up to 2 u each.
ELEMENTARY = 8.0


@dataclass(frozen=True, eq=False)
class Tracked:
    """An array with its rounding error and its derivative along one direction.

    Attributes
    ----------
    value : array
        In float64.
    error : array
        What ``|computed - value|`` may be.
    tangent : array or None
        The directional derivative; None where none is asked for.
    size : array or None
        The sum of ``|product of derivatives|`` over the paths from the inputs: what the derivative's rounding
        is relative to, whether it is computed forward or backward.
    slack : array or None
        What the derivative's rounding may be.
    u : float
        Unit roundoff.
    """

    value: Array
    error: Array
    tangent: Array | None = None
    size: Array | None = None
    slack: Array | None = None
    u: float = 2.0**-53

    # The operators of NumPy must not take a Tracked apart.
    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        shape: tuple[int, ...] = self.value.shape
        return shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    def rearranged(self, move: Callable[[Array], Array]) -> Tracked:
        """Return the array after a move of its elements (a slice, a transposition, padding with zeros …)."""
        return _rearranged([self], lambda parts: move(parts[0]))

    def __getitem__(self, index: Any) -> Tracked:
        return self.rearranged(lambda a: a[index])

    def reshape(self, *shape: int) -> Tracked:
        """Return the array in another shape."""
        return self.rearranged(lambda a: a.reshape(shape))

    def transpose(self, *axes: int) -> Tracked:
        """Return the array with its axes in another order."""
        return self.rearranged(lambda a: a.transpose(axes))

    def exact(self) -> Tracked:
        """Return the array as a constant: its derivative dropped."""
        return replace(self, tangent=None, size=None, slack=None)

    def __neg__(self) -> Tracked:
        tangent = None if self.tangent is None else -self.tangent
        return replace(self, value=-self.value, tangent=tangent)

    def __add__(self, other: Any) -> Tracked:
        b = constant(other, self.u)
        value = self.value + b.value
        error = self.error + b.error + self.u * np.abs(value)
        parts = _derivatives(self, b, value.shape)
        if parts is None:
            return Tracked(value, error, u=self.u)
        (ta, sa, ma), (tb, sb, mb) = parts
        return Tracked(value, error, ta + tb, sa + sb, ma + mb + self.u * (sa + sb), self.u)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Tracked:
        return self + (-constant(other, self.u))

    def __rsub__(self, other: Any) -> Tracked:
        return constant(other, self.u) + (-self)

    def __mul__(self, other: Any) -> Tracked:
        return _bilinear(self, constant(other, self.u), np.multiply, 1)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Tracked:
        return self * reciprocal(constant(other, self.u))

    def __rtruediv__(self, other: Any) -> Tracked:
        return constant(other, self.u) * reciprocal(self)


def constant(given: Any, u: float) -> Tracked:
    """Return a number or array as a constant, which may be rounded to single precision in any precision.

    That is what Keras makes of a Python number on TensorFlow, in a float64 layer too.
    """
    if isinstance(given, Tracked):
        return given
    value = np.asarray(given, np.float64)
    held = value.astype(np.float32).astype(np.float64)
    return Tracked(value, np.abs(held - value) + np.where(held == value, 0.0, u * np.abs(value)), u=u)


def _derivatives(a: Tracked, b: Tracked, shape: tuple[int, ...]) -> list[tuple[Array, Array, Array]] | None:
    """Return (tangent, size, slack) of both, zeros for a constant; None where neither has a derivative."""
    if a.tangent is None and b.tangent is None:
        return None
    return [_filled(x, shape) for x in (a, b)]


def _filled(x: Tracked, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    if x.tangent is None or x.size is None or x.slack is None:
        nothing = np.zeros(shape)
        return nothing, nothing, nothing
    return x.tangent, x.size, x.slack


def _bilinear(a: Tracked, b: Tracked, product: Callable[[Array, Array], Array], terms: int) -> Tracked:
    """Return a product that is linear in both, each element the sum of `terms` products."""
    u, va, vb = a.u, np.abs(a.value), np.abs(b.value)
    rounding = (terms + 1) * u
    value = product(a.value, b.value)
    error = product(va, b.error) + product(a.error, vb + b.error) + rounding * product(va, vb)
    if a.tangent is None and b.tangent is None:
        return Tracked(value, error, u=u)
    ta, sa, ma = _filled(a, a.shape)
    tb, sb, mb = _filled(b, b.shape)
    size = product(sa, vb) + product(va, sb)
    slack = product(ma, vb) + product(va, mb) + product(sa, b.error) + product(a.error, sb) + rounding * size
    return Tracked(value, error, product(ta, b.value) + product(a.value, tb), size, slack, u)


def unary(x: Tracked, f: Array, slope: Array, bend: Array, units: float = ELEMENTARY) -> Tracked:
    """Return a function of each element.

    Parameters
    ----------
    x : Tracked
    f, slope, bend : array
        The function's value and its first two derivatives at ``x.value``.
    units : float
        Relative rounding error of the function itself and of its derivative, in units of u.
    """
    steep, curved = np.abs(slope), np.abs(bend)
    error = steep * x.error + 0.5 * curved * x.error**2 + units * x.u * np.abs(f)
    if x.tangent is None or x.size is None or x.slack is None:
        return Tracked(f, error, u=x.u)
    slack = steep * x.slack + (curved * x.error + units * x.u * steep) * x.size
    return Tracked(f, error, slope * x.tangent, steep * x.size, slack, x.u)


def reciprocal(x: Tracked) -> Tracked:
    """Return 1/x."""
    f = 1.0 / x.value
    return unary(x, f, -(f**2), 2 * f**3, 1.0)


def exp(x: Tracked) -> Tracked:
    """Return the exponential."""
    f = np.exp(x.value)
    return unary(x, f, f, f)


def log(x: Tracked) -> Tracked:
    """Return the natural logarithm; a library that errs by a few units of its argument near 1 is allowed for."""
    y = unary(x, np.log(x.value), 1.0 / x.value, -1.0 / x.value**2)
    return replace(y, error=y.error + ELEMENTARY * x.u)


def log1p(x: Tracked) -> Tracked:
    """Return log(1 + x)."""
    return unary(x, np.log1p(x.value), 1.0 / (1.0 + x.value), -1.0 / (1.0 + x.value) ** 2)


def expm1(x: Tracked) -> Tracked:
    """Return exp(x) - 1; computed that way too, the rounding is one of exp(x) and 1."""
    f = np.exp(x.value)
    y = unary(x, np.expm1(x.value), f, f)
    return replace(y, error=y.error + ELEMENTARY * x.u * np.minimum(f, 1.0))


def sqrt(x: Tracked) -> Tracked:
    """Return the square root."""
    f = np.sqrt(x.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = unary(x, f, np.where(f > 0, 0.5 / f, 0.0), np.where(f > 0, -0.25 / f**3, 0.0), 2.0)
    return replace(y, error=np.where(f > 0, np.minimum(y.error, np.sqrt(x.error) + 2 * x.u * f), np.sqrt(x.error)))


def tanh(x: Tracked) -> Tracked:
    """Return the hyperbolic tangent; its slope may be computed as 1 - tanh², which rounds as 1 does."""
    f = np.tanh(x.value)
    return _with_slope_rounded(unary(x, f, 1 - f**2, -2 * f * (1 - f**2)), x, 1.0)


def sigmoid(x: Tracked) -> Tracked:
    """Return the logistic function; its slope may be computed as f (1 - f)."""
    f = scipy.special.expit(x.value)
    slope = f * scipy.special.expit(-x.value)
    return _with_slope_rounded(unary(x, f, slope, slope * (1 - 2 * f)), x, f)


def erf(x: Tracked) -> Tracked:
    """Return the error function."""
    slope = 2 / np.sqrt(np.pi) * np.exp(-(x.value**2))
    y = unary(x, scipy.special.erf(x.value), slope, -2 * x.value * slope)
    # The slope's own exponential is of a rounded square.
    return _with_slope_rounded(y, x, slope * (1 + x.value**2))


def _with_slope_rounded(y: Tracked, x: Tracked, size: Any) -> Tracked:
    """Return y with room for a slope that is a difference of terms of this size."""
    if y.slack is None or x.size is None:
        return y
    return replace(y, slack=y.slack + ELEMENTARY * x.u * np.asarray(size) * x.size)


def absolute(x: Tracked) -> Tracked:
    """Return the absolute value."""
    return unary(x, np.abs(x.value), np.sign(x.value), np.zeros(x.shape), 0.0)


def square(x: Tracked) -> Tracked:
    """Return x²."""
    return unary(x, x.value**2, 2 * x.value, np.full(x.shape, 2.0), 1.0)


def select(condition: Any, a: Any, b: Any, u: float) -> Tracked:
    """Return a where the condition holds, else b."""
    left, right = constant(a, u), constant(b, u)
    shape = np.broadcast_shapes(np.shape(condition), left.shape, right.shape)
    parts = _derivatives(left, right, shape)
    value, error = np.where(condition, left.value, right.value), np.where(condition, left.error, right.error)
    if parts is None:
        return Tracked(value, error, u=u)
    tangent, size, slack = (np.where(condition, p, q) for p, q in zip(*parts, strict=True))
    return Tracked(value, error, tangent, size, slack, u)


def maximum(a: Any, b: Any, u: float) -> Tracked:
    """Return the larger; where rounding may exchange them, either's error is allowed."""
    left, right = constant(a, u), constant(b, u)
    found = select(left.value >= right.value, left, right, u)
    return replace(found, error=np.maximum(left.error, right.error) + 0 * found.value)


def minimum(a: Any, b: Any, u: float) -> Tracked:
    """Return the smaller."""
    return -maximum(-constant(a, u), -constant(b, u), u)


def total(x: Tracked, axis: Any = None, keepdims: bool = False) -> Tracked:
    """Return the sum over axes, added in whatever order."""
    value = summed(x.value, axis, keepdims)
    rounding = x.value.size / max(1, value.size) * x.u

    def add(a: Array) -> Array:
        return summed(a, axis, keepdims)

    error = add(x.error) + rounding * add(np.abs(x.value))
    if x.tangent is None or x.size is None or x.slack is None:
        return Tracked(value, error, u=x.u)
    size = add(x.size)
    return Tracked(value, error, add(x.tangent), size, add(x.slack) + rounding * size, x.u)


def mean(x: Tracked, axis: Any = None, keepdims: bool = False) -> Tracked:
    """Return the mean over axes."""
    added = total(x, axis, keepdims)
    return added / float(x.value.size / max(1, added.value.size))


def largest(x: Tracked, axis: Any = None, keepdims: bool = False) -> Tracked:
    """Return the maximum over axes; where there are several, the first one's derivative."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in np.atleast_1d(axis))
    kept = [a for a in range(x.ndim) if a not in axes]
    flat = x.transpose(*kept, *axes).reshape(*(x.shape[a] for a in kept), -1)
    at = np.expand_dims(flat.value.argmax(axis=-1), -1)
    found = flat.rearranged(lambda a: np.take_along_axis(a, at, -1)[..., 0])
    found = replace(found, error=flat.error.max(axis=-1))
    if keepdims:
        shape = [1 if a in axes else n for a, n in enumerate(x.shape)]
        found = found.reshape(*shape)
    return found


def einsum(equation: str, a: Tracked, b: Tracked) -> Tracked:
    """Return the product of two arrays after ``numpy.einsum``'s notation, without dots."""
    left, right = equation.split("->")[0].split(",")
    sizes = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}
    terms = int(np.prod([n for letter, n in sizes.items() if letter not in equation.split("->")[1]] or [1]))
    return _bilinear(a, b, lambda x, y: np.einsum(equation, x, y, optimize=False), terms)


def matmul(a: Tracked, b: Tracked) -> Tracked:
    """Return the matrix product over a's last and b's last but one axis."""
    return _bilinear(a, b, np.matmul, a.shape[-1])


def _rearranged(parts: Sequence[Tracked], move: Callable[[list[Array]], Array]) -> Tracked:
    """Return elements of several arrays moved into one."""
    u = parts[0].u
    value, error = move([p.value for p in parts]), move([p.error for p in parts])
    if all(p.tangent is None for p in parts):
        return Tracked(value, error, u=u)
    triples = [_filled(p, p.shape) for p in parts]
    tangent, size, slack = (move(list(component)) for component in zip(*triples, strict=True))
    return Tracked(value, error, tangent, size, slack, u)


def concatenate(parts: Sequence[Tracked], axis: int = -1) -> Tracked:
    """Return arrays joined along an axis."""
    return _rearranged(parts, lambda arrays: np.concatenate(arrays, axis))


def stack(parts: Sequence[Tracked], axis: int = 0) -> Tracked:
    """Return arrays joined along a new axis."""
    return _rearranged(parts, lambda arrays: np.stack(arrays, axis))


def pad(x: Tracked, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Tracked:
    """Return the array with a margin of `value`."""
    wide = x.rearranged(lambda a: np.pad(a, widths))
    return wide if value == 0.0 else replace(wide, value=np.pad(x.value, widths, constant_values=value))


def no_better_than(x: Tracked, other: Tracked) -> Tracked:
    """Return x with room for the rounding of another way to compute it."""
    found = replace(x, error=np.maximum(x.error, other.error))
    if x.size is None or other.size is None or x.slack is None or other.slack is None:
        return found
    return replace(found, size=np.maximum(x.size, other.size), slack=np.maximum(x.slack, other.slack))
