"""Recurrent layers that keep their state from batch to batch, and those that do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import StatefulCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, random
from bscheck.checks.layer_bench import CALIBRATION, PERTURBATION, few_shapes
from bscheck.diagnose import is_ours
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.layer_rig import Arguments, LayerRig
from bscheck.surface.layers import stateful, stateful_layers
from bscheck.tolerance import UNIT_ROUNDOFF, Sensitivity, layer_rows, layer_sensitivity

U = UNIT_ROUNDOFF["float64"]


def recurrent_layers() -> list[Param]:
    """Return the exported layers that can keep a state."""
    return [Param.of(layer=name) for name in stateful_layers()]


def not_known(context: Context) -> str | None:
    """Return why a layer cannot be made here."""
    unknown = stateful(context.param.get("layer"), True) is None
    return first_reason((unknown, "no construction: bscheck does not know yet how to make this layer stateful"))


def sequences(name: str, seed: int, examples: int, steps: int) -> Array:
    known = stateful(name, True)
    assert known is not None
    shape = (steps, *known[1].shape[1:])
    return random(seed, 12).standard_normal((examples, *shape)).astype("float32")


def _arguments(x: Array) -> Arguments:
    return (x,), {}


@cached_in_process
def recurrent_rig(name: str, keep: bool, examples: int) -> LayerRig:
    """Return a layer built for a batch size: one that keeps its state must know it."""
    known = stateful(name, keep)
    assert known is not None
    built = _arguments(sequences(name, 0, examples or 2, 2))
    rig = LayerRig(known[0], built, "float64", False)
    if keep:
        _like(rig, recurrent_rig(name, False, 0))
    return rig


def _like(rig: LayerRig, other: LayerRig) -> None:
    """Give a stateful layer the stateless one's weights, and zeros for its states."""
    trainable = [id(v) for v in other.layer.trainable_variables]
    values = dict(zip([id(v) for v in other.variables], other.values, strict=True))
    weights = dict(zip([id(v) for v in rig.layer.trainable_variables], [values[i] for i in trainable], strict=True))
    rig.values = [weights.get(id(v), np.zeros_like(old)) for v, old in zip(rig.variables, rig.values, strict=True)]
    rig.restore()


@cached_in_process
def _sensitivity(name: str) -> Sensitivity:
    rig, rng, size = recurrent_rig(name, False, 0), random(0, 13), PERTURBATION["float64"]
    x = sequences(name, 0, CALIBRATION, 4).astype("float64")
    outputs = rig.call(_arguments(x))
    moved = [v * (1 + size * rng.choice([-1.0, 1.0], v.shape)) if v.dtype.kind == "f" else v for v in rig.values]
    rig.assign(moved)
    try:
        seen = rig.call(_arguments(x * (1 + size * rng.choice([-1.0, 1.0], x.shape))))
    finally:
        rig.restore()
    return layer_sensitivity(outputs, seen, size)


def _compare(name: str, seen: Sequence[Array], expected: Sequence[Array], what: str) -> Reading:
    if [o.shape for o in seen] != [o.shape for o in expected]:
        return Reading(np.inf, what, f"{what} has another shape", "the same shape")
    found = layer_rows(seen, expected, _sensitivity(name), U)
    size = found.difference / found.scale if found.scale else np.inf
    place = f"example {found.index[0]}, step {found.index[1]}" if len(found.index) > 1 else "an output"
    text = f"{what} is off by {found.difference:.2g} at {place}: {size:.2g} of the outputs' rms"
    return Reading(found.share, where=place, seen=text, allowed=f"{found.bound:.1g}")


def stateful_cases(context: Context) -> Any:
    """Draw a batch size, another one, and chunks of a sequence."""
    from hypothesis import strategies as st

    sizes = st.sampled_from([(3, 1), (2, 1)]) if few_shapes() else st.tuples(st.integers(1, 4), st.integers(1, 4))
    chunks = st.just((2, 1)) if few_shapes() else st.lists(st.integers(1, 3), min_size=2, max_size=3).map(tuple)
    return sizes.filter(lambda s: s[0] != s[1]).flatmap(
        lambda s: st.builds(StatefulCase, examples=st.just(s[0]), other=st.just(s[1]), chunks=chunks, seed=seeds())
    )


def stateful_corners(context: Context) -> Sequence[StatefulCase]:
    """Return batches that shrink to one example, and that grow."""
    return (StatefulCase(), StatefulCase(examples=2, other=3, chunks=(1, 2)))[: 1 if few_shapes() else 2]


