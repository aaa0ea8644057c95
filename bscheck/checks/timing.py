"""Timing: what a batch size costs, told by pairs of sizes timed in the same rounds."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bscheck.cases import Case, TimingCase
from bscheck.checks import Param, check
from bscheck.checks.context import Context, SubjectKey, cached_in_process, first_reason
from bscheck.checks.run import current_settings
from bscheck.measure.clocks import Look, disturbance, figures, watched_clocks
from bscheck.measure.sampler import INSTANCES, ROUNDS, Samples
from bscheck.measure.steps import DUMMY_SIZES, WORKS, Plan, StepOutOfMemoryError, sample_training_steps
from bscheck.measure.verdict import DELTA, Comparison, Cost, compare, fixed_and_per_example_cost
from bscheck.reference_subjects import WITHOUT_CUDNN
from bscheck.results.verdict import Reading
from bscheck.subject import Subject

#: (first, second): the second size against the first, one example more.
NEIGHBOURS = ((16, 17), (32, 33))
#: (next power of two, odd size): an odd batch could be padded to the power of two.
PADDED = ((32, 17), (64, 33))
#: (part, whole): a batch could be run as this part and the rest, one after the other.
SPLIT = ((8, 16), (16, 33))

#: Every size of the pairs is timed in the same rounds, so that all checks of a subject share one measurement.
#: The first is also the canary's. With the dummies eight shapes, for backends that compile each.
SIZES = (16, 8, 17, 32, 33, 64)

#: Comparisons decided together in one run of the gate: three timed subjects, what a step does, six pairs, the drift
#: and five sizes beside an earlier record. The chance of a false alarm is divided over them; ``thorough`` times XLA's
#: programs too.
FAMILY_SIZE = 3 * len(WORKS) * (len(NEIGHBOURS + PADDED + SPLIT) + 1 + len(SIZES) - 1)

#: A verdict about batch size needs at least this share of a step to be work that grows with the batch.
COMPUTE_SHARE = 0.5

#: The largest batch must take at least this many times the smallest one's seconds, for eight times the work.
#: A device that was never waited for gives 1; and a step that grows by less tells nothing about batch sizes.
LEAST_GROWTH = 1.1

#: How much is measured, by profile. A report is short: two subjects in less than 12 s. The gate's design is
#: INSTANCES x ROUNDS; ``quick`` buys speed with power, never with false alarms. The seconds are the budget of
#: one subject; the gate's are 20 for each of its pairs.
REPORT = {"quick": Plan(3, 8, 2.5), "default": Plan(4, 16, 2.5), "thorough": Plan(8, 30, 30.0)}
GATE = {"quick": Plan(6, 40, 40.0), "default": Plan(INSTANCES, ROUNDS, 120.0)}


@dataclass(frozen=True)
class Measured:
    """What all checks of one subject are read from.

    Attributes
    ----------
    samples : Samples
    cost : Cost or None
        The line through the powers of two alone: a cliff at an odd size must not raise its own allowance.
        None below two instances.
    grows : bool
        Whether the largest batch was seen to take `LEAST_GROWTH` times the smallest one's seconds.
    disturbance : str
        Why no verdict can be had from it: a throttled or shared device, no memory; or "".
    looks : tuple of Look
        The GPU's clocks and processes, where they can be read.
    """

    samples: Samples
    cost: Cost | None
    grows: bool
    disturbance: str = ""
    looks: tuple[Look, ...] = ()


def family_size() -> int:
    """Return how many comparisons the run decides together."""
    return FAMILY_SIZE * (2 if current_settings().profile == "thorough" else 1)


def plan_of(timing: str, profile: str) -> Plan:
    """Return how much is measured under the run's ``timing`` option and profile."""
    return GATE.get(profile, GATE["default"]) if timing == "gate" else REPORT[profile]


def measured_from(samples: Samples, disturbed: str = "") -> Measured:
    """Return the samples, the line through their powers of two, and whether time grows with work."""
    if samples.completed < 2:
        return Measured(samples, None, False, disturbed)
    sizes = [size for size in samples.sizes if isinstance(size, int)]
    powers = [size for size in sizes if size & (size - 1) == 0]
    seconds = [[instance[str(size)] for size in powers] for instance in samples.seconds]
    cost = fixed_and_per_example_cost(powers, seconds)
    largest, smallest = max(sizes), min(sizes)
    growth = compare(samples.paired(largest, smallest), f"{largest} against {smallest}")
    return Measured(samples, cost, growth.low > LEAST_GROWTH, disturbed)


