"""Tiny batches, fifth part: what the batch size does to learning, in figures that a person can read.

Laws are asserted where there are any (counts of updates, paths, an estimator's mean); what small batches are worth for
a model's answers is reported with its spread over seeds, never asserted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, LearningCase, VarianceCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import TRACED_ANEW, Context, cached_in_process, require
from bscheck.checks.run import current_settings
from bscheck.checks.variance import coupled_or_double, enumerate_gradients, variance_cases, variance_corners
from bscheck.measure.equivalence import interval, share_interval
from bscheck.results.curves import Curve, Series, Table, point
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.learners import Report, SequenceLearner, Wells
from bscheck.tolerance import UNIT_ROUNDOFF, rms

# Noise scale --------------------------------------------------------------------------------------------


def decoupled(context: Context) -> str | None:
    """Return why a mini-batch gradient has no variance law."""
    if context.traits.coupled:
        return "batch statistics couple the examples, so a mini-batch gradient is no mean over them"
    return coupled_or_double(context)


@check(
    family="tiny batches",
    claims=("C2", "C11"),
    case=VarianceCase,
    cases=variance_cases,
    corners=variance_corners,
    applies=decoupled,
    examples=(0, 1, 50),
    catches="a gradient whose squared length depends on the batch size otherwise than by its variance",
    formula="B < N: S = (|g_B|^2 - |g_N|^2) / (1/B - 1/N) has the mean sum_i |g_i - g|^2 / (N-1) over all "
    "mini-batches, and G = (N |g_N|^2 - B |g_B|^2) / (N - B) the mean |g|^2 - that / N; noise scale S / G; float64, "
    "within 8 e sqrt(sum |g_i|^2) / (1/B - 1/N), e the gradients' rounding",
    source="McCandlish, Kaplan, Amodei et al., An Empirical Model of Large-Batch Training (2018), appendix A.1",
    example="the estimator's mean over all mini-batches is 1.31; the gradients vary by 1.27",
)
def noise_scale_estimator_is_unbiased(context: Context, case: VarianceCase) -> Reading:
    """The noise scale's estimator from two batch sizes has the variance of the gradients as its mean."""
    found = enumerate_gradients(context, case)
    n, b = case.examples, case.batch_size
    small, large = float(np.mean(np.sum(found.batches**2, axis=1))), float(np.sum(found.full**2))
    variance = float(np.sum((found.single - found.single.mean(axis=0)) ** 2)) / (n - 1)
    estimated = (small - large) / (1 / b - 1 / n)
    signal = (n * large - b * small) / (n - b)
    size = float(np.mean(np.sum(found.single**2, axis=1))) * n
    require(size > 0, "every example's gradient is zero")
    # Rounding of a gradient enters twice, times its length, and is then divided by 1/B - 1/N.
    error = math.sqrt(
        sum(r**2 * p.size for r, p in zip(found.rounding, context.bench("float64").split(found.full), strict=True))
    )
    bound = 8 * error * math.sqrt(size) / (1 / b - 1 / n) + 1e-12 * size / (1 / b - 1 / n)
    return Reading(
        max(abs(estimated - variance), abs(signal - (large - variance / n))) / bound,
        where=f"{b} of {n}",
        seen=f"the estimator's mean over all mini-batches is {estimated:.6g}; the gradients vary by {variance:.6g}",
        allowed=f"{bound:.1g} either way",
        figures={"noise_scale": estimated / signal if signal > 0 else math.inf, "variance": variance},
        tables=(_noise_table(case, variance, signal),),
    )


def _noise_table(case: VarianceCase, variance: float, signal: float) -> Table:
    """Return one enumeration's row: below the noise scale an example adds information, above it mostly cost."""
    scale = f"{variance / signal:.3g}" if signal > 0 else "no signal"
    columns = ("examples", "batch size", "seed", "weights", "variance of the gradients", "noise scale in examples")
    row = (case.examples, case.batch_size, case.seed, case.weights, variance, scale)
    return Table("noise", "Noise scale (critical batch size)", columns, (row,), "Exact, over all mini-batches.")


# Seeds ---------------------------------------------------------------------------------------------------


def learning_cases(context: Context) -> Any:
    """Draw seeds."""
    from hypothesis import strategies as st

    return st.builds(LearningCase, seed=seeds())


# The asker's question -----------------------------------------------------------------------------------

#: Batch sizes of the asker's case.
SIZES = (1, 2, 3, 16, 17, 32)


