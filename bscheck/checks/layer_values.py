"""Independence: every layer computes what its definition says, and its gradient is that function's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.cases import Case, LayerValueCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, random, require
from bscheck.oracles.layers import Call, Outcome, Weights, outcome
from bscheck.oracles.layers.tracked import Array, Tracked
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import precision, seeded_initializers
from bscheck.runtime.layer_call import LayerCall
from bscheck.surface.constructions import (
    Construction,
    Input,
    arguments,
    build,
    build_for,
    constructions,
    defined_layers,
)
from bscheck.tolerance import TINY

#: Batch sizes: the smallest, odd and even.
EXAMPLES = (1, 2, 3, 5)

#: Factors on the inputs: activations saturate at 20, and sums of squares meet the epsilons of normalization at 2^-10.
SCALES = {"small": 2.0**-10, "usual": 1.0, "large": 20.0}

#: Examples in a batch of the data that a layer is adapted to.
ADAPTED_BY = 2

#: Inputs are cut off here, so that an exponential of one stays within single precision.
LARGEST = 80.0

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}

#: Unit roundoff of the definitions themselves.
ORACLE = 2.0**-53

MASKS = ("none", "trailing", "between", "leading", "all")


def layer_params() -> list[Param]:
    """Return a parameter for each layer and activation function that has a definition."""
    return [Param.of(layer=name) for name in defined_layers()]


def has_no_construction(context: Context) -> str | None:
    """Return why the layer cannot be made here."""
    if constructions(context.param.get("layer")):
        return None
    return "this release or backend has none of the options it is tested with"


def layer_cases(context: Context) -> Any:
    """Return the strategy; where every shape compiles, shapes are left to the corners."""
    from hypothesis import strategies as st

    made = constructions(context.param.get("layer"))
    scales = st.sampled_from(list(SCALES))
    if context.runtime.compiles_per_shape:  # the first corner's program, on other numbers
        masks = st.sampled_from(MASKS[1:]) if made[0].masks else st.just("none")
        first = {"examples": st.just(3), "gradient": st.just(made[0].gradients)}
        return st.builds(LayerValueCase, mask=masks, scale=scales, seed=seeds(), **first)
    return st.builds(
        LayerValueCase,
        construction=st.integers(0, len(made) - 1),
        examples=st.sampled_from(EXAMPLES),
        dtype=st.sampled_from(["float64", "float64", "float32"]),
        mask=st.sampled_from(MASKS),
        scale=scales,
        training=st.booleans(),
        gradient=st.booleans(),
        seed=seeds(),
    )


def layer_corners(context: Context) -> Sequence[Case]:
    """Return every construction in every mode: values and gradient in float64; zeros; float32."""
    found: list[Case] = []
    few = context.runtime.compiles_per_shape
    made_all = constructions(context.param.get("layer"))
    for number, made in enumerate(made_all):
        for training in made.training:
            turn = len(found)
            common: dict[str, Any] = {"construction": number, "training": training, "seed": number}
            common["mask"] = MASKS[(turn + 1) % 5] if made.masks else "none"
            common["examples"] = 3 if few else EXAMPLES[(turn + 2) % 4]
            found.append(LayerValueCase(gradient=made.gradients and (number == 0 or not few), **common))
        if made.spec.options.get("unroll") and made.masks and not few:  # a loop of its own for masked steps
            found.append(LayerValueCase(construction=number, examples=3, mask="between", seed=12))
        if any(given.kind == "adapt" for given in made.inputs):  # to batches, the last one ragged
            found.append(LayerValueCase(construction=number, examples=5, seed=13))
    found.append(LayerValueCase(examples=3, dtype="float32", scale="large", seed=7))
    if not few and any(made.training == (False, True) and not made.examples for made in made_all):
        found += [LayerValueCase(examples=n, training=True, seed=10) for n in (1, 2, 5, 33)]
        masked = [i for i, made in enumerate(made_all) if made.masks and True in made.training and not made.examples]
        common = {"mask": "between", "training": True, "seed": 11}
        found += [LayerValueCase(construction=i, examples=n, **common) for i in masked[:1] for n in EXAMPLES]
    if not few:
        found += [LayerValueCase(examples=2, scale="small", training=True, seed=8), LayerValueCase(seed=9)]
    return found


@dataclass(frozen=True, eq=False)
class Made:
    """A layer that was built, with the values its weights had then."""

    construction: Construction
    call: dict[bool, LayerCall]
    first: Mapping[str, Array]
    trainable: frozenset[str]


@cached_in_process
def _made(layer: str, number: int, dtype: str) -> Made:
    construction = constructions(layer)[number]
    with precision(dtype), seeded_initializers():
        made = build(construction.spec)
        build_for(made, construction)
    calls = {mode: LayerCall(made, dtype, _caller(made, construction, mode)) for mode in (False, True)}
    first = calls[False].weights()
    return Made(construction, calls, first, frozenset(v.path for v in made.trainable_weights))


def _caller(layer: Any, construction: Construction, training: bool) -> Any:
    """Return the call of a layer on tensors; ``training`` is passed where it makes a difference."""
    from bscheck.runtime import keras_module

    told = {"training": training} if len(construction.training) > 1 else {}

    def call(inputs: Sequence[Any], masks: Mapping[str, Any]) -> Any:
        args, kwargs = arguments(construction, inputs)
        y = layer(*args, **kwargs, **construction.options, **masks, **told)
        if not construction.computes_mask:
            return y
        return [y, keras_module().ops.cast(layer.compute_mask(inputs[0], None), y.dtype)]

    return call


def _draw(made: Made, case: LayerValueCase) -> list[Array]:
    """Return the inputs: normal, some exactly 0, unless a kink of the layer at 0 would have no derivative."""
    rng = random(case.seed, 1)
    examples = max(case.examples, made.construction.examples)
    return [_one(given, examples, case, rng) for given in made.construction.inputs]


def _one(given: Input, examples: int, case: LayerValueCase, rng: np.random.Generator) -> Array:
    shape = (examples, *given.shape)
    if given.kind == "whole":
        return np.asarray(rng.integers(0, given.high, shape))
    if given.kind == "apart":
        count = int(np.prod(shape))
        return np.asarray(
            (SCALES[case.scale] * (rng.permutation(count) / count - 0.4)).astype(np.float32).reshape(shape)
        )
    values: Array = np.clip(SCALES[case.scale] * rng.standard_normal(shape), -LARGEST, LARGEST)
    if not case.gradient:
        values = np.where(rng.uniform(size=shape) < 0.1, 0.0, values)
        if len(shape) == 3:  # a whole time step, as padding has it
            values[-1, 0] = 0.0
    return np.asarray(values.astype(np.float32), np.float64)


def _mask(pattern: str, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Return a mask over the steps of (examples, …, steps); every row keeps one, but for ``all`` in the first."""
    *rows, steps = shape
    first, length = rng.integers(0, steps, (*rows, 1)), rng.integers(1, steps + 1, (*rows, 1))
    # The last row keeps but one step.
    first[-1], length[-1] = steps - 1, 1
    at = np.arange(steps)
    if pattern == "leading":
        mask = at >= first
    elif pattern == "between":
        mask = (rng.uniform(size=shape) < 0.5) | (at == first)
        mask[-1] = (at == first)[-1]
    else:
        mask = at < length
    if pattern == "all":
        mask[0] = False
    return np.asarray(mask)


