"""The NumPy gradient of a dense network: against finite differences, a closed form, and its own bounds."""

from __future__ import annotations

import numpy as np
import pytest

from bscheck.oracles.gradient import Dense, Network, gradient, loss

CLASSIFIER = Network((Dense("tanh", 0.01), Dense()), "sparse_categorical_crossentropy")
REGRESSION = Network((Dense("tanh"), Dense(l2=0.3)), "mean_squared_error")
NETWORKS = {"classifier": CLASSIFIER, "regression": REGRESSION}


def draw(seed: int, examples: int, classifier: bool) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(4, 5), (5,), (5, 3), (3,)]
    weights = [rng.normal(size=shape) for shape in shapes]
    y = rng.integers(0, 3, examples) if classifier else rng.normal(size=(examples, 3))
    return weights, rng.normal(size=(examples, 4)), y


@pytest.mark.parametrize("examples", [1, 2, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_is_the_slope_of_the_loss(name: str, examples: int) -> None:
    """Central differences at two widths, extrapolated: their error is of the order h^4."""
    network = NETWORKS[name]
    weights, x, y = draw(examples, examples, name == "classifier")
    parts = gradient(network, weights, x, y)
    for i, part in enumerate(parts):
        slope = np.zeros(part.value.shape)
        for index in np.ndindex(*slope.shape):
            wide, narrow = (central_difference(network, weights, x, y, i, index, h) for h in (2e-3, 1e-3))
            slope[index] = (4 * narrow - wide) / 3
        np.testing.assert_allclose(part.value, slope, rtol=1e-8, atol=1e-10)


def central_difference(network, weights, x, y, i, index, h) -> float:  # type: ignore[no-untyped-def]
    values = []
    for sign in (1, -1):
        moved = [w.copy() for w in weights]
        moved[i][index] += sign * h
        values.append(loss(network, moved, x, y))
    return (values[0] - values[1]) / (2 * h)


def test_linear_regression_has_its_closed_form() -> None:
    network = Network((Dense(),), "mean_squared_error")
    rng = np.random.default_rng(0)
    w, b, x, y = rng.normal(size=(4, 2)), rng.normal(size=2), rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    of_kernel, of_bias = gradient(network, [w, b], x, y)
    residual = x @ w + b - y
    np.testing.assert_allclose(of_kernel.value, 2 * x.T @ residual / 10, rtol=1e-13)
    np.testing.assert_allclose(of_bias.value, 2 * residual.sum(axis=0) / 10, rtol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_hold_for_numpy_in_float32_and_are_not_slack(name: str) -> None:
    network = NETWORKS[name]
    worst = 0.0
    for seed in range(50):
        weights, x, y = draw(seed, 1 + seed % 17, name == "classifier")
        weights, x = [w.astype("float32") for w in weights], x.astype("float32")
        exact = gradient(network, [w.astype("float64") for w in weights], x.astype("float64"), y, "float32")
        for part, single in zip(exact, in_single_precision(network, weights, x, y), strict=True):
            worst = max(worst, float(np.max(np.abs(single - part.value) / part.error)))
    assert worst <= 1
    assert worst > 1 / 50, f"the worst draw reaches only {worst:.4f} of the bound"


def in_single_precision(network, weights, x, y):  # type: ignore[no-untyped-def]
    """The same chain rule, written once more in float32."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(x @ w1 + b1)
    output = hidden @ w2 + b2
    n = np.float32(len(x))
    if network.loss == "mean_squared_error":
        delta = np.float32(2) * (output - y.astype("float32")) / np.float32(output.size)
    else:
        powers = np.exp(output - output.max(axis=1, keepdims=True))
        delta = powers / powers.sum(axis=1, keepdims=True)
        delta[np.arange(len(y)), y] -= np.float32(1)
        delta /= n
    inner = (delta @ w2.T) * (1 - hidden**2)
    penalties = [np.float32(2 * layer.l2) for layer in network.layers]
    return [
        x.T @ inner + penalties[0] * w1,
        inner.sum(axis=0),
        hidden.T @ delta + penalties[1] * w2,
        delta.sum(axis=0),
    ]


def test_bounds_shrink_with_the_precision() -> None:
    weights, x, y = draw(3, 4, True)
    single, double = (gradient(CLASSIFIER, weights, x, y, dtype) for dtype in ("float32", "float64"))
    for a, b in zip(single, double, strict=True):
        # The oracle's own rounding counts once beside twice Keras's.
        assert np.allclose(a.error / b.error, 2.0**29 * 2 / 3, rtol=1e-3)


@pytest.mark.parametrize(("layers", "kind", "message"), [
    ((Dense(),), "hinge", "no formula for the loss 'hinge'"),
    ((Dense("gelu"),), "mean_squared_error", "no formula for the activation 'gelu'"),
])  # fmt: skip
def test_unknown_formulas_are_named(layers: tuple[Dense, ...], kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(layers, kind)
