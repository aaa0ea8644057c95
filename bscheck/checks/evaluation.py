"""Independence, second half: evaluation and history report the examples, not the batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import InferenceCase
from bscheck.checks import Param, check, subjects_of_the_gate
from bscheck.checks.context import Context, draw_sample_weights, first_reason, require
from bscheck.checks.independence import (
    CALIBRATION,
    Truth,
    batch_corners,
    forward,
    in_full,
    inference_cases,
    no_twin,
    trainer,
    truth,
)
from bscheck.oracles.losses import Formula, of_loss, of_metric
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array, Bench
from bscheck.runtime.inference import penalty, sources
from bscheck.subject import leaves, take
from bscheck.tolerance import UNIT_ROUNDOFF, mean_over_examples, rms

#: Calls that can come before, on other examples.
EARLIER = InferenceCase.CHOICES["earlier"]


@dataclass(frozen=True)
class Expected:
    """What one reported number must be.

    Attributes
    ----------
    value, bound : float
        The value over all examples, and how far rounding may move it.
    source : str
        ``NumPy``, or ``the float64 twin over one full batch``.
    """

    value: float
    bound: float
    source: str = "NumPy"


def mean_of(formula: Formula, part: Truth, output: int, y: Array, targets: Array, w: Array | None) -> Expected:
    """Return the mean of a formula over the examples of one output; weights count, examples are divided by.

    Keras's ``sum_over_batch_size``: ``sum_i w_i l_i / N``.
    """
    p, c, e = part.rows[output], part.calibration[output], part.rounding[output]
    weights = np.ones(len(p)) if w is None else np.asarray(w, np.float64)
    if formula.margin is not None:
        # A decision is right or wrong: rounding moves it only where the two best are nearly equal.
        near = formula.margin(p) <= 16 * max(np.max(np.abs(e), initial=0.0), part.u * rms(c))
        shift, unsure = 0.0, float(np.mean(weights * near))
    else:
        moved = formula.values(targets, c + e) - formula.values(targets, c)
        shift, unsure = rms(moved) * float(np.mean(weights)), 0.0
    value = float(np.mean(weights * formula.values(y, p)))
    size = float(np.mean(weights * formula.sizes(y, p)))
    return Expected(value, mean_over_examples(shift, size, len(p), part.u) + unsure)


def weighted_mean_of(formula: Formula, part: Truth, output: int, y: Array, targets: Array, w: Array | None) -> Expected:
    """Return the weighted mean of a formula, ``sum_i w_i l_i / sum_i w_i``: a weighted metric's definition."""
    found = mean_of(formula, part, output, y, targets, w)
    share = 1.0 if w is None else float(np.mean(np.asarray(w, np.float64)))
    if share == 0.0:  # nothing was weighed: Keras divides with divide_no_nan
        return Expected(0.0, found.bound)
    return Expected(found.value / share, found.bound / share)


def losses_of(context: Context) -> list[Formula | None]:
    """Return the formula of each output's loss, None where there is none."""
    return [of_loss(loss) for loss in leaves(context.subject.loss)]


def output_losses(context: Context, part: Truth) -> list[Expected] | None:
    """Return what the loss of each output must be, or None where a formula is missing."""
    formulas = losses_of(context)
    ys, targets = leaves(part.y), leaves(part.targets)
    if None in formulas or not len(formulas) == len(ys) == len(part.rows):
        return None
    return [
        mean_of(formula, part, t, ys[t], targets[t], part.w)
        for t, formula in enumerate(formulas)
        if formula is not None
    ]


def total_loss(context: Context, part: Truth) -> Expected | None:
    """Return what the total loss must be: the outputs' losses and the penalties; None without formulas."""
    bench = context.bench("float64")
    parts = output_losses(context, part)
    penalties = penalty(bench, part.weights)
    if parts is None or penalties is None:
        return None
    value = sum(p.value for p in parts) + penalties
    # Keras on TensorFlow rounds a penalty's factor, a Python float, to float32 whatever the policy.
    u = max(part.u, UNIT_ROUNDOFF["float32"])
    bound = sum(p.bound for p in parts) + mean_over_examples(0.0, penalties, int(bench.offsets[-1]), u)
    return Expected(value, bound)