@cached_in_process
def _measure(key: SubjectKey, sizes: tuple[int, ...], case: TimingCase, plan: Plan) -> Measured:
    """Measure under a case that says everything but its pair."""
    options = {"work": case.work, "dtype": case.dtype, "mode": case.mode, "seed": case.seed}
    try:
        with watched_clocks() as clocks:
            samples = sample_training_steps(key.subject, sizes, plan=plan, **options)  # type: ignore[arg-type]
    except StepOutOfMemoryError as error:
        # What lay on the device goes with the traceback; the next check builds anew.
        reason = str(error)
        error.__traceback__ = error.__cause__ = None
        return Measured(Samples(sizes, (), plan.instances), None, False, reason)
    found = measured_from(samples, disturbance(clocks.looks))
    return replace(found, looks=tuple(clocks.looks))


@functools.cache
def _timing_subject(name: str) -> Subject:
    from bscheck.reference_subjects import TIMING_SUBJECTS

    return TIMING_SUBJECTS[name]()


def measure(context: Context, case: TimingCase, sizes: Sequence[int]) -> Measured:
    """Return the measurement that holds `sizes`; made once in a process for each subject, mode and dtype."""
    subject = context.given or _timing_subject(context.param.get("subject"))
    every = (*SIZES, *sorted(set(sizes) - set(SIZES)))
    if set(every) & set(DUMMY_SIZES):
        raise ValueError(f"sizes {sorted(set(every) & set(DUMMY_SIZES))} are the warm-up's: time others")
    plan = plan_of(_timing(context), current_settings().profile)
    key = TimingCase(seed=case.seed, work=case.work, mode=case.mode, dtype=case.dtype)
    return _measure(SubjectKey(subject), every, key, plan)


def _timing(context: Context) -> str:
    return context.options.get("timing", "report")


def reading_of(comparison: Comparison, measured: Measured, allowed_ratio: float, size: int, gate: bool) -> Reading:
    """Return a comparison as a reading.

    Parameters
    ----------
    comparison : Comparison
        Its label is what `seen` begins with.
    measured : Measured
    allowed_ratio : float
        What `comparison` was allowed, before `DELTA`.
    size : int
        The smaller batch size: the one where the fixed cost weighs most.
    gate : bool
        Whether a slow verdict is a violation. Where not, the share ends at 1: a report cannot fail.
    """
    bound = (1 + DELTA) * allowed_ratio
    cost, share = measured.cost, compute_share(measured.cost, size)
    verdict, reason = _qualified(comparison, measured, share)
    broken = gate and verdict == "slower"
    told = {
        "ratio": comparison.ratio,
        "low": comparison.low,
        "high": comparison.high,
        "allowed": bound,
        "instances": float(measured.samples.completed),
        "rounds": float(_rounds(measured.samples)),
        "compute_share": share,
        "fixed_seconds": cost.fixed.value if cost else 0.0,
        "seconds_per_example": cost.per_example.value if cost else 0.0,
        "slower": float(verdict == "slower"),
        "holds": float(verdict == "holds"),
        **figures(measured.looks),
        **({"reported": 1.0} if not gate else {"inconclusive": 1.0} if verdict == "inconclusive" else {}),
    }
    of_bound = comparison.ratio / bound if cost else 0.0
    return Reading(
        of_bound if broken else min(of_bound, 1.0),
        where=_effort(measured.samples, share) if cost else "",
        seen=_in_words(comparison) if cost else f"{comparison.label}: no verdict",
        allowed=f"{100 * (bound - 1):+.1f} %",
        cause=reason if verdict == "inconclusive" else f"{verdict}: {reason}",
        figures=told,
    )


def _qualified(comparison: Comparison, measured: Measured, share: float) -> tuple[str, str]:
    """Return verdict and reason; what cannot be about batch size, or about time at all, is inconclusive."""
    if measured.disturbance:
        return "inconclusive", measured.disturbance
    if measured.cost is not None and not measured.grows:
        return "inconclusive", "time was not seen to grow with work: is a synchronisation missing?"
    if comparison.verdict == "holds" and share < COMPUTE_SHARE:
        reason = f"compute share {share:.0%}, below one half: the fixed cost hides the batch size"
        return "inconclusive", reason
    return comparison.verdict, comparison.reason


