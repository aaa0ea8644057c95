"""The variance law itself, by enumeration in NumPy: it holds, and its bound tells other samplings apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bscheck.checks.variance import law_factor, subsets
from bscheck.tolerance import gradient_rounding, unbiased, variance_law

SIZES = [(n, b) for n in (3, 5, 8) for b in range(1, n)]


def examples(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 7)) * np.logspace(-2, 2, 7)


def spread(means: np.ndarray, rows: np.ndarray, factor: float):  # type: ignore[no-untyped-def]
    centre = rows.mean(axis=0)
    rounding = gradient_rounding([np.abs(rows).mean(axis=0)], [0.0])
    return variance_law([means - centre], [rows - centre], factor, rounding)


def means_of(rows: np.ndarray, batches) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.stack([rows[list(batch)].mean(axis=0) for batch in batches])


@pytest.mark.parametrize(("n", "b"), SIZES)
def test_all_subsets_follow_the_law_to_rounding(n: int, b: int) -> None:
    rows = examples(n)
    found = spread(means_of(rows, subsets(n, b)), rows, law_factor(n, b))
    assert found.share <= 1
    assert abs(found.seen / found.law - 1) < 1e-13


@pytest.mark.parametrize(("n", "b"), [(3, 2), (5, 3)])
def test_sampling_with_replacement_has_the_other_factor(n: int, b: int) -> None:
    """Every tuple, repeats allowed, has variance tr(Sigma)/B: not the law's, and told apart by far."""
    rows = examples(n)
    means = means_of(rows, itertools.product(range(n), repeat=b))
    assert spread(means, rows, law_factor(n, b)).share > 1e6
    assert spread(means, rows, 1 / b).share <= 1
    assert spread(means_of(rows, subsets(n, b)), rows, 1 / b).share > 1e6


def test_the_mean_of_all_subsets_is_the_mean() -> None:
    rows = examples(6)
    rounding = gradient_rounding([np.abs(rows).mean(axis=0)], [0.0])
    mean = means_of(rows, subsets(6, 2)).mean(axis=0)
    assert unbiased([mean], [rows.mean(axis=0)], rounding).share <= 1


@pytest.mark.parametrize("size", [1e-6, 1e-9])
def test_small_extra_noise_is_seen(size: float) -> None:
    rows = examples(6)
    means = means_of(rows, subsets(6, 3))
    noisy = means * (1 + size * np.random.default_rng(1).normal(size=(len(means), 1)))
    assert spread(noisy, rows, law_factor(6, 3)).share > 1


def test_an_example_never_drawn_is_seen() -> None:
    rows = examples(6)
    means = means_of(rows, subsets(5, 2))
    assert spread(means, rows, law_factor(6, 2)).share > 1e6
    rounding = gradient_rounding([np.abs(rows).mean(axis=0)], [0.0])
    assert unbiased([means.mean(axis=0)], [rows.mean(axis=0)], rounding).share > 1e6


def test_half_of_the_examples_is_the_one_size_whose_variance_hides_it() -> None:
    """At B = N/2 the missing spread and the shifted centre cancel exactly, which is why B is drawn."""
    rows = examples(6)
    assert spread(means_of(rows, subsets(5, 3)), rows, law_factor(6, 3)).share < 1


def test_equal_examples_have_no_variance_and_no_alarm() -> None:
    rows = np.repeat(examples(1), 5, axis=0)
    found = spread(means_of(rows, subsets(5, 2)) * (1 + 1e-16), rows, law_factor(5, 2))
    assert found.share <= 1


def test_a_gradient_that_is_not_a_number_is_a_violation() -> None:
    rows = examples(4)
    means = means_of(rows, subsets(4, 2))
    means[0, 0] = np.nan
    assert spread(means, rows, law_factor(4, 2)).share == np.inf


def test_the_bound_widens_with_what_float32_lost() -> None:
    """A subject that float32 computes badly has ill-conditioned gradients, in float64 too."""
    size = [np.ones(4), np.ones(2)]
    calm, wild = gradient_rounding(size, [0.0, 0.0]), gradient_rounding(size, [0.0, 1e-3])
    assert wild[0] == calm[0]
    assert wild[1] == pytest.approx(64 * 2.0**-29 * 1e-3)
    assert calm[0] == pytest.approx(64 * 2.0**-53 * 1.001)
