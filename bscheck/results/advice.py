"""What `bscheck advise` says: the table, the plan, and the document that keeps the figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from bscheck.measure.advice import (
    NEAR_BEST,
    Advice,
    PlanOutcome,
    chosen_target,
    neighbour,
    per_example,
    plan_outcomes,
    sweet_spot,
    unsteadiness,
)
from bscheck.measure.memory import in_words
from bscheck.measure.verdict import Comparison, Estimate
from bscheck.results.failure import one_line_environment
from bscheck.results.record import SCHEMA

_WIDTHS = (6, 26, 10)


def lines(advice: Advice, *, interrupted: bool = False) -> Iterator[str]:
    """Yield the advice as lines of text, as much of it as was measured."""
    own = advice.dtype if advice.dtype != advice.environment.get("dtype") else ""
    yield " · ".join(filter(None, [advice.subject, one_line_environment(advice.environment), own]))
    yield from _table(advice)
    yield from _fits(advice)
    yield from _sweet_spot(advice)
    yield from map(_plan_line, plan_outcomes(advice))
    yield from _equality(advice)
    yield from _noise(advice)
    yield from advice.notes
    if interrupted:
        yield "interrupted: this is what had been measured by then"


def _table(advice: Advice) -> Iterator[str]:
    times = per_example(advice.samples) if advice.samples else {}
    trials = {trial.size: trial for trial in advice.trials}
    rough = {t.size: t.figures["seconds"] / t.size for t in advice.trials if t.fits}
    yield _row("batch", "time/example", "memory", "note")
    for size in sorted({*trials, *times}):
        trial = trials.get(size)
        if trial is not None and not trial.fits:
            yield _row(str(size), "-", "-", f"does not fit: {trial.reason}")
            continue
        cell = _time_cell(times[size]) if size in times else f"about {_seconds(rough[size])}"
        yield _row(str(size), cell, in_words(trial.memory) if trial else "", ", ".join(_remarks(advice, size, times)))


def _row(*cells: str) -> str:
    first, second, third = _WIDTHS
    batch, time, memory, note = cells
    return f"{batch:>{first}}  {time:>{second}}  {memory:>{third}}  {note}".rstrip()


def _remarks(advice: Advice, size: int, times: Mapping[int, Estimate]) -> Iterator[str]:
    odd = neighbour(advice) if size == 17 else None
    if odd is not None and _known(odd):
        yield f"{_percent(odd, 16 / 17)} per example against 16"
    if size == sweet_spot(times):
        yield "sweet spot"
    if size == advice.largest:
        yield "largest that fits" if advice.smallest_failing else "largest that was tried"


def _time_cell(time: Estimate) -> str:
    unit, scale = _unit(time.value)
    if time.low <= 0:
        return f"about {time.value * scale:.3g} {unit}"
    low, high = time.low * scale, time.high * scale
    return f"{time.value * scale:.3g} {unit} [{low:.3g}, {high:.3g}]"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _seconds(value: float) -> str:
    unit, scale = _unit(value)
    return f"{value * scale:.3g} {unit}"


def _unit(value: float) -> tuple[str, float]:
    return ("s", 1.0) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("us", 1e6)


def _percent(comparison: Comparison, times: float = 1.0) -> str:
    value, low, high = (100 * (r * times - 1) for r in (comparison.ratio, comparison.low, comparison.high))
    return f"{value:+.0f} % [{low:.0f}, {high:.0f}]"


def _fits(advice: Advice) -> Iterator[str]:
    largest, failing = advice.largest, advice.smallest_failing
    if not largest and failing is None:
        yield "nothing was measured in time: give more --budget"
    elif not largest:
        yield "no batch size fits"
    elif failing is None:
        yield f"largest that fits: at least {largest}" + (", the most that was tried" if largest == advice.most else "")
    elif failing == largest + 1:
        yield f"largest that fits: {largest}"
    else:
        yield f"largest that fits: {largest}; {failing} does not"
    if advice.process and advice.environment.get("device") == "cpu":
        yield (
            f"memory is the model's, its optimizer's and a step's; Python, Keras and the backend take "
            f"{in_words(advice.process)} beside it"
            + (f", the limit is {in_words(advice.limit)}" if advice.limit else "")
        )


def _sweet_spot(advice: Advice) -> Iterator[str]:
    if not advice.largest:
        return
    if advice.samples is None or advice.samples.completed < 2:
        yield "times were not measured often enough for an interval"
        return
    size = sweet_spot(per_example(advice.samples))
    yield f"sweet spot: {size}, the smallest batch within {_share(NEAR_BEST)} of the best time per example"
    unsteady = unsteadiness(advice)
    if unsteady is not None:
        low, high = (100 * math.expm1(min(v, 5.0)) for v in (unsteady.low, unsteady.high))
        yield (
            f"unsteady machine: two identical batches differed by {100 * math.expm1(unsteady.value):+.0f} % "
            f"[{low:.0f}, {high:.0f}], so differences of that size say nothing"
        )


def _plan_line(plan: PlanOutcome) -> str:
    window = plan.window
    parts = []
    if plan.time is not None and _known(plan.time):
        change = 100 * (plan.time.ratio - 1)
        interval = f"[{100 * (plan.time.low - 1):.0f}, {100 * (plan.time.high - 1):.0f}]"
        parts.append(
            f"takes {abs(change):.0f} % {'more' if change >= 0 else 'less'} time {interval} than {plan.against}"
        )
    elif plan.time is not None:
        parts.append("its time is not known: too few instances, or too unsteady ones")
    if plan.saved is not None:
        guess = "" if plan.measured else " (extrapolated: that does not fit)"
        parts.append(f"{'saves' if plan.saved >= 0 else 'takes another'} {_share(abs(plan.saved))} memory{guess}")
    total = window.size * window.micro_batches
    return f"{window} accumulated = {total}: " + (", ".join(parts) or "not measured")


def _known(comparison: Comparison) -> bool:
    """Whether an interval says anything."""
    return comparison.low > 0.5 and comparison.high < 2.0


def _equality(advice: Advice) -> Iterator[str]:
    found = advice.equality
    if found.get("reason"):
        yield f"{found['window']} need not make the same update: {found['reason']}"
    elif found and float(found["share"]) <= 1:
        share = float(found["share"])
        yield f"{found['window']} makes the same update as {chosen_target(advice)} (share of the bound {_share(share)})"
    elif found:
        share = float(found["share"])
        yield f"{found['window']} does NOT make the same update ({share:.3g} times the bound): {found['seen']}"


def _noise(advice: Advice) -> Iterator[str]:
    found = advice.noise
    if not found:
        return
    words = (
        f"noise scale at the first weights (it grows in training; {found['draws']} draws of {found['whole']} examples)"
    )
    low, value, high = found["low"], found["value"], found["high"]
    if value is None:
        yield f"{words}: too large to tell" + (f", at least {_whole(low)}" if low else "")
        return
    until = f"{_whole(high)}" if high is not None else "unknown"
    yield f"{words}: about {_whole(value)} [{_whole(low)}, {until}]: larger batches than that buy little"


def _whole(value: float) -> str:
    return f"{value:.2g}" if value < 10 else str(int(float(f"{value:.2g}")))


def document(advice: Advice, *, options: Mapping[str, Any], started: str, finished: str, interrupted: bool) -> Any:
    """Return everything that was measured as one JSON object."""
    from bscheck import __version__

    times = per_example(advice.samples) if advice.samples else {}
    found = {
        "program": "bscheck advise",
        "schema": SCHEMA,
        "version": __version__,
        "environment": dict(advice.environment),
        "options": dict(options),
        "started": started,
        "finished": finished,
        "interrupted": interrupted,
        "subject": advice.subject,
        "largest_that_fits": advice.largest,
        "smallest_that_does_not": advice.smallest_failing,
        "sweet_spot": sweet_spot(times),
        "seconds_per_example": {str(n): dataclasses.asdict(t) for n, t in times.items()},
        "trials": [dataclasses.asdict(t) for t in (*advice.trials, *advice.windows)],
        "plans": [_plan_document(plan) for plan in plan_outcomes(advice)],
        "equality": dict(advice.equality),
        "noise_scale": dict(advice.noise),
        "samples": [s.as_dict() for s in (advice.samples, advice.plan_samples) if s is not None],
        "notes": list(advice.notes),
        "text": list(lines(advice, interrupted=interrupted)),
    }
    return _plain(found)


def _plan_document(plan: PlanOutcome) -> dict[str, Any]:
    time = dataclasses.asdict(plan.time) if plan.time else None
    return {"window": str(plan.window), "against": plan.against, "time": time, "memory_saved": plan.saved,
            "memory_measured": plan.measured}  # fmt: skip


def _plain(value: Any) -> Any:
    """Return the value with what JSON does not know as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