def _masks(made: Made, case: LayerValueCase, inputs: Sequence[Array]) -> dict[str, Any]:
    if case.mask == "none":
        return {}
    rng = random(case.seed, 2)
    found: dict[str, Any] = {}
    for name, about in made.construction.masks.items():
        if about == "entries":
            found[name] = _mask(case.mask, inputs[0].shape, rng)
        elif about == "pairs":
            found[name] = _mask(case.mask, (*inputs[0].shape[:2], inputs[1].shape[1]), rng)
        elif isinstance(about, tuple):
            found[name] = [_mask(case.mask, inputs[i].shape[:2], rng) for i in about]
        else:
            found[name] = _mask(case.mask, inputs[about].shape[:2], rng)
    return found


def _weights(made: Made, case: LayerValueCase) -> dict[str, Array]:
    """Return weights away from the values that hide faults: no bias is 0, no scale 1, no variance 1."""
    rng = random(case.seed, 3)
    found = {}
    for path, first in made.first.items():
        drawn = np.asarray(rng.standard_normal(first.shape))
        name = path.split("/")[-1]
        if name == "moving_variance":
            drawn = np.exp2(drawn)
        elif name in ("gamma", "scale"):
            drawn = 1.0 + 0.3 * drawn
        else:
            drawn = 0.6 * drawn
        found[path] = drawn.astype(np.float32).astype(np.float64)
    return found


