"""Pooling: keras.io/api/layers/pooling_layers; adaptive windows after torch.nn.AdaptiveAvgPool1d's documentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, defines
from bscheck.oracles.layers.convolution import channels_back, channels_last, each, margins, windows
from bscheck.oracles.layers.tracked import Tracked, largest, mean, pad, stack, total


def _windows(call: Call, x: Tracked, fill: float) -> tuple[Tracked, tuple[int, ...]]:
    """Return the windows and the axes within them."""
    dimensions = x.ndim - 2
    size = each(call.get("pool_size", 2), dimensions)
    strides = call.get("strides")
    stride = size if strides is None else each(strides, dimensions)
    around = margins(call.get("padding", "valid"), x.shape[1:-1], size, stride)
    wide = pad(x, [(0, 0), *around, (0, 0)], fill)
    found = windows(wide, size, stride, (1,) * dimensions)
    return found, tuple(range(1 + dimensions, 1 + 2 * dimensions))


@defines("MaxPooling1D", "MaxPooling2D", "MaxPooling3D")
def max_pooling(call: Call) -> Tracked:
    """MaxPooling: the largest of each window; what padding adds is smaller than everything."""
    x, first = channels_last(call)
    found, axes = _windows(call, x, -np.inf)
    return channels_back(largest(found, axes), first)


@defines("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
def average_pooling(call: Call) -> Tracked:
    """AveragePooling: the mean of each window; what padding adds does not count."""
    x, first = channels_last(call)
    found, axes = _windows(call, x, 0.0)
    ones = replace(x, value=np.ones(x.shape)).exact()
    inside, _ = _windows(call, ones, 0.0)
    return channels_back(total(found, axes) / inside.value.sum(axis=axes), first)


def _pooled(call: Call, y: Tracked, axes: tuple[int, ...]) -> Tracked:
    """Return the pooled array, its axes of one dropped unless they are kept."""
    return y if call.get("keepdims", False) else y.reshape(*(n for a, n in enumerate(y.shape) if a not in axes))


def _everywhere(call: Call) -> tuple[int, ...]:
    first = 2 if call.get("data_format") == "channels_first" else 1
    return tuple(range(first, first + call.x.ndim - 2))


@defines("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
def global_max_pooling(call: Call) -> Tracked:
    """GlobalMaxPooling: the largest over all positions."""
    axes = _everywhere(call)
    return _pooled(call, largest(call.x, axes, keepdims=True), axes)


@defines("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
def global_average_pooling(call: Call) -> Tracked:
    """GlobalAveragePooling: the mean over all positions; masked ones do not count."""
    axes = _everywhere(call)
    if call.mask is None:
        return _pooled(call, mean(call.x, axes, keepdims=True), axes)
    keep = np.asarray(call.mask, float)
    keep = keep[:, None, :] if axes == (2,) else keep[:, :, None]
    count = keep.sum(axis=axes, keepdims=True)
    y = total(call.x * keep, axes, keepdims=True) / np.where(count > 0, count, 1.0)
    # Nothing says what the mean of no entries is.
    return _pooled(call, replace(y, value=np.where(count > 0, y.value, np.nan)), axes)


def _adaptive(call: Call, pool: Any) -> Tracked:
    """Return each axis pooled to the wanted length: window i is from floor(i n / m) to ceil((i + 1) n / m)."""
    x, first = channels_last(call)
    wanted = each(call.get("output_size"), x.ndim - 2)
    for axis, m in enumerate(wanted, start=1):
        n = x.shape[axis]
        before = (slice(None),) * axis
        parts = [pool(x[(*before, slice(i * n // m, -(-(i + 1) * n // m)))], axis) for i in range(m)]
        x = stack(parts, axis)
    return channels_back(x, first)


@defines("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D")
def adaptive_average_pooling(call: Call) -> Tracked:
    """AdaptiveAveragePooling: the mean of each of ``output_size`` windows that cover the axis."""
    return _adaptive(call, mean)


@defines("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D")
def adaptive_max_pooling(call: Call) -> Tracked:
    """AdaptiveMaxPooling: the largest of each of ``output_size`` windows that cover the axis."""
    return _adaptive(call, largest)
