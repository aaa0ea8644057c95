"""Independence, third part: training calls report their batch, the history of ``fit`` every example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import InferenceCase
from bscheck.checks import Param, check, subjects_of_the_gate
from bscheck.checks.context import Context, draw_sample_weights, first_reason, require
from bscheck.checks.expected import (
    Expected,
    compare_values,
    metric_values,
    needs_a_mean,
    no_formula,
    ready_trainer,
    told_or_due,
    total_loss,
)
from bscheck.checks.independence import IN_FULL, in_full, inference_cases
from bscheck.checks.truth import Truth, forward, truth
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array, Bench
from bscheck.runtime.inference import ENDLESS, Trainer
from bscheck.subject import take

#: Calls that can come before, on other examples.
EARLIER = InferenceCase.CHOICES["earlier"]

#: What Keras calls the results on held-out examples.
VALIDATION = "val_"


def unsteady(context: Context) -> str | None:
    """Return why a training call's report cannot be foretold."""
    if reason := needs_a_mean(context):
        return reason
    if context.traits.stochastic:
        return "training calls are random (dropout or noise)"
    return no_formula(context)


def history_cases(context: Context) -> Any:
    """Draw batches through ``fit``, ``train_on_batch`` and ``test_on_batch``."""
    from hypothesis import strategies as st

    paths = ["train_on_batch", "test_on_batch"]
    return inference_cases(
        context,
        path=st.sampled_from([*paths, *paths, *paths, "fit"]),
        weights=st.sampled_from(_history_weights(context)),
        earlier=st.sampled_from([*paths, *EARLIER] if in_full(context) else ["nothing", *paths]),
        steps_per_execution=st.just(1),
    )


def _history_weights(context: Context) -> list[str]:
    """Return the sample weights drawn: with *and* without them is twice the tracing of a training step."""
    return ["none", "unequal", "zeros"] if in_full(context) else ["unequal", "zeros"]


def history_corners(context: Context) -> Sequence[InferenceCase]:
    """Return ragged batches through every path, after every other call."""
    mode = context.runtime.modes[0]
    plain = InferenceCase(mode=mode, path="test_on_batch", batch_size=1)
    ragged = replace(plain, batch_size=2, tail=1)
    corners = [plain, replace(plain, batches=2)]
    if not in_full(context):
        plain, ragged = (replace(case, weights="unequal") for case in (plain, ragged))
        corners = [plain, replace(plain, batches=2)]
    for path in ("test_on_batch", "train_on_batch"):
        corners += [replace(ragged, path=path, weights=weights) for weights in _history_weights(context)]
        earlier = EARLIER[1:] if in_full(context) else (path,)
        corners += [replace(ragged, path=path, earlier=name, seed=1) for name in earlier]
    corners += [replace(ragged, path="fit", weights="unequal"), replace(plain, path="fit", batches=3)]
    if context.runtime.compiles_per_shape or not in_full(context):
        return tuple(corners)
    corners += [replace(ragged, path="fit", earlier=name, seed=1) for name in EARLIER[1:]]
    corners += [replace(ragged, path="fit", batch_size=16), replace(ragged, path="fit", batch_size=64, tail=36)]
    corners += [
        replace(plain, path="fit", batches=3, batch_size=2, source=s, weights="unequal")
        for s in context.sources()
        if "unknown" in s
    ]
    if in_full(context) and context.given is None:
        corners += [replace(ragged, path="fit", source=ENDLESS, weights="unequal")]
    corners += [replace(ragged, path=path, mode="eager") for path in ("train_on_batch", "test_on_batch")]
    return tuple(corners)


@check(
    family="independence",
    claims=("C8", "C14"),
    case=InferenceCase,
    cases=history_cases,
    corners=history_corners,
    applies=unsteady,
    examples=(2, 2, 300),
    catches="train_on_batch or test_on_batch that report the running mean over earlier calls; a history of "
    "fit, or what its callbacks are told after a batch, that averages over batches, forgets the tail, or counts what "
    "was there before the epoch",
    formula="as for evaluation, on each batch alone for train_on_batch and test_on_batch, over all examples "
    "for fit, and over those until then for the logs of its callbacks; the rows in training mode, batch by batch where "
    "batch statistics couple them; learning rate 0",
    source="keras.io/api/models/model_training_apis: train_on_batch 'runs a single gradient update on a single batch'; "
    "keras.io/api/callbacks/base_callback: on_train_batch_end, 'aggregated metric results up until this batch'",
    example="train_on_batch, batch 2 of 2 gives loss = 0.84; over the examples it is 0.97",
)
def history_of_fit_and_train_on_batch_report_the_batch(context: Context, case: InferenceCase) -> Reading:
    """Training and testing on a batch report that batch alone; the history of fit reports each example."""
    return history_reading(context, case)


