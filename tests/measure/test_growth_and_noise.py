"""Two small statistics: what grows from step to step, and the gradient's noise scale."""

import math

import numpy as np
import pytest

from bscheck.measure.growth import WARM_LOOKS, growth
from bscheck.measure.noise import noise_scale


def test_a_leak_is_seen_behind_a_warm_up():
    counts = [1000, 400, 300, *(500 + 18 * i for i in range(4))]
    found = growth(counts, 6)
    assert (found.per_step, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))


def test_what_does_not_grow_has_no_slope():
    found = growth([9, 7, 5, 5, 5, 5, 5], 6)
    assert (found.per_step, found.low, found.high) == (0.0, 0.0, 0.0)


def test_noise_widens_the_interval():
    rng = np.random.default_rng(0)
    found = growth([*[0.0] * WARM_LOOKS, *rng.normal(0, 1e6, 12)], 6)
    assert found.low < 0 < found.high


def test_too_few_looks_are_refused():
    with pytest.raises(ValueError, match="at least 7 looks, got 6"):
        growth([1, 2, 3, 4, 5, 6], 2)


def drawn(signal, noise, b, parts, draws=400, parameters=50):
    """Squared lengths of Gaussian gradients whose noise scale is noise**2 * parameters / signal**2 / parameters."""
    rng = np.random.default_rng(1)
    small, large = [], []
    for _ in range(draws):
        gradients = signal + noise / math.sqrt(b) * rng.normal(size=(parts, parameters))
        small.append(float(np.mean(np.sum(gradients**2, axis=1))))
        large.append(float(np.sum(gradients.mean(axis=0) ** 2)))
    return small, large


@pytest.mark.parametrize("scale", [4.0, 100.0])
def test_the_noise_scale_is_that_of_the_gradients(scale):
    small, large = drawn(1.0, math.sqrt(scale), 8, 4)
    found = noise_scale(small, large, 8, 32)
    assert found.low < scale < found.high
    assert found.value == pytest.approx(scale, rel=0.15)


def test_a_gradient_that_is_noise_alone_has_no_upper_end():
    found = noise_scale(*drawn(0.0, 1.0, 8, 4, draws=20), 8, 32)
    assert found.high == math.inf


def test_gradients_without_noise_have_scale_zero():
    assert noise_scale([2.0] * 4, [2.0] * 4, 1, 4).value == 0.0


@pytest.mark.parametrize(
    ("small", "large", "b"), [([1.0, 2.0], [1.0, 2.0], 1), ([1.0] * 3, [1.0] * 4, 1), ([1.0] * 3, [1.0] * 3, 4)]
)
def test_bad_draws_are_refused(small, large, b):
    with pytest.raises(ValueError, match="need at least 3 draws"):
        noise_scale(small, large, b, 4)
