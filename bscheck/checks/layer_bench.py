"""What the checks of layers share: each construction built once, its rows one at a time, and its sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bscheck.checks import Param
from bscheck.checks.context import Context, cached_in_process, first_reason, random
from bscheck.errors import one_line
from bscheck.results.verdict import NotApplicable, Reading
from bscheck.runtime import current
from bscheck.runtime.bench import Array
from bscheck.runtime.layer_rig import Arguments, LayerRig
from bscheck.surface.layers import COUPLED, Construction, layer_classes, loops, missing, option, options
from bscheck.tolerance import UNIT_ROUNDOFF, Deviation, Sensitivity, layer_rows, layer_sensitivity

#: Examples drawn for a seed; no batch is larger.
ROWS = 5

#: Examples that a layer's sensitivity is found with.
CALIBRATION = 4

#: Relative size of the perturbation that a layer's sensitivity is found with, by the precision it is found at: small
#: enough for every smooth layer to be linear, and far above the precision's own rounding.
PERTURBATION = {"float64": 2.0**-24, "float32": 2.0**-11}

#: Sets of examples kept for one construction.
KEPT = 16


class LayerBench:
    """One construction of one layer; rigs and reference rows are made when first asked for.

    Attributes
    ----------
    construction : Construction
    """

    def __init__(self, name: str, option_name: str) -> None:
        self.name = name
        self.construction: Construction = option(name, option_name)
        self._rigs: dict[str, LayerRig] = {}
        self._arguments: dict[int, Arguments] = {}
        self._alone: dict[tuple[str, int, int], list[Array]] = {}
        self._sensitivity: Sensitivity | None = None
        self._together: dict[tuple[str, int], list[Any]] = {}
        self._no_float64: str | None = None
        self._stochastic: bool | None = None
        self._announced: list[tuple[int | None, ...]] | None = None

    @property
    def exact(self) -> str:
        """The highest precision that the layer can be called at: float64, else float32 (see `no_float64`)."""
        return "float32" if self.no_float64 else "float64"

    @property
    def no_float64(self) -> str:
        """Why the layer cannot be called in float64, or nothing: TensorFlow lacks a kernel, Keras mixes dtypes."""
        if self._no_float64 is None:
            self._no_float64 = "" if self.construction.float64 else "Keras mixes dtypes in some of its operations"
            try:
                if self.construction.float64:
                    self.rig("float64").call(take(self.arguments(0), slice(0, 2)))
            except Exception as error:
                self.rig("float32")  # what is wrong in float32 too is no matter of precision
                self._no_float64 = one_line(error)
        return self._no_float64

    def dtype(self, wanted: str) -> str:
        """Return the precision of a case that asks for `wanted`."""
        return self.exact if wanted == "float64" else wanted

    def rig(self, dtype: str) -> LayerRig:
        """Return the layer built at one precision, with the same weights at each."""
        if dtype not in self._rigs:
            built = take(self.arguments(0), slice(0, 2))
            values = next(iter(self._rigs.values())).values if self._rigs else None
            self._rigs[dtype] = LayerRig(self.construction.make, built, dtype, loops(self.name), values)
        return self._rigs[dtype]

    def arguments(self, seed: int) -> Arguments:
        """Return `ROWS` examples."""
        if seed not in self._arguments:
            if len(self._arguments) >= KEPT:
                self._arguments.clear()
                self._alone.clear()
            self._arguments[seed] = self.construction.draw(random(seed, 6), ROWS)
        return self._arguments[seed]

    def alone(self, dtype: str, seed: int, rows: Sequence[int]) -> list[Array]:
        """Return the outputs of some examples, each given to the layer in a batch of its own."""
        for row in rows:
            if (dtype, seed, row) not in self._alone:
                one = take(self.arguments(seed), slice(row, row + 1))
                self._alone[dtype, seed, row] = self.rig(dtype).call(one)
        parts = [self._alone[dtype, seed, row] for row in rows]
        return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]

    def sensitivity(self) -> Sensitivity:
        """Return how far the outputs of the first seed's examples move when weights and inputs do, in float64."""
        if self._sensitivity is None:
            rig, rng, size = self.rig(self.exact), random(0, 7), PERTURBATION[self.exact]
            batch = take(self.arguments(0), slice(0, CALIBRATION))
            # In one batch of one size, whatever is wrong with it cancels.
            outputs = rig.call(batch)
            moved = mapped(batch, lambda a: _perturbed(a, rng, size))
            rig.assign([_perturbed(v, rng, size) for v in rig.values])
            try:
                seen = rig.call(moved)
            finally:
                rig.restore()
            self._sensitivity = layer_sensitivity(outputs, seen, size)
        return self._sensitivity

    def stochastic(self) -> bool:
        """Whether a training call draws random numbers: it moves a seed on."""
        if self._stochastic is None:
            rig = self.rig(self.exact)
            self._stochastic = False
            if rig.seeds:
                rig.call(take(self.arguments(0), slice(0, 2)), training=True)
                pairs = zip(rig.values, rig.state(), strict=True)
                self._stochastic = any(old.dtype.kind in "iu" and not np.array_equal(old, new) for old, new in pairs)
                rig.restore()
        return self._stochastic

    def together(self, dtype: str, seed: int) -> list[Any]:
        """Return the output tensors of a batch of three."""
        if (dtype, seed) not in self._together:
            self._together.clear()
            self._together[dtype, seed] = self.rig(dtype).raw(take(self.arguments(seed), slice(0, 3)))
        return self._together[dtype, seed]

    def announced(self) -> list[tuple[int | None, ...]]:
        """Return the shapes that the float32 layer announces for a batch of unknown size."""
        if self._announced is None:
            try:
                self._announced = self.rig("float32").symbolic(take(self.arguments(0), slice(0, 2)))
            except NotImplementedError as error:
                raise NotApplicable(f"announces no shape: {one_line(error)}") from None
        return self._announced


