"""What the linear models of `bscheck.surface.penalties` give, with penalties, masks and class weights: NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.oracles.penalties import l1_l2
from bscheck.surface.penalties import ACTIVITY, ADDED, WEIGHT_L1, WEIGHT_L2

Array = np.ndarray[Any, Any]

#: Roundings in any number that a linear model reports: products of FEATURES and HIDDEN terms, a mean over at most 32
#: examples of OUTPUTS entries, and a few more for weights, penalties and running means.
ROUNDINGS = 160


def _calls(kind: str) -> int:
    """Return how often the hidden layer is called, its outputs added."""
    return 2 if kind == "shared" else 1


def penalized_loss(kind: str, weights: Sequence[Array], x: Array, y: Array, w: Array | None) -> tuple[float, float]:
    """Return the loss of one batch with its penalties, and the magnitude that it is summed from.

    The mean squared error over the batch; ``l1 sum |w| + l2 sum w**2`` of the weights once; the hidden layer's activity
    penalty divided by the number of examples (keras.io/api/layers/regularizers); what the layer adds itself, a mean.
    A layer that is called twice (``shared``) has two activities.
    """
    kernel, bias, out, offset = weights
    calls = _calls(kind)
    hidden = x @ kernel + bias
    rows = ((calls * hidden @ out + offset - y) ** 2).mean(axis=1)
    most = (calls * (np.abs(x) @ np.abs(kernel) + np.abs(bias)) @ np.abs(out) + np.abs(offset) + np.abs(y)) ** 2
    counted = np.ones(len(x)) if w is None else w
    penalty = 0.0
    if kind in ("weights", "all"):
        penalty += l1_l2(kernel, WEIGHT_L1, WEIGHT_L2) + l1_l2(bias, 0.0, WEIGHT_L2)
    if kind == "shared":
        penalty += l1_l2(kernel, 0.0, WEIGHT_L2) + l1_l2(out, 0.0, WEIGHT_L2)
    if kind in ("activity", "all", "shared"):
        penalty += calls * l1_l2(hidden, 0.0, ACTIVITY) / len(x)
    if kind in ("add_loss", "all"):
        penalty += ADDED * float((hidden**2).mean())
    larger = 4 * (np.abs(x) @ np.abs(kernel) + np.abs(bias)).max() ** 2
    return float((counted * rows).mean() + penalty), float((counted * most.mean(axis=1)).mean() + penalty + larger)


def penalized_slopes(kind: str, weights: Sequence[Array], x: Array, y: Array, w: Array | None) -> list[Array]:
    """Return the gradient of `penalized_loss` by the weights, by the chain rule."""
    kernel, bias, out, offset = weights
    hidden = x @ kernel + bias
    n = len(x)
    counted = np.ones(n) if w is None else w
    calls = _calls(kind)
    error = 2 * (calls * hidden @ out + offset - y) * counted[:, None] / (n * y.shape[1])
    inner = calls * error @ out.T
    if kind in ("activity", "all", "shared"):
        inner = inner + 2 * calls * ACTIVITY * hidden / n
    if kind in ("add_loss", "all"):
        inner = inner + 2 * ADDED * hidden / hidden.size
    slopes = [x.T @ inner, inner.sum(axis=0), calls * hidden.T @ error, error.sum(axis=0)]
    if kind == "shared":
        slopes[0] = slopes[0] + 2 * WEIGHT_L2 * kernel
        slopes[2] = slopes[2] + 2 * WEIGHT_L2 * out
    if kind in ("weights", "all"):
        slopes[0] = slopes[0] + WEIGHT_L1 * np.sign(kernel) + 2 * WEIGHT_L2 * kernel
        slopes[1] = slopes[1] + 2 * WEIGHT_L2 * bias
    return slopes


def masked_rows(weights: Sequence[Array], x: Array, y: Array) -> tuple[Array, Array]:
    """Return the squared error of each step, shape (examples, steps), and which steps are not masked."""
    kernel, bias = weights
    return ((x @ kernel + bias - y) ** 2).mean(axis=-1), (x != 0).any(axis=-1)


def masked_slopes(weights: Sequence[Array], x: Array, y: Array, w: Array | None) -> list[Array]:
    """Return the gradient of the mean over one batch's unmasked steps of the weighted squared error."""
    kernel, bias = weights
    kept = (x != 0).any(axis=-1).astype(np.float64)
    c = kept if w is None else kept * w
    error = 2 * (x @ kernel + bias - y) * c[..., None] / (max(kept.sum(), 1.0) * y.shape[-1])
    return [np.einsum("ntf,nto->fo", x, error), error.sum(axis=(0, 1))]
