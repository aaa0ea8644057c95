"""Penalties as NumPy formulas in float64, analytic like `bscheck.oracles.losses`: no Keras in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _absolute(z: Array) -> Array:
    return np.asarray(np.where(z.real < 0, -z, z))


def l1_l2(w: Array, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return ``l1 sum |w| + l2 sum w**2``: Keras puts no half before the square."""
    return l1 * _absolute(w).sum() + l2 * (w * w).sum()


def orthogonal(w: Array, factor: float = 0.01, mode: str = "rows") -> Any:
    """Return `factor` times the mean over pairs of rows (or columns) of the size of their cosine."""
    rows = w if mode == "rows" else w.T
    unit = rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    cosines = _absolute(unit @ unit.T)[np.triu_indices(len(rows), 1)]
    return factor * cosines.mean()


#: Formula of each regularizer, by the name of the class that Keras exports.
REGULARIZERS: Mapping[str, Callable[..., Any]] = {
    "L1": l1_l2,
    "L1L2": l1_l2,
    "L2": l1_l2,
    "OrthogonalRegularizer": orthogonal,
}


def slope(formula: Callable[[Array], Any], w: Array) -> Array:
    """Return the gradient of a formula by complex steps."""
    found = np.zeros(w.size)
    for j in range(w.size):
        moved = np.array(w, complex, order="C")
        moved.reshape(-1)[j] += 1e-30j
        found[j] = np.imag(formula(moved)) / 1e-30
    return found.reshape(w.shape)
