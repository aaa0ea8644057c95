"""Accumulation end to end: the updates that ``fit``, ``train_on_batch`` or a team's own step make.

Two runs from the same weights: micro-batches through the step under test, and large batches through Keras without
accumulation. Each must do with the gradients that it was *seen* to receive what a fresh optimizer does with the same
gradients, given densely; `bscheck.checks.gradients` holds those gradients to each other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, UpdateCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, draw_weights, first_reason
from bscheck.checks.updates import FORMULA, SOURCE, State, accumulated, compare_states, state_of
from bscheck.errors import SubjectError, one_line
from bscheck.results.verdict import NotApplicable, Reading, worst
from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, Bench, concatenate
from bscheck.runtime.probe import history, make_spy
from bscheck.runtime.rig import Rig, accumulators, slots, updates
from bscheck.runtime.training import Training
from bscheck.subject import Subject
from bscheck.surface.optimizers import make, variant, variants
from bscheck.tolerance import UNIT_ROUNDOFF

#: Optimizers that go through a whole model; every other one meets the same promise through ``optimizer.apply``.
THROUGH_A_MODEL = ("momentum", "adam", "adamw", "rmsprop", "lion")


def training_params() -> list[Param]:
    """Return the gate's subjects, optimizers and paths."""
    known = [name for name in THROUGH_A_MODEL if name in variants()]
    dense = [Param.of(subject="dense", optimizer=o, path=p) for o in known for p in ("fit", "train_on_batch")]
    others = [("lstm", "adamw"), ("embedding", "momentum"), ("embedding", "adam")]
    return dense + [Param.of(subject=s, optimizer=o, path="fit") for s, o in others if o in known]


class OptimizerFactory:
    """Makes the optimizer of a parameter, with or without accumulation, spied upon or not."""

    def __init__(self, subject: Subject, name: str, decay: str, clip: str) -> None:
        self._subject, self._name, self._decay, self._clip = subject, name, decay, clip

    def __call__(self, accumulation: int | None = None, capacity: int = 0) -> Any:
        """Return a new optimizer; with a capacity, one that records so many micro-steps."""
        spied = (lambda exported: functools.partial(make_spy, exported, capacity)) if capacity else None
        if self._name:
            return make(
                variant(self._name), decay=self._decay, clip=self._clip, accumulation=accumulation, make_class=spied
            )
        given = own_optimizer(self._subject)
        config = _accumulating(given, accumulation)
        return make_spy(type(given), capacity, **config) if capacity else type(given)(**config)


def _accumulating(optimizer: Any, k: int | None) -> dict[str, Any]:
    """Return the arguments that make an optimizer like this one, with accumulation over k micro-batches."""
    inside = getattr(optimizer, "inner_optimizer", None)
    if inside is None:
        return {**optimizer.get_config(), "gradient_accumulation_steps": k}
    # Keras's LossScaleOptimizer takes no accumulation: the optimizer inside it does.
    return {**optimizer.get_config(), "inner_optimizer": type(inside)(**_accumulating(inside, k))}


def own_optimizer(subject: Subject) -> Any:
    """Return a new optimizer of a team's subject.

    Raises
    ------
    SubjectError
        When it cannot be made.
    NotApplicable
        When its learning rate is a schedule (which has a promise of its own), or its gradients cannot be seen.
    """
    optimizer = subject.optimizer
    try:
        made = optimizer() if callable(optimizer) else keras_module().optimizers.get(optimizer)
    except Exception as error:
        raise SubjectError(f"Subject {subject.name!r}: optimizer= cannot be made: {one_line(error)}") from error
    if hasattr(made, "inner_optimizer") and current().name == "jax":
        raise NotApplicable("on JAX a LossScaleOptimizer passes gradients on without apply, where they would be seen")
    if isinstance(getattr(made, "inner_optimizer", made).get_config().get("learning_rate"), dict):
        raise NotApplicable("the learning rate is a schedule, which counts micro-batches as Keras documents")
    return made


