"""Timing, second part: time across batch sizes, reported; nothing here can fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import DTYPES, Case, TimingCase
from bscheck.checks import Param, check
from bscheck.checks.context import Context, first_reason
from bscheck.checks.run import current_settings
from bscheck.checks.timing import refused
from bscheck.measure.clocks import disturbance, figures, watched_clocks
from bscheck.measure.sampler import Load, Samples, Window
from bscheck.measure.steps import Plan, sample_epochs, sample_training_steps
from bscheck.measure.verdict import Cost, Estimate, compare, estimate, fixed_and_per_example_cost
from bscheck.results.curves import Curve, Series, Table, point
from bscheck.results.verdict import Reading

#: Every size from 16 to 33, and multiples of 8 with their neighbours up to 257.
MULTIPLES = (40, 48, 64, 96, 128, 192, 256)
SIZES = (*range(16, 34), *sorted(n + d for n in MULTIPLES for d in (-1, 0, 1)))

#: (window, batch): k micro-batches of b against one batch of k b.
WINDOWS = ((Window(16, 2), 32), (Window(8, 4), 32), (Window(64, 2), 128))

#: Batch sizes whose epochs are timed, of this many examples.
EPOCH_SIZES, EPOCH_EXAMPLES = (16, 17, 31, 32, 33), 512

PLAN, EPOCH_PLAN = Plan(6, 12, 150.0), Plan(4, 5, 40.0)

#: A size is a cliff where its interval lies above the line by more than this share.
CLIFF = 0.05


def sweeps(context: Context) -> Sequence[Case]:
    """Return a case for each dtype."""
    return tuple(TimingCase(dtype=dtype, mode=context.runtime.modes[0]) for dtype in DTYPES)


def _drawn(context: Context) -> Any:
    from hypothesis import strategies as st

    return st.sampled_from(list(sweeps(context)))


def swept(context: Context) -> str | None:
    """Return why no sweep is made."""
    short = current_settings().profile != "thorough"
    return first_reason((short, "sweeps take minutes: --bscheck-profile=thorough")) or refused(context)


def sweep_params() -> list[Param]:
    """Return the subjects that have a timing size."""
    from bscheck.reference_subjects import TIMING_SUBJECTS

    return [Param.of(subject=name) for name in TIMING_SUBJECTS]


def cliffs(samples: Samples, cost: Cost) -> dict[int, Estimate]:
    """Return the sizes that cost more than the line by `CLIFF`, surely, with time over the line's."""
    found = {}
    for size in (n for n in samples.sizes if isinstance(n, int)):
        over = estimate([float(np.median(one[str(size)])) / cost.seconds(size) for one in samples.seconds])
        if over.low > 1 + CLIFF:
            found[size] = over
    return found


def of_powers(samples: Samples) -> Cost:
    """Return the line through the powers of two: a cliff elsewhere does not bend it."""
    powers = [n for n in samples.sizes if isinstance(n, int) and n & (n - 1) == 0]
    return fixed_and_per_example_cost(powers, [[one[str(n)] for n in powers] for one in samples.seconds])


