"""Timing, third part: what each batch size costs beside what it cost in an earlier record."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bscheck.cases import Case, TimingCase
from bscheck.checks import check
from bscheck.checks.context import Context
from bscheck.checks.run import current_settings
from bscheck.checks.timing import SIZES, Measured, family_size, measure, reading_of, refused, timed_modes, timed_params
from bscheck.measure.steps import WORKS
from bscheck.measure.verdict import ALPHA, DELTA, Comparison, Estimate, Verdict, estimate
from bscheck.results.record import read_record
from bscheck.results.verdict import NotApplicable, Reading

_NAME = "no_batch_size_got_dearer_than_in_the_previous_record"

#: Every size is told as its ratio to this one, taken in the same rounds: what changed for all sizes alike, the
#: machine before all, cancels.
REFERENCE = SIZES[0]

#: What must be the same for two records to be comparable.
_SAME = ("backend", "device", "device_name", "threads", "tf32")


def compared(context: Context) -> str | None:
    """Return why nothing is compared; without a record the ratios are taken all the same where timings are gated."""
    reason = refused(context)
    if reason is None and not context.options.get("timing_baseline") and context.options.get("timing") != "gate":
        return "no previous record to compare with: --bscheck-timing-baseline FILE"
    return reason


def sizes_compared(context: Context) -> Sequence[Case]:
    """Return a case for each size but the reference, in each mode."""
    work = context.param.get("work", WORKS[0])
    return tuple(
        TimingCase(first=REFERENCE, second=size, work=work, mode=mode)
        for mode in timed_modes(context)
        for size in SIZES
        if size != REFERENCE
    )


def _drawn(context: Context) -> Any:
    from hypothesis import strategies as st

    return st.sampled_from(list(sizes_compared(context)))


def key_of(case: TimingCase) -> str:
    """Return the figure's name of a case's log ratio."""
    return f"log_{case.mode}_{case.dtype}_{case.second}_to_{case.first}"


@functools.cache
def _record(path: str) -> Mapping[str, Any]:
    return read_record(Path(path))


def previous(context: Context, case: TimingCase) -> Estimate:
    """Return the log ratio that the previous record holds.

    Raises
    ------
    NotApplicable
        Where it holds none, or comes from another machine.
    """
    path = context.options["timing_baseline"]
    record = _record(path)
    other = [n for n in _SAME if record["environment"].get(n) != context.environment.get(n)]
    if other:
        n = other[0]
        was, now = record["environment"].get(n), context.environment.get(n)
        raise NotApplicable(f"the record {path} was taken elsewhere: {n} {was} there, {now} here")
    for result in record["results"]:
        if result["check"] == _NAME and dict(result["param"]) == context.param.as_dict():
            found = dict((result.get("worst") or {}).get("figures") or {})
            key = key_of(case)
            if key in found:
                return Estimate(*(float(found[f"{key}{part}"]) for part in ("", "_low", "_high")))
    raise NotApplicable(f"the record {path} holds no ratio of {case.second} to {case.first} for {context.param.id}")


def judge(now: Estimate, before: Estimate, instances: int, label: str) -> Comparison:
    """Decide whether a log ratio grew by more than `DELTA`: the difference of two means, each with its own interval.

    The intervals' half-widths give the standard errors; the smaller sample's degrees of freedom are this run's, which
    is conservative (Welch's are larger).
    """
    from scipy import stats

    freedom = max(1, instances - 1)
    two_sided = float(stats.t.ppf(0.975, freedom))
    error = math.hypot(now.high - now.value, before.high - before.value) / two_sided
    difference, allowed = now.value - before.value, math.log1p(DELTA)
    low, high = difference - two_sided * error, difference + two_sided * error
    verdict: Verdict = "inconclusive"
    level = ALPHA / family_size()
    if difference - float(stats.t.ppf(1 - level, freedom)) * error > allowed:
        verdict, reason = "slower", f"above the allowed {1 + DELTA:.3f} at significance {level:.1e}"
    elif high > allowed:
        reason = f"shown neither above the allowed {1 + DELTA:.3f} nor below it"
    else:
        verdict, reason = "holds", f"the interval stays below the allowed {1 + DELTA:.3f}"
    ratio, least, most = (math.exp(min(v, 700.0)) for v in (difference, low, high))
    return Comparison(label, ratio, least, most, verdict, reason)


@check(
    family="timing",
    claims=("C6", "C7"),
    case=TimingCase,
    cases=_drawn,
    params=timed_params,
    corners=sizes_compared,
    applies=compared,
    examples=(0, 0, 0),
    catches="a batch size that a new release made slower than its neighbours: a cliff that was not there",
    formula="log t(B)/t(16), taken in the same rounds, less the same in the record, <= log(1+delta); one-sided t test "
    "of the two means at alpha over the number of comparisons",
    source="ratios within a run cancel what differs between two runs of one machine; absolute times do not",
    example="33 to 16 now vs before: +9.0 % [7.1, 11.0] (allowed: +2.0 %)",
)
def no_batch_size_got_dearer_than_in_the_previous_record(context: Context, case: TimingCase) -> Reading:
    """No batch size got dearer, beside the others, than it was in the previous record."""
    measured = measure(context, case, (case.first, case.second))
    figures = _ratios(context, measured)
    if not context.options.get("timing_baseline"):
        text = f"ratios to {REFERENCE} are recorded for the next run (--bscheck-timing-baseline FILE)"
        return Reading(0.0, seen=text, figures={**figures, "reported": 1.0})
    before = previous(context, case)
    instances = measured.samples.completed
    label = f"{case.second} to {case.first} now vs before"
    if instances < 2:
        comparison = Comparison(
            label, math.nan, 0.0, math.inf, "inconclusive", f"measured {instances} whole instance(s)"
        )
    else:
        now = estimate(measured.samples.paired(case.second, case.first).log_ratios)
        comparison = judge(now, before, instances, label)
    gate = context.options.get("timing") == "gate"
    found = reading_of(comparison, measured, 1.0, max(case.first, case.second), gate)
    return Reading(found.share, found.where, found.seen, found.allowed, found.cause, {**found.figures, **figures})


def _ratios(context: Context, measured: Measured) -> dict[str, float]:
    """Return the log ratio of every case with its interval: a record keeps the figures of one case alone."""
    if measured.samples.completed < 2:
        return {}
    figures: dict[str, float] = {}
    settings = current_settings()
    for case in sizes_compared(context):
        assert isinstance(case, TimingCase)
        of = measured if settings.profile != "thorough" else measure(context, case, (case.first, case.second))
        if of.samples.completed >= 2:
            found = estimate(of.samples.paired(case.second, case.first).log_ratios)
            figures |= {key_of(case): found.value, f"{key_of(case)}_low": found.low, f"{key_of(case)}_high": found.high}
    return figures
