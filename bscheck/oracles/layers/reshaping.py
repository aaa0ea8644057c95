"""Layers that move, repeat or drop entries: keras.io/api/layers/reshaping_layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, defines
from bscheck.oracles.layers.tracked import Array, Tracked, constant, matmul, pad


@defines("Reshape")
def reshape(call: Call) -> Tracked:
    """Reshape: each example in another shape."""
    examples = call.x.shape[0]
    wanted = list(call.get("target_shape"))
    if -1 in wanted:
        wanted[wanted.index(-1)] = int(np.prod(call.x.shape[1:])) // -int(np.prod(wanted))
    return call.x.reshape(examples, *wanted)


@defines("Flatten")
def flatten(call: Call) -> Tracked:
    """Flatten: each example as one row; channels go last first."""
    x = call.x
    if call.get("data_format") == "channels_first" and x.ndim > 2:
        x = x.transpose(0, *range(2, x.ndim), 1)
    return x.reshape(x.shape[0], int(np.prod(x.shape[1:])))


@defines("Permute")
def permute(call: Call) -> Tracked:
    """Permute: the axes in another order, counted from 1."""
    return call.x.transpose(0, *call.get("dims"))


@defines("RepeatVector")
def repeat_vector(call: Call) -> Tracked:
    """RepeatVector: each example's vector n times."""
    return call.x.rearranged(lambda a: np.repeat(a[:, None], call.get("n"), axis=1))


def pairs(given: Any, dimensions: int) -> list[tuple[int, int]]:
    """Return what is given as one number, one for each axis, or two for each axis, as two for each axis."""
    if isinstance(given, int):
        return [(given, given)] * dimensions
    if dimensions == 1 and not isinstance(given[0], (list, tuple)):
        return [(given[0], given[1])]
    return [(g, g) if isinstance(g, int) else (g[0], g[1]) for g in given]


def _spatial(call: Call) -> tuple[int, int]:
    """Return the number of spatial axes and the first of them."""
    return call.x.ndim - 2, 2 if call.get("data_format") == "channels_first" else 1


@defines("Cropping1D", "Cropping2D", "Cropping3D")
def cropping(call: Call) -> Tracked:
    """Cropping: entries dropped from both ends of each spatial axis."""
    dimensions, first = _spatial(call)
    index: list[Any] = [slice(None)] * call.x.ndim
    for k, (low, high) in enumerate(pairs(call.get("cropping"), dimensions)):
        index[first + k] = slice(low, call.x.shape[first + k] - high)
    return call.x[tuple(index)]


@defines("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def zero_padding(call: Call) -> Tracked:
    """ZeroPadding: zeros added to both ends of each spatial axis."""
    dimensions, first = _spatial(call)
    widths = [(0, 0)] * call.x.ndim
    widths[first : first + dimensions] = pairs(call.get("padding"), dimensions)
    return pad(call.x, widths)


@defines("UpSampling1D", "UpSampling2D", "UpSampling3D")
def up_sampling(call: Call) -> Tracked:
    """UpSampling: each entry repeated along each spatial axis, or interpolated linearly at pixel centres."""
    dimensions, first = _spatial(call)
    size = call.get("size", 2)
    sizes: Sequence[int] = [size] * dimensions if isinstance(size, int) else size
    x = call.x
    for k, times in enumerate(sizes):
        if call.get("interpolation", "nearest") == "bilinear":
            x = _interpolated(x, first + k, times)
        else:
            x = x[(slice(None),) * (first + k) + (np.repeat(np.arange(x.shape[first + k]), times),)]
    return x


def _interpolated(x: Tracked, axis: int, times: int) -> Tracked:
    """Return the axis `times` as long: entry i lies at (i + 1/2) / times - 1/2 of the old one, ends held."""
    order = [*(a for a in range(x.ndim) if a != axis), axis]
    back = np.argsort(order)
    table = constant(_linear(x.shape[axis], times), x.u)
    # A position is computed in three operations, on numbers up to the length.
    table = replace(table, error=table.error + 4 * x.u * x.shape[axis] * (table.value > 0))
    return matmul(x.transpose(*order), table).transpose(*map(int, back))


def _linear(length: int, times: int) -> Array:
    at = np.clip((np.arange(length * times) + 0.5) / times - 0.5, 0, length - 1)
    low = np.minimum(at.astype(int), max(length - 2, 0))
    table = np.zeros((length, length * times))
    np.add.at(table, (low, np.arange(len(at))), 1 - (at - low))
    np.add.at(table, (np.minimum(low + 1, length - 1), np.arange(len(at))), at - low)
    return table
