"""Equivalence of paired measurements: two one-sided tests, and the chance of either mistake. Pure: no backend.

Schuirmann, A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of
average bioavailability (1987).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Equivalence:
    """What two one-sided tests say of paired differences.

    Attributes
    ----------
    mean, low, high : float
        Mean difference, and its interval at the level ``1 - 2 alpha``: equivalent where that lies inside the margin.
    share : float
        Critical value of t as a share of the smaller of the two statistics; at most 1: equivalent.
    """

    mean: float
    low: float
    high: float
    share: float


@functools.cache
def critical(pairs: int, alpha: float) -> float:
    """Return the value that Student's t of so many pairs exceeds with probability alpha."""
    from scipy import stats

    return float(stats.t.isf(alpha, pairs - 1))


def statistic(values: Array) -> float:
    """Return Student's t of the hypothesis that the mean is 0."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if spread == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / (spread / math.sqrt(len(values)))


def exceeds(values: Sequence[float] | Array, alpha: float) -> float:
    """Return the critical value as a share of t: at most 1 where the mean is above 0 at this level."""
    t = statistic(np.asarray(values, np.float64))
    return critical(len(values), alpha) / t if t > 0 else math.inf


def equivalence(differences: Sequence[float], margin: float, alpha: float) -> Equivalence:
    """Return whether the mean of paired differences lies within the margin, on either side.

    Parameters
    ----------
    differences : sequence of float, length n
        One for each pair.
    margin : float
        How far their mean may be from 0, either way.
    alpha : float
        Chance that a true mean at the margin counts as equivalent.

    Raises
    ------
    ValueError
        For fewer than two pairs.
    """
    if len(differences) < 2:
        raise ValueError(f"an equivalence test needs at least two pairs, not {len(differences)}")
    d = np.asarray(differences, np.float64)
    half = critical(len(d), alpha) * float(np.std(d, ddof=1)) / math.sqrt(len(d))
    share = max(exceeds(margin - d, alpha), exceeds(margin + d, alpha)) if np.isfinite(d).all() else math.inf
    return Equivalence(float(d.mean()), float(d.mean()) - half, float(d.mean()) + half, share)


def chance_of_refusal(mean: float, spread: float, pairs: int, alpha: float) -> float:
    """Return how often t stays at or below its critical value: normal values of this mean and standard deviation."""
    from scipy import stats

    return float(stats.nct.cdf(critical(pairs, alpha), pairs - 1, mean / spread * math.sqrt(pairs)))


def interval(values: Sequence[float] | Array) -> tuple[float, float, float]:
    """Return the mean with the ends of its 95 % interval by Student's t; NaN for the ends of a single value."""
    mean, n = float(np.mean(values)), len(values)
    half = critical(n, 0.025) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return mean, mean - half, mean + half


def geometric_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean with the ends of its 95 % interval."""
    mean, low, high = (math.exp(end) for end in interval(np.log(values)))
    return mean, low, high


def share_interval(hits: int, trials: int) -> tuple[float, float, float]:
    """Return a share of trials with the ends of its 95 % interval (Wilson 1927)."""
    z, p = 1.96, hits / trials
    middle, spread = p + z**2 / (2 * trials), z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return p, (middle - spread) / scale, (middle + spread) / scale