@cached_in_process
def layer_bench(name: str, option_name: str) -> LayerBench:
    """Return the construction's bench, the same one at every call."""
    return LayerBench(name, option_name)


def bench_of(context: Context, case: Any) -> LayerBench:
    """Return the bench of a parameter's layer and a case's option."""
    return layer_bench(context.param.get("layer"), case.option)


def _perturbed(value: Any, rng: np.random.Generator, size: float) -> Any:
    if value.dtype.kind != "f":
        return value
    return value.astype(np.float64) * (1 + size * rng.choice([-1.0, 1.0], value.shape))


def _map(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _map(part, function) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(part, function) for part in tree)
    return function(tree) if isinstance(tree, np.ndarray) else tree


def take(arguments: Arguments, rows: Any) -> Arguments:
    """Return the arguments of a call with some of the examples."""
    args, kwargs = _map(arguments, lambda a: a[rows])
    return args, kwargs


def mapped(arguments: Arguments, function: Callable[[Array], Array]) -> Arguments:
    """Return the arguments of a call with `function` applied to every array."""
    args, kwargs = _map(arguments, function)
    return args, kwargs


def joined(first: Arguments, second: Arguments) -> Arguments:
    """Return the examples of two calls in one."""
    rest = iter(leaves(second))
    return mapped(first, lambda a: np.concatenate([a, next(rest)]))


def leaves(arguments: Any) -> list[Array]:
    """Return the arrays of a call's arguments in order."""
    found: list[Array] = []
    _map(arguments, lambda a: found.append(a))
    return found


# Parameters and comparisons ----------------------------------------------------------------------------


def layers_of_keras() -> list[Param]:
    """Return a parameter for each exported layer."""
    return [Param.of(layer=name) for name in layer_classes()]


def not_made(context: Context) -> str | None:
    """Return why the layer cannot be made here."""
    return missing(context.param.get("layer"))


def coupled(name: str) -> bool:
    """Whether the layer is documented to mix the examples of a training batch."""
    return name in COUPLED


def core_options(context: Context, wanted: Callable[[Construction], bool] = lambda c: True, most: int = 9) -> list[str]:
    """Return the names of the first few constructions that every check takes up."""
    return [c.name for c in options(context.param.get("layer")) if c.core and wanted(c)][:most]


def all_options(context: Context, wanted: Callable[[Construction], bool] = lambda c: True) -> list[str]:
    """Return the names of all constructions of the parameter's layer."""
    return [c.name for c in options(context.param.get("layer")) if wanted(c)]


def without(wanted: Callable[[Construction], bool], reason: str) -> Callable[[Context], str | None]:
    """Return an ``applies`` that asks for a construction that is `wanted`."""

    def applies(context: Context) -> str | None:
        return not_made(context) or first_reason((not all_options(context, wanted), reason))

    return applies


def compare(seen: Sequence[Array], expected: Sequence[Array], bench: LayerBench, dtype: str, what: str) -> Reading:
    """Compare rows of outputs with the rows they must be."""
    wrong = differing_shape(seen, expected)
    if wrong:
        return Reading(np.inf, what, wrong, "the same shape")
    u = UNIT_ROUNDOFF[dtype]
    return told(layer_rows(seen, expected, bench.sensitivity(), u), what)


def differing_shape(seen: Sequence[Array], expected: Sequence[Array]) -> str:
    """Return what is wrong with the shapes of some outputs, or nothing."""
    if len(seen) != len(expected):
        return f"{len(seen)} outputs instead of {len(expected)}"
    for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
        if a.shape != b.shape:
            return f"output {i} has shape {a.shape} instead of {b.shape}"
    return ""


def told(found: Deviation, what: str) -> Reading:
    """Return a deviation of rows as a reading."""
    row = found.index[0] if found.index else 0
    size = found.difference / found.scale if found.scale else np.inf
    place = f"output {found.tensor}, example {row}, element {list(found.index[1:])}"
    return Reading(
        found.share,
        where=place,
        seen=f"{what} is off by {found.difference:.2g} for example {row}: {size:.2g} of the outputs' rms",
        allowed=f"{found.bound:.1g}",
    )


def few_shapes() -> bool:
    """Whether every new batch size costs a compilation."""
    return current().compiles_per_shape