def compute_share(cost: Cost | None, size: int) -> float:
    """Return the share of a step of `size` examples that grows with the batch: ``1 - a / (a + b size)``."""
    if cost is None:
        return 0.0
    return min(1.0, max(0.0, 1 - cost.fixed.value / cost.seconds(size)))


def _rounds(samples: Samples) -> int:
    return len(samples.seconds[0][samples.canary_label]) if samples.completed else 0


def _effort(samples: Samples, share: float) -> str:
    low = ", below one half" if share < COMPUTE_SHARE else ""
    return f"{samples.completed} instances of {_rounds(samples)} rounds, compute share {share:.0%}{low}"


def _in_words(comparison: Comparison) -> str:
    """Return ``16 vs 17: +1.9 % [0.8, 3.0]``, with the 95 % interval."""
    change, low, high = (100 * (r - 1) for r in (comparison.ratio, comparison.low, comparison.high))
    return f"{comparison.label}: {change:+.1f} % [{low:.1f}, {high:.1f}]"


def _read(
    context: Context,
    case: TimingCase,
    numerator: int,
    denominator: tuple[int, ...],
    allowed: int | None = None,
) -> Reading:
    """Measure and compare; `allowed` names the size whose cost by the fit sets the allowed ratio."""
    measured = measure(context, case, (numerator, *denominator))
    cost = measured.cost
    allowed_ratio = 1.0 if allowed is None or cost is None else cost.ratio(numerator, allowed)
    label = f"{'+'.join(map(str, denominator))} vs {numerator}"
    times = measured.samples.paired(numerator, denominator)
    comparison = compare(times, label, allowed_ratio=allowed_ratio, family_size=family_size())
    return reading_of(comparison, measured, allowed_ratio, min(numerator, *denominator), _timing(context) == "gate")


def refused(context: Context) -> str | None:
    """Return why nothing is timed, or None."""
    short = _timing(context) != "gate" and current_settings().profile != "thorough"
    work, subject = context.param.get("work", WORKS[0]), context.param.get("subject")
    return first_reason(
        (_timing(context) == "off", "timings are switched off (--bscheck-timing=off)"),
        (
            "PYTEST_XDIST_WORKER" in os.environ,
            "timings are refused under xdist, where workers disturb each other: run without -n",
        ),
        (
            subject == WITHOUT_CUDNN and context.environment.get("device") != "gpu",
            "without a GPU there is no cuDNN to do without: the same program as lstm",
        ),
        (
            work != WORKS[0] and short,
            "a short report times the training step alone: --bscheck-timing=gate or --bscheck-profile=thorough",
        ),
    )


def timed_params() -> list[Param]:
    """Return a parameter for each subject that has a timing size, and for what a step does with the batch."""
    from bscheck.reference_subjects import TIMING_SUBJECTS

    training = [Param.of(subject=name) for name in TIMING_SUBJECTS]
    return [*training, *(Param.of(subject=name, work=work) for name in TIMING_SUBJECTS for work in WORKS[1:])]


def timed_modes(context: Context) -> tuple[str, ...]:
    """Return the pinned execution modes: what ``fit`` uses; XLA too where compiling every shape is worth it."""
    first, *others = context.runtime.modes
    return (first, *(["jit"] if "jit" in others and current_settings().profile == "thorough" else []))


def _pairs(context: Context, pairs: Sequence[tuple[int, int]]) -> tuple[TimingCase, ...]:
    work = context.param.get("work", WORKS[0])
    return tuple(
        TimingCase(first=first, second=second, work=work, mode=mode)
        for mode in timed_modes(context)
        for first, second in pairs
    )


def neighbour_corners(context: Context) -> Sequence[Case]:
    """Return a case for each power of two and its odd neighbour."""
    return _pairs(context, NEIGHBOURS)


def padding_corners(context: Context) -> Sequence[Case]:
    """Return a case for each odd size and the power of two above it."""
    return _pairs(context, PADDED)


def split_corners(context: Context) -> Sequence[Case]:
    """Return a case for each batch and a part of it."""
    return _pairs(context, SPLIT)


def _drawn_from(corners: Any) -> Any:
    """Return the strategy every check must have; timings are explicit pairs, so nothing is drawn from it."""

    def cases(context: Context) -> Any:
        from hypothesis import strategies as st

        return st.sampled_from(list(corners(context)))

    return cases


