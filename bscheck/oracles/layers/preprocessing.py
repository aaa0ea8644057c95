"""Preprocessing layers: keras.io/api/layers/preprocessing_layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, Outcome, defines
from bscheck.oracles.layers.normalization import moments
from bscheck.oracles.layers.tracked import Array, Tracked, constant, maximum, sqrt


@defines("Rescaling")
def rescaling(call: Call) -> Tracked:
    """Rescaling: x scale + offset."""
    return call.x * constant(call.get("scale"), call.u) + constant(call.get("offset", 0.0), call.u)


@defines("Normalization")
def normalization(call: Call) -> Tracked:
    """Normalization: (x - mean) / sqrt(variance), both given or those of the data adapted to; or the inverse."""
    axis = call.get("axis", -1)
    axes = () if axis is None else tuple(a % call.x.ndim for a in np.atleast_1d(axis))
    reduced = tuple(a for a in range(call.x.ndim) if a not in axes)
    if len(call.inputs) > 1:
        centre, variance = _in_batches(*moments(call.inputs[1], reduced), call.inputs[1], reduced)
    else:
        kept = [1 if a in reduced else call.x.shape[a] for a in range(call.x.ndim)]
        centre, variance = (constant(np.reshape(call.get(k), kept), call.u) for k in ("mean", "variance"))
    deviation = maximum(sqrt(variance), 1e-7, call.u)
    return call.x * deviation + centre if call.get("invert", False) else (call.x - centre) / deviation


def _in_batches(centre: Tracked, variance: Tracked, data: Tracked, axes: Any) -> tuple[Tracked, Tracked]:
    """Return moments with room for what the same ones round to when they are put together from batches.

    Each of at most n batches rescales what is there and adds its own: four roundings of a mean no larger than the
    largest entry A, and sixteen of a variance and of squared differences of means, which are no larger than 4 A^2.
    """
    largest = np.abs(data.value).max(axis=axes, keepdims=True, initial=0.0)
    room = len(data.value) * data.u * largest
    return (
        replace(centre, error=centre.error + 4 * room),
        replace(variance, error=variance.error + 64 * room * largest),
    )


def _whole(values: Array, call: Call) -> Tracked:
    """Return whole numbers, which are exact."""
    return constant(np.asarray(values, np.float64), call.u)


def _encoded(index: Array, tokens: int, mode: str, call: Call, weights: Array | None = None) -> Tracked:
    """Return indices as they are, one-hot, or for each example which of them occur (multi-hot) and how often."""
    if mode == "int":
        return _whole(index, call)
    hot = np.eye(tokens)[index]
    if mode == "one_hot":
        return _whole(hot, call)
    if mode == "multi_hot":
        return _whole(hot.max(axis=-2), call)
    weights = np.ones(index.shape) if weights is None else weights
    counted = (hot * weights[..., None]).sum(axis=-2)
    return Tracked(counted, index.shape[-1] * call.u * np.abs(counted), u=call.u)


@defines("CategoryEncoding")
def category_encoding(call: Call) -> Tracked:
    """CategoryEncoding: one-hot, multi-hot, or (weighed) counts of each example's integers."""
    weights = call.inputs[1].value if len(call.inputs) > 1 else None
    index = call.x.value.astype(int)
    return _encoded(index, call.get("num_tokens"), call.get("output_mode", "multi_hot"), call, weights)


@defines("Discretization")
def discretization(call: Call) -> Tracked:
    """Discretization: the number of boundaries that are not above x."""
    bounds = np.asarray(call.get("bin_boundaries"))
    index = (call.x.value[..., None] >= bounds).sum(axis=-1)
    return _encoded(index, len(bounds) + 1, call.get("output_mode", "int"), call)


@defines("IntegerLookup")
def integer_lookup(call: Call) -> Tracked:
    """IntegerLookup: 1 + the place in the vocabulary, 0 where it is not there; after the mask token, if any."""
    vocabulary = list(call.get("vocabulary"))
    mask = call.get("mask_token")
    first = 0 if mask is None else 1
    values = call.x.value.astype(int)
    index = np.full(values.shape, first)
    for place, token in enumerate(vocabulary):
        index[values == token] = first + 1 + place
    if mask is not None:
        index[values == mask] = 0
    return _encoded(index, first + 1 + len(vocabulary), call.get("output_mode", "int"), call)


@defines("CenterCrop")
def center_crop(call: Call) -> Outcome:
    """CenterCrop: the middle of each image; where it cannot be in the middle, nearer the start."""
    rows, columns = ((n - call.get(k)) // 2 for n, k in zip(call.x.shape[-3:-1], ("height", "width"), strict=True))
    y = call.x[..., rows : rows + call.get("height"), columns : columns + call.get("width"), :]
    return Outcome([y])