@check(
    family="independence",
    claims=("C8", "C14"),
    case=StatefulCase,
    cases=stateful_cases,
    params=recurrent_layers,
    corners=stateful_corners,
    applies=not_known,
    examples=(0, 0, 100),
    per_subject=False,
    catches="a state that is lost, halved, mixed between rows or kept beyond reset_state",
    formula="|p-r| <= 16 u m in float64; p: the chunks one after the other, r: a stateless layer of the same weights "
    "on the whole sequence (for Bidirectional: its forward half); again after reset_state",
    source="keras.io/api/layers/recurrent_layers/lstm: with stateful=True 'the last state for each sample at "
    "index i in a "
    "batch will be used as initial state for the sample of index i in the following batch'",
    example="chunk 1 is off by 0.2 at example 0, step 0: 0.5 of the outputs' rms",
)
def stateful_layer_goes_on_where_it_stopped(context: Context, case: StatefulCase) -> Reading:
    """A stateful layer fed a sequence in chunks gives what it gives for the whole, until reset_state."""
    name = context.param.get("layer")
    rig = recurrent_rig(name, True, case.examples)
    x = sequences(name, case.seed, case.examples, sum(case.chunks))
    whole = _forward(name, recurrent_rig(name, False, 0).call(_arguments(x)))
    edges = np.cumsum([0, *case.chunks])
    readings = []
    for again in ("", " after reset_state"):
        if again:
            _reset(rig.layer)
        else:
            _begin(rig)
        for i, (start, stop) in enumerate(itertools.pairwise(edges)):
            seen = _forward(name, rig.call(_arguments(x[:, start:stop])))
            expected = [o[:, start:stop] for o in whole]
            readings.append(_compare(name, seen, expected, f"chunk {i}{again}"))
    rig.restore()
    return worst(readings)


def _forward(name: str, outputs: Sequence[Array]) -> list[Array]:
    """Return the outputs that read the sequence forwards: the backward half cannot be had from chunks."""
    return [o[..., : o.shape[-1] // 2] for o in outputs] if name == "Bidirectional" else list(outputs)


def _begin(rig: LayerRig) -> None:
    """Give a layer its first weights and no memory: its states are no variables of the layer's."""
    rig.restore()
    _reset(rig.layer)


def _reset(layer: Any) -> None:
    reset = getattr(layer, "reset_state", None) or layer.reset_states
    reset()


@check(
    family="independence",
    claims=("C8",),
    case=StatefulCase,
    cases=stateful_cases,
    params=recurrent_layers,
    corners=stateful_corners,
    applies=not_known,
    examples=(0, 0, 50),
    per_subject=False,
    catches="a stateful layer that broadcasts the state of one batch to another of a different size",
    formula="an exception is raised, or the outputs equal those of a stateless layer on the new batch to |p-r| <= 16 u "
    "m: a state that was begun anew",
    source="keras.io/api/layers/recurrent_layers/rnn: statefulness 'assumes a one-to-one mapping between samples in "
    "different successive batches'",
    example="after a batch of 3, a batch of 1 is taken without a word, and its output is off by 0.3",
)
def stateful_layer_refuses_another_batch_size(context: Context, case: StatefulCase) -> Reading:
    """A stateful layer refuses a batch of another size, or begins it anew; it never broadcasts a state."""
    name = context.param.get("layer")
    rig = recurrent_rig(name, True, case.examples)
    _begin(rig)
    rig.call(_arguments(sequences(name, case.seed, case.examples, case.chunks[0])))
    other = _arguments(sequences(name, case.seed + 1, case.other, case.chunks[1]))
    try:
        seen = rig.call(other)
    except Exception as error:
        rig.restore()
        if is_ours(error):
            raise
        return Reading(0.0)
    cached = recurrent_rig(name, False, 0)
    what = f"after a batch of {case.examples}, a batch of {case.other} is taken without a word; its output"
    reading = _compare(name, seen, cached.call(other), what)
    rig.restore()
    return reading


@check(
    family="independence",
    claims=("C8",),
    case=StatefulCase,
    cases=stateful_cases,
    params=recurrent_layers,
    corners=stateful_corners,
    applies=not_known,
    examples=(0, 0, 50),
    per_subject=False,
    catches="a state that outlives its batch in a layer that was not asked to keep it, in training or at inference",
    formula="outputs are equal bit for bit before and after calls on other batches, of this size and of another",
    source="keras.io/api/layers/recurrent_layers/lstm: stateful is False by default",
    example="after other batches, the output is off by 0.1",
)
def stateless_layer_forgets_between_batches(context: Context, case: StatefulCase) -> Reading:
    """A stateless recurrent layer gives the same output whatever batches came before."""
    name = context.param.get("layer")
    rig = recurrent_rig(name, False, 0)
    batch = _arguments(sequences(name, case.seed, case.examples, sum(case.chunks)))
    first = rig.call(batch)
    for size, training in ((case.examples, True), (case.other, False)):
        rig.call(_arguments(sequences(name, case.seed + 1, size, sum(case.chunks))), training)
    second = rig.call(batch)
    rig.restore()
    by = max(float(np.max(np.abs(a - b))) for a, b in zip(first, second, strict=True))
    if by == 0.0:
        return Reading(0.0)
    return Reading(np.inf, "the output", f"after other batches, the output is off by {by:.2g}", "the same bits")
