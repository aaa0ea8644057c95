"""From paired seconds to a verdict: holds, slower or inconclusive. Pure: no clock, no backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdict = Literal["holds", "slower", "inconclusive"]

# The three constants of design.md, "How time is decided". Measured there with 12 instances of 50 rounds:
# no false alarm in 40,000 identical runs, and a 5 % slowdown caught 95 % of the time.
DELTA = 0.02  # below what a user would notice, above what two builds of one model differ by after pairing
ALPHA = 1e-4  # the chance of one false alarm in a whole family, whatever its size: see `family_size`
# The level of every interval shown, and of the proof that "holds" asks for. Each interval stands alone:
# only ALPHA is divided over the family.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedTimes:
    """What K instances say about two things timed in the same rounds.

    Parameters
    ----------
    log_ratios : tuple of float, length K
        For each instance, the median over rounds of log(numerator seconds / denominator seconds).
    canary : tuple of float, length K
        The same for two copies of one batch size (A/A): zero but for what is wrong with the machine.

    Raises
    ------
    ValueError
        If the lengths differ or a value is not finite.
    """

    log_ratios: tuple[float, ...]
    canary: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.log_ratios) != len(self.canary):
            raise ValueError(
                f"log_ratios has {len(self.log_ratios)} instances and canary {len(self.canary)}: "
                "both need one value for each instance"
            )
        for name, values in (("log_ratios", self.log_ratios), ("canary", self.canary)):
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be finite, got {values}")

    @property
    def instances(self) -> int:
        """K, the number of model instances measured."""
        return len(self.log_ratios)


@dataclass(frozen=True)
class Estimate:
    """A mean over instances with its two-sided 95 % t interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The verdict on one pair.

    Parameters
    ----------
    label : str
        What was compared, for example "17 against 16".
    ratio : float
        Numerator seconds over denominator seconds (geometric mean over instances); nan without instances.
    low, high : float
        Two-sided 95 % interval of `ratio`, not widened for the family; 0 and inf below two instances.
    verdict : {"holds", "slower", "inconclusive"}
        "holds" is never given to what was merely not shown to be slower.
    reason : str
        One line: why this verdict.
    """

    label: str
    ratio: float
    low: float
    high: float
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Cost:
    """The line `seconds = fixed + per_example * batch_size`, fitted to each instance.

    Parameters
    ----------
    fixed : Estimate
        Seconds a step costs whatever its size.
    per_example : Estimate
        Seconds each example adds.
    """

    fixed: Estimate
    per_example: Estimate

    def seconds(self, batch_size: int) -> float:
        """Seconds the line gives a step of `batch_size` examples."""
        return self.fixed.value + self.per_example.value * batch_size

    def ratio(self, numerator: int, denominator: int) -> float:
        """What the line expects one batch size to cost against another: an `allowed_ratio` for `compare`."""
        return self.seconds(numerator) / self.seconds(denominator)


def paired_times(
    numerator: ArrayLike, denominator: ArrayLike, canary: ArrayLike, canary_reference: ArrayLike
) -> PairedTimes:
    """Reduce interleaved rounds to one log ratio for each instance.

    The ratio is taken inside a round, between neighbours in time, so drift cancels; the median over rounds
    shrugs off interruptions; the instance is the unit of evidence, because two builds of one model differ.

    Parameters
    ----------
    numerator, denominator : array_like of float, shape (K, rounds)
        Seconds of the two things compared; element [k, r] of each comes from the same round.
    canary, canary_reference : array_like of float, shape (K, rounds)
        Seconds of the two copies of one batch size.

    Returns
    -------
    PairedTimes

    Raises
    ------
    ValueError
        If a shape is not (K, rounds), shapes differ, or a time is not positive and finite.
    """
    named = {
        "numerator": numerator,
        "denominator": denominator,
        "canary": canary,
        "canary_reference": canary_reference,
    }
    logs = {name: np.log(_seconds(name, values, 2, "(instances, rounds)")) for name, values in named.items()}
    for name, log in logs.items():
        if log.shape != logs["denominator"].shape:
            raise ValueError(
                f"{name} has shape {log.shape} and denominator {logs['denominator'].shape}: "
                "paired times need the same instances and rounds"
            )

    def medians(above: str, below: str) -> tuple[float, ...]:
        return tuple(float(d) for d in np.median(logs[above] - logs[below], axis=1))

    return PairedTimes(medians("numerator", "denominator"), medians("canary", "canary_reference"))


def compare(
    times: PairedTimes,
    label: str,
    *,
    allowed_ratio: float = 1.0,
    delta: float = DELTA,
    alpha: float = ALPHA,
    family_size: int = 1,
) -> Comparison:
    """Decide whether the numerator takes at most ``(1 + delta) * allowed_ratio`` times the denominator.

    With d the log ratios of K instances and m = log((1 + delta) * allowed_ratio), in this order:

    1. where the two identical sizes differ by more than delta on average, the machine errs by as much: *slower* if
       the test below still holds with twice that error's bound (each of the two times may carry it),
       ``2 (|mean(c)| + t sd(c) / sqrt(K))`` over the canary's log ratios c, added to m; *inconclusive* otherwise,
       never passed;
    2. *slower* if ``mean(d) - t[K-1, 1-alpha/family_size] * sd(d) / sqrt(K) > m`` (design.md);
    3. *inconclusive* if the 95 % interval of the canary leaves ±log(1 + delta), or that of d reaches above m:
       such data cannot show that the promise is kept;
    4. *holds* otherwise.

    Parameters
    ----------
    times : PairedTimes
    label : str
        What is compared, for the report.
    allowed_ratio : float
        What the numerator may cost before `delta` is added: 1 for padding and split dominance, for
        neighbours what one more example costs by the fit (`Cost.ratio`, best fitted without the numerator:
        a cliff there would raise its own allowance).
    delta : float
        Share by which the promise may be exceeded, and by which identical sizes may differ.
    alpha : float
        Chance of a false alarm in the whole family.
    family_size : int
        Number of comparisons decided together; each is tested at ``alpha / family_size``.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    _validate_rule(label, allowed_ratio, delta, alpha, family_size)
    if times.instances < 2:
        ratio = math.exp(times.log_ratios[0]) if times.log_ratios else math.nan
        reason = f"measured {times.instances} whole instance(s), a verdict needs at least 2"
        return Comparison(label, ratio, 0.0, math.inf, "inconclusive", reason)
    level = alpha / family_size
    paired, canary = estimate(times.log_ratios), estimate(times.canary)
    steady, allowed = math.log1p(delta), math.log1p(delta) + math.log(allowed_ratio)
    surely_at_least = paired.value - _half_width(times.log_ratios, 1 - level)

    verdict: Verdict = "inconclusive"
    error = 2 * (abs(canary.value) + _half_width(times.canary, 1 - level))
    if abs(canary.value) > steady and surely_at_least - error > allowed:
        verdict = "slower"
        reason = (
            f"above the allowed {math.exp(allowed):.3f} at significance {level:.1e}, and by more than two identical "
            f"sizes differed ({_percent(canary)})"
        )
    elif abs(canary.value) > steady:
        reason = f"two identical sizes differed by {_percent(canary)}, more than {100 * delta:.1f} %"
    elif surely_at_least > allowed:
        verdict = "slower"
        reason = f"above the allowed {math.exp(allowed):.3f} at significance {level:.1e}"
    elif max(-canary.low, canary.high) > steady:
        reason = f"two identical sizes are not known equal within {100 * delta:.1f} %: {_percent(canary)}"
    elif paired.high > allowed:
        reason = f"shown neither above the allowed {math.exp(allowed):.3f} nor below it"
    else:
        verdict = "holds"
        reason = f"the interval stays below the allowed {math.exp(allowed):.3f}"
    return Comparison(label, math.exp(paired.value), math.exp(paired.low), math.exp(paired.high), verdict, reason)


