"""The layers' definitions against independent ones, and tracked numbers against what they promise."""

import numpy as np
import pytest
import scipy.signal
import scipy.special
import scipy.stats

from bscheck.oracles.layers import Call, Weights, outcome, spec
from bscheck.oracles.layers import tracked as tk
from bscheck.oracles.layers.activations import ACTIVATIONS
from bscheck.oracles.layers.tracked import Tracked

RNG = np.random.default_rng(5)


def plain(value, u=2.0**-53):
    value = np.asarray(value, float)
    return Tracked(value, np.zeros(value.shape), u=u)


def moving(value, direction, u=2.0**-53):
    zeros = np.zeros(value.shape)
    return Tracked(value, zeros, direction, np.abs(direction), zeros, u)


def run(layer, *inputs, weights=None, **call):
    held = Weights({name: plain(w) for name, w in (weights or {}).items()})
    return [y.value for y in outcome(Call(layer, held, [plain(x) for x in inputs], **call)).outputs]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Tracked numbers

FUNCTIONS = {
    **{name: f for name, f in ACTIVATIONS.items() if name != "threshold"},
    "sqrt": lambda x: tk.sqrt(tk.square(x) + 0.1),
    "log": lambda x: tk.log(tk.square(x) + 0.1),
    "ratio": lambda x: x / (tk.square(x) + 1.0),
    "mean": lambda x: tk.mean(x * x, 1, keepdims=True) * x,
    "largest": lambda x: tk.largest(x, 1),
    "matmul": lambda x: tk.matmul(x, tk.sigmoid(x).transpose(1, 0)),
    "erf": tk.erf,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tangents_are_central_differences(name):
    x, direction = RNG.normal(size=(3, 6)), RNG.normal(size=(3, 6))
    h = 1e-6
    up, down = (FUNCTIONS[name](plain(x + s * h * direction)).value for s in (1, -1))
    tangent = FUNCTIONS[name](moving(x, direction)).tangent
    assert np.allclose(tangent, (up - down) / (2 * h), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softmax", "gelu", "mean", "ratio", "matmul", "log_softmax"])
def test_the_error_bound_holds_in_single_precision_and_is_no_larger_than_it_must_be(name):
    single = {
        "tanh": np.tanh,
        "sigmoid": scipy.special.expit,
        "softmax": lambda x: scipy.special.softmax(x, -1),
        "log_softmax": lambda x: scipy.special.log_softmax(x, -1),
        "gelu": lambda x: x * np.float32(0.5) * (1 + scipy.special.erf(x * np.float32(np.sqrt(0.5)))),
        "mean": lambda x: (x * x).mean(1, keepdims=True) * x,
        "ratio": lambda x: x / (x * x + np.float32(1)),
        "matmul": lambda x: x @ scipy.special.expit(x).T,
    }[name]
    worst = 0.0
    for _ in range(300):
        x = RNG.normal(size=(3, 6)).astype(np.float32)
        y = FUNCTIONS[name](plain(x, 2.0**-24))
        share = np.abs(single(x).astype(float) - y.value) / y.error
        worst = max(worst, share.max())
    assert 0.02 < worst <= 1.0


def test_constants_that_single_precision_cannot_hold_may_be_rounded_to_it():
    assert tk.constant(0.25, 2.0**-53).error == 0
    assert tk.constant(0.3, 2.0**-53).error >= abs(float(np.float32(0.3)) - 0.3)


# Definitions


def test_dense_by_hand():
    assert np.allclose(
        run(spec("Dense", units=1), [[1.0, 2.0]], weights={"kernel": [[3.0], [0.5]], "bias": [0.25]})[0], [[4.25]]
    )


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolution_against_scipy(padding):
    x, kernel = RNG.normal(size=(2, 6, 5, 3)), RNG.normal(size=(3, 3, 3, 2))
    layer = spec("Conv2D", filters=2, kernel_size=3, padding=padding, use_bias=False)
    seen = run(layer, x, weights={"kernel": kernel})[0]
    for n in range(2):
        for f in range(2):
            expected = sum(scipy.signal.correlate2d(x[n, ..., c], kernel[..., c, f], padding) for c in range(3))
            assert np.allclose(seen[n, ..., f], expected)


def test_transposed_convolution_is_the_adjoint():
    x, y, kernel = RNG.normal(size=(1, 7, 2)), RNG.normal(size=(1, 3, 3)), RNG.normal(size=(3, 2, 3))
    down = run(spec("Conv1D", strides=2, use_bias=False), x, weights={"kernel": kernel})[0]
    up = run(spec("Conv1DTranspose", strides=2, use_bias=False), y, weights={"kernel": kernel})[0]
    assert np.isclose(np.sum(down * y), np.sum(x * up))


def test_lstm_by_loops():
    x, w, u, b = RNG.normal(size=(2, 3, 2)), RNG.normal(size=(2, 8)), RNG.normal(size=(2, 8)), RNG.normal(size=8)
    weights = {"kernel": w, "recurrent_kernel": u, "bias": b}
    seen = run(spec("LSTM", units=2, return_state=True), x, weights=weights)
    for n in range(2):
        h, c = np.zeros(2), np.zeros(2)
        for t in range(3):
            g = x[n, t] @ w + h @ u + b
            c = sigmoid(g[2:4]) * c + sigmoid(g[:2]) * np.tanh(g[4:6])
            h = sigmoid(g[6:]) * np.tanh(c)
        assert np.allclose(seen[0][n], h)
        assert np.allclose(seen[2][n], c)


@pytest.mark.parametrize("after", [True, False])
def test_gru_by_loops(after):
    x, w, u = RNG.normal(size=(1, 3, 2)), RNG.normal(size=(2, 6)), RNG.normal(size=(2, 6))
    b = RNG.normal(size=(2, 6) if after else 6)
    weights = {"kernel": w, "recurrent_kernel": u, "bias": b}
    seen = run(spec("GRU", units=2, reset_after=after), x, weights=weights)[0]
    h, given, kept = np.zeros(2), b[0] if after else b, b[1] if after else np.zeros(6)
    for t in range(3):
        a, r = x[0, t] @ w + given, h @ u + kept
        z, reset = sigmoid(a[:2] + r[:2]), sigmoid(a[2:4] + r[2:4])
        g = np.tanh(a[4:] + (reset * r[4:] if after else (reset * h) @ u[:, 4:]))
        h = z * h + (1 - z) * g
    assert np.allclose(seen[0], h)


def test_masked_steps_hold_the_state_and_repeat_the_output():
    x = RNG.normal(size=(2, 4, 2))
    weights = {"kernel": RNG.normal(size=(2, 2)), "recurrent_kernel": RNG.normal(size=(2, 2)), "bias": [0.1, 0.2]}
    layer = spec("SimpleRNN", units=2, return_sequences=True, return_state=True)
    mask = np.array([[True, False, True, False], [False] * 4])
    y, h = run(layer, x, weights=weights, masks={"mask": mask})
    short, _ = run(layer, x[:, [0, 2]], weights=weights)
    assert np.allclose(y[0], short[0][[0, 0, 1, 1]])
    assert np.allclose(h[0], short[0][1])
    assert np.all(y[1] == 0)


def test_attention_by_loops():
    q, v = RNG.normal(size=(1, 3, 2)), RNG.normal(size=(1, 4, 2))
    seen = run(spec("Attention"), q, v, masks={"mask": [None, np.array([[True, True, False, True]])]})[0]
    for i in range(3):
        p = scipy.special.softmax([q[0, i] @ v[0, j] for j in (0, 1, 3)])
        assert np.allclose(seen[0, i], p @ v[0, [0, 1, 3]])


def test_attention_with_every_key_masked_is_undefined():
    q = RNG.normal(size=(1, 3, 2))
    assert np.isnan(run(spec("Attention"), q, q, masks={"mask": [None, np.zeros((1, 3), bool)]})[0]).all()


def test_average_pooling_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    pooled = run(spec("AveragePooling1D", pool_size=3, strides=2, padding="same"), x)[0]
    assert np.allclose(pooled.ravel(), [2.0, 3.5])


def test_activations_against_scipy():
    x = RNG.normal(size=(4, 6))
    assert np.allclose(ACTIVATIONS["gelu"](plain(x)).value, x * scipy.stats.norm.cdf(x))
    assert np.allclose(ACTIVATIONS["softmax"](plain(x)).value, scipy.special.softmax(x, -1))
    assert np.allclose(ACTIVATIONS["softplus"](plain(x)).value, np.logaddexp(0, x))
    assert np.allclose(ACTIVATIONS["log_sigmoid"](plain(x)).value, scipy.special.log_expit(x))


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    z = np.array([[1.0, 0.8, -1.0], [3.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    expected = [[0.6, 0.4, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    assert np.allclose(ACTIVATIONS["sparsemax"](plain(z)).value, expected)


def test_batch_normalization_moves_its_statistics_by_the_batch():
    x = np.array([[1.0], [3.0]])
    weights = {"gamma": [2.0], "beta": [1.0], "moving_mean": [0.5], "moving_variance": [4.0]}
    held = Weights({name: plain(w) for name, w in weights.items()})
    found = outcome(Call(spec("BatchNormalization", momentum=0.75, epsilon=0.0), held, [plain(x)], training=True))
    assert np.allclose(found.outputs[0].value, [[-1.0], [3.0]])
    assert np.allclose(found.state["moving_mean"].value, 0.75 * 0.5 + 0.25 * 2)
    assert np.allclose(found.state["moving_variance"].value, 0.75 * 4 + 0.25 * 1)


def test_drops_at_another_rate_lie_outside_their_law():
    from bscheck.oracles.layers.stochastic import dropped_share

    kept = RNG.uniform(size=16000) > 0.3
    assert dropped_share(kept, 0.3) < 0.5
    assert dropped_share(kept, 0.34) > 1


def _dropping_by_loops(x, w, u, inputs, states):
    """Return the outputs of a simple recurrent layer whose features and units were multiplied by these factors."""
    h, outputs = np.zeros((len(x), u.shape[0])), []
    for t in range(x.shape[1]):
        h = np.tanh((x[:, t] * inputs) @ w + (h * states) @ u)
        outputs.append(h)
    return np.stack(outputs, 1)


def test_recurrent_dropout_is_read_from_the_outputs():
    x, w, u = RNG.normal(size=(20, 4, 2)), RNG.normal(size=(2, 2)), RNG.normal(size=(2, 2))
    drawn = RNG.uniform(size=(2, 20, 2))
    layer = spec("SimpleRNN", units=2, use_bias=False, return_sequences=True, dropout=0.2, recurrent_dropout=0.6)
    weights = Weights({"kernel": plain(w), "recurrent_kernel": plain(u)})

    def said(rates):
        seen = _dropping_by_loops(x, w, u, *((d > r) / (1 - r) for d, r in zip(drawn, rates, strict=True)))
        return seen, outcome(Call(layer, weights, [plain(x)], training=True, seen=[seen]))

    seen, right = said((0.2, 0.6))
    assert np.allclose(right.outputs[0].value, seen, atol=1e-12)
    assert right.chance < 1
    seen, wrong = said((0.2, 0.2))
    assert not np.allclose(wrong.outputs[0].value, seen, atol=1e-2)


def test_units_that_are_never_dropped_are_no_chance():
    x, w, u = RNG.normal(size=(200, 4, 2)), RNG.normal(size=(2, 2)), RNG.normal(size=(2, 2))
    layer = spec("SimpleRNN", units=2, use_bias=False, return_sequences=True, dropout=0.0, recurrent_dropout=0.5)
    weights = Weights({"kernel": plain(w), "recurrent_kernel": plain(u)})
    seen = _dropping_by_loops(x, w, u, 1.0, 2.0)
    assert outcome(Call(layer, weights, [plain(x)], training=True, seen=[seen])).chance > 1
