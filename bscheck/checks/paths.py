"""Independence, fifth part: the same batches leave the same model, whichever of Keras's loops they go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import CompiledCase, InferenceCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import (
    Context,
    cached_in_process,
    draw_sample_weights,
    draw_weights,
    first_reason,
    variable_index,
    weighed,
)
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array, Bench
from bscheck.runtime.inference import DEFAULT_BATCH_SIZE
from bscheck.runtime.learner import Learner
from bscheck.tolerance import TINY, rms
from bscheck.traits import NO_TWIN

#: Reference subjects: plain, with several outputs, with state that is not trained, with rows that are looked up.
SUBJECTS = ("dense", "two_outputs", "batch_norm", "embedding")


def path_params() -> list[Param]:
    """Return the gate's subjects."""
    return [Param.of(subject=subject) for subject in SUBJECTS]


@cached_in_process
def _learner(bench: Bench, mode: str) -> Learner:
    return Learner(bench, mode)


def path_corners(context: Context) -> Sequence[InferenceCase]:
    """Return a ragged epoch from each source, and one in batches of the size that arrays come in by default."""
    ragged = InferenceCase(mode=context.runtime.modes[0], dtype="float64", batches=2, tail=1, weights="unequal")
    corners = [replace(ragged, source=source, seed=i) for i, source in enumerate(context.sources())]
    if context.param.get("subject") == "dense" and not context.runtime.compiles_per_shape:
        corners += [replace(ragged, batch_size=DEFAULT_BATCH_SIZE, batches=1, tail=2)]
    return corners


def path_cases(context: Context) -> Any:
    """Draw sizes, tails, weights and sources."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    return st.builds(
        InferenceCase,
        seed=seeds(),
        batch_size=st.sampled_from([2] if few else [1, 2, 3]),
        batches=st.integers(1, 3),
        tail=st.sampled_from([0, 1]),
        weights=st.sampled_from(["unequal", "zeros"]),
        source=st.sampled_from(context.sources()),
        dtype=st.just("float64"),
        mode=st.just(context.runtime.modes[0]),
    ).map(lambda case: case if case.batch_size > 1 else replace(case, tail=0))


def not_foretold(context: Context) -> str | None:
    """Return why two trainings on the same batches may differ."""
    return first_reason(
        (not context.traits.double, NO_TWIN),
        (context.traits.stochastic, "training calls are random (dropout or noise): two runs differ by design"),
    )


@check(
    family="independence",
    claims=("C14", "C8"),
    case=InferenceCase,
    params=path_params,
    cases=path_cases,
    corners=path_corners,
    applies=not_foretold,
    examples=(1, 1, 200),
    catches="a loop that leaves out, repeats, reorders or alters a batch, its targets or its weights on the way, or "
    "that forgets the state of a layer (moving statistics) or of the optimizer",
    formula="float64, each variable of model and optimizer: rms(a-b) <= 1e-10 (rms(b) + rms(b - start)): the same "
    "operations on the same numbers, but for the order of the sums (2^-53 each, amplified over a few updates)",
    source="keras.io/api/models/model_training_apis: train_on_batch 'runs a single gradient update on a single batch "
    "of data'; fit does so for each batch",
    example="fit from a generator leaves dense/kernel[0,1] off by 0.004: 0.2 of what training moved",
)
def fit_leaves_the_state_of_train_on_batch(context: Context, case: InferenceCase) -> Reading:
    """An epoch of ``fit``, from any source, leaves the state that ``train_on_batch`` leaves on the same batches."""
    bench = context.bench(case.dtype)
    x, y, own = context.subject.draw(case.seed, case.examples)
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    w = weighed(context, own, w)
    start = draw_weights(bench, case.seed, case.scale)
    learner = _learner(bench, case.mode)
    ends = []
    for source in (case.source, "on_batch"):
        learner.reset(start)
        before = learner.state()
        learner.learn((x, y, w), case.batch_size, source)
        ends.append(learner.state())
    cause = f"{case.source}, not the step: train_on_batch was given the same batches"
    return compare(f"fit from {case.source} leaves", cause, before, *ends)


# Compiled steps ------------------------------------------------------------------------------------------


def compiled_params() -> list[Param]:
    """Return the gate's subject: layers and losses have promises of their own, this one is for a team's model."""
    return [Param.of(subject="dense")]


def compiled_corners(context: Context) -> Sequence[CompiledCase]:
    """Return two batches of one size, which is one trace; a team's model is compiled several times."""
    models = 1 if context.given is None or context.runtime.compiles_per_shape else 3
    return (CompiledCase(mode=context.runtime.modes[0], dtype="float64", batches=2, models=models),)


