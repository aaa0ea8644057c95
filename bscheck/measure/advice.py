"""What is known of a model's batch sizes on one machine, and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bscheck.measure.sampler import Load, Samples, Window
from bscheck.measure.verdict import DELTA, Comparison, Estimate, compare, estimate

#: The largest batch that fits is told to within this share: every failed trial costs a new process.
RESOLUTION = 1 / 16

#: The sweet spot is the smallest batch whose time per example is within this share of the best.
NEAR_BEST = 0.10

#: Micro-batches of the accumulation plans.
SPLITS = (2, 4)


@dataclass(frozen=True)
class Trial:
    """One batch size on the scales.

    Attributes
    ----------
    size : int
        Examples in a (micro-)batch.
    micro_batches : int
        How many make an update.
    figures : mapping
        What `bscheck.measure.trials.weigh` returned; empty where it did not fit.
    reason : str
        Why it did not fit, or "".
    """

    size: int
    micro_batches: int = 1
    figures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether it ran."""
        return not self.reason

    @property
    def memory(self) -> int:
        """Bytes that the model, its optimizer and a step took; exact where the compiler says."""
        return int(self.figures.get("compiled") or self.figures.get("memory") or 0)


@dataclass
class Advice:
    """What has been measured so far; whatever ends the measuring, this is kept."""

    subject: str
    dtype: str
    most: int
    target: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: int = 0
    limit: int = 0
    trials: list[Trial] = field(default_factory=list)
    windows: list[Trial] = field(default_factory=list)
    samples: Samples | None = None
    plan_samples: Samples | None = None
    noise: Mapping[str, Any] = field(default_factory=dict)
    equality: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def largest(self) -> int:
        """The largest batch that was seen to fit; 0 if none."""
        return max((t.size for t in self.trials if t.fits), default=0)

    @property
    def smallest_failing(self) -> int | None:
        """The smallest batch that was seen not to fit."""
        return min((t.size for t in self.trials if not t.fits), default=None)

    def trial(self, size: int) -> Trial | None:
        """Return the trial of a size that fits."""
        return next((t for t in self.trials if t.size == size and t.fits), None)


def next_size(fitting: int, failing: int | None, most: int) -> int | None:
    """Return the next batch size to try: twice as large until one fails, then between; None at the end.

    Parameters
    ----------
    fitting : int
        The largest size that fits; 0 if none has been seen.
    failing : int or None
        The smallest that does not.
    most : int
        None larger is tried.
    """
    if failing is None:
        return None if fitting >= most else min(max(1, 2 * fitting), most)
    if failing - fitting <= max(1, int(RESOLUTION * fitting)):
        return None
    return (fitting + failing) // 2


def timed_sizes(advice: Advice) -> list[int]:
    """Return the batch sizes worth timing: those that fit, and the odd neighbour of 16.

    Where something does not fit, the bisection's sizes are left out but for the last.
    """
    fitting = sorted({t.size for t in advice.trials if t.fits})
    powers = [n for n in fitting if n & (n - 1) == 0]
    return sorted({*powers, *fitting[-1:], *([17] if fitting and fitting[-1] >= 17 else [])})


def per_example(samples: Samples) -> dict[int, Estimate]:
    """Return the seconds per example of each batch size, with the interval over instances; needs two of them."""
    if samples.completed < 2:
        return {}
    sizes = [size for size in samples.sizes if isinstance(size, int)]
    return {n: estimate([float(np.median(one[str(n)])) / n for one in samples.seconds]) for n in sizes}


def sweet_spot(times: Mapping[int, Estimate]) -> int | None:
    """Return the smallest batch size whose time per example is within `NEAR_BEST` of the best."""
    if not times:
        return None
    best = min(t.value for t in times.values())
    return min(n for n, t in times.items() if t.value <= (1 + NEAR_BEST) * best)


def chosen_target(advice: Advice) -> int | None:
    """Return the batch whose update is to be had from micro-batches.

    The user's choice; else the first power of two that does not fit; else the sweet spot, if it can be halved.
    """
    if advice.target is not None:
        return advice.target
    if advice.smallest_failing is not None:
        return 2 * 2 ** (advice.largest.bit_length() - 1) if advice.largest else None
    sweet = sweet_spot(per_example(advice.samples)) if advice.samples else None
    return sweet if sweet and sweet % 2 == 0 else None


def plans(target: int | None, largest: int) -> list[Window]:
    """Return the windows of equal micro-batches that make the target and fit."""
    if target is None:
        return []
    return [Window(target // k, k) for k in SPLITS if target % k == 0 and 0 < target // k <= largest]


def extrapolated_memory(advice: Advice, size: int) -> float | None:
    """Return the bytes of a batch that does not fit, by the line through the largest ones that do."""
    known = sorted((t.size, t.memory) for t in advice.trials if t.fits and t.memory)[-4:]
    if len(known) < 2:
        return None
    sizes, found = np.asarray(known, np.float64).T
    slope, start = np.polyfit(sizes, found, 1)
    return float(start + slope * size)


@dataclass(frozen=True)
class PlanOutcome:
    """What a window of micro-batches costs and saves.

    Attributes
    ----------
    window : Window
    against : str
        What its time is compared with: the target at once, or its micro-batches alone where that does not fit.
    time : Comparison or None
    saved : float or None
        Share of the target's memory that is saved.
    measured : bool
        Whether the target's memory was measured; extrapolated otherwise.
    """

    window: Window
    against: str
    time: Comparison | None
    saved: float | None
    measured: bool


def plan_outcomes(advice: Advice) -> list[PlanOutcome]:
    """Return what each plan costs and saves, as far as it was measured."""
    target = chosen_target(advice)
    return [_outcome(advice, window, target) for window in plans(target, advice.largest) if target]


def _outcome(advice: Advice, window: Window, target: int) -> PlanOutcome:
    whole = advice.trial(target)
    alone: Load | Sequence[Load] = target if whole else (window.size,) * window.micro_batches
    against = f"{target} at once" if whole else f"{window.micro_batches} times {window.size} alone"
    samples, time = advice.plan_samples, None
    if samples is not None and samples.completed >= 2 and window in samples.sizes:
        time = compare(samples.paired(window, alone), f"{window} against {against}")
    mine = next((t for t in advice.windows if (t.size, t.micro_batches) == (window.size, window.micro_batches)), None)
    reference = float(whole.memory) if whole else extrapolated_memory(advice, target)
    saved = 1 - mine.memory / reference if mine and mine.memory and reference else None
    return PlanOutcome(window, against, time, saved, whole is not None)


def neighbour(advice: Advice) -> Comparison | None:
    """Return 17 against 16, per example."""
    samples = advice.samples
    if samples is None or samples.completed < 2 or not {16, 17} <= set(samples.sizes):
        return None
    return compare(samples.paired(17, 16), "17 against 16", allowed_ratio=17 / 16)


def unsteadiness(advice: Advice) -> Estimate | None:
    """Return the log ratio of two identical batches where it is not known to be within what a verdict allows."""
    samples = advice.samples
    if samples is None or samples.completed < 2:
        return None
    first = samples.sizes[0]
    found = estimate(samples.paired(first, first).canary)
    return found if max(-found.low, found.high) > DELTA else None