def metric_values(context: Context, part: Truth) -> dict[str, Expected]:
    """Return what each metric that has a formula must be, by the name that Keras reports it under."""
    names = list(getattr(context.bench("float64").model, "output_names", ()))
    ys, targets = leaves(part.y), leaves(part.targets)
    found = {}
    for t, metric in _metrics(context.subject.metrics, len(part.rows)):
        formula = of_metric(metric, ys[t], part.rows[t])
        if formula is None:
            continue
        prefix = f"{names[t]}_" if len(part.rows) > 1 and len(names) == len(part.rows) else ""
        found[f"{prefix}{metric}"] = mean_of(formula, part, t, ys[t], targets[t], None)
        found[f"{prefix}weighted_{metric}"] = weighted_mean_of(formula, part, t, ys[t], targets[t], part.w)
    return found


def _metrics(metrics: Sequence[Any], outputs: int) -> Iterator[tuple[int, Any]]:
    """Yield the metrics with the output that each is for."""
    if outputs == 1:
        yield from ((0, metric) for metric in leaves(metrics))
    elif len(metrics) == outputs:
        for t, group in enumerate(metrics):
            yield from ((t, metric) for metric in leaves(group))


def twin_values(context: Context, case: InferenceCase, part: Truth) -> dict[str, Expected]:
    """Return what the float64 twin reports of all examples as one batch: the oracle where no formula is known.

    Its bound: the subject's own rounding, seen on each calibration example alone.
    """
    double = context.bench("float64")
    twin = trainer(double, context.runtime.modes[0], 1)
    single = trainer(context.bench("float32" if case.dtype == "float64" else case.dtype), twin.mode, 1)
    twin.set_weights(part.weights)
    single.set_weights(part.weights)
    w = None if part.w is None else part.w.astype(np.float64)
    whole = twin.alone("test_on_batch", double.cast((part.x, part.y, w)))
    x, y, _ = context.subject.draw(case.seed, max(case.examples, CALIBRATION))
    rows = [(take(x, slice(i, i + 1)), take(y, slice(i, i + 1)), None) for i in range(CALIBRATION)]
    exact = [twin.alone("test_on_batch", double.cast(row)) for row in rows]
    seen = [single.alone("test_on_batch", single.bench.cast(row)) for row in rows]
    factor = (64 * 2.0**-29 if case.dtype == "float64" else 1.0) * (1.0 if w is None else float(np.mean(w)))
    found = {}
    for name, value in whole.items():
        error = np.array([s[name] - e[name] for s, e in zip(seen, exact, strict=True)])
        size = rms(np.array([e[name] for e in exact])) + abs(value)
        bound = mean_over_examples(factor * rms(error), size, case.examples, part.u)
        found[name] = Expected(value, bound, "the float64 twin over one full batch")
    return found


def expected_values(context: Context, case: InferenceCase, part: Truth, names: Sequence[str]) -> dict[str, Expected]:
    """Return what each reported number must be, except the outputs' own losses, which have a check of their own."""
    known = metric_values(context, part)
    total = total_loss(context, part)
    if total is not None:
        known["loss"] = total
    wanted = [n for n in names if n not in known and n not in _output_loss_names(context)]
    if wanted or "loss" not in known:
        known = {**twin_values(context, case, part), **known}
    return {n: known[n] for n in names if n in known and n not in _output_loss_names(context)}


def _output_loss_names(context: Context) -> list[str]:
    if context.traits.outputs < 2:
        return []
    return [f"{name}_loss" for name in getattr(context.bench("float64").model, "output_names", ())]


