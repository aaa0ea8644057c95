"""Metrics as NumPy formulas in float64 over all examples at once: no Keras in here.

Two steps. A *row formula* gives one value for each label (element, time step or example) of a metric that is a
weighted mean; a *definition* gives the metric's value over all examples from targets, predictions, weights and the
options of Keras's constructor. Both return, beside the value, what its rounding is measured by: ``|seen - value| <=
roundings * u * size + slack``, with ``slack`` for the small constants (epsilon, 1e-7) by which Keras documents that it
keeps away from division by zero. A value that is not a number has no definition (no example, no variance): there Keras
may say 0 (nothing is explained), 1 (nothing was to explain) or NaN.

Sources: Murphy, *Probabilistic Machine Learning* (2022), 5.1 (losses, confusion matrix, ROC, F scores); Davis and
Goadrich, ICML 2006 (area under precision-recall, interpolation); Flach and Kull, NeurIPS 2015 (precision-recall gain);
Lin, Biometrics 1989 (concordance); Lin et al., ICCV 2017 (focal loss); Rezatofighi et al., CVPR 2019 (IoU);
keras.io/api/metrics for names, options and what thresholds mean ("above the threshold is True").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Options = Mapping[str, Any]

#: The constant by which Keras keeps divisors and arguments of logarithms away from zero: ``keras.config.epsilon()``.
EPSILON = 1e-7


@dataclass(frozen=True)
class Rows:
    """One value for each label, with the magnitude of its rounding.

    Attributes
    ----------
    values, sizes, slack : array
        Of one shape, examples first.
    terms : int
        How many terms one value sums.
    counted : array of bool, optional
        False where a label does not count (an ignored class).
    """

    values: Array
    sizes: Array
    slack: Array
    terms: int = 1
    counted: Array | None = None


@dataclass(frozen=True)
class Value:
    """A metric over all examples.

    Attributes
    ----------
    value, size, slack : array
        Of one shape; scalars for most metrics.
    roundings : int
        Roundings on the way, in units of ``u * size``.
    """

    value: Array
    size: Array
    slack: Array
    roundings: int

    def bound(self, u: float) -> Array:
        """Return what a computation with unit roundoff `u` may be off by."""
        return np.asarray(self.roundings * u * self.size + self.slack)


def rows(name: str, y: Array, p: Array, options: Options) -> Rows:
    """Return the row formula of a mean metric, by the name of Keras's function."""
    return ROWS[name](np.asarray(y, np.float64), np.asarray(p, np.float64), **options)


def definition(name: str, y: Array | None, p: Array, w: Array | None, options: Options) -> Value:
    """Return the value of an exported metric over all examples.

    Parameters
    ----------
    name : str
        Exported class or function; a function stands for its mean.
    y, p : array
        Targets (None where the metric takes values alone) and predictions, examples first.
    w : array, optional
        Weights, of fewer axes than the values or broadcast to them.
    options : mapping
        Constructor options, with no name or dtype.
    """
    p = np.asarray(p, np.float64)
    w = None if w is None else np.asarray(w, np.float64)
    if y is None:
        return (_sum if name == "Sum" else _mean_of_values)(p, w)
    if name in MEANS or name in ROWS:
        return mean(rows(MEANS.get(name, name), y, p, options), w)
    return DEFINITIONS[name](np.asarray(y, np.float64), p, w, **options)


# Means ---------------------------------------------------------------------------------------------------


def spread(w: Array | None, shape: Sequence[int]) -> Array:
    """Return weights in the shape of the values: axes that weights lack are the last ones of the values."""
    if w is None:
        return np.ones(shape)
    if w.ndim == len(shape) + 1 and w.shape[-1] == 1:
        w = w[..., 0]
    w = w.reshape(w.shape + (1,) * (len(shape) - w.ndim))
    return np.broadcast_to(w, shape)


def mean(of: Rows, w: Array | None) -> Value:
    """Return the weighted mean; the mean of nothing is 0."""
    weights = spread(w, of.values.shape)
    if of.counted is not None:
        weights = weights * of.counted
    total = float(weights.sum())
    if total == 0.0:
        return _exact(0.0)
    value, size, slack = (float((weights * a).sum() / total) for a in (of.values, of.sizes, of.slack))
    return Value(np.asarray(value), np.asarray(size), np.asarray(slack), of.values.size + of.terms + 16)


