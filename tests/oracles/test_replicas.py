"""Linear regression on several devices: NumPy's training against formulae worked out another way."""

import numpy as np
import pytest

from bscheck.oracles.replicas import (
    ADAM_EPSILON,
    AVERAGED,
    CLIP,
    DECAY,
    L2,
    MOMENTUM,
    RATE,
    draw,
    evaluated,
    parts_of,
    predicted,
    train,
)


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


def one_update(name: str, **options):
    """Return how far one update of a batch moves each variable, and the data."""
    data = draw(3, 4, weighted=False)
    end = train(data, 4, 1, penalty=False, k=1, devices=1, optimizer=name, **options)
    return data, [b - a for a, b in zip(data.start, end.weights, strict=True)]


def test_clipped_gradients_are_as_long_as_the_clip_and_point_where_the_gradient_does():
    _, plain = one_update("momentum")
    _, each = one_update("clipnorm")
    _, both = one_update("global_clipnorm")
    _, values = one_update("clipvalue")
    for moved, free in zip(each, plain, strict=True):
        assert np.linalg.norm(moved) == pytest.approx(RATE * CLIP, rel=1e-12)
        np.testing.assert_allclose(moved / np.linalg.norm(moved), free / np.linalg.norm(free), rtol=1e-12)
    assert np.hypot(*map(np.linalg.norm, both)) == pytest.approx(RATE * CLIP, rel=1e-12)
    assert max(np.abs(moved).max() for moved in values) == pytest.approx(RATE * CLIP, rel=1e-12)


def test_the_first_update_of_adam_is_the_gradient_over_its_size_plus_epsilon_after_the_decay():
    data, plain = one_update("momentum")
    _, seen = one_update("adam")
    for start, free, moved in zip(data.start, plain, seen, strict=True):
        g = -free / RATE
        # Kingma and Ba (2015): m-hat = g and v-hat = g^2; epsilon stands beside sqrt(v), which is sqrt(1/8) |g|.
        step = RATE * g / (np.abs(g) + ADAM_EPSILON / np.sqrt(1 - 0.875))
        np.testing.assert_allclose(moved, -step - RATE * DECAY * start, rtol=1e-12)


def test_weights_are_replaced_by_their_average_after_two_updates():
    data = draw(3, 8, weighted=False)
    one = train(data, 4, 1, penalty=False, k=2, devices=1, optimizer="averaged").weights[0]
    first = train(draw(3, 8, weighted=False), 8, 1, penalty=False, k=1, devices=1).weights[0]
    np.testing.assert_allclose(one, first, rtol=1e-13)  # the first average is the weights
    plain = train(data, 4, 1, penalty=False, k=1, devices=1).weights[0]
    single = train(head(data, 4), 4, 1, penalty=False, k=1, devices=1).weights[0]
    seen = train(data, 4, 1, penalty=False, k=1, devices=1, optimizer="averaged").weights[0]
    np.testing.assert_allclose(seen, AVERAGED * single + (1 - AVERAGED) * plain, rtol=1e-13)


def head(data, examples):
    """Return the first examples alone."""
    return type(data)(data.x[:examples], data.y[:examples], data.w[:examples], data.start)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_that_overflows_makes_no_update(devices):
    data = draw(3, 8, weighted=False, overflow=True)
    assert np.isinf(data.y[-1]).all()
    seen = train(data, 4, 1, penalty=True, k=1, devices=devices, optimizer="overflow")
    first = train(head(data, 4), 4, 1, penalty=True, k=1, devices=devices)
    np.testing.assert_allclose(seen.weights[0], first.weights[0], rtol=1e-13)
    assert np.isfinite(seen.size)


def test_answers_are_those_of_the_first_report_of_a_training():
    data = draw(5, 6, weighted=True)
    first = {name: values[0] for name, values in train(data, 6, 1, penalty=False, k=1, devices=1).history.items()}
    assert evaluated(data) == pytest.approx(first, rel=1e-13)
    assert predicted(data)[4] == pytest.approx(data.x[4] @ data.start[0] + data.start[1])
