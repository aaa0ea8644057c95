"""The gradient noise scale: the batch size beyond which averaging more examples buys little. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bscheck.measure.verdict import CONFIDENCE


@dataclass(frozen=True)
class NoiseScale:
    """S / G in examples, with its jackknife interval; `high` is inf where the gradient may be noise alone."""

    value: float
    low: float
    high: float


def variance_and_signal(small: float, large: float, b: int, B: int) -> tuple[float, float]:
    """Return the gradients' variance S and the full gradient's squared length G from two batch sizes.

    Parameters
    ----------
    small, large : float
        Mean squared length of the gradient of `b` and of `B` examples, b < B.

    Returns
    -------
    S, G : float
        ``(small - large) / (1/b - 1/B)`` and ``(B large - b small) / (B - b)``: McCandlish, Kaplan, Amodei et al.,
        An Empirical Model of Large-Batch Training (2018), appendix A.1.
    """
    return (small - large) / (1 / b - 1 / B), (B * large - b * small) / (B - b)


def noise_scale(small: Sequence[float], large: Sequence[float], b: int, B: int) -> NoiseScale:
    """Return the noise scale from independent draws.

    Parameters
    ----------
    small : sequence of float, length R
        For each draw of `B` examples, the mean squared length of the gradients of its parts of `b` examples.
    large : sequence of float, length R
        The squared length of the gradient of all `B`.
    b, B : int
        Examples, b < B.

    Raises
    ------
    ValueError
        Below three draws, or where b is not below B.
    """
    draws = len(small)
    if draws < 3 or len(large) != draws or not 0 < b < B:
        raise ValueError(f"need at least 3 draws of both sizes and b < B, got {draws} and {len(large)}, b={b}, B={B}")
    pairs = np.asarray([small, large], np.float64)

    def inverse(kept: np.ndarray) -> float:
        # G / S, not S / G: it is the signal that may vanish in the noise.
        small_mean, large_mean = kept.mean(axis=1)
        s, g = variance_and_signal(float(small_mean), float(large_mean), b, B)
        return float(g / s) if s > 0 else np.inf

    value = inverse(pairs)
    if not np.isfinite(value):
        return NoiseScale(0.0, 0.0, 0.0)
    without = np.asarray([inverse(np.delete(pairs, i, axis=1)) for i in range(draws)])
    error = float(np.sqrt((draws - 1) / draws * np.sum((without - without.mean()) ** 2)))
    half = _student_t(draws - 1) * error
    return NoiseScale(_inverted(value), _inverted(value + half), _inverted(value - half))


def _inverted(value: float) -> float:
    return 1 / value if value > 0 else float("inf")


def _student_t(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
