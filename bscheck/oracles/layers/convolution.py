"""Convolutions, by their sum over kernel positions and channels.

Sources: Dumoulin and Visin (2016), A guide to convolution arithmetic; Chollet (2017) for separable ones; the meaning
of ``same`` from tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2 (the odd one is added at the end).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, defines
from bscheck.oracles.layers.activations import activate
from bscheck.oracles.layers.feedforward import adapted
from bscheck.oracles.layers.tracked import Tracked, concatenate, einsum, pad

#: Letters of the output's, the kernel's and no other axes.
OUTPUT, KERNEL = "xyz", "uvw"


def each(given: Any, dimensions: int) -> tuple[int, ...]:
    """Return an option given as one number, or as one for each spatial axis."""
    return (given,) * dimensions if isinstance(given, int) else tuple(given)


def channels_last(call: Call) -> tuple[Tracked, bool]:
    """Return the first input with its channels last, and whether they were first."""
    x, first = call.x, call.get("data_format") == "channels_first"
    return (x.transpose(0, *range(2, x.ndim), 1) if first else x), first


def channels_back(y: Tracked, first: bool) -> Tracked:
    """Return the output with its channels where the layer has them."""
    return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1)) if first else y


def margins(padding: str, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Return how many entries are added to both ends of each axis; `window` is the extent after dilation."""
    if padding == "valid":
        return [(0, 0)] * len(sizes)
    if padding == "causal":
        return [(w - 1, 0) for w in window]
    added = [max((-(-n // s) - 1) * s + w - n, 0) for n, w, s in zip(sizes, window, stride, strict=True)]
    return [(a // 2, a - a // 2) for a in added]


def windows(x: Tracked, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tracked:
    """Return ``(examples, *output axes, *window axes, channels)``, the input having its margins already."""
    dimensions = len(size)
    index: list[Any] = []
    for k, (n, w, s, d) in enumerate(zip(x.shape[1:-1], size, stride, dilation, strict=True)):
        at = np.arange((n - (w - 1) * d - 1) // s + 1)[:, None] * s + np.arange(w) * d
        shape = [1] * (2 * dimensions)
        shape[k], shape[dimensions + k] = at.shape
        index.append(at.reshape(shape))
    return x[(slice(None), *index)]


def convolve(
    x: Tracked,
    kernel: Tracked,
    *,
    strides: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
    depthwise: bool = False,
) -> Tracked:
    """Return ``y[n,o,f] = sum over k, c of x[n, o s + k d - margin, c] kernel[k,c,f]``.

    With `groups` each part of the channels meets its own part of the filters; `depthwise` makes each channel a
    group of its own, its kernel ``(k, c, multiplier)`` and its outputs next to each other.
    """
    dimensions = x.ndim - 2
    stride, step = each(strides, dimensions), each(dilation, dimensions)
    size = kernel.shape[:dimensions]
    extent = [(k - 1) * d + 1 for k, d in zip(size, step, strict=True)]
    wide = pad(x, [(0, 0), *margins(padding, x.shape[1:-1], extent, stride), (0, 0)])
    patches = windows(wide, size, stride, step)
    o, k = OUTPUT[:dimensions], KERNEL[:dimensions]
    if depthwise:
        y = einsum(f"n{o}{k}c,{k}cm->n{o}cm", patches, kernel)
        return y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1])
    inputs, filters = x.shape[-1] // groups, kernel.shape[-1] // groups
    parts = [
        einsum(
            f"n{o}{k}c,{k}cf->n{o}f",
            patches[..., g * inputs : (g + 1) * inputs],
            kernel[..., g * filters : (g + 1) * filters],
        )
        for g in range(groups)
    ]
    return concatenate(parts, -1)


def _finish(call: Call, y: Tracked, first: bool) -> Tracked:
    if call.get("use_bias", True):
        y = y + call.weights["bias"]
    return channels_back(activate(call.get("activation"), y), first)


def _geometry(call: Call) -> dict[str, Any]:
    return {
        "strides": call.get("strides", 1),
        "padding": call.get("padding", "valid"),
        "dilation": call.get("dilation_rate", 1),
    }


@defines("Conv1D", "Conv2D", "Conv3D")
def convolution(call: Call) -> Tracked:
    """Conv: cross-correlation with each filter."""
    x, first = channels_last(call)
    y = convolve(x, adapted(call, "kernel"), **_geometry(call), groups=call.get("groups", 1))
    return _finish(call, y, first)


@defines("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(call: Call) -> Tracked:
    """DepthwiseConv: each channel with filters of its own."""
    x, first = channels_last(call)
    return _finish(call, convolve(x, call.weights["kernel"], **_geometry(call), depthwise=True), first)


@defines("SeparableConv1D", "SeparableConv2D")
def separable(call: Call) -> Tracked:
    """SeparableConv: a depthwise convolution, then one with a kernel of extent 1."""
    x, first = channels_last(call)
    y = convolve(x, call.weights["depthwise_kernel"], **_geometry(call), depthwise=True)
    return _finish(call, convolve(y, call.weights["pointwise_kernel"]), first)


@defines("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def transposed(call: Call) -> Tracked:
    """ConvTranspose: the adjoint of a convolution, ``y[n, i s + k d - margin, f] += x[n,i,c] kernel[k,f,c]``.

    ``same`` makes the output ``n s`` long, ``valid`` as long as what the kernel reaches, at least ``n s``.
    """
    x, first = channels_last(call)
    kernel, dimensions = call.weights["kernel"], x.ndim - 2
    stride = each(call.get("strides", 1), dimensions)
    step = each(call.get("dilation_rate", 1), dimensions)
    size = kernel.shape[:dimensions]
    extent = [(k - 1) * d + 1 for k, d in zip(size, step, strict=True)]
    spread = _between_zeros(x, stride)
    reach = pad(spread, [(0, 0), *((e - 1, e - 1) for e in extent), (0, 0)])
    patches = windows(reach, size, (1,) * dimensions, step)
    o, k = OUTPUT[:dimensions], KERNEL[:dimensions]
    flipped = kernel.rearranged(lambda a: np.flip(a, tuple(range(dimensions))))
    y = einsum(f"n{o}{k}c,{k}fc->n{o}f", patches, flipped)
    same = call.get("padding", "valid") == "same"
    index: list[Any] = [slice(None)]
    widths = [(0, 0)]
    for n, s, e in zip(x.shape[1:-1], stride, extent, strict=True):
        start = max(e - s, 0) // 2 if same else 0
        length = n * s if same else (n - 1) * s + max(e, s)
        index.append(slice(start, start + length))
        widths.append((0, max(start + length - ((n - 1) * s + e), 0)))
    return _finish(call, pad(y, [*widths, (0, 0)])[tuple(index)], first)


def _between_zeros(x: Tracked, stride: Sequence[int]) -> Tracked:
    """Return x with ``stride - 1`` zeros between its entries along each spatial axis."""
    shape = [x.shape[0], *((n - 1) * s + 1 for n, s in zip(x.shape[1:-1], stride, strict=True)), x.shape[-1]]
    places = (slice(None), *(slice(None, None, s) for s in stride), slice(None))

    def move(a: Any) -> Any:
        wide = np.zeros(shape)
        wide[places] = a
        return wide

    return x.rearranged(move)
