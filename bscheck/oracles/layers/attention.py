"""Attention layers.

Sources: Luong et al. (2015) for `Attention`, Bahdanau et al. (2015) for `AdditiveAttention`, Vaswani et al. (2017) for
multi-head attention, Ainslie et al. (2023) for grouped queries; keras.io/api/layers/attention_layers for options.
Dropout leaves out weights of the values in training (Srivastava et al. 2014); which ones is read from the outputs, as
the combination of values that each of them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.oracles.layers import Call, Outcome, defines
from bscheck.oracles.layers.activations import masked_softmax, softmax
from bscheck.oracles.layers.stochastic import alike_share, dropped_share
from bscheck.oracles.layers.tracked import Array, Tracked, constant, einsum, matmul, select, tanh, total


def _allowed(shape: Sequence[int], call: Call, masks: Sequence[Any]) -> Array | None:
    """Return which keys each query may look at: those of every mask, and under the causal mask none after it."""
    masks = [np.asarray(m, bool) for m in masks if m is not None]
    if call.options.get("use_causal_mask"):
        masks.append(np.tril(np.ones(shape[-2:], bool)))
    if not masks:
        return None
    found = np.ones(shape, bool)
    for mask in masks:
        found = found & mask
    return found


def _weights(scores: Tracked, allowed: Array | None) -> Tracked:
    return softmax(scores) if allowed is None else masked_softmax(scores, allowed)


def _dropped(call: Call, weights: Tracked, found: Array) -> tuple[Tracked, float]:
    """Return the weights after dropout, and how rare such a draw is.

    `found` are the factors of the values in the outputs, in float64: 0, or the weight over 1 - rate.
    """
    rate = call.get("dropout", 0.0)
    kept = found > weights.value / (2 * (1 - rate))
    left = select(kept, weights * constant(1 / (1 - rate), call.u), 0.0, call.u)
    # Neither examples nor values are dropped together.
    alike = (alike_share(draws, np.ones_like(draws), rate) for draws in (kept, np.moveaxis(kept, -1, 0)))
    return left, max(dropped_share(kept, rate), *alike)


def _drops(call: Call) -> bool:
    return bool(call.training and call.get("dropout", 0.0))


def _looked_up(call: Call, scores: Tracked, value: Tracked) -> Outcome:
    """Return the values weighed by the softmax of the scores; masked queries give zeros."""
    query_mask, value_mask = (*(call.mask or ()), None, None)[:2]
    masks = [] if value_mask is None else [np.asarray(value_mask)[:, None, :]]
    weights, chance = _weights(scores, _allowed(scores.shape, call, masks)), 0.0
    if _drops(call):
        weights, chance = _dropped(call, weights, call.seen[0] @ np.linalg.pinv(value.value))
    y = matmul(weights, value)
    if query_mask is not None:
        y = y * np.asarray(query_mask, float)[:, :, None]
    return Outcome([y, weights] if call.options.get("return_attention_scores") else [y], chance=chance)


@defines("Attention")
def attention(call: Call) -> Outcome:
    """Attention: scores are dot products, or sums of tanh(query + key); a learned scale multiplies them."""
    query, value, *rest = call.inputs
    key = rest[0] if rest else value
    if call.get("score_mode", "dot") == "dot":
        scores = einsum("bqd,bkd->bqk", query, key)
        scaled = scores * call.weights["scale"] if call.get("use_scale", False) else scores
    else:
        inner = _pairs(query) + key.reshape(key.shape[0], 1, *key.shape[1:])
        if call.get("use_scale", False):
            inner = inner * call.weights["scale"]
        scaled = total(tanh(inner), -1) * call.weights["concat_score_weight"]
    return _looked_up(call, scaled, value)


def _pairs(query: Tracked) -> Tracked:
    return query.reshape(query.shape[0], query.shape[1], 1, query.shape[2])


@defines("AdditiveAttention")
def additive_attention(call: Call) -> Outcome:
    """AdditiveAttention: scores are sums of scale tanh(query + key)."""
    query, value, *rest = call.inputs
    key = rest[0] if rest else value
    inner = tanh(_pairs(query) + key.reshape(key.shape[0], 1, *key.shape[1:]))
    if call.get("use_scale", True):
        inner = inner * call.weights["scale"]
    return _looked_up(call, total(inner, -1), value)


def _projected(call: Call, x: Tracked, name: str) -> Tracked:
    """Return ``x W + b`` for every head: (examples, time, heads, size)."""
    y = einsum("btd,dhk->bthk", x, call.weights[f"{name}/kernel"])
    return y + call.weights[f"{name}/bias"] if call.get("use_bias", True) else y


def _masks(call: Call) -> list[Any]:
    """Return the masks ready to meet (examples, queries, keys)."""
    found = [call.masks[n][:, None, :] for n in ("value_mask", "key_mask") if call.masks.get(n) is not None]
    if call.masks.get("query_mask") is not None:
        found.append(call.masks["query_mask"][:, :, None])
    if call.masks.get("attention_mask") is not None:
        found.append(call.masks["attention_mask"])
    return found


def _heads(call: Call, query: Tracked, key: Tracked, value: Tracked) -> Outcome:
    """Return the attention of every head, joined by the output projection, and its weights where asked for."""
    size = query.shape[-1]
    scores = einsum("bqhk,bthk->bhqt", query, key) * constant(1 / np.sqrt(size), call.u)
    masks = [m[:, None] for m in _masks(call)]
    weights, chance = _weights(scores, _allowed(scores.shape, call, masks)), 0.0
    kernel = call.weights["attention_output/kernel"]
    bias = call.weights["attention_output/bias"] if call.get("use_bias", True) else None
    if _drops(call):
        # What each value of each head adds to an output.
        parts = np.einsum("bthv,hvo->bhto", value.value, kernel.value)
        b, h, t, o = parts.shape
        given = call.seen[0] - (0.0 if bias is None else bias.value)
        factors = (given @ np.linalg.pinv(parts.reshape(b, h * t, o))).reshape(b, -1, h, t)
        weights, chance = _dropped(call, weights, factors.transpose(0, 2, 1, 3))
    y = einsum("bqhv,hvo->bqo", einsum("bhqt,bthv->bqhv", weights, value), kernel)
    if bias is not None:
        y = y + bias
    return Outcome([y, weights] if call.options.get("return_attention_scores") else [y], chance=chance)


@defines("MultiHeadAttention")
def multi_head_attention(call: Call) -> Outcome:
    """MultiHeadAttention: softmax(Q K^T / sqrt(key_dim)) V for every head; inputs are query, value, key."""
    query, value, *rest = call.inputs
    key = rest[0] if rest else value
    parts = {"query": query, "key": key, "value": value}
    return _heads(call, *(_projected(call, x, name) for name, x in parts.items()))


@defines("GroupQueryAttention", "GroupedQueryAttention")
def grouped_query_attention(call: Call) -> Outcome:
    """GroupQueryAttention: every key and value head serves a group of neighbouring query heads."""
    query, value, *rest = call.inputs
    key = rest[0] if rest else value
    times = call.get("num_query_heads") // call.get("num_key_value_heads")
    heads = [_projected(call, x, name) for x, name in ((key, "key"), (value, "value"))]
    shared = [h.rearranged(lambda a: np.repeat(a, times, axis=2)) for h in heads]
    return _heads(call, _projected(call, query, "query"), *shared)
