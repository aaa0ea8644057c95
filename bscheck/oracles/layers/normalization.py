"""Normalization layers.

Sources: Ioffe and Szegedy (2015, batch), Ba et al. (2016, layer), Zhang and Sennrich (2019, root mean square), Wu and
He (2018, group), Miyato et al. (2018, spectral); keras.io/api/layers/normalization_layers for options and defaults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, Outcome, defines
from bscheck.oracles.layers.tracked import (
    Array,
    Tracked,
    constant,
    matmul,
    maximum,
    mean,
    no_better_than,
    sqrt,
    square,
    total,
)

#: ``keras.config.epsilon()`` by default.
EPSILON = 1e-7


def moments(x: Tracked, axes: Any, weights: Array | None = None) -> tuple[Tracked, Tracked]:
    """Return the mean and the (biased) variance over axes.

    The variance is the mean of squared deviations, with room for the rounding of the mean of squares less the
    square of the mean. `weights`, 0 or 1 and of x's shape, say which entries count; there Keras adds `EPSILON` to
    their number, so that no entries at all have mean 0.
    """

    def average(y: Tracked) -> Tracked:
        if weights is None:
            return mean(y, axes, keepdims=True)
        count = constant(weights.sum(axis=axes, keepdims=True), x.u) + EPSILON
        return total(y * weights, axes, keepdims=True) / count

    centre = average(x)
    variance = average(square(x - centre))
    return centre, variance if weights is not None else no_better_than(variance, average(square(x)) - square(centre))


def unit(x: Tracked, axis: Any) -> Tracked:
    """Return x divided by its Euclidean norm over the axis; the square of the norm is at least 1e-12."""
    squares = total(square(x), axis, keepdims=True)
    return x / sqrt(maximum(squares, 1e-12, x.u))


def _spread(weight: Tracked, axes: Any, ndim: int) -> Tracked:
    """Return a weight whose axes are `axes` of an array of `ndim` axes, ready to meet it."""
    wanted = sorted(a % ndim for a in axes)
    sizes = dict(zip(wanted, weight.shape, strict=True))
    return weight.reshape(*(sizes.get(a, 1) for a in range(ndim)))


def _scaled(call: Call, y: Tracked, axes: Any) -> Tracked:
    """Return gamma y + beta, those of them that the layer has."""
    if call.get("scale", True):
        y = y * _spread(call.weights["gamma"], axes, y.ndim)
    if call.get("center", True):
        y = y + _spread(call.weights["beta"], axes, y.ndim)
    return y


def _normalized(call: Call, x: Tracked, centre: Tracked, variance: Tracked, axes: Any, epsilon: float) -> Tracked:
    """Return gamma (x - mean) / sqrt(variance + epsilon) + beta; also as x a + (beta - mean a)."""
    root = sqrt(variance + epsilon)
    y = _scaled(call, (x - centre) / root, axes)
    a = 1.0 / root
    if call.get("scale", True):
        a = a * _spread(call.weights["gamma"], axes, x.ndim)
    shift = -(centre * a)
    if call.get("center", True):
        shift = shift + _spread(call.weights["beta"], axes, x.ndim)
    return no_better_than(y, x * a + shift)


def _axes(call: Call) -> list[int]:
    given = call.get("axis", -1)
    return [given] if isinstance(given, int) else list(given)


@defines("LayerNormalization")
def layer_normalization(call: Call) -> Tracked:
    """LayerNormalization: each example's own mean and variance over the axes; epsilon is 0.001."""
    axes = _axes(call)
    centre, variance = moments(call.x, tuple(axes))
    return _normalized(call, call.x, centre, variance, axes, call.get("epsilon", 1e-3))


@defines("RMSNormalization")
def rms_normalization(call: Call) -> Tracked:
    """RMSNormalization: x / sqrt(mean(x²) + epsilon) * scale; epsilon is 1e-6."""
    axes = _axes(call)
    root = sqrt(mean(square(call.x), tuple(axes), keepdims=True) + call.get("epsilon", 1e-6))
    return call.x / root * _spread(call.weights["scale"], axes, call.x.ndim)