@check(
    family="timing",
    claims=("C6", "C7"),
    case=TimingCase,
    cases=_drawn_from(neighbour_corners),
    params=timed_params,
    corners=neighbour_corners,
    applies=refused,
    examples=(0, 0, 0),
    catches="a cliff behind a power of two: a slow kernel for odd sizes, a program compiled anew for each",
    formula="t(B+1) <= (1+delta) t(B) (a + b (B+1)) / (a + b B), a + b B fitted to the powers of two; "
    "one-sided t test of K instances' medians of log t(B+1)/t(B) at alpha over the number of comparisons; "
    "delta = 2 %, alpha = 1e-4",
    source="a step's cost is linear in its examples but for kernels that come in blocks; the paired design "
    "is bscheck's own",
    example="16 vs 17: +14.2 % [13.1, 15.4] (allowed: +4.6 %)",
)
def one_example_more_than_a_power_of_two_costs_one_example_more(context: Context, case: TimingCase) -> Reading:
    """One example more than a power of two costs what one example costs elsewhere."""
    return _read(context, case, case.second, (case.first,), allowed=case.first)


@check(
    family="timing",
    claims=("C6",),
    case=TimingCase,
    cases=_drawn_from(padding_corners),
    params=timed_params,
    corners=padding_corners,
    applies=refused,
    examples=(0, 0, 0),
    catches="an odd batch that costs more than if it had been filled up to the next power of two",
    formula="t(B) <= (1+delta) t(B'), B' the next power of two; one-sided t test as for neighbours",
    source="dominance: whoever holds B examples could have padded them to B'",
    example="32 vs 17: +8.0 % [6.9, 9.2] (allowed: +2.0 %)",
)
def odd_batch_is_not_dearer_than_padding_to_the_next_power_of_two(context: Context, case: TimingCase) -> Reading:
    """An odd batch takes no longer than if it were padded to the next power of two."""
    return _read(context, case, case.second, (case.first,))


@check(
    family="timing",
    claims=("C5", "C7"),
    case=TimingCase,
    cases=_drawn_from(split_corners),
    params=timed_params,
    corners=split_corners,
    applies=refused,
    examples=(0, 0, 0),
    catches="a batch that costs more than its parts run one after the other: a threshold, work that "
    "grows as its square",
    formula="t(B1+B2) <= (1+delta) (t(B1) + t(B2)), which alone says only that a > 0; so a and b are "
    "recorded, and the compute share 1 - a/t must reach one half",
    source="dominance: whoever holds B1+B2 examples could have run two steps; claim C5 for B1 = B2 = 8",
    example="8+8 vs 16: +21.0 % [19.5, 22.6] (allowed: +2.0 %)",
)
def batch_is_not_dearer_than_the_parts_it_could_be_split_into(context: Context, case: TimingCase) -> Reading:
    """A batch takes no longer than two parts of it, one after the other."""
    return _read(context, case, case.second, (case.first, case.second - case.first))


def drift_corners(context: Context) -> Sequence[Case]:
    """Return a case for each mode; the sizes are those of the pairs."""
    return _pairs(context, ((min(SIZES), max(SIZES)),))


@check(
    family="timing",
    claims=("C7",),
    case=TimingCase,
    cases=_drawn_from(drift_corners),
    params=timed_params,
    corners=drift_corners,
    applies=refused,
    examples=(0, 0, 0),
    catches="a step that takes longer the more were made before it: a list that is searched, a graph that grows",
    formula="t(last third of the rounds) <= (1+delta) t(first third), over all sizes; the same one-sided t test over "
    "K fresh instances",
    source="every step does the same work, so whatever grows from step to step is no work of the batch's",
    example="first vs last rounds: +12.0 % [11.1, 12.9] (allowed: +2.0 %)",
)
def steps_do_not_slow_down_as_training_goes_on(context: Context, case: TimingCase) -> Reading:
    """A step takes no longer after many than it took at first."""
    measured = measure(context, case, SIZES)
    times = measured.samples.drift() if measured.samples.completed else measured.samples.paired(SIZES[0], SIZES[0])
    comparison = compare(times, "first vs last rounds", family_size=family_size())
    # The largest size: that steps share a fixed cost is no reason to doubt that they slow down.
    return reading_of(comparison, measured, 1.0, max(SIZES), _timing(context) == "gate")
