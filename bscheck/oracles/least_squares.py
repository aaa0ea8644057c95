"""Stochastic gradient descent on noisy least squares, exactly: moments, stability threshold, stationary excess loss.

The loss is ``L(w) = 1/N sum_i (x_i . w - y_i)^2``; with ``d = w - w*`` and residuals ``r_i`` at the optimum w*, one
example's update of d is affine, so the second moment of ``s = (1, d)`` (and of ``(1, d, v)`` with a velocity v) follows
a linear recursion with no further assumption. Sampling with replacement and without differ in one number only, the
finite population correction (Cochran 1977, Sampling Techniques, theorem 2.2). The recursion for i.i.d. samples is that
of Bach & Moulines, Non-strongly-convex smooth stochastic approximation with convergence rate O(1/n) (2013), and of
Dieuleveut, Flammarion & Bach, Harder, Better, Faster, Stronger Convergence Rates (2017).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A least-squares problem.

    Attributes
    ----------
    x : array, shape (N, d)
    y : array, shape (N,)
    """

    x: Array
    y: Array

    @functools.cached_property
    def optimum(self) -> Array:
        """The minimiser w*, shape (d,)."""
        return np.asarray(np.linalg.lstsq(self.x, self.y, rcond=None)[0])

    @functools.cached_property
    def residuals(self) -> Array:
        """``y - x w*``, shape (N,)."""
        return np.asarray(self.y - self.x @ self.optimum)

    @functools.cached_property
    def hessian(self) -> Array:
        """``H = E x x^T``, half the Hessian of the loss, shape (d, d)."""
        return np.asarray(self.x.T @ self.x / len(self.x))

    @functools.cached_property
    def least_loss(self) -> float:
        """``L* = E r^2``."""
        return float(np.mean(self.residuals**2))

    def loss(self, weights: Array) -> Array:
        """Return L at weights of shape (..., d)."""
        return np.asarray(np.mean((weights @ self.x.T - self.y) ** 2, axis=-1))


def problem(seed: int, examples: int, dimensions: int, noise: float = 0.5) -> LeastSquares:
    """Return a problem with inputs of unequal size and noisy targets."""
    rng = np.random.default_rng((seed, 31))
    x = rng.standard_normal((examples, dimensions)) * np.linspace(1.0, 0.5, dimensions)
    y = x @ rng.standard_normal(dimensions) + noise * rng.standard_normal(examples)
    return LeastSquares(x, y)


def example_maps(given: LeastSquares, rate: float, momentum: float = 0.0, nesterov: bool = False) -> Array:
    """Return each example's update as a matrix on ``(1, d)``, or on ``(1, d, v)`` with momentum; shape (N, p, p).

    Plain: ``d <- d - rate g``, ``g = 2 x (x.d - r)``. Momentum (Sutskever et al. 2013, section 2):
    ``v <- mu v - rate g``, ``d <- d + v``; Nesterov's form in the same variables: ``d <- d + mu v - rate g`` with the
    new v.
    """
    d = given.x.shape[1]
    eye = np.eye(d)
    maps = []
    for row, residual in zip(given.x, given.residuals, strict=True):
        pull, push = 2 * rate * np.outer(row, row), 2 * rate * residual * row
        if momentum == 0:
            maps.append(_affine(eye - pull, push))
            continue
        velocity = np.hstack([-pull, momentum * eye]), push
        ahead = momentum if nesterov else 1.0
        position = np.hstack([eye, 0 * eye]) + ahead * velocity[0], ahead * push
        if nesterov:
            position = position[0] + np.hstack([-pull, 0 * eye]), position[1] + push
        maps.append(_affine(np.vstack([position[0], velocity[0]]), np.concatenate([position[1], velocity[1]])))
    return np.stack(maps)


def _affine(linear: Array, constant: Array) -> Array:
    matrix = np.zeros((len(constant) + 1,) * 2)
    matrix[0, 0], matrix[1:, 0], matrix[1:, 1:] = 1.0, constant, linear
    return matrix


def correction(examples: int, batch_size: int, replacement: bool) -> float:
    """Return c: variance of a batch's mean in units of one example's, ``1/B`` or ``(N-B) / (B (N-1))``."""
    return 1 / batch_size if replacement else (examples - batch_size) / (batch_size * (examples - 1))


def first_moments(given: LeastSquares, weights: Array, momentum: float = 0.0) -> Array:
    """Return ``E s s^T`` where every run starts: at these weights, at rest."""
    start = np.concatenate([[1.0], weights - given.optimum, np.zeros(len(weights) if momentum else 0)])
    return np.outer(start, start)


def next_moments(moments: Array, maps: Array, c: float) -> Array:
    """Return ``E s s^T`` after one batch: ``(1-c) T P T^T + c E_i T_i P T_i^T``, T the mean map."""
    mean = maps.mean(axis=0)
    single = (maps @ moments @ maps.transpose(0, 2, 1)).mean(axis=0)
    return np.asarray((1 - c) * mean @ moments @ mean.T + c * single)