def history_reading(context: Context, case: InferenceCase) -> Reading:
    require(case.path != "whole", "predict and evaluate have promises of their own")
    training = case.path != "test_on_batch"
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    coupled = training and bool(context.traits.batch_statistics)
    part = truth(context, case, sample_weight=w, training=training and not coupled)
    if coupled:
        part = _batch_by_batch(context, case, part)
    model = ready_trainer(context, case, part.weights)
    if case.path == "fit":
        shuffled = _shuffled(context, case)
        report = model.fit((part.x, part.y, part.w), case.batch_size, case.source, shuffled)
        reading = compare_values(report, reported(context, part, report), "the history of fit")
        return reading if shuffled else worst([reading, *told_batch_by_batch(context, case, part, model, coupled)])
    readings = []
    for j, (start, stop) in enumerate(case.edges):
        piece = slice_of(part, start, stop, coupled)
        report = model.on_batch(case.path, (piece.x, piece.y, piece.w))
        what = f"{case.path}, batch {j + 1} of {len(case.edges)},"
        readings.append(compare_values(report, reported(context, piece, report), what))
    if not training:
        readings.append(_listed(context, piece, model.listed((piece.x, piece.y, piece.w)), report))
    return worst(readings)


def _listed(context: Context, piece: Truth, listed: Sequence[float], report: Mapping[str, float]) -> Reading:
    """Return the reading of what ``test_on_batch`` returns when no dict is asked for: the loss is the first."""
    first = {name: e for name, e in reported(context, piece, report).items() if name == "loss"}
    return compare_values({"loss": listed[0]}, first, "the list that test_on_batch returns")


#: Most batches after each of which it is looked at what callbacks were told: every one of them is computed anew.
LISTENED_TO = 4


def told_batch_by_batch(
    context: Context, case: InferenceCase, part: Truth, model: Trainer, coupled: bool
) -> list[Reading]:
    """Return the readings of what callbacks of the last call were told: the results over the batches until then."""
    ends = [stop for _, stop in case.edges]
    if model.heard is None or case.steps_per_execution > 1 or len(ends) > LISTENED_TO:
        return []
    if len(model.heard) != len(ends):
        text = f"callbacks were told the end of {len(model.heard)} batches"
        return [Reading(np.inf, seen=text, allowed=f"{len(ends)} batches")]
    readings = []
    for j, (stop, logs) in enumerate(zip(ends, model.heard, strict=True), start=1):
        expected = reported(context, slice_of(part, 0, stop, coupled), logs)
        readings.append(compare_values(logs, expected, f"what callbacks are told after batch {j} of {len(ends)}"))
    return readings


def _shuffled(context: Context, case: InferenceCase) -> bool:
    """Whether the epoch is shuffled: the large ones, of subjects whose rows have no part in one another's loss.

    At learning rate 0 no batch depends on the ones before it, and every example is reported once in any order.
    """
    return case.source == "arrays" and case.batch_size >= 16 and context.param.get("subject") in IN_FULL


# Epochs and held-out examples ---------------------------------------------------------------------------

#: Epochs of a training: what the first two leave behind, the third shows.
EPOCHS = 3


def unsteady_epochs(context: Context) -> str | None:
    """Return why what several epochs report cannot be foretold."""
    return unsteady(context) or first_reason(
        (bool(context.traits.batch_statistics), "batch statistics move from epoch to epoch")
    )


def epoch_params() -> list[Param]:
    """Return the reference subjects that go through Keras's loops in every situation."""
    return [p for p in subjects_of_the_gate() if p.get("subject") in IN_FULL]


def _held_out_sources(context: Context) -> list[str]:
    """Return the ways to give held-out examples that serve for more than one epoch."""
    return [source for source in context.sources() if source not in ("generator", "dataset_unknown")]


def epoch_corners(context: Context) -> Sequence[InferenceCase]:
    """Return ragged batches, with weights and without, from each source that can be begun anew."""
    plain = InferenceCase(mode=context.runtime.modes[0], path="fit", tail=1, weights="unequal")
    if context.runtime.compiles_per_shape:
        return (plain,)
    plain = replace(plain, batches=2)  # the held-out examples, in batches of one more, are two batches too
    return [replace(plain, source=source, seed=i) for i, source in enumerate(_held_out_sources(context))]


def epoch_cases(context: Context) -> Any:
    """Draw sizes, weights and sources."""
    from hypothesis import strategies as st

    return inference_cases(
        context,
        path=st.just("fit"),
        weights=st.sampled_from(["unequal", "zeros"]),
        source=st.sampled_from(_held_out_sources(context)),
        mode=st.just(context.runtime.modes[0]),
        steps_per_execution=st.just(1),
    )