def compiled_cases(context: Context) -> Any:
    """Draw sizes, tails, weights and modes."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    return st.builds(
        CompiledCase,
        seed=seeds(),
        batch_size=st.sampled_from([2] if few else [1, 2, 3]),
        batches=st.integers(1, 3),
        tail=st.sampled_from([0, 1]),
        weights=st.sampled_from(["none", "unequal"]),
        dtype=st.just("float64"),
        mode=st.sampled_from([mode for mode in context.runtime.modes if mode != "eager"]),
    ).map(lambda case: case if case.batch_size > 1 else replace(case, tail=0))


def compiles_nothing(context: Context) -> str | None:
    """Return why there are no compiled steps to compare, or none that must agree."""
    both = {"graph", "eager"} <= set(context.runtime.modes)
    return first_reason((not both, f"{context.runtime.name} runs steps op by op alone")) or not_foretold(context)


@check(
    family="independence",
    claims=("C8",),
    case=CompiledCase,
    params=compiled_params,
    cases=compiled_cases,
    corners=compiled_corners,
    applies=compiles_nothing,
    examples=(0, 0, 60),
    catches="a step that is another one once it is compiled: an update made before a gradient has read the weight, a "
    "branch that a trace takes once and for all, a sum that is fused wrongly",
    formula="float64, each variable of model and optimizer: rms(a-b) <= 1e-10 (rms(b) + rms(b - start)) + 1e-12 M; b: "
    "the same steps with run_eagerly; M: the most that training moved any of them, for gradients that are sums to 0",
    source="keras.io/api/models/model_training_apis: run_eagerly is for debugging, 'your model might run slower, but "
    "it should become easier for you to debug it by stepping into individual layer calls'",
    example="the compiled step leaves dense/kernel[0,1] off by 0.004: 0.2 of what training moved",
)
def compiled_step_leaves_the_state_of_the_same_step_op_by_op(context: Context, case: CompiledCase) -> Reading:
    """A compiled training step leaves the state that the same step leaves when it runs op by op."""
    bench = context.bench(case.dtype)
    x, y, own = context.subject.draw(case.seed, case.examples)
    batch = (x, y, weighed(context, own, draw_sample_weights(case.seed, case.examples, case.weights)))
    start = draw_weights(bench, case.seed, case.scale)
    plain = _learner(bench, "eager")
    before, expected = _learned(plain, start, batch, case)
    readings = []
    for _ in range(case.models):
        _, seen = _learned(Learner(bench, case.mode), start, batch, case)
        seen = dict(zip(expected, seen.values(), strict=True))  # layers of a new model have names of their own
        words = "the compiled step (train_on_batch) leaves"
        cause = "how the step is compiled: op by op it is another"
        readings.append(compare(words, cause, before, seen, expected, floor=1e-12))
        if not readings[-1].holds:
            break
    return worst(readings)


def _learned(
    learner: Learner, start: Array, batch: Sequence[Any], case: CompiledCase
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the state before and after an epoch of train_on_batch."""
    learner.reset(start)
    before = learner.state()
    learner.learn(batch, case.batch_size, "on_batch")
    return before, learner.state()


def compare(
    words: str,
    cause: str,
    before: dict[str, Array],
    seen: dict[str, Array],
    expected: dict[str, Array],
    *,
    floor: float = 0.0,
) -> Reading:
    """Return how far a state is off from another, variable by variable.

    `floor` is a share of the most that any variable moved. Where the same operations run in another order, what sums to
    zero (the gradient of an attention's key biases) is rounding alone, and has no size of its own to be held to.
    """
    readings, least = [], floor * max((rms(want - before[name]) for name, want in expected.items()), default=0.0)
    for name, want in expected.items():
        moved = rms(want - before[name])
        bound = 1e-10 * (rms(want) + moved) + least + TINY
        off = np.abs(seen[name] - want)
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape)) if off.size else ()
        share = rms(off) / bound
        readings.append(
            Reading(
                share if np.isfinite(share) else np.inf,
                where=variable_index(name, at),
                seen=f"{words} {variable_index(name, at)} off by {rms(off):.2g}: "
                f"{rms(off) / moved if moved else np.inf:.2g} of what training moved",
                allowed=f"{bound / moved if moved else 0:.1g} of it",
                cause=cause,
            )
        )
    return worst(readings)