def compare_values(seen: Mapping[str, float], expected: Mapping[str, Expected], what: str) -> Reading:
    """Hold reported numbers against what they must be; the worst decides."""
    missing = [name for name in expected if name not in seen]
    if missing or not expected:
        return Reading(np.inf, seen=f"{what} reports no {', '.join(missing) or 'loss'}", allowed="loss and metrics")
    return worst(_value_reading(name, seen[name], e, what) for name, e in expected.items())


def _value_reading(name: str, value: float, expected: Expected, what: str) -> Reading:
    difference = abs(value - expected.value)
    share = difference / expected.bound if np.isfinite(difference) else np.inf
    return Reading(
        share,
        where=name,
        seen=f"{what} gives {name} = {value:.7g}; over the examples it is {expected.value:.7g}",
        allowed=f"off by {expected.bound:.1g}",
        cause=f"held against {expected.source}" if share > 1 else "",
    )


def _ready(context: Context, case: InferenceCase, weights: Array) -> Any:
    """Return the compiled model of the case with its weights, after the earlier call."""
    bench = context.bench(case.dtype)
    model = trainer(bench, case.mode, case.steps_per_execution)
    model.set_weights(weights)
    if case.earlier != "nothing":
        batch = bench.cast(context.subject.draw(case.seed + 1, 3))
        if case.earlier in ("evaluate", "fit"):
            getattr(model, case.earlier)(batch, 2, "arrays")
        else:
            model.on_batch(case.earlier, batch)
        model.set_weights(weights)
    return model


def needs_a_mean(context: Context) -> str | None:
    """Return why the reported loss need not be a mean over the examples."""
    traits = context.traits
    return no_twin(context) or first_reason(
        (traits.masked_loss, "the loss is a mean over each batch's unmasked entries, so their counts weigh in"),
        (traits.reduction != "mean", f"the loss is a {traits.reduction} over a batch: Keras averages it over batches"),
    )


def evaluation_cases(context: Context) -> Any:
    """Draw batch sizes, tails, weights, sources and earlier calls for ``evaluate``."""
    from hypothesis import strategies as st

    return inference_cases(
        context,
        path=st.just("evaluate"),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        source=st.sampled_from(["arrays", *sources()]),
        earlier=st.sampled_from(["nothing", *EARLIER] if in_full(context) else ["nothing", "test_on_batch"]),
    )


def evaluation_corners(context: Context) -> Sequence[InferenceCase]:
    """Return the batch shapes, with weights, each source once, and each earlier call once."""
    corners = batch_corners(context, "evaluate")
    weighed = [replace(c, weights=("none", "unequal", "zeros")[i % 3]) for i, c in enumerate(corners)]
    ragged = InferenceCase(mode=context.runtime.modes[0], tail=1)
    if not in_full(context):
        return (*weighed, replace(ragged, weights="unequal", earlier="test_on_batch"))
    given = [replace(ragged, source=source, weights="unequal") for source in sources()[1:]]
    after = [replace(ragged, earlier=earlier, weights="zeros") for earlier in EARLIER[1:]]
    return (*weighed, replace(ragged, weights="unequal"), *given, *after)


@check(
    family="independence",
    claims=("C8", "C13"),
    case=InferenceCase,
    cases=evaluation_cases,
    corners=evaluation_corners,
    applies=needs_a_mean,
    examples=(2, 5, 200),
    catches="a loss or metric averaged over batches instead of examples, a wrong denominator (counts, weights), a tail "
    "that counts as a full batch, a batch counted twice or not at all, a metric that an earlier call left filled",
    formula="|v - sum_i w_i l_i / N - penalties| <= 6 rms(shift) + 4 u sqrt(N+8) size, l_i by NumPy from the float64 "
    "twin's rows, one example at a time; a loss or metric with no formula: the twin's own over one full batch",
    source="keras.io/api/losses: 'sum_over_batch_size'; keras.io/api/metrics: weighted means; Higham and Mary 2019",
    example="evaluate gives loss = 1.31; over the examples it is 1.27",
)
def evaluation_does_not_depend_on_batch_size(context: Context, case: InferenceCase) -> Reading:
    """Evaluation reports the loss and metrics over all examples, whatever the batch size."""
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    part = truth(context, case, sample_weight=w)
    model = _ready(context, case, part.weights)
    # Twice: the first call must leave nothing behind that the second one counts.
    reports = [model.evaluate((part.x, part.y, part.w), case.batch_size, case.source) for _ in range(_repeats(case))]
    expected = expected_values(context, case, part, list(reports[0]))
    return worst(compare_values(report, expected, "evaluate") for report in reports)