@defines("GroupNormalization")
def group_normalization(call: Call) -> Tracked:
    """GroupNormalization: mean and variance over the spatial axes and the channels of one group."""
    x, axis = call.x, call.get("axis", -1) % call.x.ndim
    channels = x.shape[axis]
    groups = channels if call.get("groups", 32) == -1 else call.get("groups", 32)
    shape = (*x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :])
    parts = x.reshape(*shape)
    reduced = tuple(a for a in range(1, parts.ndim) if a != axis)
    # Every channel gets its group's statistics.
    centre, variance = (
        (m + np.zeros((*(1,) * (axis + 1), shape[axis + 1], *(1,) * (parts.ndim - axis - 2)))).reshape(
            *(m.shape[:axis]), channels, *(1,) * (x.ndim - axis - 1)
        )
        for m in moments(parts, reduced)
    )
    return _normalized(call, x, centre, variance, [axis], call.get("epsilon", 1e-3))


@defines("UnitNormalization")
def unit_normalization(call: Call) -> Tracked:
    """UnitNormalization: each example's Euclidean norm over the axes becomes 1."""
    return unit(call.x, tuple(_axes(call)))


@defines("BatchNormalization")
def batch_normalization(call: Call) -> Outcome:
    """BatchNormalization: the batch's mean and variance in training, the moving ones in inference.

    ``moving = momentum moving + (1 - momentum) statistic of the batch``, the variance the one that normalizes.
    Masked steps have no part in the statistics; they are normalized all the same. A layer that is frozen runs in
    inference mode, whatever the call (keras.io/api/layers/normalization_layers/batch_normalization).
    """
    x, axis = call.x, call.get("axis", -1) % call.x.ndim
    reduced = tuple(a for a in range(x.ndim) if a != axis)
    moving = [call.weights["moving_mean"], call.weights["moving_variance"]]
    if not call.training or not call.get("trainable", True):
        centre, variance = (_spread(m, [axis], x.ndim) for m in moving)
        return Outcome([_normalized(call, x, centre, variance, [axis], call.get("epsilon", 1e-3))])
    keep = None
    if call.mask is not None:
        mask = np.asarray(call.mask, float)
        keep = np.broadcast_to(mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)), x.shape)
    centre, variance = moments(x, reduced, keep)
    momentum = call.get("momentum", 0.99)
    names = ("moving_mean", "moving_variance")
    state = {}
    for name, before, now in zip(names, moving, (centre, variance), strict=True):
        after = before * momentum + now.exact().reshape(-1) * (1 - momentum)
        # The same as before - (before - now) (1 - momentum), and 1 - momentum is rounded in either.
        state[call.weights.path(name)] = no_better_than(after, before - (before - now.exact().reshape(-1)) * momentum)
    y = _normalized(call, x, centre, variance, [axis], call.get("epsilon", 1e-3))
    return Outcome([y], state)


@defines("SpectralNormalization")
def spectral_normalization(call: Call) -> Outcome:
    """SpectralNormalization: in training the kernel is divided by its largest singular value, by power iteration.

    ``v = norm(u W^T)``, ``u = norm(v W)``, ``sigma = v W u^T``, where W has the kernel's last axis as columns; the
    layer keeps u and the divided kernel.
    """
    inner = call.get("layer")
    if not call.training:
        return call.of(inner, *call.inputs)
    kernel, u = call.weights["kernel"], call.weights["vector_u"]
    table = kernel.reshape(-1, kernel.shape[-1]).exact()
    u = u.exact()
    for _ in range(call.get("power_iterations", 1)):
        v = unit(matmul(u, table.transpose(1, 0)), None)
        u = unit(matmul(v, table), None)
    sigma = matmul(matmul(v, table), u.transpose(1, 0)).reshape()
    divided = kernel / sigma
    name = call.weights.path("kernel")
    inside = replace(call.weights, by_path={**call.weights.by_path, name: divided})
    found = call.of(inner, *call.inputs, weights=inside)
    return Outcome(found.outputs, {name: divided.exact(), call.weights.path("vector_u"): u})