def _exact(value: Any) -> Value:
    value = np.asarray(value, np.float64)
    return Value(value, np.zeros(value.shape), np.zeros(value.shape), 0)


def _mean_of_values(p: Array, w: Array | None) -> Value:
    return mean(Rows(p, np.abs(p), np.zeros(p.shape)), w)


def _sum(p: Array, w: Array | None) -> Value:
    terms = spread(w, p.shape) * p
    return Value(np.asarray(terms.sum()), np.asarray(np.abs(terms).sum()), np.zeros(()), p.size + 4)


def _aligned(y: Array, p: Array) -> Array:
    """Return the targets with the predictions' shape: ``(N,)`` stands for ``(N, 1)``."""
    return y.reshape(p.shape)


def _last(values: Array, sizes: Array, slack: Array | float = 0.0, axis: int = -1, scale: float = 1.0) -> Rows:
    """Return the mean over the last axis of element values."""
    slack = np.broadcast_to(slack, values.shape)
    parts = [scale * a.mean(axis=axis) for a in (values, sizes, slack)]
    return Rows(parts[0], parts[1], parts[2], values.shape[axis])


def _squared_error(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    return _last((p - y) ** 2, (np.abs(p) + np.abs(y)) ** 2)


def _absolute_error(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    return _last(np.abs(p - y), np.abs(p) + np.abs(y))


def _percentage_error(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    return _last(np.abs(p - y) / np.abs(y), (np.abs(p) + np.abs(y)) / np.abs(y), scale=100.0)


def _squared_logarithmic_error(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    a, b = np.log1p(p), np.log1p(y)
    return _last((a - b) ** 2, (np.abs(a) + np.abs(b) + 2.0) ** 2)


def _huber(y: Array, p: Array, delta: float = 1.0) -> Rows:
    """Huber (1964): quadratic within delta of the target, linear beyond."""
    y = _aligned(y, p)
    e, size = np.abs(p - y), np.abs(p) + np.abs(y)
    value = np.where(e <= delta, 0.5 * e**2, delta * (e - 0.5 * delta))
    return _last(value, (size + delta) * np.maximum(np.minimum(e, delta), value) + value + delta**2 * (e > delta))


def _log_cosh(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    e = np.abs(p - y)
    # Keras holds the constant log 2 in float32, in float64 too.
    constant = 2.0**-25
    return _last(e + np.log1p(np.exp(-2 * e)) - np.log(2.0), 2 * np.abs(p) + 2 * np.abs(y) + 2 * np.log(2.0), constant)


def _poisson(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    return _last(p - y * np.log(p), p + y * (np.abs(np.log(p)) + 2.0), EPSILON * y / p)


def _divergence(y: Array, p: Array) -> Rows:
    y = _aligned(y, p)
    terms = y * np.log(y / p)
    return Rows(terms.sum(-1), (np.abs(terms) + 3 * y).sum(-1), np.zeros(y.shape[:-1]), y.shape[-1])


def _hinge_labels(y: Array, p: Array) -> Array:
    """Return labels -1 and 1; labels 0 and 1 are converted."""
    y = _aligned(y, p)
    return np.where(y > 0, 1.0, -1.0)


def _hinge(y: Array, p: Array) -> Rows:
    return _last(np.maximum(1.0 - _hinge_labels(y, p) * p, 0.0), 1.0 + np.abs(p))


def _squared_hinge(y: Array, p: Array) -> Rows:
    return _last(np.maximum(1.0 - _hinge_labels(y, p) * p, 0.0) ** 2, (1.0 + np.abs(p)) ** 2)


def _categorical_hinge(y: Array, p: Array) -> Rows:
    """Crammer and Singer (2001): the best wrong score against the right one; a one-hot zero scores 0."""
    right = (y * p).sum(-1)
    wrong = ((1.0 - y) * p).max(-1)
    size = 1.0 + np.abs(p).max(-1) + np.abs(y * p).sum(-1)
    return Rows(np.maximum(wrong - right + 1.0, 0.0), size, np.zeros(right.shape), p.shape[-1])


def _smoothed(y: Array, label_smoothing: float, classes: int) -> Array:
    """Return labels moved towards 1/classes (Szegedy et al. 2016)."""
    return y * (1.0 - label_smoothing) + label_smoothing / classes


def _log_probabilities(p: Array, from_logits: bool, axis: int = -1) -> tuple[Array, Array]:
    """Return the logarithm of class probabilities (scaled to sum to 1), and the magnitude of its rounding."""
    if not from_logits:
        logs = np.log(p / p.sum(axis=axis, keepdims=True))
        return logs, 4.0 + np.abs(logs)
    top = p.max(axis=axis, keepdims=True)
    logs = p - top - np.log(np.exp(p - top).sum(axis=axis, keepdims=True))
    return logs, 4.0 + np.abs(logs) + 2 * np.abs(p).max(axis=axis, keepdims=True)


def _categorical_cross_entropy(
    y: Array, p: Array, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Rows:
    y = _smoothed(y, label_smoothing, p.shape[axis])
    logs, size = _log_probabilities(p, from_logits, axis)
    value = -(y * logs).sum(axis)
    return Rows(value, (y * size).sum(axis), np.zeros(value.shape), p.shape[axis])


def _sparse_categorical_cross_entropy(
    y: Array, p: Array, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Rows:
    labels = _labels(y, p)
    counted = None if ignore_class is None else labels != ignore_class
    one_hot = np.eye(p.shape[-1])[np.where(labels < 0, 0, labels)]
    found = _categorical_cross_entropy(one_hot, p, from_logits)
    return Rows(found.values, found.sizes, found.slack, found.terms, counted)


def _binary_cross_entropy(
    y: Array, p: Array, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Rows:
    terms, sizes = _bernoulli(_aligned(y, p), p, from_logits, label_smoothing)
    return _last(terms, sizes, axis=axis)


def _bernoulli(y: Array, p: Array, from_logits: bool, label_smoothing: float) -> tuple[Array, Array]:
    """Return the negative log-likelihood of Bernoulli labels, and the magnitude of its rounding."""
    y = _smoothed(y, label_smoothing, 2)
    if from_logits:
        return np.logaddexp(0.0, p) - y * p, 2.0 + 3 * np.abs(p)
    value = -y * np.log(p) - (1.0 - y) * np.log1p(-p)
    # The logarithm of 1 - p sees the rounding of 1 - p, a relative u / (1 - p).
    return value, 2.0 + np.abs(np.log(p)) + np.abs(np.log1p(-p)) + 1.0 / (1.0 - p) + EPSILON / p


def _binary_focal(
    y: Array,
    p: Array,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Rows:
    y = _smoothed(_aligned(y, p), label_smoothing, 2)
    q = 1.0 / (1.0 + np.exp(-p)) if from_logits else p
    terms, sizes = _bernoulli(y, q, False, 0.0)
    focus = (1.0 - (y * q + (1.0 - y) * (1.0 - q))) ** gamma
    weight = y * alpha + (1.0 - y) * (1.0 - alpha) if apply_class_balancing else np.ones(y.shape)
    wrong = np.maximum(1.0 - (y * q + (1.0 - y) * (1.0 - q)), 1e-3)
    size = weight * focus * (sizes * (2.0 + np.abs(p)) + np.abs(terms) * (8.0 + gamma * (4.0 + np.abs(p)) / wrong))
    return _last(weight * focus * terms, size, axis=axis)


def _categorical_focal(
    y: Array,
    p: Array,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Rows:
    y = _smoothed(y, label_smoothing, p.shape[axis])
    logs, sizes = _log_probabilities(p, from_logits, axis)
    q = np.exp(logs)
    factor = alpha * (1.0 - q) ** gamma
    terms = -y * logs * factor
    size = y * factor * (sizes + np.abs(logs) * (4.0 + gamma * (2.0 + sizes) / np.maximum(1.0 - q, 1e-3)))
    return Rows(terms.sum(axis), size.sum(axis), np.zeros(terms.sum(axis).shape), p.shape[axis])


def _cosine(y: Array, p: Array, axis: int = -1) -> Rows:
    y = _aligned(y, p)
    lengths = [np.sqrt((a**2).sum(axis)) for a in (y, p)]
    value = (y * p).sum(axis) / (lengths[0] * lengths[1])
    size = np.abs(y * p).sum(axis) / (lengths[0] * lengths[1]) * 4
    return Rows(value, size, EPSILON * np.ones(value.shape) * 1e-3, p.shape[axis])


def _moments(y: Array, p: Array, axis: int) -> tuple[Array, ...]:
    means = [a.mean(axis, keepdims=True) for a in (y, p)]
    y, p = y - means[0], p - means[1]
    return (y**2).mean(axis), (p**2).mean(axis), (y * p).mean(axis), (means[0] - means[1]).squeeze(axis)


def _pearson(y: Array, p: Array, axis: int = -1) -> Rows:
    vy, vp, cov, _ = _moments(y, p, axis)
    value = cov / np.sqrt(vy * vp)
    spread_of = [np.abs(a).max(axis) ** 2 for a in (y, p)]
    size = 4.0 + 4 * np.sqrt(spread_of[0] / vy) + 4 * np.sqrt(spread_of[1] / vp)
    return Rows(value, size, np.zeros(value.shape), p.shape[axis])


def _concordance(y: Array, p: Array, axis: int = -1) -> Rows:
    vy, vp, cov, apart = _moments(y, p, axis)
    norm = vy + vp + apart**2
    value = 2 * cov / norm
    # Keras takes y - mean(p) for y - mean(y): equal in mathematics, larger terms in arithmetic.
    size = 8.0 + 16 * (np.abs(y).max(axis) + np.abs(p).max(axis)) ** 2 / norm
    return Rows(value, size, EPSILON * np.abs(value) / norm, p.shape[axis])


def _decision(hits: Array) -> Rows:
    """Return right and wrong as 1 and 0: exact, the rounding is that of their mean."""
    return Rows(hits.astype(np.float64), hits.astype(np.float64), np.zeros(hits.shape), 0)


def _labels(y: Array, p: Array) -> Array:
    return y.reshape(p.shape[:-1]).astype(np.int64)


def _equal(y: Array, p: Array) -> Rows:
    return _decision(_aligned(y, p) == p)


def _binary_accuracy(y: Array, p: Array, threshold: float = 0.5) -> Rows:
    return _decision((p > threshold) == (_aligned(y, p) > 0))


def _categorical_accuracy(y: Array, p: Array) -> Rows:
    return _decision(y.argmax(-1) == p.argmax(-1))


def _sparse_categorical_accuracy(y: Array, p: Array) -> Rows:
    return _decision(_labels(y, p) == p.argmax(-1))


def _top_k(y: Array, p: Array, k: int = 5) -> Rows:
    """A label is among the top k when fewer than k scores are larger: ties at the border are all in."""
    own = np.take_along_axis(p, y.argmax(-1)[..., None], -1)
    return _decision((p > own).sum(-1) < k)


def _sparse_top_k(y: Array, p: Array, k: int = 5, from_sorted_ids: bool = False) -> Rows:
    labels = y.reshape(p.shape[:-1])
    if from_sorted_ids:
        return _decision((p[..., :k] == labels[..., None]).any(-1))
    return _top_k(np.eye(p.shape[-1])[labels.astype(np.int64)], p, k)


def _squared_difference(y: Array, p: Array) -> Rows:
    """The function that `bscheck.surface.metrics` wraps: one value for each element."""
    y = _aligned(y, p)
    return Rows((p - y) ** 2, (np.abs(p) + np.abs(y)) ** 2, np.zeros(p.shape), 1)


ROWS: Mapping[str, Callable[..., Rows]] = {
    "accuracy": _equal,
    "binary_accuracy": _binary_accuracy,
    "binary_crossentropy": _binary_cross_entropy,
    "binary_focal_crossentropy": _binary_focal,
    "categorical_accuracy": _categorical_accuracy,
    "categorical_crossentropy": _categorical_cross_entropy,
    "categorical_focal_crossentropy": _categorical_focal,
    "categorical_hinge": _categorical_hinge,
    "concordance_correlation": _concordance,
    "cosine_similarity": _cosine,
    "hinge": _hinge,
    "huber": _huber,
    "kl_divergence": _divergence,
    "log_cosh": _log_cosh,
    "mean_absolute_error": _absolute_error,
    "mean_absolute_percentage_error": _percentage_error,
    "mean_squared_error": _squared_error,
    "mean_squared_logarithmic_error": _squared_logarithmic_error,
    "pearson_correlation": _pearson,
    "poisson": _poisson,
    "sparse_categorical_accuracy": _sparse_categorical_accuracy,
    "sparse_categorical_crossentropy": _sparse_categorical_cross_entropy,
    "sparse_top_k_categorical_accuracy": _sparse_top_k,
    "squared_difference": _squared_difference,
    "squared_hinge": _squared_hinge,
    "top_k_categorical_accuracy": _top_k,
}

#: Classes that are the weighted mean of a row formula.
MEANS: Mapping[str, str] = {
    "Accuracy": "accuracy",
    "BinaryAccuracy": "binary_accuracy",
    "BinaryCrossentropy": "binary_crossentropy",
    "CategoricalAccuracy": "categorical_accuracy",
    "CategoricalCrossentropy": "categorical_crossentropy",
    "CategoricalHinge": "categorical_hinge",
    "ConcordanceCorrelation": "concordance_correlation",
    "CosineSimilarity": "cosine_similarity",
    "Hinge": "hinge",
    "KLDivergence": "kl_divergence",
    "LogCoshError": "log_cosh",
    "MeanAbsoluteError": "mean_absolute_error",
    "MeanAbsolutePercentageError": "mean_absolute_percentage_error",
    "MeanMetricWrapper": "squared_difference",
    "MeanSquaredError": "mean_squared_error",
    "MeanSquaredLogarithmicError": "mean_squared_logarithmic_error",
    "PearsonCorrelation": "pearson_correlation",
    "Poisson": "poisson",
    "SparseCategoricalAccuracy": "sparse_categorical_accuracy",
    "SparseCategoricalCrossentropy": "sparse_categorical_crossentropy",
    "SparseTopKCategoricalAccuracy": "sparse_top_k_categorical_accuracy",
    "SquaredHinge": "squared_hinge",
    "TopKCategoricalAccuracy": "top_k_categorical_accuracy",
}


# Regression over all examples -----------------------------------------------------------------------------


def _root_mean_squared_error(y: Array, p: Array, w: Array | None) -> Value:
    y = _aligned(y, p)
    squared = mean(Rows((p - y) ** 2, (np.abs(p) + np.abs(y)) ** 2, np.zeros(p.shape), 1), w)
    root = np.sqrt(squared.value)
    size = squared.size / (2 * root) + root if root > 0 else np.sqrt(squared.size)
    return Value(root, np.asarray(size), np.zeros(()), squared.roundings + 2)


def _r2_score(
    y: Array,
    p: Array,
    w: Array | None,
    class_aggregation: str | None = "uniform_average",
    num_regressors: int = 0,
) -> Value:
    """Coefficient of determination, one for each output, then aggregated and adjusted for regressors."""
    y = _aligned(y, p)
    weights = spread(w, p.shape)
    count = weights.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (weights * y).sum(0) / count
        total = (weights * (y - centre) ** 2).sum(0)
        residual = (weights * (y - p) ** 2).sum(0)
        raw = (weights * y**2).sum(0) + count * centre**2
        varies = total > 1e-12 * raw
        score = np.where(varies, 1.0 - residual / total, np.nan)
        terms = (weights * (np.abs(y) + np.abs(p)) ** 2).sum(0)
        size = 1.0 + terms / total + np.abs(residual / total) * (1.0 + raw / total)
    if class_aggregation == "variance_weighted_average":
        with np.errstate(invalid="ignore"):
            size = np.asarray((total * size + raw * (1.0 + np.abs(score))).sum() / total.sum() * 2)
            score = np.asarray((total * score).sum() / total.sum())
    elif class_aggregation == "uniform_average":
        score, size = np.asarray(score.mean()), np.asarray(size.mean())
    n = len(p)
    if num_regressors and n - num_regressors - 1 > 0:
        factor = (n - 1) / (n - num_regressors - 1)
        score, size = 1.0 - (1.0 - score) * factor, (size + np.abs(score)) * factor + 1.0
    # Without variance the quotient is 0/0 exactly; with weights its divisor is what rounding leaves: any number.
    slack = np.inf if w is not None and not np.all(varies) else 0.0
    return Value(np.asarray(score), np.asarray(size), np.full(np.shape(score), slack), 2 * p.size + 24)


# Confusion -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Weights of true and false positives and negatives at each threshold (rows), by label (columns) if asked."""

    tp: Array
    fp: Array
    fn: Array
    tn: Array
    exact: bool
    elements: int


def counts(
    y: Array,
    p: Array,
    w: Array | None,
    thresholds: Sequence[float],
    *,
    top_k: int | None = None,
    class_id: int | None = None,
    by_label: bool = False,
    label_weights: Sequence[float] | None = None,
) -> Counts:
    """Return the confusion at thresholds: a prediction is positive when it is *above* the threshold."""
    y = _aligned(y, p) != 0
    weights = np.array(spread(w, p.shape))
    if label_weights is not None:
        weights = weights * np.asarray(label_weights, np.float64)
    chosen = np.ones(p.shape, bool) if top_k is None else (p[..., None, :] > p[..., :, None]).sum(-1) < top_k
    if class_id is not None:
        y, p, weights, chosen = (a[..., class_id] for a in (y, p, weights, chosen))
    t = np.asarray(thresholds, np.float64).reshape((-1,) + (1,) * p.ndim)
    positive = (p > t) & chosen
    axes = 1 if by_label else tuple(range(1, positive.ndim))
    parts = [(weights * m).sum(axis=axes) for m in (positive & y, positive & ~y, ~positive & y, ~positive & ~y)]
    return Counts(parts[0], parts[1], parts[2], parts[3], bool(np.all(weights == np.round(weights))), p.size)


def _thresholds_of(thresholds: Any, top_k: int | None = None) -> list[float]:
    if thresholds is None:
        return [0.5] if top_k is None else [-np.inf]
    return list(thresholds) if isinstance(thresholds, (list, tuple)) else [thresholds]


def _one(a: Array, thresholds: Sequence[float]) -> Array:
    return np.asarray(a[0] if len(thresholds) == 1 else a)


def _count(which: str) -> Callable[..., Value]:
    def value(y: Array, p: Array, w: Array | None, thresholds: Any = None) -> Value:
        t = _thresholds_of(thresholds)
        c = counts(y, p, w, t)
        found = _one(getattr(c, which), t)
        # Several thresholds may be counted from totals: the rounding is that of the total.
        size = np.zeros(found.shape) if c.exact else np.full(found.shape, float((c.tp + c.fp + c.fn + c.tn).max()))
        return Value(found, size, np.zeros(found.shape), 2 * c.elements + 4)

    return value


def ratio(part: Array, other: Array) -> Array:
    """Return ``part / (part + other)``, and 0 of nothing."""
    whole = part + other
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


def _precision_or_recall(other: str) -> Callable[..., Value]:
    def value(
        y: Array, p: Array, w: Array | None, thresholds: Any = None, top_k: int | None = None, class_id: Any = None
    ) -> Value:
        t = _thresholds_of(thresholds, top_k)
        c = counts(y, p, w, t, top_k=top_k, class_id=class_id)
        found = _one(ratio(c.tp, getattr(c, other)), t)
        whole = float((c.tp + c.fp + c.fn + c.tn).max())
        part = _one(c.tp + getattr(c, other), t)
        # A difference of totals may cancel where weights are fractions.
        size = found if c.exact else np.where(part > 0, whole / np.where(part > 0, part, 1.0), 0.0)
        return Value(found, np.asarray(size), np.zeros(found.shape), 2 * c.elements + 8)

    return value


def _even_thresholds(number: int) -> Array:
    return np.asarray([0.5]) if number == 1 else np.arange(number) / (number - 1.0)


def _best(constrained: str, wanted: str, option: str) -> Callable[..., Value]:
    """Return the best of one rate over the thresholds where the other is at least what the option says."""
    rates = {
        "sensitivity": lambda c: ratio(c.tp, c.fn),
        "specificity": lambda c: ratio(c.tn, c.fp),
        "precision": lambda c: ratio(c.tp, c.fp),
        "recall": lambda c: ratio(c.tp, c.fn),
    }

    def value(
        y: Array, p: Array, w: Array | None, num_thresholds: int = 200, class_id: int | None = None, **options: float
    ) -> Value:
        c = counts(y, p, w, list(_even_thresholds(num_thresholds)), class_id=class_id)
        held, best, least = rates[constrained](c), rates[wanted](c), options[option]
        # Where the rate is within rounding of what is asked for, either answer is right.
        near = 0.0 if c.exact else 64 * 2.0**-24
        low, high = (float(np.max(np.where(held >= least + s, best, 0.0), initial=0.0)) for s in (near, -near))
        size = np.asarray(1.0 if c.exact else 8.0)
        return Value(np.asarray((low + high) / 2), size, np.asarray((high - low) / 2), 2 * c.elements + 8)

    return value


def _auc(
    y: Array,
    p: Array,
    w: Array | None,
    num_thresholds: int = 200,
    curve: str = "ROC",
    summation_method: str = "interpolation",
    thresholds: Sequence[float] | None = None,
    multi_label: bool = False,
    num_labels: int | None = None,
    label_weights: Sequence[float] | None = None,
    from_logits: bool = False,
) -> Value:
    """Area under a curve sampled at thresholds, the ends just outside [0, 1] so that they take all and nothing."""
    inner = list(_even_thresholds(num_thresholds)[1:-1]) if thresholds is None else sorted(thresholds)
    t = [-EPSILON, *inner, 1.0 + EPSILON]
    q = 1.0 / (1.0 + np.exp(-p)) if from_logits else p
    c = counts(y, q, w, t, by_label=multi_label, label_weights=None if multi_label else label_weights)
    area = _area(c, curve, summation_method)
    if multi_label:
        share = np.ones(len(area)) if label_weights is None else np.asarray(label_weights, np.float64)
        area = (area * share).sum() / share.sum()
    steepest = 4.0 if c.exact else 64.0
    return Value(np.asarray(area), np.asarray(steepest), np.zeros(()), 2 * c.elements + 2 * len(t) + 16)


def _area(c: Counts, curve: str, summation_method: str) -> Array:
    recall = ratio(c.tp, c.fn)
    if curve == "PR" and summation_method == "interpolation":
        return _interpolated_precision(c)
    if curve == "ROC":
        x, height = ratio(c.fp, c.tn), recall
    elif curve == "PR":
        x, height = recall, ratio(c.tp, c.fp)
    else:
        x, height = _gains(c)
    pairs = height[:-1], height[1:]
    means = {"interpolation": np.add(*pairs) / 2, "minoring": np.minimum(*pairs), "majoring": np.maximum(*pairs)}
    return np.asarray(((x[:-1] - x[1:]) * means[summation_method]).sum(0))


def _gains(c: Counts) -> tuple[Array, Array]:
    """Recall and precision gain (Flach and Kull); with no true positive 0 and 1, a negative recall gain is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = (c.tp + c.fn) / (c.tn + c.fp)
        none = c.tp == 0
        recall = np.where(none, 0.0, np.maximum(1.0 - odds * c.fn / c.tp, 0.0))
        return recall, np.where(none, 1.0, 1.0 - odds * c.fp / c.tp)


def _interpolated_precision(c: Counts) -> Array:
    """Davis and Goadrich: between two operating points true positives grow linearly with all positives.

    With ``TP = c + s P`` the area is the integral of ``TP / P d(TP)`` over the number of positive labels:
    ``s (dTP + c log(P_A / P_B))``. From no positives at all, c = 0.
    """
    positives = c.tp + c.fp
    gained, more = c.tp[:-1] - c.tp[1:], positives[:-1] - positives[1:]
    slope = np.where(more > 0, gained / np.where(more > 0, more, 1.0), 0.0)
    intercept = c.tp[1:] - slope * positives[1:]
    both = (positives[:-1] > 0) & (positives[1:] > 0)
    logs = np.where(both, np.log(np.where(both, positives[:-1], 1.0) / np.where(both, positives[1:], 1.0)), 0.0)
    labels = c.tp[1:] + c.fn[1:]
    area = slope * (gained + intercept * logs)
    return np.asarray(np.where(labels > 0, area / np.where(labels > 0, labels, 1.0), 0.0).sum(0))


def _f_score(
    y: Array,
    p: Array,
    w: Array | None,
    average: str | None = None,
    beta: float = 1.0,
    threshold: float | None = None,
) -> Value:
    """F-beta (van Rijsbergen 1979) of each class or of all; without a threshold the largest score is chosen."""
    positive = p >= p.max(-1, keepdims=True) if threshold is None else p > threshold
    weights, axis = spread(w, p.shape), None if average == "micro" else 0
    tp, fp, fn = (np.asarray(np.sum(weights * m, axis)) for m in (positive * y, positive * (1 - y), ~positive * y))
    precision, recall = ratio(tp, fp), ratio(tp, fn)
    whole = beta**2 * precision + recall
    score = np.where(whole > 0, (1 + beta**2) * precision * recall / np.where(whole > 0, whole, 1.0), 0.0)
    # Each of three divisors has epsilon added; a divisor is at least the smallest weight, or 1e-3 of 1.
    least = float(np.min(weights[weights > 0], initial=1.0))
    slack = np.broadcast_to(4 * EPSILON / least + 2 * EPSILON / np.where(whole > 0, whole, 1.0), np.shape(score))
    size = np.full(np.shape(score), 4.0)
    if average == "weighted":
        share = (weights * y).sum(0)
        score, slack = np.asarray((score * share).sum() / max(share.sum(), 1e-37)), np.asarray(np.max(slack) * 2)
    elif average is not None:
        score, slack = np.asarray(np.mean(score)), np.asarray(np.max(slack))
    return Value(np.asarray(score), np.asarray(np.max(size)), np.asarray(slack), 2 * p.size + 16)


# Intersection over union ------------------------------------------------------------------------------------


def _iou(
    y: Array,
    p: Array,
    w: Array | None,
    num_classes: int,
    target_class_ids: Sequence[int],
    ignore_class: int | None = None,
) -> Value:
    """Mean over the target classes that occur of ``TP / (TP + FP + FN)``; y and p are class indices."""
    weights = np.array(spread(w, y.shape))
    inside = (y >= 0) & (y < num_classes) & (p >= 0) & (p < num_classes)
    weights[~(inside & (y != (np.nan if ignore_class is None else ignore_class)))] = 0.0
    found = []
    least = 1.0
    for k in target_class_ids:
        both = float((weights * ((y == k) & (p == k))).sum())
        either = float((weights * ((y == k) | (p == k))).sum())
        if either > 0:
            found.append(both / either)
            least = min(least, either)
    value = float(np.mean(found)) if found else 0.0
    slack = EPSILON * (1.0 / least + 1.0)
    return Value(np.asarray(value), np.asarray(2.0 * bool(found)), np.asarray(slack), 2 * y.size + 16)


def _classes(a: Array, sparse: bool, axis: int) -> Array:
    return a if sparse else a.argmax(axis).astype(np.float64)


def _iou_of_classes(
    y: Array,
    p: Array,
    w: Array | None,
    num_classes: int,
    target_class_ids: Sequence[int] | None = None,
    ignore_class: int | None = None,
    sparse_y_true: bool = True,
    sparse_y_pred: bool = True,
    axis: int = -1,
) -> Value:
    targets = range(num_classes) if target_class_ids is None else target_class_ids
    classes = _classes(y, sparse_y_true, axis), _classes(p, sparse_y_pred, axis)
    return _iou(classes[0], classes[1].reshape(classes[0].shape), w, num_classes, list(targets), ignore_class)


def _iou_of_one_hot(y: Array, p: Array, w: Array | None, sparse_y_pred: bool = False, **options: Any) -> Value:
    return _iou_of_classes(y, p, w, sparse_y_true=False, sparse_y_pred=sparse_y_pred, **options)


def _binary_iou(
    y: Array, p: Array, w: Array | None, target_class_ids: Sequence[int] = (0, 1), threshold: float = 0.5
) -> Value:
    return _iou(_aligned(y, p), (p >= threshold).astype(np.float64), w, 2, target_class_ids)


DEFINITIONS: Mapping[str, Callable[..., Value]] = {
    "AUC": _auc,
    "BinaryIoU": _binary_iou,
    "F1Score": _f_score,
    "FBetaScore": _f_score,
    "FalseNegatives": _count("fn"),
    "FalsePositives": _count("fp"),
    "IoU": _iou_of_classes,
    "MeanIoU": _iou_of_classes,
    "OneHotIoU": _iou_of_one_hot,
    "OneHotMeanIoU": _iou_of_one_hot,
    "Precision": _precision_or_recall("fp"),
    "PrecisionAtRecall": _best("recall", "precision", "recall"),
    "R2Score": _r2_score,
    "Recall": _precision_or_recall("fn"),
    "RecallAtPrecision": _best("precision", "recall", "precision"),
    "RootMeanSquaredError": _root_mean_squared_error,
    "SensitivityAtSpecificity": _best("specificity", "sensitivity", "specificity"),
    "SpecificityAtSensitivity": _best("sensitivity", "specificity", "sensitivity"),
    "TrueNegatives": _count("tn"),
    "TruePositives": _count("tp"),
}
