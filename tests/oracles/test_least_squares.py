"""The least-squares oracle against hand-computed values, simulation and enumeration."""

import itertools

import numpy as np
import pytest

from bscheck.oracles.least_squares import (
    LeastSquares,
    batches,
    correction,
    example_maps,
    expected_loss,
    first_moments,
    moments_after_an_epoch,
    next_moments,
    problem,
    simulate,
    spectral_radius,
    stability_threshold,
    stationary_loss,
)

#: x = 1 twice, targets 0 and 2: w* = 1, residuals -1 and 1, H = 1, L* = 1.
TWO = LeastSquares(np.array([[1.0], [1.0]]), np.array([0.0, 2.0]))


def test_the_optimum_and_its_loss():
    np.testing.assert_allclose(TWO.optimum, [1.0])
    np.testing.assert_allclose(TWO.residuals, [-1.0, 1.0])
    assert TWO.least_loss == pytest.approx(1.0)
    np.testing.assert_allclose(TWO.loss(np.array([[1.0], [3.0]])), [1.0, 5.0])


def test_one_update_by_hand():
    # From w = 0 (d = -1) at rate 0.1, one example: g = 2 (d - r) = 0 or -4, so d = -1 or -0.6: E d^2 = 0.68.
    maps = example_maps(TWO, 0.1)
    moments = next_moments(first_moments(TWO, np.array([0.0])), maps, correction(2, 1, True))
    assert expected_loss(TWO, moments) == pytest.approx(1.68)


def test_without_replacement_the_full_batch_has_no_noise():
    moments = next_moments(first_moments(TWO, np.array([0.0])), example_maps(TWO, 0.1), correction(2, 2, False))
    assert expected_loss(TWO, moments) == pytest.approx(1 + 0.8**2)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.5, False), (0.5, True)])
def test_momentum_by_hand(momentum, nesterov):
    state = np.array([1.0, -1.0, 0.0])
    d, v = -1.0, 0.0
    step = example_maps(TWO, 0.1, momentum, nesterov).mean(axis=0)
    for _ in range(3):
        state = step @ state
        g = 2 * d
        v = momentum * v - 0.1 * g
        d = d + momentum * v - 0.1 * g if nesterov else d + v
    np.testing.assert_allclose(state, [1.0, d, v])


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_moments_are_those_of_every_batch_enumerated(batch_size, replacement):
    given = problem(0, 4, 2)
    maps, start = example_maps(given, 0.1), first_moments(given, np.zeros(2))
    rows = itertools.product(range(4), repeat=batch_size)
    rows = rows if replacement else itertools.permutations(range(4), batch_size)
    steps = [maps[list(batch)].mean(axis=0) for batch in rows]
    enumerated = np.mean([t @ start @ t.T for t in steps], axis=0)
    np.testing.assert_allclose(
        next_moments(start, maps, correction(4, batch_size, replacement)), enumerated, rtol=1e-12
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_an_epoch_is_the_mean_over_all_orders(batch_size):
    given = problem(1, 4, 2)
    maps, start = example_maps(given, 0.1), first_moments(given, np.zeros(2))
    ends = []
    for order in itertools.permutations(range(4)):
        t = np.eye(3)
        for first in range(0, 4, batch_size):
            t = maps[list(order[first : first + batch_size])].mean(axis=0) @ t
        ends.append(t @ start @ t.T)
    np.testing.assert_allclose(moments_after_an_epoch(start, maps, batch_size), np.mean(ends, axis=0), rtol=1e-12)


def test_simulated_runs_have_the_expected_loss():
    given = problem(2, 8, 3)
    maps, c = example_maps(given, 0.05, 0.5), correction(8, 3, False)
    moments = first_moments(given, np.zeros(3), 0.5)
    for _ in range(10):
        moments = next_moments(moments, maps, c)
    path = simulate(given, maps, np.zeros(3), batches(2, 4000, 10, 8, 3, False))
    losses = given.loss(path[-1] + given.optimum)
    assert abs(losses.mean() - expected_loss(given, moments)) < 5 * losses.std() / np.sqrt(4000)


def test_the_threshold_of_the_full_batch_is_that_of_gradient_descent():
    given = problem(3, 8, 3)
    assert stability_threshold(given, 0.0) == pytest.approx(1 / np.linalg.eigvalsh(given.hessian).max(), rel=1e-8)


def test_smaller_batches_are_stable_at_lower_rates_only():
    given = problem(3, 8, 3)
    thresholds = [stability_threshold(given, correction(8, b, False)) for b in (1, 2, 4, 8)]
    assert thresholds == sorted(thresholds)
    for b, threshold in zip((1, 2, 4, 8), thresholds, strict=True):
        assert spectral_radius(given, threshold, correction(8, b, False)) == pytest.approx(1, abs=1e-8)


def test_the_stationary_loss_is_where_the_recursion_settles():
    given = problem(4, 8, 2)
    maps, c = example_maps(given, 0.05), correction(8, 2, True)
    moments = first_moments(given, np.zeros(2))
    for _ in range(3000):
        moments = next_moments(moments, maps, c)
    assert expected_loss(given, moments) - given.least_loss == pytest.approx(stationary_loss(given, 0.05, c), rel=1e-9)


def test_the_stationary_loss_is_proportional_to_rate_over_batch_size():
    given = problem(4, 8, 2)
    small = [stationary_loss(given, rate, correction(8, b, True)) for rate, b in ((1e-5, 1), (2e-5, 2), (4e-5, 4))]
    np.testing.assert_allclose(small, small[0], rtol=1e-3)


def test_batches_without_replacement_repeat_nothing():
    rows = batches(0, 50, 4, 6, 4, False)
    assert rows.shape == (4, 50, 4)
    assert all(len(set(batch)) == 4 for batch in rows.reshape(-1, 4))
