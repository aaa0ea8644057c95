"""What Keras's loops must report: losses and metrics over the examples, by NumPy from the float64 rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.cases import InferenceCase
from bscheck.checks.context import Context, first_reason
from bscheck.checks.truth import CALIBRATION, Truth, no_twin, trainer, truth
from bscheck.oracles.losses import Formula, of_loss, of_metric
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.inference import Trainer, output_names, penalty
from bscheck.subject import leaves, take
from bscheck.tolerance import UNIT_ROUNDOFF, mean_over_examples, rms
from bscheck.traits import NO_MEAN


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
    """Return the weighted mean ``sum_i w_i l_i / sum_i w_i``: a weighted metric's definition."""
    found = mean_of(formula, part, output, y, targets, w)
    share = 1.0 if w is None else float(np.mean(np.asarray(w, np.float64)))
    if share == 0.0:  # nothing was weighed: Keras divides with divide_no_nan
        return Expected(0.0, found.bound)
    return Expected(found.value / share, found.bound / share)


def losses_of(context: Context) -> list[Formula | None]:
    """Return the formula of each output's loss, None where there is none."""
    if weighs_steps(context):
        return [None for _ in leaves(context.subject.loss)]
    return [of_loss(loss) for loss in leaves(context.subject.loss)]


def weighs_steps(context: Context) -> bool:
    """Whether the subject's sample weights are those of an example's steps: formulas are of whole examples."""
    own = context.subject.draw(0, 1)[2]
    return own is not None and own.ndim > 1


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


def no_formula(context: Context) -> str | None:
    """Return why NumPy cannot foretell the total loss of this subject; None where `total_loss` can."""
    formulas, bench = losses_of(context), context.bench("float64")
    lacks = ", and the training report has no other independent oracle"
    lacking = first_reason(
        (None in formulas, f"the loss has no NumPy formula here{lacks}"),
        (len(formulas) != context.traits.outputs, f"the outputs share one loss{lacks}"),
        (
            penalty(bench, bench.initial) is None,
            f"losses that the model adds itself, or penalties other than L2, have no NumPy formula here{lacks}",
        ),
    )
    if lacking is None:
        total = total_loss(context, truth(context, InferenceCase(mode=context.runtime.modes[0])))
        if total is not None and not settled(total):
            lacking = f"what the loss is of these predictions is open (clipped, or no distribution){lacks}"
    return lacking


def settled(expected: Expected) -> bool:
    """Whether a formula bounds anything: probabilities may leave a cross-entropy open, see `bscheck.oracles.losses`."""
    return expected.bound <= 1 + abs(expected.value)


def metric_values(context: Context, part: Truth) -> dict[str, Expected]:
    """Return what each metric that has a formula must be, by the name that Keras reports it under."""
    names = output_names(context.bench("float64").model)
    ys, targets = leaves(part.y), leaves(part.targets)
    found: dict[str, Expected] = {}
    if weighs_steps(context):
        return found
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
    """Return what the float64 twin reports of all examples as one batch: the oracle where no formula is
    known.

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
    """Return what each reported number must be; the outputs' own losses have a check of their own."""
    known = metric_values(context, part)
    total = total_loss(context, part)
    # Where the loss's definition leaves these predictions open (clipped probabilities), the twin tells it.
    if total is not None and settled(total):
        known["loss"] = total
    wanted = [n for n in names if n not in known and n not in output_loss_names(context)]
    if wanted or "loss" not in known:
        known = {**twin_values(context, case, part), **known}
    return told_or_due(context, {n: e for n, e in known.items() if n not in output_loss_names(context)}, names)


def told_or_due(context: Context, known: dict[str, Expected], names: Sequence[str]) -> dict[str, Expected]:
    """Return what is known of the numbers in a report, and of those that the gate's own subjects must be told."""
    return {n: e for n, e in known.items() if n in names or context.given is None}


def output_loss_names(context: Context) -> list[str]:
    if context.traits.outputs < 2:
        return []
    return [f"{name}_loss" for name in output_names(context.bench("float64").model)]


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
        figures={"seen": value, "expected": expected.value} if share > 1 else {},
    )


def ready_trainer(context: Context, case: InferenceCase, weights: Array) -> Trainer:
    """Return the compiled model of the case with its weights, after the earlier call."""
    bench = context.bench(case.dtype)
    told = case.batch_size if case.source == "dataset_unknown" and not case.tail else 0
    model = trainer(bench, case.mode, case.steps_per_execution, told)
    model.set_weights(weights)
    if case.earlier != "nothing":
        batch = bench.cast(context.subject.draw(case.seed + 1, told or 3))
        if case.earlier in ("evaluate", "fit"):
            getattr(model, case.earlier)(batch, told or 2, case.source if told else "arrays")
        else:
            model.on_batch(case.earlier, batch)
        model.set_weights(weights)
    return model


def needs_a_mean(context: Context) -> str | None:
    """Return why the reported loss need not be a mean over the examples."""
    if reason := no_twin(context):
        return reason
    traits = context.traits
    return first_reason(
        (
            traits.masked_loss,
            "the loss is a mean over each batch's unmasked entries, so their counts weigh in",
        ),
        (
            traits.reduction == "other",
            f"the loss is {NO_MEAN}: Keras averages it over batches",
        ),
        (
            traits.reduction != "mean",
            f"the loss is a {traits.reduction} over a batch: Keras averages it over batches",
        ),
    )
