"""Numbers that carry a bound on their rounding error: running error analysis of any NumPy recurrence.

Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.3: every operation carries its operands' errors
through without linearizing and adds its own, see `bscheck.oracles.optimizers.rounding_bound`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Precision:
    """`unit`: unit roundoff; `tiny`: smallest normal number (backends may flush what is below it to zero).

    `operand` and `mean`: unit roundoff of plain numbers and of means, where coarser (see `hyperparameters`).
    """

    unit: float
    tiny: float
    operand: float = 0.0
    mean: float = 0.0


PRECISIONS = {
    "float64": Precision(2.0**-53, 2.0**-1022),
    "float32": Precision(2.0**-24, 2.0**-126),
    "float16": Precision(2.0**-11, 2.0**-14),
    "bfloat16": Precision(2.0**-8, 2.0**-126),
}


def precision_of(dtype: str) -> Precision:
    if dtype not in PRECISIONS:
        raise ValueError(f"no unit roundoff known for dtype {dtype!r}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[dtype]


def rounded_to(value: float, precision: Precision) -> float:
    """The nearest number of that precision, ties to even (range ignored)."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa / precision.unit) * precision.unit, exponent)


def summed(values: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """Return the sum over axes, as an array whatever is left of the axes."""
    kept = np.sum(values, axis=axis, keepdims=True)
    return kept if keepdims else np.asarray(np.squeeze(kept, axis))


class Rounded(NDArrayOperatorsMixin):
    """An array and a bound on its error, which NumPy's operators and functions carry along."""

    __slots__ = ("error", "precision", "value")

    def __init__(self, value: Any, error: Any, precision: Precision) -> None:
        self.value: Array = np.asarray(value, dtype=np.float64)
        self.error: Array = np.broadcast_to(np.asarray(error, dtype=np.float64), self.value.shape)
        self.precision = precision

    @staticmethod
    def source(precision: Precision) -> Callable[[Any], Rounded]:
        """A maker of numbers that are exact to begin with."""
        return lambda value: Rounded(value, 0.0, precision)

    @property
    def ndim(self) -> int:
        return self.value.ndim

    def like(self, value: Any, error: Any) -> Rounded:
        return Rounded(value, error, self.precision)

    def lift(self, operand: Any) -> Rounded:
        """A plain number is a hyperparameter: it is rounded to the dtype unless it fits."""
        if isinstance(operand, Rounded):
            return operand
        number = float(operand)
        unit = max(self.precision.operand, self.precision.unit)
        coarse = replace(self.precision, unit=unit)
        return self.like(number, 0.0 if rounded_to(number, coarse) == number else unit * abs(number))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        outcome = _OUTCOMES.get(ufunc)
        if outcome is None or method != "__call__" or kwargs:
            return NotImplemented
        operands = [self.lift(operand) for operand in inputs]
        value = ufunc(*(operand.value for operand in operands))
        carried, rounded, exact = outcome(value, *operands)
        own = np.where(exact, 0.0, rounded * self.precision.unit + self.precision.tiny)
        return self.like(value, carried + own)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def T(self) -> Rounded:  # noqa: N802 - as NumPy calls it
        return self.like(self.value.T, self.error.T)

    def __getitem__(self, key: Any) -> Rounded:
        return self.like(self.value[key], self.error[key])

    def sum(self, axis: int | None = None, keepdims: bool = False) -> Rounded:
        total = summed(self.value, axis, keepdims)
        magnitude = summed(np.abs(self.value), axis, keepdims)
        additions = self.value.size / max(total.size, 1) - 1
        error = summed(self.error, axis, keepdims) + additions * self.precision.unit * magnitude
        return self.like(total, error)

    def mean(self, axis: int | None = None, keepdims: bool = False) -> Rounded:
        total = self.sum(axis=axis, keepdims=keepdims)
        count = self.value.size / max(total.value.size, 1)
        magnitude = summed(np.abs(self.value), axis, keepdims)
        error = total.error + (count + 1.0) * self.precision.mean * magnitude
        mean: Rounded = self.like(total.value, error) / count
        return mean


_Outcome: TypeAlias = tuple[Any, Any, Any]
"""Error carried over from the operands, magnitude that is rounded, where the operation is exact."""


def is_zero(number: Rounded) -> Any:
    return (number.value == 0) & (number.error == 0)


def _of_sum(value: Array, x: Rounded, y: Rounded) -> _Outcome:
    return x.error + y.error, np.abs(x.value) + np.abs(y.value), is_zero(x) | is_zero(y)


def _of_product(value: Array, x: Rounded, y: Rounded) -> _Outcome:
    carried = x.error * np.abs(y.value) + np.abs(x.value) * y.error + x.error * y.error
    return carried, np.abs(value), is_zero(x) | is_zero(y)


def _of_quotient(value: Array, x: Rounded, y: Rounded) -> _Outcome:
    room = np.abs(y.value) - y.error
    carried = np.where(room > 0, (x.error + np.abs(value) * y.error) / np.where(room > 0, room, 1.0), np.inf)
    return carried, np.abs(value), is_zero(x)


def _of_matrix_product(value: Array, x: Rounded, y: Rounded) -> _Outcome:
    ones, others = np.abs(x.value), np.abs(y.value)
    carried = ones @ y.error + x.error @ others + x.error @ y.error
    return carried, x.value.shape[-1] * (ones @ others), False


def _of_square(value: Array, x: Rounded) -> _Outcome:
    return _of_product(value, x, x)


def _of_root(value: Array, x: Rounded) -> _Outcome:
    low = np.maximum(x.value - x.error, 0.0)
    # sqrt(x) - sqrt(x - e) without its cancellation; the upper end is nearer. Below zero, anything goes.
    inside = x.error / (value + np.sqrt(low))
    carried = np.where(x.value > x.error, inside, np.sqrt(np.abs(x.value) + x.error))
    return np.where(is_zero(x), 0.0, carried), value, is_zero(x)


def _of_power(value: Array, x: Rounded, y: Rounded) -> _Outcome:
    bases = (np.maximum(x.value - x.error, 0.0), x.value + x.error)
    exponents = (y.value - y.error, y.value + y.error)
    corners = np.max([np.abs(np.power(b, e) - value) for b in bases for e in exponents], axis=0)
    carried = np.where((x.error > 0) | (y.error > 0), corners, 0.0)
    logarithm = np.abs(y.value * np.log(np.where(x.value > 0, x.value, 1.0)))
    return carried, np.abs(value) * (4.0 + 2.0 * logarithm), is_zero(x)


def _of_sign(value: Array, x: Rounded) -> _Outcome:
    undecided = (np.abs(x.value) <= x.error) & ~is_zero(x)
    return np.where(undecided, 1.0 + np.abs(value), 0.0), 0.0, True


def _of_extreme(value: Array, x: Rounded, y: Rounded) -> _Outcome:
    return np.maximum(x.error, y.error), 0.0, True


def _of_magnitude(value: Array, x: Rounded) -> _Outcome:
    return x.error, 0.0, True


_OUTCOMES: Mapping[np.ufunc, Callable[..., _Outcome]] = {
    np.add: _of_sum,
    np.subtract: _of_sum,
    np.multiply: _of_product,
    np.divide: _of_quotient,
    np.matmul: _of_matrix_product,
    np.square: _of_square,
    np.sqrt: _of_root,
    np.power: _of_power,
    np.sign: _of_sign,
    np.maximum: _of_extreme,
    np.minimum: _of_extreme,
    np.absolute: _of_magnitude,
    np.negative: _of_magnitude,
}


def is_rounded(number: object) -> TypeGuard[Rounded]:
    return isinstance(number, Rounded)


def allow(number: Array, magnitude: Any, unit: float | None = None) -> Array:
    """Charge a tracked number with more rounding of that magnitude; a plain array passes through."""
    if not is_rounded(number):
        return number
    extra = magnitude.value if is_rounded(magnitude) else magnitude
    charged: Any = number.like(number.value, number.error + extra * (unit or number.precision.unit))
    widened: Array = charged
    return widened
