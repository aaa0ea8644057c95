"""Layers by their definitions, in NumPy and float64: no Keras in here, and no code of Keras's transcribed.

Every formula is written from the paper or the documentation that its docstring names. It gets the layer's options
as they were passed (what is left out takes the documented default), its weights, inputs and masks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from bscheck.errors import BscheckError
from bscheck.oracles.layers.tracked import Array, Tracked

MODULES = (
    "activations", "attention", "convolution", "feedforward", "merging", "normalization", "pooling", "preprocessing",
    "recurrent", "reshaping", "stochastic",
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """A layer as data: the exported class and the options it is made with; options may hold further specs."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = ", ".join(f"{k}={_said(v)}" for k, v in self.options.items() if k not in ("name", "seed"))
        return f"{self.name}({said})"


def _said(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_said, value))}]"
    return str(value) if isinstance(value, Spec) else getattr(value, "__name__", repr(value))


def spec(name: str, /, **options: Any) -> Spec:
    """Return the layer of this class with these options."""
    return Spec(name, options)


@dataclass(frozen=True)
class Weights:
    """A layer's weights by path."""

    by_path: Mapping[str, Tracked]

    def __getitem__(self, name: str) -> Tracked:
        found = [v for path, v in self.by_path.items() if f"/{path}".endswith(f"/{name}")]
        if len(found) != 1:
            raise BscheckError(f"the layer has {len(found)} weights {name!r}: {', '.join(self.by_path)}")
        return found[0]

    def under(self, name: str) -> Weights:
        """Return the weights of the sublayer of this name."""
        return Weights({path: v for path, v in self.by_path.items() if f"/{name}/" in f"/{path}"})

    def path(self, name: str) -> str:
        """Return the path of the weight of this name."""
        return next(path for path in self.by_path if f"/{path}".endswith(f"/{name}"))


@dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes
    ----------
    spec : Spec
        The layer.
    weights : Weights
    inputs : sequence of Tracked
    masks : mapping
        Boolean arrays by the keyword they are passed under.
    training : bool
    options : mapping
        Further keywords of the call.
    seen : sequence of array
        The layer's own outputs, from which a random layer's draw is read.
    u : float
        Unit roundoff.
    """

    spec: Spec
    weights: Weights
    inputs: Sequence[Tracked]
    masks: Mapping[str, Any] = field(default_factory=dict)
    training: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    seen: Sequence[Array] = ()
    u: float = 2.0**-53

    @property
    def x(self) -> Tracked:
        """The first input."""
        return self.inputs[0]

    @property
    def mask(self) -> Any:
        """The mask passed as ``mask``, or None."""
        return self.masks.get("mask")

    def get(self, option: str, default: Any = None) -> Any:
        """Return a constructor option, or its documented default."""
        return self.spec.options.get(option, default)

    def of(self, layer: Spec, *inputs: Tracked, **changes: Any) -> Outcome:
        """Return what another layer makes of other inputs; `changes` are attributes of the call."""
        return outcome(replace(self, spec=layer, inputs=inputs, **changes))


@dataclass(frozen=True)
class Outcome:
    """What a layer's definition says of one call.

    Attributes
    ----------
    outputs : sequence of Tracked
        In the order of the layer's flattened outputs.
    state : mapping
        New values of weights that the call itself changes, by path.
    chance : float
        For random layers: how far a count or a mean lies from its expectation, as a share of what chance makes
        of it once in 1e12 calls.
    """

    outputs: Sequence[Tracked]
    state: Mapping[str, Tracked] = field(default_factory=dict)
    chance: float = 0.0


Formula = Callable[[Call], Any]
F = TypeVar("F", bound=Formula)
_FORMULAS: dict[str, Formula] = {}


def defines(*names: str) -> Callable[[F], F]:
    """Register a function of a `Call` as the definition of layers; it returns a Tracked, several, or an Outcome."""

    def register(function: F) -> F:
        _FORMULAS.update(dict.fromkeys(names, function))
        return function

    return register


def formulas() -> Mapping[str, Formula]:
    """Return the definitions by the layer's exported name."""
    for module in MODULES:
        importlib.import_module(f"bscheck.oracles.layers.{module}")
    return _FORMULAS


def outcome(call: Call) -> Outcome:
    """Return what the layer's definition says."""
    found = formulas()[call.spec.name](call)
    if isinstance(found, Outcome):
        return found
    return Outcome([found] if isinstance(found, Tracked) else list(found))
