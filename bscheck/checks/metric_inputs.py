"""Targets, predictions and weights for metrics: one kind for each sort of metric, drawn from a case's seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.surface.metrics import CLASSES

Array = np.ndarray[Any, Any]
Drawn = tuple[Array | None, Array]

#: Input dtypes that hold few digits: their values are drawn from eighths, which they hold exactly.
COARSE = ("float16", "bfloat16")


@dataclass(frozen=True)
class Shape:
    """What the drawn arrays look like.

    Attributes
    ----------
    examples, steps : int
        N, and time steps (0: examples are no sequences).
    one : bool
        Whether the other form of targets is drawn: ``(N,)`` for ``(N, 1)``, or labels ``(N, 1)`` for ``(N,)``.
    coarse : bool
        Whether values must fit a half precision.
    """

    examples: int
    steps: int
    one: bool
    coarse: bool

    @property
    def outer(self) -> tuple[int, ...]:
        """Axes of the examples and their steps."""
        return (self.examples, self.steps) if self.steps else (self.examples,)


def draw_inputs(kind: str, rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """Return targets and predictions of a kind, examples first; targets are None for metrics of values alone."""
    return KINDS[kind](rng, shape, options)


def _real(rng: np.random.Generator, size: tuple[int, ...], coarse: bool, scale: float = 1.5) -> Array:
    values = np.clip(rng.normal(0.0, scale, size), -4, 4)
    return np.round(values * 8) / 8 if coarse else values


def _off(y: Array, p: Array) -> Array:
    """Return predictions that differ from the targets: an error of zero has a root with no slope."""
    return np.where(np.abs(p - y) < 0.125, y + 0.5, p)


def _values(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    return None, _real(rng, (*shape.outer, 2), shape.coarse)


def _width(shape: Shape, usual: int = 2) -> int:
    return 1 if shape.one else usual


def _in_other_form(y: Array, shape: Shape) -> Array:
    return y[..., 0] if shape.one else y


def _regression(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y, p = (_real(rng, (*shape.outer, _width(shape)), shape.coarse) for _ in range(2))
    return _in_other_form(y, shape), _off(y, p)


def _vectors(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """Vectors with a clear direction and spread, along the axis that the options name."""
    ramp = np.asarray([-2.0, 0.5, 1.5])
    parts = []
    for _ in range(2):
        order = np.stack([rng.permutation(ramp) for _ in range(int(np.prod(shape.outer)))] or [ramp])
        order = order[: int(np.prod(shape.outer))].reshape(*shape.outer, CLASSES)
        parts.append(order + _real(rng, order.shape, shape.coarse, 0.2))
    return tuple(_axis_first(a, shape, options) for a in parts)  # type: ignore[return-value]


def _axis_first(a: Array, shape: Shape, options: Mapping[str, Any]) -> Array:
    return np.swapaxes(a, 1, 2) if options.get("axis", -1) == 1 and shape.steps else a


def _positive(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y, p = (np.abs(_real(rng, (*shape.outer, _width(shape)), shape.coarse)) + 0.25 for _ in range(2))
    return _in_other_form(y, shape), _off(y, p)


def _hinge(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y = rng.integers(0, 2, (*shape.outer, _width(shape))).astype(np.float64)
    p = _real(rng, y.shape, shape.coarse, 0.75)
    return _in_other_form(2 * y - 1 if rng.integers(2) else y, shape), p


def _binary(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """Labels, and scores in eighths, 0 and 1 among them: they tie with thresholds of quarters."""
    if options.get("top_k"):
        return _multilabel(rng, shape, options)
    wide = {"class_id", "multi_label", "label_weights"} & set(options)
    size = (*shape.outer, CLASSES if wide else _width(shape))
    y = rng.integers(0, 2, size).astype(np.float64)
    p = rng.integers(0, 9, size) / 8.0
    if options.get("from_logits"):
        p = rng.choice([-2.0, -1.0, -0.5, 1.0, 2.0], size)
    return (y if wide else _in_other_form(y, shape)), p


def _probability(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y = rng.integers(0, 2, (*shape.outer, 2)).astype(np.float64)
    if options.get("from_logits"):
        return y, _real(rng, y.shape, shape.coarse)
    return y, rng.integers(1, 16, y.shape) / 16.0 if shape.coarse else rng.uniform(0.05, 0.95, y.shape)


def _distributions(rng: np.random.Generator, size: tuple[int, ...], coarse: bool) -> Array:
    """Return rows that sum to 1, none of their entries small."""
    if coarse:
        cuts = np.sort(rng.random((*size, 13)).argsort(-1)[..., : CLASSES - 1], -1)
        edges = np.concatenate([np.zeros((*size, 1)), cuts, np.full((*size, 1), 13)], -1)
        return (np.diff(edges, axis=-1) + 1) / 16
    raw = rng.uniform(0.1, 1.0, (*size, CLASSES))
    return np.asarray(raw / raw.sum(-1, keepdims=True))


def _distribution(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    return _distributions(rng, shape.outer, shape.coarse), _distributions(rng, shape.outer, shape.coarse)


def _scores(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Array:
    """Return class scores: logits, probabilities, or (for the top k) small numbers that tie."""
    if options.get("from_sorted_ids"):
        ids = rng.random((*shape.outer, CLASSES)).argsort(-1)
        return np.asarray(ids, np.float64)
    if "k" in options:
        return np.asarray(rng.integers(0, 3, (*shape.outer, CLASSES)) / 4.0 + 0.25)
    if options.get("from_logits"):
        return _real(rng, (*shape.outer, CLASSES), shape.coarse)
    return _distributions(rng, shape.outer, shape.coarse)


def _onehot(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y = np.eye(CLASSES)[rng.integers(0, CLASSES, shape.outer)]
    p = _scores(rng, shape, options)
    return _axis_first(y, shape, options), _axis_first(p, shape, options)


def _sparse(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y = rng.integers(0, CLASSES, shape.outer)
    return (y[..., None] if shape.one else y), _scores(rng, shape, options)


def _multilabel(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """Labels, and scores that differ within a row: the largest is one, whatever breaks ties."""
    size = (*shape.outer, CLASSES)
    p = (rng.random((*shape.outer, 7)).argsort(-1)[..., :CLASSES] + 1) / 8.0
    return rng.integers(0, 2, size).astype(np.float64), p


def _pixels(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """One label and one score in eighths for each example or step."""
    return rng.integers(0, 2, shape.outer).astype(np.float64), rng.integers(0, 9, shape.outer) / 8.0


def _equal(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    y, p = (rng.integers(0, 3, (*shape.outer, _width(shape))) for _ in range(2))
    return _in_other_form(y, shape), p


def _classes(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """Class indices; scores for predictions where the metric takes their argmax."""
    y, p = (rng.integers(0, CLASSES, shape.outer) for _ in range(2))
    return y, p if options.get("sparse_y_pred", True) else _distributions(rng, shape.outer, shape.coarse)


def _onehot_classes(rng: np.random.Generator, shape: Shape, options: Mapping[str, Any]) -> Drawn:
    """One-hot targets; scores for predictions unless the metric is told that they are class indices."""
    y, p = _classes(rng, shape, {"sparse_y_pred": False, **options})
    assert y is not None
    return np.eye(CLASSES)[y], p


KINDS: Mapping[str, Callable[[np.random.Generator, Shape, Mapping[str, Any]], Drawn]] = {
    "binary": _binary,
    "classes": _classes,
    "distribution": _distribution,
    "equal": _equal,
    "hinge": _hinge,
    "multilabel": _multilabel,
    "onehot": _onehot,
    "onehot_classes": _onehot_classes,
    "pixels": _pixels,
    "positive": _positive,
    "probability": _probability,
    "regression": _regression,
    "sparse": _sparse,
    "values": _values,
    "vectors": _vectors,
}


# Weights -------------------------------------------------------------------------------------------------


def draw_metric_weights(rng: np.random.Generator, weights: str, size: tuple[int, ...], whole: bool) -> Array | None:
    """Return weights of the named sort and size, or None.

    ``unequal`` lie between 1/4 and 4, ``zeros`` has some zeros too, ``all_zeros`` nothing else, ``integers`` counts
    from 0 to 3. With `whole` they are whole numbers anyway.
    """
    if weights == "none":
        return None
    if weights == "all_zeros":
        return np.zeros(size)
    if weights == "integers" or whole:
        values = rng.integers(1, 4, size).astype(np.float64)
    else:
        values = 2.0 ** rng.uniform(-2, 2, size)
    if weights in ("zeros", "integers"):
        values = values * (rng.random(size) < 0.7)
    return np.asarray(values)