def _repeats(case: InferenceCase) -> int:
    return 2 if case.earlier == "evaluate" else 1


# Outputs -----------------------------------------------------------------------------------------------


def output_params() -> list[Param]:
    """Return the reference subjects with several outputs."""
    return [p for p in subjects_of_the_gate() if p.get("subject") == "two_outputs"]


def one_output(context: Context) -> str | None:
    """Return why there are no losses of several outputs to add up."""
    reason = first_reason((context.traits.outputs < 2, "the model has one output"))
    if reason or needs_a_mean(context):
        return reason or needs_a_mean(context)
    model = trainer(context.bench("float32"), context.runtime.modes[0], 1)
    x, y, w = context.bench("float32").cast(context.subject.draw(0, 2))
    reported = model.on_batch("test_on_batch", (x, y, w))
    unreported = not set(_output_loss_names(context)) & set(reported)
    return "this Keras reports no losses of single outputs" if unreported else None


@check(
    family="independence",
    claims=("C8", "C13"),
    case=InferenceCase,
    cases=evaluation_cases,
    corners=evaluation_corners,
    params=output_params,
    applies=one_output,
    examples=(3, 10, 200),
    catches="a model of several outputs whose losses, output by output, are averaged over batches, counted twice or "
    "left over from an earlier call, while their total is right",
    formula="as for evaluation: |v_t - sum_i w_i l_ti / N| <= 6 rms(shift) + 4 u sqrt(N+8) size for every output t",
    source="keras.io/guides/training_with_built_in_methods: the total is the sum of the outputs' losses",
    example="evaluate gives value_loss = 7.27; over the examples it is 4.74",
)
def output_losses_do_not_depend_on_batch_size(context: Context, case: InferenceCase) -> Reading:
    """The reported losses of several outputs are those over all examples, and add up to the total."""
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    part = truth(context, case, sample_weight=w)
    model = _ready(context, case, part.weights)
    report = model.evaluate((part.x, part.y, part.w), case.batch_size, case.source)
    names = _output_loss_names(context)
    losses = output_losses(context, part)
    values = twin_values(context, case, part) if losses is None else dict(zip(names, losses, strict=True))
    return compare_values(report, {name: values[name] for name in names if name in values}, "evaluate")


# History -----------------------------------------------------------------------------------------------


def unsteady(context: Context) -> str | None:
    """Return why a training call's report cannot be foretold."""
    return needs_a_mean(context) or first_reason(
        (context.traits.stochastic, "training calls are random (dropout or noise)"),
        (
            None in losses_of(context),
            "the loss has no NumPy formula here, and the training report has no other independent oracle",
        ),
    )


def history_cases(context: Context) -> Any:
    """Draw batches through ``fit``, ``train_on_batch`` and ``test_on_batch``."""
    from hypothesis import strategies as st

    paths = ["train_on_batch", "test_on_batch"]
    return inference_cases(
        context,
        path=st.sampled_from([*paths, *paths, *paths, "fit"]),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        earlier=st.sampled_from([*paths, *EARLIER] if in_full(context) else ["nothing", *paths]),
        steps_per_execution=st.just(1),
    )


