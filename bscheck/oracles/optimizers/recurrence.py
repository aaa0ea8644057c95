"""What an optimizer is as its paper writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Slots: TypeAlias = dict[str, Array]
State: TypeAlias = Mapping[str, Array]
Hyper: TypeAlias = Mapping[str, float | bool]


class Step(Protocol):
    """One update: ``step(weight, slots, gradient, update=, learning_rate=, hyper=)``, pure, in float64."""

    def __call__(
        self,
        weight: Array,
        slots: State,
        gradient: Array,
        *,
        update: int,
        learning_rate: float,
        hyper: Hyper,
    ) -> tuple[Array, Slots]: ...


@dataclass(frozen=True)
class Now:
    """What an update depends on besides its arrays."""

    update: int
    learning_rate: float
    hyper: Hyper


Rule: TypeAlias = Callable[[Array, State, Array, Now], tuple[Array, Slots]]


@dataclass(frozen=True)
class Recurrence:
    """An optimizer as its paper writes it, tied to the Keras class that claims to be it.

    Attributes
    ----------
    name : str
        Key in `RECURRENCES`.
    keras_class : str
        Name exported by ``keras.optimizers``.
    options : Mapping[str, object]
        Constructor options that select this variant of the class.
    hyperparameters : tuple of str
        Attributes read from the Keras optimizer by `hyperparameters`.
    slots : tuple of str
        State per weight, in Keras's order and under Keras's slot names.
    source : str
        Where the equations come from.
    differences : tuple of str
        Every place where Keras departs from the source, one sentence each.
    step : Step
        ``step(weight, slots, gradient, *, update, learning_rate, hyper) -> (new_weight, new_slots)``; all
        arrays float64, `update` counts from 1, nothing is modified in place.
    """

    name: str
    keras_class: str
    options: Mapping[str, object]
    hyperparameters: tuple[str, ...]
    slots: tuple[str, ...]
    source: str
    differences: tuple[str, ...]
    step: Step = field(repr=False)
