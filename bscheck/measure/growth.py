"""Does something grow from step to step? Pure: counts and bytes in, slopes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bscheck.measure.verdict import CONFIDENCE

#: Looks at the beginning that are left out: caches fill, pools are allocated, the last shapes are traced.
WARM_LOOKS = 3


@dataclass(frozen=True)
class Growth:
    """Growth per step with its 95 % interval.

    Attributes
    ----------
    per_step, low, high : float
        Slope of the least-squares line; the interval treats the residuals as independent.
    """

    per_step: float
    low: float
    high: float


def growth(counts: Sequence[float], steps_between: int) -> Growth:
    """Return how much a count grows per step.

    Parameters
    ----------
    counts : sequence of float
        One for each look, `steps_between` steps apart; the first `WARM_LOOKS` are left out.
    steps_between : int

    Raises
    ------
    ValueError
        When fewer than 4 looks remain.
    """
    from scipy import stats

    y = np.asarray(counts[WARM_LOOKS:], np.float64)
    if len(y) < 4:
        raise ValueError(f"growth needs at least {WARM_LOOKS + 4} looks, got {len(counts)}")
    x = np.arange(len(y), dtype=np.float64) * steps_between
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(y) - 2)) * float(fit.stderr)
    half = half if math.isfinite(half) else 0.0
    return Growth(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)