@cached_in_process
def _training(bench: Bench, factory_of: tuple[str, str, str], k: int | None, capacity: int, mode: str) -> Training:
    factory = OptimizerFactory(bench.subject, *factory_of)
    return Training(bench, lambda: factory(k, capacity), mode)


@cached_in_process
def _reference(bench: Bench, factory_of: tuple[str, str, str], mode: str) -> Rig:
    factory = OptimizerFactory(bench.subject, *factory_of)
    named = {name.replace("/", "_"): shape for name, shape in zip(bench.names, bench.shapes, strict=True)}
    return Rig(factory, named, mode=mode, dtype="float32")


def training_cases(context: Context) -> Any:
    """Draw seeds for the corners' structures: another structure costs a trace."""
    from hypothesis import strategies as st

    structures = st.sampled_from(list(training_corners(context)))
    return st.builds(lambda case, seed: UpdateCase(**{**case.to_json(), "seed": seed}), structures, seeds())


def training_corners(context: Context) -> Sequence[Case]:
    """Return one structure: two windows, with decay and a clip that binds for the gate's own subjects."""
    mode = context.runtime.modes[0]
    if context.given is not None:
        # One structure: training in full is dear to trace, and every promised size is asked of the gradients.
        sizes = context.batch_sizes
        size = sizes[min(1, len(sizes) - 1)]
        window = UpdateCase(micro_batches=context.accumulation[0], updates=2, size=size, mode=mode)
        # Keras's own updates by the rows of a large batch have known defects: they are held apart.
        sparse = [replace(window, gradient="sparse")] if context.traits.sparse_gradients else []
        return (window, *sparse)
    return (UpdateCase(micro_batches=2, updates=2, decay="on", clip="global", mode=mode),)


def trains_as_promised(context: Context) -> str | None:
    """Return why training on micro-batches need not make the large batch's updates."""
    from bscheck.checks.gradients import loses_meaning

    return loses_meaning(context) or first_reason(
        (any("mixed" in str(v.dtype) for v in context.bench("float32").model.variables), "mixed variables")
    )


@check(
    family="accumulation",
    claims=("C4", "C9"),
    case=UpdateCase,
    params=training_params,
    cases=training_cases,
    corners=training_corners,
    applies=trains_as_promised,
    examples=(1, 2, 60),
    catches="a training loop that applies, skips or repeats a window, an optimizer that behaves otherwise inside fit, "
    "and a large batch whose sparse gradient is applied row by row",
    formula=FORMULA + "; once for the micro-batches' run and once for the large batches' run",
    source=SOURCE,
    example="large batches: after update 1, weight embedding/embeddings[3,0] is off by 0.01: 21.00% of the update",
)
def accumulated_training_matches_large_batches(context: Context, case: UpdateCase) -> Reading:
    """Training on accumulated micro-batches makes the updates of training on large batches."""
    bench = context.bench("float32")
    k, n = case.micro_batches, case.updates
    x, y, w = context.subject.draw(case.seed, case.size * k * n)
    micro = [_rows((x, y, w), i * case.size, case.size) for i in range(k * n)]
    large = [concatenate(micro[i * k : (i + 1) * k]) for i in range(n)]
    weights = draw_weights(bench, case.seed)
    readings = []
    runs = [("micro-batches", micro, k), ("large batches", large, 1)]
    if case.gradient == "sparse":
        runs = runs[1:]
    elif context.traits.sparse_gradients is (context.given is not None):
        # The gate: dense large batches are what `training_follows_the_published_recurrence` trains on. A team's own
        # subject: sparse ones are the case of their own.
        runs = runs[:1]
    for words, batches, accumulation in runs:
        if accumulation > 1 and context.subject.step is not None:
            reading = _own_step(context, case, bench, micro, weights)
        else:
            reading = _keras_training(context, case, bench, batches, accumulation, weights)
        text = f"{words}: {reading.seen}"
        readings.append(Reading(reading.share, reading.where, text, reading.allowed, reading.cause))
    return worst(readings)