def history_corners(context: Context) -> Sequence[InferenceCase]:
    """Return ragged batches through every path, after every other call."""
    mode = context.runtime.modes[0]
    plain = InferenceCase(mode=mode, path="test_on_batch", batch_size=1)
    ragged = replace(plain, batch_size=2, tail=1)
    corners = [plain, replace(plain, batches=2)]
    for path in ("test_on_batch", "train_on_batch"):
        corners += [replace(ragged, path=path, weights=weights) for weights in ("none", "unequal")]
        earlier = EARLIER[1:] if in_full(context) else ("test_on_batch", "train_on_batch")
        corners += [replace(ragged, path=path, earlier=name, seed=1) for name in earlier]
    corners += [replace(ragged, path="fit", weights="unequal"), replace(plain, path="fit", batches=3)]
    if context.runtime.compiles_per_shape or not in_full(context):
        return tuple(corners)
    corners += [replace(ragged, path="fit", earlier=name, seed=1) for name in EARLIER[1:]]
    # Tracing a training step into a loop over several of them is the dearest compilation here.
    corners += [replace(ragged, path="fit", batches=3, steps_per_execution=3, weights="zeros")]
    corners += [replace(ragged, path="fit", batch_size=16)]
    corners += [replace(ragged, path=path, mode="eager") for path in ("train_on_batch", "test_on_batch")]
    return tuple(corners)


@check(
    family="independence",
    claims=("C8", "C14"),
    case=InferenceCase,
    cases=history_cases,
    corners=history_corners,
    applies=unsteady,
    examples=(3, 15, 300),
    catches="train_on_batch or test_on_batch that report the running mean over earlier calls; a history of fit that "
    "averages over batches, forgets the tail, or counts what was there before the epoch",
    formula="as for evaluation, on each batch alone for train_on_batch and test_on_batch, over all examples for fit; the "
    "rows in training mode, batch by batch where batch statistics couple them; learning rate 0",
    source="keras.io/api/models/model_training_apis: train_on_batch 'runs a single gradient update on a single batch'",
    example="train_on_batch, batch 2 of 2 gives loss = 0.84; over the examples it is 0.97",
)
def history_of_fit_and_train_on_batch_report_the_batch(context: Context, case: InferenceCase) -> Reading:
    """Training and testing on a batch report that batch alone; the history of fit reports every example once."""
    require(case.path in ("fit", "train_on_batch", "test_on_batch"), f"{case.path} has a promise of its own")
    training = case.path != "test_on_batch"
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    coupled = training and bool(context.traits.batch_statistics)
    part = truth(context, case, sample_weight=w, training=training and not coupled)
    if coupled:
        part = _batch_by_batch(context, case, part)
    model = _ready(context, case, part.weights)
    if case.path == "fit":
        report = model.fit((part.x, part.y, part.w), case.batch_size, case.source)
        return compare_values(report, _reported(context, part, report), "the history of fit")
    readings = []
    for j, (start, stop) in enumerate(case.edges):
        piece = _slice(part, start, stop, coupled)
        report = model.on_batch(case.path, (piece.x, piece.y, piece.w))
        what = f"{case.path}, batch {j + 1} of {len(case.edges)},"
        readings.append(compare_values(report, _reported(context, piece, report), what))
    return worst(readings)


def _reported(context: Context, part: Truth, report: Mapping[str, float]) -> dict[str, Expected]:
    total = total_loss(context, part)
    known = metric_values(context, part)
    expected = {name: known[name] for name in report if name in known}
    return expected if total is None else {**expected, "loss": total}


def _slice(part: Truth, start: int, stop: int, calibration: bool) -> Truth:
    """Return the truth of some of its examples; with their own calibration rows where those are the examples."""
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
    """Return the truth where batch statistics couple the rows: each batch called as a whole, in training mode.

    How a batch's statistics amplify rounding is its own: the rounding is measured on the same batches, three times
    (the subject's precision; twice the twin with weights moved by a unit roundoff), the largest of the three.
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
