"""Merging layers: keras.io/api/layers/merging_layers."""

from __future__ import annotations

import functools

from bscheck.oracles.layers import Call, defines
from bscheck.oracles.layers.normalization import unit
from bscheck.oracles.layers.tracked import Tracked, concatenate, einsum, maximum, minimum


def _aligned(call: Call) -> list[Tracked]:
    """Return inputs of fewer axes with axes of one after the examples': they are repeated over them."""
    most = max(x.ndim for x in call.inputs)
    return [x.reshape(x.shape[0], *(1,) * (most - x.ndim), *x.shape[1:]) for x in call.inputs]


@defines("Add")
def add(call: Call) -> Tracked:
    """Add: the sum of the inputs."""
    return functools.reduce(Tracked.__add__, _aligned(call))


@defines("Subtract")
def subtract(call: Call) -> Tracked:
    """Subtract: the first less the second input."""
    a, b = _aligned(call)
    return a - b


@defines("Multiply")
def multiply(call: Call) -> Tracked:
    """Multiply: the product of the inputs."""
    return functools.reduce(Tracked.__mul__, _aligned(call))


@defines("Average")
def average(call: Call) -> Tracked:
    """Average: the mean of the inputs."""
    return add(call) / float(len(call.inputs))


@defines("Maximum")
def larger(call: Call) -> Tracked:
    """Maximum: the largest of the inputs."""
    return functools.reduce(lambda a, b: maximum(a, b, call.u), _aligned(call))


@defines("Minimum")
def smaller(call: Call) -> Tracked:
    """Minimum: the smallest of the inputs."""
    return functools.reduce(lambda a, b: minimum(a, b, call.u), _aligned(call))


@defines("Concatenate")
def joined(call: Call) -> Tracked:
    """Concatenate: the inputs one after the other."""
    return concatenate(call.inputs, call.get("axis", -1))


@defines("Dot")
def dot(call: Call) -> Tracked:
    """Dot: each example's product over one axis of each input; with ``normalize`` the cosine proximity."""
    axes = call.get("axes")
    a, b = call.inputs
    i, j = (axes, axes) if isinstance(axes, int) else axes
    i, j = i % a.ndim, j % b.ndim
    if call.get("normalize", False):
        a, b = unit(a, i), unit(b, j)
    left, right = "bcdef"[: a.ndim], "bghij"[: b.ndim]
    left, right = left[:i] + "z" + left[i + 1 :], right[:j] + "z" + right[j + 1 :]
    kept = "b" + (left + right).replace("b", "").replace("z", "")
    y = einsum(f"{left},{right}->{kept}", a, b)
    return y.reshape(y.shape[0], 1) if y.ndim == 1 else y