def expected_loss(given: LeastSquares, moments: Array) -> float:
    """Return ``E L = L* + tr(H M)``, M the second moment of d."""
    d = len(given.optimum)
    return given.least_loss + float(np.trace(given.hessian @ moments[1 : d + 1, 1 : d + 1]))


def moments_after_an_epoch(moments: Array, maps: Array, batch_size: int) -> Array:
    """Return ``E s s^T`` after one pass in random order, every order equally likely: by enumerating all of them."""
    products = [_product(maps, order) for order in _ordered_partitions(range(len(maps)), batch_size)]
    return np.asarray(np.mean([t @ moments @ t.T for t in products], axis=0))


def _product(maps: Array, batches: Sequence[Sequence[int]]) -> Array:
    return functools.reduce(lambda done, batch: maps[list(batch)].mean(axis=0) @ done, batches, np.eye(maps.shape[1]))


def _ordered_partitions(rows: Sequence[int], batch_size: int) -> Iterator[list[tuple[int, ...]]]:
    """Yield every way to cut the rows into batches, the last one smaller where they do not divide."""
    if len(rows) <= batch_size:
        yield [tuple(rows)]
        return
    for batch in itertools.combinations(rows, batch_size):
        rest = [row for row in rows if row not in batch]
        for others in _ordered_partitions(rest, batch_size):
            yield [batch, *others]


# Stability ---------------------------------------------------------------------------------------------


def spectral_radius(given: LeastSquares, rate: float, c: float) -> float:
    """Return the spectral radius of the recursion of ``E d d^T``; below 1 the mean loss stays bounded."""
    linear = example_maps(given, rate)[:, 1:, 1:]
    mean = linear.mean(axis=0)
    single = np.mean([np.kron(a, a) for a in linear], axis=0)
    return float(np.abs(np.linalg.eigvals((1 - c) * np.kron(mean, mean) + c * single)).max())


def stability_threshold(given: LeastSquares, c: float) -> float:
    """Return the learning rate at which `spectral_radius` reaches 1, to a relative 1e-10.

    For the full batch (c = 0) it is ``1 / lambda_max(H)``; at smaller batches it is lower, never higher.
    """
    from scipy.optimize import brentq

    highest = 1 / float(np.max(np.linalg.eigvalsh(given.hessian)))
    return float(
        brentq(
            lambda rate: spectral_radius(given, rate, c) - 1, 1e-6 * highest, 1.001 * highest, rtol=1e-10, xtol=1e-14
        )
    )


def stationary_loss(given: LeastSquares, rate: float, c: float) -> float:
    """Return the excess of the mean loss over L* that training settles at, ``tr(H M)`` at the recursion's fixed point.

    To first order in the rate it is ``rate c E r^2 x^T x``, proportional to rate / B.
    """
    maps = example_maps(given, rate)
    linear, push = maps[:, 1:, 1:], maps[:, 1:, 0]
    mean, d = linear.mean(axis=0), len(given.optimum)
    lifted = (1 - c) * np.kron(mean, mean) + c * np.mean([np.kron(a, a) for a in linear], axis=0)
    source = c * np.mean([np.outer(b, b) for b in push], axis=0)
    second = np.linalg.solve(np.eye(d * d) - lifted, source.ravel()).reshape(d, d)
    return float(np.trace(given.hessian @ second))


# Simulation --------------------------------------------------------------------------------------------


def batches(seed: int, runs: int, steps: int, examples: int, batch_size: int, replacement: bool) -> Array:
    """Return the rows of every batch of every run, shape (steps, runs, B); batches are independent of each other."""
    rng = np.random.default_rng((seed, 32))
    if replacement:
        return rng.integers(0, examples, (steps, runs, batch_size))
    return np.argsort(rng.random((steps, runs, examples)), axis=-1)[..., :batch_size]


def simulate(given: LeastSquares, maps: Array, weights: Array, rows: Array) -> Array:
    """Return d of every run after every batch, shape (steps + 1, runs, d), by the maps themselves."""
    start = np.concatenate([[1.0], weights - given.optimum, np.zeros(maps.shape[1] - 1 - len(weights))])
    state = np.broadcast_to(start, (rows.shape[1], len(start)))
    seen = [state]
    for batch in rows:
        state = np.einsum("rij,rj->ri", maps[batch].mean(axis=1), state)
        seen.append(state)
    return np.stack(seen)[..., 1 : 1 + len(weights)]


def normal_quantile(alpha: float) -> float:
    """Return z such that a standard normal variable exceeds it in size with probability alpha."""
    from scipy import stats

    return float(stats.norm.isf(alpha / 2)) if alpha > 0 else math.inf
