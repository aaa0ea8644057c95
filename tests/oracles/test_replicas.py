"""Linear regression on several devices: NumPy's training against formulae worked out another way."""

import numpy as np
import pytest

from bscheck.oracles.replicas import L2, MOMENTUM, RATE, draw, parts_of, train


@pytest.mark.parametrize(
    ("rows", "parts"), [([0, 1, 2, 3], [[0, 1], [2, 3]]), ([0, 1, 2], [[0, 1], [2]]), ([5], [[5], []])]
)
def test_batches_are_dealt_out_first_devices_first(rows, parts):
    assert parts_of(rows, 2) == parts


@pytest.mark.parametrize("penalty", [False, True])
def test_a_first_update_follows_the_loss_by_central_differences(penalty):
    data = draw(0, 4, weighted=True)

    def loss(kernel, bias):
        error = data.x @ kernel + bias - data.y
        return np.mean(data.w[:, None] * error**2) + (L2 * np.sum(kernel**2) if penalty else 0.0)

    seen = train(data, 4, 1, penalty=penalty, k=1, devices=1)
    for i in range(2):
        gradient = np.zeros_like(data.start[i])
        for at in np.ndindex(gradient.shape):
            both = []
            for sign in (1, -1):
                start = [a.copy() for a in data.start]
                start[i][at] += sign * 1e-4
                both.append(loss(*start))
            gradient[at] = (both[0] - both[1]) / 2e-4
        np.testing.assert_allclose(seen.weights[i], data.start[i] - RATE * gradient, rtol=1e-9)
    assert seen.history["loss"] == [pytest.approx(loss(*data.start), rel=1e-14)]


def test_momentum_and_windows():
    data = draw(1, 8, weighted=False)
    whole = train(data, 8, 2, penalty=True, k=1, devices=1)
    windows = train(data, 4, 2, penalty=True, k=2, devices=1)
    np.testing.assert_allclose(windows.weights[0], whole.weights[0], rtol=1e-14)
    one = train(data, 8, 1, penalty=True, k=1, devices=1)
    assert not np.allclose(whole.weights[0] - one.weights[0], MOMENTUM * (one.weights[0] - data.start[0]))


def test_devices_that_share_evenly_make_no_difference_and_uneven_ones_do():
    data = draw(2, 6, weighted=True)
    one, two, three, four = (
        train(data, 6, 2, penalty=True, k=1, devices=devices).weights[0] for devices in (1, 2, 3, 4)
    )
    np.testing.assert_allclose(one, two, rtol=1e-13)
    np.testing.assert_allclose(one, three, rtol=1e-13)
    assert not np.allclose(one, four)