def _rows(batch: Sequence[Any], start: int, size: int) -> tuple[Any, Any, Any]:
    from bscheck.subject import take

    x, y, w = (None if part is None else take(part, slice(start, start + size)) for part in batch)
    return x, y, w


def _factory_of(context: Context, case: UpdateCase) -> tuple[str, str, str]:
    return context.param.get("optimizer"), case.decay, case.clip


def _keras_training(
    context: Context, case: UpdateCase, bench: Bench, batches: Sequence[Any], k: int, weights: Array
) -> Reading:
    """Train with Keras and hold the end against a fresh optimizer given the gradients that were seen."""
    training = _training(bench, _factory_of(context, case), k if k > 1 else None, len(batches), case.mode)
    path = context.param.get("path", "fit")
    rate = float(bench.keras.ops.convert_to_numpy(training.optimizer.learning_rate))
    # Read before fit ends: where the optimizer keeps averages, Keras ends a training by taking them for the weights.
    *_, run = training.follow(weights, batches, [rate] * len(batches), path, lambda: _state(bench, training))
    return _against_reference(context, case, bench, run, history(training.optimizer), weights, k)


def _own_step(context: Context, case: UpdateCase, bench: Bench, micro: Sequence[Any], weights: Array) -> Reading:
    """Make the updates with the subject's own step: it accumulates, so the optimizer must not."""
    step = context.subject.step
    assert step is not None
    training = _training(bench, _factory_of(context, case), None, case.updates, case.mode)
    training.follow(weights, [], [], "train_on_batch", lambda: None)
    for i in range(case.updates):
        window = [bench.cast(b) for b in micro[i * case.micro_batches : (i + 1) * case.micro_batches]]
        step(training.model, training.optimizer, window)
    made = updates(training.optimizer)
    if made != case.updates:
        return Reading(
            np.inf,
            where="iterations",
            seen=f"{case.updates} windows made {made} updates",
            allowed="one update for each window",
            cause="the window is not accumulated",
        )
    run = _state(bench, training)
    return _against_reference(context, case, bench, run, history(training.optimizer), weights, 1)


def _state(bench: Bench, training: Training) -> State:
    """Return where a training stands."""
    model, optimizer = training.model, training.optimizer
    made = updates(getattr(optimizer, "inner_optimizer", optimizer))
    values = [np.array(bench.keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
    named = dict(zip(bench.names, values, strict=True))
    return State(named, _slots(slots(optimizer)), accumulators(optimizer), made)


def _slots(found: Mapping[str, Array]) -> dict[str, Array]:
    """Leave out what a loss scale keeps for itself: it counts micro-batches, and has promises of its own."""
    return {name: value for name, value in found.items() if name not in ("step_counter", "dynamic_scale")}


def _against_reference(
    context: Context, case: UpdateCase, bench: Bench, run: State, seen: Sequence[Any], weights: Array, k: int
) -> Reading:
    """Hold the end of a training against a fresh optimizer given the gradients that were seen."""
    reference = _reference(bench, _factory_of(context, case), case.mode)
    reference.reset(bench.split(weights))
    before = state_of(reference)
    for update in range(case.updates):
        window = [[g[update * k + j] for g in seen] for j in range(k)]
        given = accumulated(window, case.mode, "float32") if k > 1 else window[0]
        before = state_of(reference)
        reference.apply(given)
    expected = state_of(reference)
    renamed = [
        State(dict(zip(bench.names, s.weights.values(), strict=True)), _slots(s.slots), s.accumulators, s.updates)
        for s in (expected, before)
    ]
    return compare_states(run, renamed[0], renamed[1], case.updates, case.updates * UNIT_ROUNDOFF["float32"])