def _direction(shape: Sequence[int], rng: np.random.Generator) -> Array:
    return rng.standard_normal(shape)


def _tracked(value: Array, u: float, direction: Array | None) -> Tracked:
    value, zeros = value.astype(np.float64), np.zeros(value.shape)
    if direction is None:
        return Tracked(value, zeros, u=u)
    return Tracked(value, zeros, direction, np.abs(direction), zeros, u)


@dataclass(frozen=True, eq=False)
class Situation:
    """What a case comes to: arrays in, and a direction for each of them that has a derivative."""

    made: Made
    call: LayerCall
    inputs: list[Array]
    masks: dict[str, Any]
    weights: dict[str, Array]
    training: bool
    u: float
    input_directions: list[Array | None]
    weight_directions: dict[str, Array | None]

    @property
    def passed(self) -> list[Array]:
        """The inputs that the layer is called with."""
        kinds = [i.kind for i in self.made.construction.inputs]
        return [x for x, kind in zip(self.inputs, kinds, strict=True) if kind != "adapt"]

    def defined(self, seen: Sequence[Array]) -> Outcome:
        """Return what the definition says."""
        construction = self.made.construction
        tracked = {p: _tracked(w, self.u, self.weight_directions[p]) for p, w in self.weights.items()}
        inputs = [_tracked(x, self.u, d) for x, d in zip(self.inputs, self.input_directions, strict=True)]
        with np.errstate(all="ignore"):
            return outcome(
                Call(
                    construction.spec, Weights(tracked), inputs, self.masks, self.training, construction.options,
                    seen, self.u,
                )
            )  # fmt: skip


def _situation(context: Context, case: LayerValueCase) -> Situation:
    layer = context.param.get("layer")
    count = len(constructions(layer))
    require(case.construction < count, f"there are {count} constructions of this layer here")
    narrow = context.runtime.name in constructions(layer)[case.construction].narrow
    dtype = "float32" if narrow else case.dtype
    made = _made(layer, case.construction, dtype)
    training = case.training and True in made.construction.training
    inputs, weights = _draw(made, case), _weights(made, case)
    masks = _masks(made, case, inputs)
    rng = random(case.seed, 4)
    towards = [_direction(x.shape, rng) if case.gradient and x.dtype.kind == "f" else None for x in inputs]
    moved = {p: _direction(w.shape, rng) if case.gradient and p in made.trainable else None for p, w in weights.items()}
    call = made.call[training]
    if any(i.kind == "adapt" for i in made.construction.inputs):
        # Odd numbers in ragged batches: the moments must be those of all examples, whatever the batch size.
        data = inputs[-1].astype(dtype)
        call.adapt(data, ADAPTED_BY if len(data) % ADAPTED_BY else len(data))
        weights, moved = call.weights(), dict.fromkeys(weights)
    else:
        call.assign(weights)
    return Situation(made, call, inputs, masks, weights, training, UNIT_ROUNDOFF[dtype], towards, moved)


def _compared(what: str, seen: Array, expected: Tracked, words: str) -> Reading:
    """Return the worst element's difference as a share of its bound; NaN in the definition stands for undefined."""
    if seen.shape != expected.shape:
        text = f"{words}: {what} has shape {seen.shape}, its definition says {expected.shape}"
        return Reading(float("inf"), what, text, "the same shape")
    if not seen.size:
        return Reading(0.0)
    defined = ~np.isnan(expected.value)
    with np.errstate(invalid="ignore"):
        difference = np.where(defined, np.abs(seen - expected.value), 0.0)
    difference = np.where((seen == expected.value) | ~defined, 0.0, difference)
    # The definition is computed in float64, so that its own rounding counts too.
    bound = np.where(defined, expected.error, 1.0) * (1 + ORACLE / expected.u) + TINY
    share = np.where(np.isnan(difference), np.inf, difference / bound)
    at = np.unravel_index(int(np.argmax(share)), share.shape)
    place = f"{what}[{','.join(map(str, at))}]"
    got, want = float(seen[at]), float(expected.value[at])
    relative = abs(got - want) / abs(want) if want else float("inf")
    return Reading(
        float(share[at]), place,
        f"{words}: {place} is {got:.10g}, its definition says {want:.10g} (off by {relative:.2g})",
        f"rounding of {float(bound[at]):.2g}",
    )  # fmt: skip