@check(
    family="independence",
    claims=("C8", "C14"),
    case=InferenceCase,
    params=epoch_params,
    cases=epoch_cases,
    corners=epoch_corners,
    applies=unsteady_epochs,
    examples=(0, 1, 200),
    catches="an epoch that counts what the epoch before or its validation left in the metrics, validation that loses "
    "examples, targets or weights, or that takes the batch size of the training",
    formula="as for evaluation, for each epoch: its own entries over the examples trained on, those with val_ over the "
    "ones held out; learning rate 0",
    source="keras.io/api/models/model_training_apis: validation_data, 'data on which to evaluate the loss and any "
    "model metrics at the end of each epoch'; History.history, 'values at successive epochs'",
    example="epoch 2, held-out examples, gives loss = 1.31; over the examples it is 1.27",
)
def every_epoch_reports_its_own_and_the_held_out_examples(context: Context, case: InferenceCase) -> Reading:
    """Every epoch's history is that of its examples, and of the held-out ones, whatever came before."""
    n, part = case.examples, both_parts(context, case)
    model = ready_trainer(context, case, part.weights)
    trained, held = slice_of(part, 0, n, False), slice_of(part, n, 2 * n, False)
    first, second = ((piece.x, piece.y, piece.w) for piece in (trained, held))
    readings = []
    reports = model.fit_and_validate(first, second, case.batch_size, case.source, EPOCHS)
    for epoch, report in enumerate(reports, start=1):
        own = {name: value for name, value in report.items() if not name.startswith(VALIDATION)}
        of_held = {name.removeprefix(VALIDATION): v for name, v in report.items() if name.startswith(VALIDATION)}
        for piece, seen, what in ((trained, own, "examples"), (held, of_held, "held-out examples")):
            readings.append(compare_values(seen, reported(context, piece, own), f"epoch {epoch}, {what},"))
    return worst(readings)


def both_parts(context: Context, case: InferenceCase) -> Truth:
    """Return the truth of a case's examples, those trained on and as many held out."""
    both = replace(case, batches=2 * case.batches, tail=2 * case.tail)
    return truth(context, both, sample_weight=draw_sample_weights(case.seed, both.examples, case.weights))


def reported(context: Context, part: Truth, report: Mapping[str, float]) -> dict[str, Expected]:
    """Return the values by definition of what is reported, where there is a formula."""
    total = total_loss(context, part)
    known = metric_values(context, part)
    expected = told_or_due(context, known, list(report))
    return expected if total is None else {**expected, "loss": total}


def slice_of(part: Truth, start: int, stop: int, calibration: bool) -> Truth:
    """Return the truth of some of its examples, with the calibration rows that are theirs if asked for."""
    cut = slice(start, stop)
    found = replace(
        part,
        x=take(part.x, cut),
        y=take(part.y, cut),
        w=None if part.w is None else part.w[cut],
        rows=[r[cut] for r in part.rows],
    )
    if not calibration:
        return found
    rounding = [e[cut] for e in part.rounding]
    return replace(found, calibration=found.rows, rounding=rounding, targets=found.y)


def _batch_by_batch(context: Context, case: InferenceCase, part: Truth) -> Truth:
    """Return the truth where batch statistics couple the rows: each batch called as a whole, in training
    mode.

    How a batch's statistics amplify rounding is its own: the rounding is measured on the same batches, three
    times (the subject's precision; twice the twin with weights moved by a unit roundoff), the largest of the
    three.
    """
    double, single = context.bench("float64"), context.bench(case.dtype)
    exact = _outputs_by_batch(double, case, part, part.weights)
    rng = np.random.default_rng((case.seed, 6))
    nudged = [part.weights * (1 + 2 * part.u * rng.choice([-1.0, 1.0], part.weights.shape)) for _ in range(2)]
    others = [_outputs_by_batch(double, case, part, weights) for weights in nudged]
    others.append(_outputs_by_batch(single, case, part, part.weights))
    rounding = [np.max([np.abs(o[t] - e) for o in others], axis=0) for t, e in enumerate(exact)]
    return replace(part, rows=exact, calibration=exact, rounding=rounding, targets=part.y)


def _outputs_by_batch(bench: Bench, case: InferenceCase, part: Truth, weights: Array) -> list[Array]:
    call = forward(bench, True, "graph")
    parts = []
    for start, stop in case.edges:
        bench.set_weights(weights)
        x, _, _ = bench.cast((take(part.x, slice(start, stop)), None, None))
        parts.append(call(x))
    return [np.concatenate(p) for p in zip(*parts, strict=True)]
