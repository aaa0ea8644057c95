"""What a Keras optimizer holds: its slots and its hyperparameters. Nothing here imports Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bscheck.oracles.optimizers.recurrence import Array, Recurrence, Slots
from bscheck.oracles.rounding import PRECISIONS, precision_of, rounded_to

_CAST_NAMES: Mapping[str, tuple[str, ...]] = {
    "SGD": ("momentum",),
    "Adam": ("beta_1", "beta_2"),
    "AdamW": ("beta_1", "beta_2"),
    "Adamax": ("beta_1",),
    "Nadam": ("beta_1", "beta_2", "schedule_decay"),
    "Lion": ("beta_1", "beta_2"),
    "Lamb": ("beta_1", "beta_2"),
    "Adafactor": ("epsilon_2",),
    "Muon": ("adam_beta_1", "adam_beta_2", "adam_weight_decay"),
    "ScheduleFreeAdamW": ("beta_1", "beta_2", "epsilon"),
}
"""Hyperparameters that Keras sends through `ops.cast`; all others meet tensors as Python floats."""

_NADAM_SCHEDULE_DECAY = 0.96  # Dozat 2016; not an attribute of Keras's Nadam

SLOT_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "momentum": ("_momentums", "momentums", "adam_momentums", "_m"),
    "velocity": ("adam_velocities", "_velocities", "_v"),
    "velocity_hat": ("_velocity_hats",),
    "average_gradient": ("_average_gradients",),
    "accumulator": ("_accumulators",),
    "accumulated_grad": ("_accumulated_grads",),
    "accumulated_delta_var": ("_accumulated_delta_vars",),
    "norm": ("_u",),
    "linear": ("_linears",),
    "u_product": ("_u_product",),
    "r": ("_r",),
    "c": ("_c",),
}
"""Where Keras 3.1 to 3.15 keeps each slot. In 3.1 their names do not always say whose."""


def keras_slots(optimizer: Any, index: int, recurrence: Recurrence) -> Slots:
    """Read Keras's own state of one trainable variable.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Built optimizer.
    index : int
        Position of the variable in the list the optimizer was built with.
    recurrence : Recurrence
        Says which slots to read.

    Returns
    -------
    dict of str to ndarray
        Float64 copies. `u_product` of Nadam is one scalar shared by all variables; `r` and `c` of Adafactor
        are unused scalars for variables of fewer than two dimensions.

    Raises
    ------
    LookupError
        If the optimizer holds no such slot, for instance because it is not built.
    """
    return {slot: _read(variable) for slot, variable in _slot_variables(optimizer, index, recurrence).items()}


def _slot_variables(optimizer: Any, index: int, recurrence: Recurrence) -> dict[str, Any]:
    """The Keras variables themselves; a slot that an optimizer keeps for other variables only is left out."""
    found = {slot: _slot_variable(optimizer, index, slot) for slot in recurrence.slots}
    return {slot: variable for slot, variable in found.items() if variable is not None}


def _slot_variable(optimizer: Any, index: int, slot: str) -> Any:
    for attribute in SLOT_ATTRIBUTES[slot]:
        held = getattr(optimizer, attribute, None)
        if isinstance(held, Mapping):  # Muon before Keras 3.13, by the variables' paths
            return held.get(optimizer._trainable_variables[index].path)
        if held is not None and not isinstance(held, (list, tuple)):
            return held
        if held:
            return held[index]
    named = [variable for variable in optimizer.variables if _has_suffix(variable.name, slot)]
    if index >= len(named):
        found = ", ".join(str(variable.name) for variable in optimizer.variables)
        missing = f"{type(optimizer).__name__} holds no slot {slot!r} for variable {index}"
        raise LookupError(f"{missing}; build it first; it holds {found}")
    return named[index]


def _has_suffix(name: str, slot: str) -> bool:
    return name == slot or (name.endswith(f"_{slot}") and not name.endswith("gradient_accumulator"))


def _read(variable: Any) -> Array:
    value = variable.numpy() if hasattr(variable, "numpy") else variable
    return np.array(value, dtype=np.float64)


def hyperparameters(optimizer: Any, recurrence: Recurrence, dtype: str) -> dict[str, float | bool]:
    """Read the hyperparameters a recurrence needs, as Keras on its backend will use them.

    A Python float given to Keras is used in two ways. Most meet a tensor directly and keep their float64
    value for float64 weights. Some go through `ops.cast` first, which on TensorFlow makes a float32 of
    them; those are returned twice, plainly and as ``cast_<name>``. Four more entries tell `step` and
    `rounding_bound` of a backend's habits, where float64 weights meet float32 arithmetic:

    - ``fused`` (torch): averages take the plain value, in one kernel;
    - ``decay_unit`` (torch): unit roundoff of the factor ``1 - weight_decay * learning_rate``;
    - ``operand_unit`` (torch, where not fused: Lamb, Ftrl, Adafactor): that of plain Python floats;
    - ``mean_unit`` (JAX, torch): that of `ops.mean`, which casts float64 to float32 there (seen in 3.15.1).

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Where the values are read.
    recurrence : Recurrence
        Says which.
    dtype : str
        Dtype of the weights.

    Returns
    -------
    dict of str to float or bool
        For `Recurrence.step` and `rounding_bound`.
    """
    values = {
        name: _scalar(getattr(optimizer, name)) for name in recurrence.hyperparameters if hasattr(optimizer, name)
    }
    if recurrence.keras_class == "Muon":  # before Keras 3.13 one decay for all
        values.setdefault("adam_weight_decay", values["weight_decay"])
    if recurrence.keras_class == "Nadam":
        values["schedule_decay"] = _NADAM_SCHEDULE_DECAY
    backend = _backend(optimizer)
    precision = precision_of(dtype)
    for name in (*_CAST_NAMES.get(recurrence.keras_class, ()), "weight_decay"):
        if name in values:
            value = values[name]
            through = rounded_to(value, PRECISIONS["float32"]) if backend == "tensorflow" else value
            values[f"cast_{name}"] = rounded_to(through, precision)
    single = PRECISIONS["float32"].unit
    fused, torch = backend == "torch_fused", backend.startswith("torch")
    values["fused"] = fused
    values["decay_unit"] = single if torch else 0.0
    values["operand_unit"] = single if torch and not fused else 0.0
    values["mean_unit"] = single if torch or backend == "jax" else 0.0
    return values


def _scalar(value: Any) -> float | bool:
    """A hyperparameter, which Keras lets be a number, a tensor, a function of nothing, or None."""
    value = value() if callable(value) else value
    if value is None or isinstance(value, bool):
        return bool(value) if value is not None else 0.0
    return float(value)


def _backend(optimizer: Any) -> str:
    """Which backend's base class the optimizer has; read from its ancestry, so nothing is imported."""
    modules = " ".join(kind.__module__ for kind in type(optimizer).__mro__)
    if "torch_parallel_optimizer" in modules:
        return "torch_fused"
    return next((name for name in ("tensorflow", "jax", "torch") if f"backend.{name}" in modules), "")