@cached_in_process
def _sequences() -> SequenceLearner:
    return SequenceLearner()


def sequence_corners(context: Context) -> Sequence[Case]:
    """Return one seed; eight in a thorough run, whose interval is reported beside the effect."""
    return (LearningCase(runs=8 if current_settings().profile == "thorough" else 1),)


@check(
    family="tiny batches",
    claims=("C3", "C4", "C10", "C11"),
    case=LearningCase,
    cases=learning_cases,
    corners=sequence_corners,
    params=lambda: [Param.of(subject="lstm")],
    examples=(0, 0, 5),
    per_subject=False,
    catches="an LSTM that learns otherwise from 32 examples than from two accumulated batches of 16, ends at a loss "
    "that is not a number at a tiny batch, or reports another loss than its predictions have",
    formula="|w(2 x 16) - w(32)| <= 1e-6 |w(32) - w(0)| after 24 updates in float64; the held-out loss "
    "within 1e-9 of the mean of -log p over the model's own predictions; losses and accuracies by batch size are "
    "reported. Given batches and weights: no false alarms",
    source="claims C4, C10 and C11; rounding of 24 updates is 1e-13 of them, and grows along the path",
    example="accumulated from 16s the weights end 0.13 of their way from where batches of 32 lead",
)
def predictions_by_batch_size_are_reported(context: Context, case: LearningCase) -> Reading:
    """Held-out loss by batch size is reported; batches accumulated from 16s end where batches of 32 do."""
    learner = _sequences()
    require(not learner.traced_anew(), TRACED_ANEW)
    reports = {
        (name, size, seed): learner.train(seed, size, updates)
        for size in SIZES
        for name, updates in (("updates", learner.updates), ("epochs", -(-learner.examples // size)))
        for seed in case.seeds
    }
    readings = [_told(report, size) for (_, size, _), report in reports.items()]
    for seed in case.seeds:
        start, direct, accumulated = learner.paths(seed)
        readings.append(_accumulated(rms(accumulated - direct) / rms(direct - start)))
    found = worst(readings)
    means = _means(reports)
    figures = {f"{what}_equal_{name}_{size}": v[0] for (what, name, size), v in means.items()}
    seen = _in_words(figures) if found.holds else found.seen
    pictures = tuple(_learning_curve(what, means, case.runs) for what in ("loss", "accuracy", "training_loss"))
    return replace(found, seen=seen, figures={**found.figures, **figures, "reported": 1.0}, curves=pictures)


def _accumulated(apart: float) -> Reading:
    return Reading(
        apart / 1e-6 if math.isfinite(apart) else math.inf,
        where="2 x 16 against 32",
        seen=f"accumulated from 16s the weights end {apart:.2g} of their way from where batches of 32 lead",
        allowed="1e-06 of the way",
        figures={"apart": apart},
    )


def _told(report: Report, size: int) -> Reading:
    """Hold the reported loss against that of the model's own predictions; rounding of the mean is 1e-13."""
    off = abs(report.loss - report.truth) / report.truth
    text = f"the held-out loss is told as {report.loss:.9g}; its predictions have {report.truth:.9g}"
    return Reading(
        off / 1e-9 if math.isfinite(off + report.training_loss) else math.inf,
        where=f"batch {size}",
        seen=f"trained at batch {size} {text}",
        allowed="1e-09 of it",
    )


#: What is reported (loss, accuracy, ...), at equal what, and batch size.
Means = Mapping[tuple[str, str, int], tuple[float, float, float]]


def _means(reports: Mapping[tuple[str, int, int], Report]) -> Means:
    """Return each figure's mean over the seeds with its interval."""
    found = {}
    for name in ("updates", "epochs"):
        for size in SIZES:
            same = [report for (n, b, _), report in reports.items() if (n, b) == (name, size)]
            for what in ("loss", "accuracy", "training_loss"):
                found[what, name, size] = spread([getattr(report, what) for report in same])
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean with its 95 % interval; with the range of few values, where an interval would say nothing."""
    return interval(values) if len(values) >= 4 else (float(np.mean(values)), min(values), max(values))


def _learning_curve(what: str, means: Means, runs: int) -> Curve:
    titles = {"loss": "Held-out loss", "accuracy": "Held-out accuracy", "training_loss": "Training loss"}
    named = {"updates": f"equal updates ({SequenceLearner.updates})", "epochs": "equal epochs (1)"}
    width = f"95 % interval over {runs} seeds" if runs >= 4 else f"range over {runs} seed{'s' * (runs > 1)}"
    return Curve(
        "loss",
        f"{titles[what]} by batch size",
        "batch size",
        titles[what].lower(),
        tuple(Series(text, tuple(point(b, *means[what, name, b]) for b in SIZES)) for name, text in named.items()),
        log_x=True,
        note=f"A small LSTM, SGD with momentum at one rate; {width}.",
    )


def _in_words(figures: Mapping[str, float]) -> str:
    losses = ", ".join(f"{figures[f'loss_equal_updates_{b}']:.2f} ({b})" for b in SIZES)
    epochs = ", ".join(f"{figures[f'loss_equal_epochs_{b}']:.2f} ({b})" for b in SIZES)
    return f"held-out loss by batch size, equal updates: {losses}; one epoch: {epochs}"


# Leaving a shallow well ---------------------------------------------------------------------------------

#: Rate, and how often each batch size may leave: updates of every run.
RATE, UPDATES = 0.05, 120
WELL_SIZES = (1, 2, 4, 16)


@cached_in_process
def _wells() -> Wells:
    return Wells(RATE)


@check(
    family="tiny batches",
    claims=("C11",),
    case=LearningCase,
    cases=learning_cases,
    corners=lambda context: (LearningCase(),),
    params=lambda: [Param.of(subject="double_well")],
    examples=(0, 0, 5),
    per_subject=False,
    catches="a step that moves otherwise than by its own gradient: damped where the loss is steep, or noisier than its "
    "batch",
    formula="loss (w^2 - 1)^2 + 0.3 w + x w, x the batch's noise; every update of every run within 64 u of "
    "w - rate (4 w (w^2 - 1) + 0.3 + mean x); the share of runs that leave the shallow well is reported",
    source="Kleinberg, Li & Yuan, An Alternative View: When Does SGD Escape Local Minima? (2018); claim C11",
    example="after update 3 a run at batch 2 is off its update by 0.021",
)
def escape_from_a_shallow_well_is_reported(context: Context, case: LearningCase) -> Reading:
    """How often each batch size leaves a shallow well is reported; every update on the way is its gradient's."""
    learner = _wells()
    readings, left = [], {}
    for size in WELL_SIZES:
        noise = learner.noise(case.seed, size, UPDATES)
        path = learner.follow(noise)
        readings.append(_updates_reading(path, noise, size))
        left[f"left_{size}"] = float(np.mean(path[-1] < 0))
    found = worst(readings)
    shares = ", ".join(f"{share:.0%} (batch {name[5:]})" for name, share in left.items())
    seen = found.seen if not found.holds else f"after {UPDATES} updates the shallow well was left by {shares}"
    return replace(found, seen=seen, figures={**left, "reported": 1.0}, curves=(_escapes(left),))


def _escapes(left: Mapping[str, float]) -> Curve:
    bars = tuple(
        point(i, *share_interval(round(left[f"left_{size}"] * Wells.RUNS), Wells.RUNS))
        for i, size in enumerate(WELL_SIZES)
    )
    return Curve(
        "noise",
        "Runs that left the shallow well",
        "batch size",
        "share of runs",
        (Series(f"after {UPDATES} updates", bars, "bars"),),
        ticks=tuple(map(str, WELL_SIZES)),
        note=f"{Wells.RUNS} runs of Keras in a double well, the same rate at every batch size, 95 % interval.",
    )


def _updates_reading(path: Array, noise: Array, size: int) -> Reading:
    """Hold every update (T, R) against the gradient at Keras's own weights before it."""
    w, x = path[:-1], noise.mean(axis=1)
    expected = w - RATE * (4 * w * (w**2 - 1) + Wells.TILT + x)
    magnitude = np.abs(w) + RATE * (4 * np.abs(w) * (w**2 + 1) + Wells.TILT + np.abs(noise).mean(axis=1) * 4)
    share = np.abs(path[1:] - expected) / (64 * UNIT_ROUNDOFF["float64"] * magnitude)
    share = np.where(np.isfinite(share), share, np.inf)
    t, run = (int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape))
    off = abs(float(path[t + 1, run] - expected[t, run]))
    return Reading(
        float(share[t, run]),
        where=f"run {run}, batch {size}, after update {t + 1}",
        seen=f"after update {t + 1} a run at batch {size} is off its update by {off:.2g}",
        allowed=f"{off / float(share[t, run]) if share[t, run] else 0:.1g}",
    )