def _values(situation: Situation, seen: Sequence[Array], said: Outcome) -> Reading:
    """Compare the outputs, and the weights after the call, with the definition's."""
    words = str(situation.made.construction)
    if len(seen) != len(said.outputs):
        text = f"{words}: {len(seen)} outputs, its definition says {len(said.outputs)}"
        return Reading(float("inf"), "outputs", text, "as many")
    readings = [
        _compared(f"output {i}" if len(seen) > 1 else "output", y, expected, words)
        for i, (y, expected) in enumerate(zip(seen, said.outputs, strict=True))
    ]
    after = situation.call.weights()
    for path, before in situation.weights.items():
        expected = said.state.get(path, _tracked(before, situation.u, None))
        name = path.split("/")[-1]
        readings.append(_compared(f"{name} after the call", after[path], expected, words))
    if said.chance:
        text = f"{words}: what was drawn lies {said.chance:.2g} times as far from its law as chance takes it"
        readings.append(Reading(said.chance, "draw", text, "once in 1e12 calls"))
    return worst(readings)


def _slope(situation: Situation, seed: int) -> Reading:
    """Compare values, and the derivative of a random projection of the outputs along a random direction."""
    definition = situation.defined(())
    said, rng = definition.outputs, random(seed, 5)
    towards = [np.where(np.isnan(y.value), 0.0, rng.standard_normal(y.shape)) for y in said]
    outputs, by_input, by_weight = situation.call.gradient(situation.passed, situation.masks, towards)
    values = _values(situation, outputs, definition)
    if not values.holds:
        return values
    moved = situation.weight_directions
    pairs = [
        *zip(by_input, situation.input_directions[: len(by_input)], strict=True),
        *((g, moved[path]) for path, g in by_weight.items()),
    ]
    seen = float(sum(np.sum(g * d) for g, d in pairs if g is not None and d is not None))
    expected, size, slack, count = 0.0, 0.0, 0.0, sum(d.size for _, d in pairs if d is not None)
    for y, r in zip(said, towards, strict=True):
        if y.tangent is None or y.size is None or y.slack is None:
            continue
        told = r != 0
        expected += float(np.sum((r * y.tangent)[told]))
        size += float(np.sum((np.abs(r) * y.size)[told]))
        slack += float(np.sum((np.abs(r) * y.slack)[told]))
        count += y.value.size
    # Every derivative is the sum of at most as many terms as there are numbers, in whatever order.
    bound = (slack + count * situation.u * size) * (1 + ORACLE / situation.u) + TINY
    words = str(situation.made.construction)
    text = f"{words}: the gradient along a direction is {seen:.10g}, its definition says {expected:.10g}"
    share = abs(seen - expected) / bound
    share = share if np.isfinite(share) else float("inf")
    return worst([values, Reading(share, "gradient", text, f"rounding of {bound:.2g}")])


@check(
    family="independence",
    claims=("C1",),
    case=LayerValueCase,
    cases=layer_cases,
    params=layer_params,
    corners=layer_corners,
    applies=has_no_construction,
    examples=(0, 1, 200),
    per_subject=False,
    catches="a layer that is wrong in the same way at every batch size, which no comparison of batches can see: a gate "
    "left out or exchanged, a wrong scale, padding, mask, default or statistic, a gradient that is not the function's",
    formula="|y - f(x)| <= e(x) elementwise, f the definition in NumPy float64 and e the running error bound of its "
    "operations in the layer's precision; |<r, J d> of Keras - that of f| <= the same for the derivative",
    source="each formula's docstring in bscheck.oracles.layers names the paper or page; Higham, Accuracy and Stability "
    "of Numerical Algorithms, 2nd ed., section 3.3",
    example="LSTM(units=2): output[2,1] is 0.2113, its definition says 0.2027 (off by 0.042)",
)
def layer_computes_its_definition(context: Context, case: LayerValueCase) -> Reading:
    """A layer's output, state and gradient are what its definition says, at every batch size.

    The definitions are written in NumPy from papers and documentation; weights and inputs are drawn, so that no zero
    bias or scale of one hides a term. What no definition says (attention with every key masked) is not compared.
    """
    situation = _situation(context, case)
    if case.gradient and situation.made.construction.gradients:
        return _slope(situation, case.seed)
    seen = situation.call.outputs(situation.passed, situation.masks)
    return _values(situation, seen, situation.defined(seen))
