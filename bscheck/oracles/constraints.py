"""Weight constraints as NumPy formulas in float64, from their documentation (keras.io/api/layers/constraints)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def norms(w: Array, axis: int | Sequence[int] = 0) -> Array:
    """Return the weights' norms along some axes, which are kept."""
    axes = axis if isinstance(axis, int) else tuple(axis)
    return np.asarray(np.sqrt(np.sum(w * w, axis=axes, keepdims=True)))


def _rescaled(w: Array, wanted: Array, now: Array) -> Array:
    """Return weights of the wanted norms; weights of norm 0 have no direction and stay."""
    return np.asarray(np.where(now > 0, w * wanted / np.where(now > 0, now, 1.0), w))


def max_norm(w: Array, max_value: float = 2.0, axis: int | Sequence[int] = 0) -> Array:
    """Return the weights, shortened to the largest norm that is allowed."""
    return min_max_norm(w, 0.0, max_value, 1.0, axis)


def min_max_norm(
    w: Array, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: int | Sequence[int] = 0
) -> Array:
    """Return weights whose norm is ``(1 - rate) norm + rate clip(norm, min_value, max_value)``."""
    now = norms(w, axis)
    return _rescaled(w, (1 - rate) * now + rate * np.clip(now, min_value, max_value), now)


def unit_norm(w: Array, axis: int | Sequence[int] = 0) -> Array:
    """Return the weights, of norm 1."""
    return min_max_norm(w, 1.0, 1.0, 1.0, axis)


def non_negative(w: Array) -> Array:
    """Return the weights, 0 in place of the negative ones."""
    return np.asarray(np.where(w < 0, 0.0, w))


#: Formula of each constraint, by the name of the class that Keras exports.
CONSTRAINTS: Mapping[str, Callable[..., Array]] = {
    "MaxNorm": max_norm,
    "MinMaxNorm": min_max_norm,
    "NonNeg": non_negative,
    "UnitNorm": unit_norm,
}
