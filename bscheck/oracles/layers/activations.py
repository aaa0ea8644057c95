"""Activation functions and the layers that are nothing else.

Sources: the page of each function in keras.io/api/layers/activations, which names the paper: ELU (Clevert et al.
2016), SELU (Klambauer et al. 2017), GELU (Hendrycks and Gimpel 2016), SiLU (Ramachandran et al. 2017), Mish (Misra
2019), CELU (Barron 2017), GLU (Dauphin et al. 2017), sparsemax (Martins and Astudillo 2016), squareplus (Barron 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, defines
from bscheck.oracles.layers.tracked import (
    Array,
    Tracked,
    absolute,
    erf,
    exp,
    expm1,
    largest,
    log,
    log1p,
    maximum,
    minimum,
    no_better_than,
    select,
    sigmoid,
    sqrt,
    square,
    tanh,
    total,
)

#: Klambauer et al. (2017), equation 14.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

#: Terms of the tanh approximation of GELU, Hendrycks and Gimpel (2016), section 2.
GELU_CUBIC = 0.044715


def relu(x: Tracked, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Tracked:
    """Return the rectified linear unit with a slope below the threshold and a ceiling."""
    below = (x - threshold) * negative_slope if negative_slope else x * 0.0
    y = select(x.value >= threshold, x, below, x.u)
    return y if max_value is None else minimum(y, max_value, x.u)


def elu(x: Tracked, alpha: float = 1.0) -> Tracked:
    """Return x above 0, alpha (exp(x) - 1) below."""
    return select(x.value > 0, x, expm1(minimum(x, 0.0, x.u)) * alpha, x.u)


def celu(x: Tracked, alpha: float = 1.0) -> Tracked:
    """Return x above 0, alpha (exp(x / alpha) - 1) below."""
    return select(x.value > 0, x, expm1(minimum(x, 0.0, x.u) / alpha) * alpha, x.u)


def softplus(x: Tracked) -> Tracked:
    """Return log(1 + exp(x)), as max(x, 0) + log(1 + exp(-abs(x))); the slope is the logistic function."""
    y = maximum(x, 0.0, x.u) + log1p(exp(-absolute(x)))
    slope = sigmoid(x).value
    y = replace(y, error=y.error + 8 * x.u * y.value)  # as one function of a library
    if x.tangent is None or x.size is None or x.slack is None:
        return y
    slack = slope * x.slack + (0.25 * x.error + 16 * x.u * slope) * x.size
    return replace(y, tangent=slope * x.tangent, size=slope * x.size, slack=slack)


def hard_sigmoid(x: Tracked) -> Tracked:
    """Return x / 6 + 1/2, at least 0 and at most 1."""
    line = no_better_than(x * (1 / 6) + 0.5, (x + 3.0) * (1 / 6))
    return minimum(maximum(line, 0.0, x.u), 1.0, x.u)


def gelu(x: Tracked, approximate: bool = False) -> Tracked:
    """Return x times the standard normal distribution function at x, or its approximation by tanh."""
    if approximate:
        inner = (x + x * square(x) * GELU_CUBIC) * float(np.sqrt(2 / np.pi))
        return x * 0.5 * (tanh(inner) + 1.0)
    return x * 0.5 * (erf(x * float(np.sqrt(0.5))) + 1.0)


def _shifted(x: Tracked, axis: Any) -> Tracked:
    # Softmax does not depend on what is subtracted, so neither does its derivative: a constant may be.
    return x - largest(x, axis, keepdims=True).exact()


def softmax(x: Tracked, axis: Any = -1) -> Tracked:
    """Return exp(x), divided by its sum over the axes."""
    axis = tuple(axis) if isinstance(axis, (list, tuple)) else axis
    powers = exp(_shifted(x, axis))
    return powers / total(powers, axis, keepdims=True)


def log_softmax(x: Tracked, axis: int = -1) -> Tracked:
    """Return the logarithm of softmax."""
    shifted = _shifted(x, axis)
    return shifted - log(total(exp(shifted), axis, keepdims=True))


def masked_softmax(x: Tracked, keep: Any, axis: Any = -1) -> Tracked:
    """Return softmax over the kept entries and 0 elsewhere; where none is kept, values that nothing defines (NaN)."""
    axis = tuple(axis) if isinstance(axis, (list, tuple)) else axis
    keep = np.broadcast_to(np.asarray(keep, bool), x.shape)
    some = keep.any(axis=axis, keepdims=True)
    # Far below what single precision's exponential can hold, so that what is left out weighs nothing.
    floor = float(np.float32(np.where(keep, x.value, np.inf).min() - 1e4))
    y = softmax(select(keep, x, floor if np.isfinite(floor) else 0.0, x.u), axis)
    return replace(y, value=np.where(some, y.value, np.nan))


def sparsemax(x: Tracked, axis: int = -1) -> Tracked:
    """Return the projection on the simplex (algorithm 1 of the paper): x - tau, at least 0."""
    ordered = -np.sort(-x.value, axis=axis)
    sums = np.cumsum(ordered, axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    ranks = np.arange(1, x.shape[axis] + 1).reshape(shape)
    support = (1 + ranks * ordered > sums).sum(axis=axis, keepdims=True)
    last = np.take_along_axis(ordered, support - 1, axis)
    chosen = x.value >= last
    tau = (total(select(chosen, x, 0.0, x.u), axis, keepdims=True) - 1.0) / support.astype(float)
    # The sums run over the entries outside the support too.
    tau = replace(tau, error=tau.error + 2 * x.shape[axis] * x.u * np.abs(x.value).sum(axis=axis, keepdims=True))
    return maximum(x - tau, 0.0, x.u)


def _glu(x: Tracked, axis: int = -1) -> Tracked:
    half = x.shape[axis] // 2
    first = [slice(None)] * x.ndim
    second = list(first)
    first[axis], second[axis] = slice(0, half), slice(half, None)
    return x[tuple(first)] * sigmoid(x[tuple(second)])


def _sparse_plus(x: Tracked) -> Tracked:
    return select(x.value <= -1, 0.0, select(x.value < 1, square(x + 1.0) * 0.25, x, x.u), x.u)


def _clipped(x: Tracked, low: float, high: float) -> Tracked:
    return minimum(maximum(x, low, x.u), high, x.u)


def _soft_shrink(x: Tracked, threshold: float = 0.5) -> Tracked:
    above = select(x.value > threshold, x - threshold, 0.0, x.u)
    return select(x.value < -threshold, x + threshold, above, x.u)


#: Every activation function by its exported name.
ACTIVATIONS: Mapping[str, Callable[..., Tracked]] = {
    "celu": celu,
    "elu": elu,
    "exponential": exp,
    "gelu": gelu,
    "glu": _glu,
    "hard_shrink": lambda x, threshold=0.5: select(np.abs(x.value) > threshold, x, 0.0, x.u),
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": lambda x: x * hard_sigmoid(x),
    "hard_swish": lambda x: x * hard_sigmoid(x),
    "hard_tanh": lambda x: _clipped(x, -1.0, 1.0),
    "leaky_relu": lambda x, negative_slope=0.2: relu(x, negative_slope),
    "linear": lambda x: x,
    "log_sigmoid": lambda x: -softplus(-x),
    "log_softmax": log_softmax,
    "mish": lambda x: x * tanh(softplus(x)),
    "relu": relu,
    "relu6": lambda x: relu(x, max_value=6.0),
    "selu": lambda x: elu(x, SELU_ALPHA) * SELU_SCALE,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "soft_shrink": _soft_shrink,
    "softmax": softmax,
    "softplus": softplus,
    "softsign": lambda x: x / (absolute(x) + 1.0),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda x: _clipped((x + 1.0) * 0.5, 0.0, 1.0),
    "sparsemax": sparsemax,
    "squareplus": lambda x, b=4.0: (x + sqrt(square(x) + b)) * 0.5,
    "swish": lambda x: x * sigmoid(x),
    "tanh": tanh,
    "tanh_shrink": lambda x: x - tanh(x),
    "threshold": lambda x, threshold, default_value: select(x.value > threshold, x, default_value, x.u),
}


def activate(name: str | None, x: Tracked) -> Tracked:
    """Return the activation of this name, as a layer's ``activation`` option gives it; None is linear."""
    return x if name is None else ACTIVATIONS[name](x)


