"""The learning-rate schedules that the installed Keras exports, and the settings they are tried with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bscheck.errors import BscheckError, unknown
from bscheck.runtime import keras_module

#: Settings of each schedule; together they give every option of its constructor at least two values.
SETTINGS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "ExponentialDecay": (
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.6},
        {"initial_learning_rate": 0.3, "decay_steps": 3, "decay_rate": 0.85, "staircase": True},
    ),
    "InverseTimeDecay": (
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.6},
        {"initial_learning_rate": 0.3, "decay_steps": 3, "decay_rate": 1.7, "staircase": True},
    ),
    "PiecewiseConstantDecay": (
        {"boundaries": [3, 8], "values": [0.1, 0.03, 0.2]},
        {"boundaries": [1, 2, 7], "values": [0.05, 0.3, 0.01, 0.07]},
    ),
    "PolynomialDecay": (
        {"initial_learning_rate": 0.1, "decay_steps": 9, "end_learning_rate": 0.0001},
        {"initial_learning_rate": 0.3, "decay_steps": 9, "end_learning_rate": 0.02, "power": 0.5},
        {"initial_learning_rate": 0.2, "decay_steps": 4, "end_learning_rate": 0.01, "power": 2.0, "cycle": True},
    ),
    "CosineDecay": (
        {"initial_learning_rate": 0.1, "decay_steps": 9},
        {"initial_learning_rate": 0.3, "decay_steps": 7, "alpha": 0.2},
        {"initial_learning_rate": 0.02, "decay_steps": 7, "alpha": 0.1, "warmup_target": 0.2, "warmup_steps": 4},
    ),
    "CosineDecayRestarts": (
        {"initial_learning_rate": 0.1, "first_decay_steps": 5, "t_mul": 1.0, "m_mul": 0.8, "alpha": 0.05},
        {"initial_learning_rate": 0.3, "first_decay_steps": 3, "m_mul": 0.7, "alpha": 0.1},
        {"initial_learning_rate": 0.2, "first_decay_steps": 3, "t_mul": 1.5},
    ),
}


@functools.cache
def schedules() -> Mapping[str, type]:
    """Return every schedule class that the installed Keras exports, by name."""
    exported = keras_module().optimizers.schedules
    base = exported.LearningRateSchedule
    found = {name: getattr(exported, name) for name in sorted(dir(exported))}
    return {name: c for name, c in found.items() if inspect.isclass(c) and issubclass(c, base) and c is not base}


def settings(name: str) -> Sequence[Mapping[str, Any]]:
    """Return the settings of this schedule, or raise an error that lists those that have some."""
    if name not in SETTINGS:
        raise BscheckError(unknown("schedule", name, SETTINGS))
    return SETTINGS[name]


def options(name: str) -> list[str]:
    """Return the options of a schedule's constructor that matter to its values."""
    return [p for p in inspect.signature(schedules()[name]).parameters if p != "name"]


def make_schedule(name: str, setting: int, dtype: str = "float32") -> Any:
    """Return a new schedule of this name with one of its settings, counted round.

    Its values are "of the same type as initial_learning_rate", so that NumPy's float64 decides the precision.
    """
    chosen = settings(name)
    options = chosen[setting % len(chosen)]
    return schedules()[name](**(_doubled(options) if dtype == "float64" else options))


def _doubled(value: Any) -> Any:
    """Return a setting with every Python float as NumPy's float64, the numbers of lists included."""
    if isinstance(value, Mapping):
        return {key: _doubled(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_doubled(v) for v in value]
    return np.float64(value) if isinstance(value, float) else value