@check(
    family="timing",
    claims=("C5", "C6", "C7", "C12"),
    case=TimingCase,
    cases=_drawn,
    params=sweep_params,
    corners=sweeps,
    applies=swept,
    examples=(0, 0, 0),
    per_subject=False,
    catches="nothing by itself: it says what each batch size costs, which are cliffs, and what accumulating costs",
    formula="t = a + b B through the powers of two; a cliff lies above it by 5 % with its whole 95 % interval",
    source="the paired design of the gated checks, over 39 sizes; claims C5, C6, C7 and C12",
    example="float32: t = 1.1 ms + 62 us B; cliffs: 65 (+12 % [9, 15])",
)
def time_by_batch_size_is_reported(context: Context, case: TimingCase) -> Reading:
    """The time of a step is reported by batch size and dtype, with its cliffs and what accumulating costs."""
    from bscheck.measure.trials import named_subject

    subject = named_subject(context.param.get("subject"))
    options = {"dtype": case.dtype, "mode": case.mode, "seed": case.seed}
    loads: list[Load] = [*SIZES, 8, *(window for window, _ in WINDOWS)]
    with watched_clocks() as clocks:
        samples = sample_training_steps(subject, loads, plan=PLAN, **options)  # type: ignore[arg-type]
        epochs = sample_epochs(subject, EPOCH_SIZES, EPOCH_EXAMPLES, plan=EPOCH_PLAN, dtype=case.dtype, mode=case.mode)
    told: dict[str, float] = {"reported": 1.0, "instances": float(samples.completed), **figures(clocks.looks)}
    if samples.completed < 2:
        return Reading(0.0, seen=f"{case.dtype}: fewer than two instances in {PLAN.seconds:.0f} s", figures=told)
    cost = of_powers(samples)
    found = cliffs(samples, cost)
    told |= {"fixed_seconds": cost.fixed.value, "seconds_per_example": cost.per_example.value}
    told |= {f"cliff_{size}": over.value for size, over in found.items()}
    named = ", ".join(f"{n} ({_percent(over)})" for n, over in found.items()) or "none"
    line = f"t = {1e3 * cost.fixed.value:.2g} ms + {1e6 * cost.per_example.value:.3g} us B"
    disturbed = disturbance(clocks.looks)
    return Reading(
        0.0,
        where=case.dtype,
        seen=f"{case.dtype}: {line}; cliffs: {named}{f' ({disturbed})' if disturbed else ''}",
        figures=told,
        curves=_curves(case.dtype, samples, cost),
        tables=tuple(_tables(case.dtype, samples, epochs)),
    )


def _percent(ratio: Estimate) -> str:
    value, low, high = (100 * (v - 1) for v in (ratio.value, ratio.low, ratio.high))
    return f"{value:+.0f} % [{low:.0f}, {high:.0f}]"


def _curves(dtype: str, samples: Samples, cost: Cost) -> tuple[Curve, ...]:
    sizes = sorted(n for n in samples.sizes if isinstance(n, int))
    each = {n: estimate([float(np.median(one[str(n)])) for one in samples.seconds]) for n in sizes}
    note = (
        f"Medians of {samples.completed} fresh instances with 95 % intervals; the line goes through the powers of two."
    )
    step = [point(n, 1e3 * t.value, 1e3 * t.low, 1e3 * t.high) for n, t in each.items()]
    share = [point(n, 1e6 * t.value / n, 1e6 * t.low / n, 1e6 * t.high / n) for n, t in each.items()]
    line = [point(n, 1e3 * cost.seconds(n)) for n in sizes]
    return (
        Curve("time", "Step time by batch size", "batch size", "milliseconds",
              (Series(dtype, tuple(step), kind="points"), Series(f"{dtype}, a + b B", tuple(line))), note=note),
        Curve("time", "Time per example by batch size", "batch size", "microseconds per example",
              (Series(dtype, tuple(share), kind="points"),), note=note),
    )  # fmt: skip


def _tables(dtype: str, samples: Samples, epochs: Samples) -> list[Table]:
    rows = []
    for window, whole in WINDOWS:
        ratio = compare(samples.paired(window, whole), f"{window} against {whole}")
        rows.append((dtype, str(window), whole, _interval(ratio.ratio, ratio.low, ratio.high)))
    title, columns = "Accumulated against one batch", ("dtype", "window", "batch", "ratio of times")
    note = "The same number of examples in one update; above 1 accumulating takes longer."
    tables = [Table("time", title, columns, tuple(rows), note=note)]
    if epochs.completed >= 2:
        each = {n: estimate([float(np.median(one[str(n)])) for one in epochs.seconds]) for n in epochs.sizes}
        wall = tuple((dtype, str(n), _interval(t.value, t.low, t.high)) for n, t in each.items())
        title = f"Seconds of an epoch of {EPOCH_EXAMPLES} examples in fit"
        tables.append(
            Table(
                "time", title, ("dtype", "batch size", "seconds"), wall, note="Input pipeline and callbacks included."
            )
        )
    return tables


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
