"""Dense layers, embeddings and the layers that pass their input on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bscheck.oracles.layers import Call, Outcome, defines
from bscheck.oracles.layers.activations import activate
from bscheck.oracles.layers.tracked import Tracked, constant, einsum, matmul, tanh


def adapted(call: Call, name: str) -> Tracked:
    """Return a weight W with its low-rank adaptation, if it has one: W + A B (Hu et al. 2021)."""
    if not call.get("lora_rank"):
        return call.weights[name]
    return call.weights[name] + matmul(call.weights[f"lora_{name}_a"], call.weights[f"lora_{name}_b"])


def affine(call: Call, product: Callable[[Tracked, Tracked], Tracked]) -> Tracked:
    """Return activation(product(x, kernel) + bias)."""
    y = product(call.x, adapted(call, "kernel"))
    if call.get("use_bias", True):
        y = y + call.weights["bias"]
    return activate(call.get("activation"), y)


@defines("Dense")
def dense(call: Call) -> Tracked:
    """Dense: x W + b over the last axis."""
    return affine(call, matmul)


@defines("EinsumDense")
def einsum_dense(call: Call) -> Tracked:
    """EinsumDense: the Einstein sum of x and the kernel; the bias has the output axes that `bias_axes` names."""
    equation = call.get("equation")
    left, kernel, right = equation.replace("->", ",").split(",")
    dots = "PQRST"[: call.x.ndim - len(left.replace("...", ""))]
    right = right.replace("...", dots)
    y = einsum(f"{left.replace('...', dots)},{kernel}->{right}", call.x, adapted(call, "kernel"))
    axes = call.get("bias_axes")
    if axes:
        bias = call.weights["bias"]
        order = [axes.index(letter) for letter in right if letter in axes]
        if bias.ndim == len(axes):
            sizes = dict(zip(axes, bias.shape, strict=True))
            bias = bias.transpose(*order).reshape(*(sizes.get(letter, 1) for letter in right))
        y = y + bias
    return activate(call.get("activation"), y)


def _rows(table: Tracked, index: Tracked) -> Tracked:
    return table[index.value.astype(int)]


@defines("Embedding")
def embedding(call: Call) -> Outcome:
    """Embedding: the table's row of each index; with ``mask_zero`` an index of 0 is masked."""
    rows = _rows(adapted(call, "embeddings"), call.x)
    if not call.get("mask_zero", False):
        return Outcome([rows])
    return Outcome([rows, constant((call.x.value != 0).astype(float), call.u)])


@defines("ReversibleEmbedding")
def reversible_embedding(call: Call) -> Tracked:
    """ReversibleEmbedding: rows of the table, or in reverse the products with all its rows (Press and Wolf 2017).

    ``logit_soft_cap`` c bounds the products: c tanh(y / c) (Gemma 2, 2024).
    """
    if not call.options.get("reverse"):
        return _rows(call.weights["embeddings"], call.x)
    tied = call.get("tie_weights", True)
    table = call.weights["embeddings"].transpose(1, 0) if tied else call.weights["reverse_embeddings"]
    y = matmul(call.x, table)
    cap = call.get("logit_soft_cap")
    return y if cap is None else tanh(y / cap) * cap


@defines("Identity", "ActivityRegularization")
def identity(call: Call) -> Outcome:
    """Return the inputs."""
    return Outcome(list(call.inputs))


@defines("Lambda")
def function(call: Call) -> Tracked:
    """Lambda: the function of the input, with its `arguments`."""
    factor: float = call.get("arguments")["factor"]
    return call.x * factor + call.x * call.x


@defines("Masking")
def masking(call: Call) -> Outcome:
    """Masking: steps all of whose features equal the mask value become 0 and masked."""
    kept = np.any(call.x.value != call.get("mask_value", 0.0), axis=-1)
    return Outcome([call.x * kept[..., None].astype(float), constant(kept.astype(float), call.u)])