def fixed_and_per_example_cost(batch_sizes: Sequence[int], seconds: ArrayLike) -> Cost:
    """Fit ``seconds = fixed + per_example * batch_size`` and say how sure the two numbers are.

    Ordinary least squares on each instance's medians over rounds; the instances' lines are then averaged
    (which is the fit to the averaged medians) and give t intervals.

    Parameters
    ----------
    batch_sizes : sequence of int, length S
        At least two distinct sizes (examples).
    seconds : array_like of float, shape (K, S, rounds)
        Seconds of one step, K >= 2 instances.

    Returns
    -------
    Cost
        In seconds and in seconds an example. A `per_example` whose interval holds zero means that time was
        not seen to grow with work: suspect a missing synchronisation.

    Raises
    ------
    ValueError
        If sizes are fewer than two distinct positive integers, or `seconds` has another shape, fewer than
        two instances, or a time that is not positive and finite.
    """
    sizes = np.asarray(batch_sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or len(set(sizes.tolist())) < 2 or sizes.min() < 1:
        raise ValueError(f"batch_sizes must hold positive integers, at least two distinct, got {list(batch_sizes)}")
    times = _seconds("seconds", seconds, 3, "(instances, batch sizes, rounds)")
    if times.shape[1] != sizes.size:
        raise ValueError(f"seconds has {times.shape[1]} batch sizes (second axis), expected {sizes.size}")
    if times.shape[0] < 2:
        raise ValueError("seconds has 1 instance: an interval needs at least 2")
    line = np.stack([np.ones(sizes.size), sizes.astype(float)], axis=1)
    fixed, per_example = np.linalg.lstsq(line, np.median(times, axis=2).T, rcond=None)[0]
    return Cost(estimate(fixed), estimate(per_example))


def _seconds(name: str, values: ArrayLike, axes: int, wanted: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers in shape {wanted}, all rows of one length") from None
    if array.ndim != axes or 0 in array.shape:
        raise ValueError(f"{name} must have shape {wanted}, none of them 0, got {array.shape}")
    if not (np.isfinite(array) & (array > 0)).all():
        bad = array[~(np.isfinite(array) & (array > 0))][0]
        raise ValueError(f"{name} holds {bad} s: times must be positive and finite (clock too coarse?)")
    return array


def _validate_rule(label: str, allowed_ratio: float, delta: float, alpha: float, family_size: int) -> None:
    if not label:
        raise ValueError("label must say what is compared, got an empty string")
    if not 0 < allowed_ratio < math.inf:
        raise ValueError(f"allowed_ratio must be positive and finite, got {allowed_ratio}")
    if not 0 < delta < math.inf:
        raise ValueError(f"delta must be positive and finite (0.02 is 2 %), got {delta}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, got {alpha}")
    if isinstance(family_size, bool) or not isinstance(family_size, int) or family_size < 1:
        raise ValueError(f"family_size must be an integer of at least 1, got {family_size!r}")


def estimate(values: Any) -> Estimate:
    """Return the mean of one value for each instance (two at least) with its 95 % t interval."""
    mean, half = float(np.mean(values)), _half_width(values, (1 + CONFIDENCE) / 2)
    return Estimate(mean, mean - half, mean + half)


def _half_width(values: Any, quantile: float) -> float:
    k = len(values)
    return _student_t(k - 1, quantile) * float(np.std(values, ddof=1)) / math.sqrt(k)


@lru_cache(maxsize=256)  # one run asks for the same few quantiles; scipy takes 0.1 ms for each
def _student_t(freedom: int, quantile: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(quantile, freedom))


def _percent(log_ratio: Estimate) -> str:
    value, low, high = (100 * math.expm1(v) for v in (log_ratio.value, log_ratio.low, log_ratio.high))
    return f"{value:+.1f} % [{low:.1f}, {high:.1f}]"