@defines("Activation")
def activation(call: Call) -> Tracked:
    """Activation: the function of this name, with its arguments where it has some."""
    return ACTIVATIONS[call.get("activation")](call.x, **call.get("arguments", {}))


@defines("ReLU")
def relu_layer(call: Call) -> Tracked:
    """ReLU: keras.io/api/layers/activation_layers/relu."""
    return relu(call.x, call.get("negative_slope", 0.0), call.get("max_value"), call.get("threshold", 0.0))


@defines("LeakyReLU")
def leaky_relu_layer(call: Call) -> Tracked:
    """LeakyReLU (Maas et al. 2013): a slope of 0.3 below 0, unless told otherwise."""
    return relu(call.x, call.get("negative_slope", 0.3))


@defines("ELU")
def elu_layer(call: Call) -> Tracked:
    """ELU (Clevert et al. 2016)."""
    return elu(call.x, call.get("alpha", 1.0))


@defines("PReLU")
def prelu(call: Call) -> Tracked:
    """PReLU (He et al. 2015): a learned slope below 0."""
    x = call.x
    return select(x.value >= 0, x, x * call.weights["alpha"], x.u)


@defines("Softmax")
def softmax_layer(call: Call) -> Tracked:
    """Softmax over one axis or several; the mask's False entries weigh nothing."""
    axis: Any = call.get("axis", -1)
    keep: Array | None = call.mask
    return softmax(call.x, axis) if keep is None else masked_softmax(call.x, keep, axis)
