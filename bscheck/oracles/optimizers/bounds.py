"""The rounding that one update may show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.optimizers.recurrence import Array, Hyper, Recurrence, Slots
from bscheck.oracles.rounding import PRECISIONS, Rounded, precision_of

_ORDERS = 2.0
"""Keras may group sums and fuse products as it likes. A sum is charged with the magnitude of its terms, so
one more addition over the same terms at most doubles what they were charged."""


def rounding_bound(
    recurrence: Recurrence,
    weight: Array,
    slots: Mapping[str, Array],
    gradient: Array,
    *,
    update: int,
    learning_rate: float,
    hyper: Hyper,
    dtype: str,
    gradient_error: Array | float = 0.0,
) -> tuple[Array, Slots]:
    """Bound ``|Keras - oracle|`` elementwise after one step from the same state.

    Running error analysis (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.3) of the
    recurrence itself: every operation carries its operands' errors through without linearizing (sums add,
    products and quotients expand, roots and powers are taken at both ends of the interval) and adds its own:

    - a sum ``u (|x| + |y|)``, with the terms' magnitude in place of the result's, so that grouping does not
      matter; a sum of n terms ``(n - 1) u`` times the sum of magnitudes;
    - a product, quotient or root ``u |result|``; a power ``(4 + 2 |y log x|) u |result|``, since libraries
      differ and may go by ``exp(y log x)``;
    - `_average` two more roundings of ``(1 - decay) old``, for the form ``old + (new - old) (1 - decay)``;
    - a hyperparameter ``u |value|`` where the dtype cannot hold it;
    - the smallest normal number where a result may be flushed to zero.

    Keras's error is at most twice that (see `_ORDERS`); the oracle's own, the same with u = 2^-53, is added.

    Parameters
    ----------
    recurrence : Recurrence
        The optimizer.
    weight, slots, gradient, update, learning_rate, hyper
        What was given to `Recurrence.step`.
    dtype : str
        Dtype Keras computed in: float64, float32, float16 or bfloat16.
    gradient_error : array or float, default 0
        How far, elementwise, the gradient that Keras used may be from the one given here.

    Returns
    -------
    weight_bound : ndarray
        Same shape as `weight`. Infinite where rounding decides the result, as for a denominator that may be
        zero (centered RMSprop on repeated gradients).
    slot_bounds : dict of str to ndarray
        The same for every slot.

    Raises
    ------
    ValueError
        If the dtype is unknown.
    """
    habits = {"operand": hyper.get("operand_unit", 0.0), "mean": hyper.get("mean_unit", 0.0)}
    keras = (replace(precision_of(dtype), **habits), _ORDERS, gradient_error)
    runs = (keras, (PRECISIONS["float64"], 1.0, 0.0))
    total_weight: Array = np.zeros(np.shape(weight))
    total_slots: Slots = {name: np.zeros(np.shape(slot)) for name, slot in slots.items()}
    for precision, factor, error in runs:
        exact = Rounded.source(precision)
        arguments: dict[str, Any] = {"update": exact(update), "learning_rate": exact(learning_rate)}
        tracked = {name: exact(slot) for name, slot in slots.items()}
        with np.errstate(all="ignore"):
            step: Any = recurrence.step
            given = Rounded(gradient, error, precision)
            new_weight, new_slots = step(exact(weight), tracked, given, hyper=hyper, **arguments)
            total_weight = total_weight + _limit(new_weight, factor)
            total_slots = {name: total_slots[name] + _limit(slot, factor) for name, slot in new_slots.items()}
    return total_weight, total_slots


def _limit(number: Rounded, factor: float) -> Array:
    bound = factor * number.error + number.precision.tiny
    return np.where(np.isnan(bound), np.inf, bound)
