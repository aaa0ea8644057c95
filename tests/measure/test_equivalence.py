"""Two one-sided tests on simulated pairs: how often they are wrong, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bscheck.measure.equivalence import (
    chance_of_refusal,
    equivalence,
    exceeds,
    geometric_interval,
    interval,
    share_interval,
)

ALPHA, PAIRS, MARGIN = 0.01, 12, 1.0


def passed(mean: float, spread: float, draws: int = 1000) -> float:
    values = np.random.default_rng(0).normal(mean, spread, (draws, PAIRS))
    return float(np.mean([equivalence(row, MARGIN, ALPHA).share <= 1 for row in values]))


def test_a_difference_at_the_margin_passes_no_more_often_than_it_says() -> None:
    assert passed(MARGIN, 0.3) == pytest.approx(ALPHA, abs=0.008)
    assert passed(-MARGIN, 0.3) == pytest.approx(ALPHA, abs=0.008)


def test_a_small_difference_passes_as_often_as_the_noncentral_t_says() -> None:
    spread = 0.9
    refused = 2 * chance_of_refusal(MARGIN, spread, PAIRS, ALPHA)
    assert 1 - passed(0.0, spread) == pytest.approx(refused, abs=0.03)


def test_equivalent_means_the_interval_is_inside_the_margin() -> None:
    for mean in (0.0, 0.5, 0.8, 1.2):
        found = equivalence(np.random.default_rng(1).normal(mean, 0.3, PAIRS), MARGIN, ALPHA)
        assert (found.share <= 1) == (found.low >= -MARGIN and found.high <= MARGIN)


def test_what_is_not_a_number_is_not_equivalent() -> None:
    assert equivalence([0.0, math.nan, 0.1], MARGIN, ALPHA).share == math.inf


def test_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least two pairs, not 1"):
        equivalence([0.0], MARGIN, ALPHA)


def test_values_below_zero_never_exceed_it() -> None:
    assert exceeds([-1.0, -2.0, -1.5], ALPHA) == math.inf
    assert exceeds([1.0, 1.0, 1.0], ALPHA) == 0.0


def test_intervals_cover_the_truth() -> None:
    rows = np.random.default_rng(2).normal(3.0, 1.0, (2000, 5))
    covered = [low <= 3.0 <= high for _, low, high in map(interval, rows)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    mean, low, high = geometric_interval([1.0, 100.0])
    assert mean == pytest.approx(10.0)
    assert low < mean < high
    hits = np.random.default_rng(3).binomial(40, 0.1, 2000)
    covered = [low <= 0.1 <= high for _, low, high in (share_interval(int(n), 40) for n in hits)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
