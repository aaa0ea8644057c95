"""Losses and metrics as NumPy formulas in float64: no Keras in here.

`ROWS` holds a formula for every loss that Keras exports, by the name of its class, in the notation of the paper or
page that defines it (cited at each). A formula takes ``y`` and ``p``, targets and predictions with the examples along
the first axis, and the loss's own options; it returns one value for each example (and time step). Every one of them
is analytic where it is smooth and compares real parts only, so that ``p`` may be complex: the derivative is then exact,
without a step size to choose (`jacobian`).

Where Keras guards a definition with ``keras.config.epsilon()`` (1e-7), the guard is part of the formula: logarithms of
probabilities clipped to ``[eps, 1-eps]``, a positive part raised to ``eps`` in logarithmic errors, ``eps`` added to the
Poisson rate and to the denominators of Dice and Tversky, divisions by at least ``eps`` in percentages.

A `Formula` is the mean of such values over each example with its size: the magnitude of what it is computed from. Its
rounding is a few units in the last place of the size, however far the value itself cancels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: ``keras.config.epsilon()``.
EPSILON = 1e-7

#: The size of a value that its definition leaves open: its rounding, in every precision in use, allows anything.
OPEN = 2.0**80


# Helpers that keep a formula analytic -------------------------------------------------------------------


def _magnitude(z: Array) -> Array:
    return np.asarray(np.where(z.real < 0, -z, z))


def _larger(a: Any, b: Any) -> Array:
    return np.asarray(np.where(np.real(a) >= np.real(b), a, b))


def _clipped(z: Array, low: float, high: float) -> Array:
    return np.where(z.real < low, low, np.where(z.real > high, high, z))


def _probability(z: Array) -> Array:
    return _clipped(z, EPSILON, 1 - EPSILON)


def _softplus(z: Array) -> Array:
    return np.asarray(_larger(z, 0.0) + np.log1p(np.exp(-_magnitude(z))))


def _log_sum_exp(z: Array, axis: int) -> Array:
    top = np.where(np.isfinite(z.real), z.real, -np.inf).max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.squeeze(top, axis) + np.log(np.exp(z - top).sum(axis=axis)))


def _log_softmax(z: Array, axis: int) -> Array:
    return np.asarray(z - np.expand_dims(_log_sum_exp(z, axis), axis))


def _length(z: Array, axis: int) -> Array:
    return np.asarray(np.sqrt((z * z).sum(axis=axis, keepdims=True)))


# Regression ---------------------------------------------------------------------------------------------


def _mean_squared_error(y: Array, p: Array) -> Array:
    return np.asarray(((p - y) ** 2).mean(axis=-1))


def _mean_absolute_error(y: Array, p: Array) -> Array:
    return np.asarray(_magnitude(p - y).mean(axis=-1))


def _mean_absolute_percentage_error(y: Array, p: Array) -> Array:
    return np.asarray(100.0 * (_magnitude(p - y) / np.maximum(np.abs(y), EPSILON)).mean(axis=-1))


def _mean_squared_logarithmic_error(y: Array, p: Array) -> Array:
    return np.asarray(((np.log1p(_larger(p, EPSILON)) - np.log1p(np.maximum(y, EPSILON))) ** 2).mean(axis=-1))


def _huber(y: Array, p: Array, delta: float = 1.0) -> Array:
    """Huber (1964): quadratic within delta of the target, linear beyond."""
    e = _magnitude(p - y)
    return np.asarray(np.where(e.real <= delta, 0.5 * e**2, delta * e - 0.5 * delta**2).mean(axis=-1))


def _log_cosh(y: Array, p: Array) -> Array:
    e = _magnitude(p - y)
    return np.asarray((e + np.log1p(np.exp(-2 * e)) - np.log(2.0)).mean(axis=-1))


def _cosine_similarity(y: Array, p: Array, axis: int = -1) -> Array:
    """Minus the cosine of the angle between target and prediction; 0 where either has no direction."""
    lengths = _length(y, axis) * _length(p, axis)
    cosine = np.divide(y * p, lengths, out=np.zeros_like(y * p), where=lengths != 0)
    return np.asarray(-cosine.sum(axis=axis))


def _poisson(y: Array, p: Array) -> Array:
    return np.asarray((p - y * np.log(p + EPSILON)).mean(axis=-1))


# Classification -----------------------------------------------------------------------------------------


def _hinge(y: Array, p: Array) -> Array:
    """Labels are -1 and 1; 0 and 1 stand for them."""
    return np.asarray(_larger(1 - _signs(y) * p, 0.0).mean(axis=-1))


def _squared_hinge(y: Array, p: Array) -> Array:
    return np.asarray((_larger(1 - _signs(y) * p, 0.0) ** 2).mean(axis=-1))


def _signs(y: Array) -> Array:
    return 2 * y - 1 if np.isin(y, (0, 1)).all() else y


def _categorical_hinge(y: Array, p: Array) -> Array:
    """Crammer and Singer (2001): the best wrong class must stay 1 below the right one."""
    right = (y * p).sum(axis=-1)
    others = (1 - y) * p
    best = np.take_along_axis(others, others.real.argmax(axis=-1)[..., None], -1)[..., 0]
    return _larger(best - right + 1, 0.0)


def _bernoulli(y: Array, p: Array, from_logits: bool) -> Array:
    """Negative log-likelihood of a Bernoulli variable."""
    if from_logits:
        return np.asarray(_softplus(p) - y * p)
    p = _probability(p)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log(1 - p)))


def _binary_crossentropy(
    y: Array, p: Array, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Array:
    """Szegedy et al. (2016) for the smoothing: towards 1/2."""
    y = y * (1 - label_smoothing) + label_smoothing / 2
    return np.asarray(_bernoulli(y, p, from_logits).mean(axis=axis))


def _binary_focal_crossentropy(
    y: Array,
    p: Array,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Array:
    """Lin et al. (2017), equation 5: ``-alpha_t (1 - p_t)**gamma log p_t``, with smoothed labels as mixtures."""
    y = y * (1 - label_smoothing) + label_smoothing / 2
    p = 1 / (1 + np.exp(-p)) if from_logits else p
    focal = (1 - (y * p + (1 - y) * (1 - p))) ** gamma * _bernoulli(y, p, False)
    if apply_class_balancing:
        focal = (y * alpha + (1 - y) * (1 - alpha)) * focal
    return np.asarray(focal.mean(axis=axis))


def _log_likelihoods(p: Array, from_logits: bool, axis: int) -> Array:
    """Return the logarithms of a distribution over classes, given its logits or (up to a factor) itself."""
    return _log_softmax(p, axis) if from_logits else np.log(_probability(p / p.sum(axis=axis, keepdims=True)))


def _smoothed(y: Array, label_smoothing: float, axis: int) -> Array:
    """Szegedy et al. (2016), section 7: ``y (1-s) + s/K`` over the K classes."""
    return np.asarray(y * (1 - label_smoothing) + label_smoothing / y.shape[axis])


def _categorical_crossentropy(
    y: Array, p: Array, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Array:
    y = _smoothed(y, label_smoothing, axis)
    return np.asarray(-(y * _log_likelihoods(p, from_logits, axis)).sum(axis=axis))


def _categorical_focal_crossentropy(
    y: Array,
    p: Array,
    alpha: Any = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Array:
    """Lin et al. (2017) over classes: ``-sum_c alpha_c (1 - p_c)**gamma y_c log p_c``."""
    y = _smoothed(y, label_smoothing, axis)
    log = _log_likelihoods(p, from_logits, axis)
    return np.asarray(-(np.asarray(alpha) * (1 - np.exp(log)) ** gamma * y * log).sum(axis=axis))


def _sparse_categorical_crossentropy(
    y: Array,
    p: Array,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    label_smoothing: float = 0.0,
) -> Array:
    """Negative log-likelihood of the label, or of its mixture with all classes; an ignored class has none."""
    log = _log_likelihoods(p, from_logits, axis) if from_logits else _normal(np.log(_probability(p)))
    rows = -(1 - label_smoothing) * _of_label(y, log, ignore_class) - label_smoothing * log.mean(axis=-1)
    return np.asarray(np.where(_ignored(y, p, ignore_class), 0.0, rows))


def _sparse_categorical_focal_crossentropy(
    y: Array,
    p: Array,
    alpha: Any = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> Array:
    """Lin et al. (2017) of the label's class: ``-alpha_y (1 - p_y)**gamma log p_y``."""
    log = _of_label(y, _log_likelihoods(p, from_logits, axis), ignore_class)
    weights = _of_label(y, np.broadcast_to(np.asarray(alpha), p.shape), ignore_class)
    return np.asarray(np.where(_ignored(y, p, ignore_class), 0.0, -weights * (1 - np.exp(log)) ** gamma * log))


def _ignored(y: Array, p: Array, ignore_class: int | None) -> Array:
    labels = _labels(y, p)
    return labels == ignore_class if ignore_class is not None else np.zeros(labels.shape, bool)


def _of_label(y: Array, values: Array, ignore_class: int | None) -> Array:
    """Return what `values` has for each label; for an ignored one, something."""
    labels = np.where(_ignored(y, values, ignore_class), 0, _labels(y, values))
    return np.asarray(np.take_along_axis(values, labels[..., None], -1)[..., 0])


def _normal(log: Array) -> Array:
    return _log_softmax(log, -1)


def _categorical_generalized_cross_entropy(y: Array, p: Array, q: float = 0.5) -> Array:
    """Zhang and Sabuncu (2018), equation 6: ``(1 - p_y**q) / q``."""
    chosen = np.take_along_axis(p, _labels(y, p)[..., None], -1)[..., 0]
    return np.asarray((1 - chosen**q) / q)


def _kl_divergence(y: Array, p: Array) -> Array:
    """Kullback and Leibler (1951): ``sum y log(y / p)``."""
    y, p = np.clip(y, EPSILON, 1.0), _clipped(p, EPSILON, 1.0)
    return np.asarray((y * np.log(y / p)).sum(axis=-1))


# Defined over a batch, or over axes that may hold it ---------------------------------------------------------


def _dice(y: Array, p: Array, axis: Any = None) -> Array:
    """Sudre et al. (2017): ``1 - 2 sum(y p) / (sum y + sum p)``."""
    return np.asarray(1 - 2 * (y * p).sum(axis=axis) / (y.sum(axis=axis) + p.sum(axis=axis) + EPSILON))


def _tversky(y: Array, p: Array, alpha: float = 0.5, beta: float = 0.5, axis: Any = None) -> Array:
    """Salehi et al. (2017), equation 4: alpha weighs false positives ``p (1-y)``, beta false negatives ``(1-p) y``."""
    both = (y * p).sum(axis=axis)
    wrong = alpha * (p * (1 - y)).sum(axis=axis) + beta * ((1 - p) * y).sum(axis=axis)
    return np.asarray(1 - both / (both + wrong + EPSILON))


def _circle(y: Array, p: Array, gamma: float = 80.0, margin: float = 0.4, remove_diagonal: bool = True) -> Array:
    """Sun et al. (2020), equations 4 to 8, with every example of the batch as an anchor.

    ``log(1 + sum_j exp(gamma a_n (s_n - m)) sum_i exp(-gamma a_p (s_p - (1-m))))``, ``a_p = [1+m-s_p]_+``,
    ``a_n = [s_n + m]_+``; 0 for an anchor without a positive or without a negative.
    """
    labels = np.asarray(y).reshape(-1)
    s = 1 - _larger(1 - p @ p.swapaxes(-1, -2), 0.0)
    alike = labels[:, None] == labels[None, :]
    positive = alike & ~np.eye(len(labels), dtype=bool) if remove_diagonal else alike
    inward = -gamma * _larger(1 + margin - s, 0.0) * (s - (1 - margin))
    outward = gamma * _larger(s + margin, 0.0) * (s - margin)
    total = _log_sum_exp(np.where(positive, inward, -np.inf), -1) + _log_sum_exp(np.where(alike, -np.inf, outward), -1)
    paired = positive.any(axis=1) & ~alike.all(axis=1)
    return np.where(paired, _softplus(np.where(paired, total, 0.0)), 0.0)


def _ctc(y: Array, p: Array) -> Array:
    """Graves et al. (2006), section 4.1: the forward algorithm; class 0 is the blank and pads the labels."""
    probabilities = np.exp(_log_softmax(p, -1))
    return np.array([-np.log(_forward(row[row != 0].astype(int), q)) for row, q in zip(y, probabilities, strict=True)])


def _forward(labels: Array, q: Array) -> Any:
    """Return the probability of a labelling under the class probabilities of each frame."""
    path = np.zeros(2 * len(labels) + 1, int)
    path[1::2] = labels
    alpha = np.zeros(len(path), q.dtype)
    alpha[:2] = q[0, path[:2]]
    for frame in q[1:]:
        moved = alpha.copy()
        moved[1:] += alpha[:-1]
        skips = (path[2:] != 0) & (path[2:] != path[:-2])
        moved[2:] += np.where(skips, alpha[:-2], 0)
        alpha = moved * frame[path]
    return alpha[-2:].sum()


#: Losses over the batch whose formula takes several batches at once: their slopes need one call of it.
STACKS = frozenset({"Circle"})

#: Formula of each loss, by the name of the class that Keras exports.
ROWS: Mapping[str, Callable[..., Array]] = {
    "BinaryCrossentropy": _binary_crossentropy,
    "BinaryFocalCrossentropy": _binary_focal_crossentropy,
    "CTC": _ctc,
    "CategoricalCrossentropy": _categorical_crossentropy,
    "CategoricalFocalCrossentropy": _categorical_focal_crossentropy,
    "CategoricalGeneralizedCrossEntropy": _categorical_generalized_cross_entropy,
    "CategoricalHinge": _categorical_hinge,
    "Circle": _circle,
    "CosineSimilarity": _cosine_similarity,
    "Dice": _dice,
    "Hinge": _hinge,
    "Huber": _huber,
    "KLDivergence": _kl_divergence,
    "LogCosh": _log_cosh,
    "MeanAbsoluteError": _mean_absolute_error,
    "MeanAbsolutePercentageError": _mean_absolute_percentage_error,
    "MeanSquaredError": _mean_squared_error,
    "MeanSquaredLogarithmicError": _mean_squared_logarithmic_error,
    "Poisson": _poisson,
    "SparseCategoricalCrossentropy": _sparse_categorical_crossentropy,
    "SparseCategoricalFocalCrossentropy": _sparse_categorical_focal_crossentropy,
    "SquaredHinge": _squared_hinge,
    "Tversky": _tversky,
}


# Derivatives and reductions ------------------------------------------------------------------------------


def jacobian(formula: Callable[[Array], Array], p: Array, coupled: bool = False, stacks: bool = False) -> Array:
    """Return the derivatives of a formula's values by complex steps, exact to rounding.

    ``f'(x) = Im f(x + ih) / h`` has no difference in it that could cancel (Squire and Trapp 1998), so h may be 1e-30.

    Parameters
    ----------
    formula : callable
        ``formula(p) -> values``, analytic.
    p : array, shape (examples, ...)
        Where.
    coupled : bool
        Whether an example's value depends on other examples.
    stacks : bool
        Whether the formula takes several batches at once, along axes before the examples' (see `STACKS`).

    Returns
    -------
    array
        Where not coupled, shape ``(*values.shape, elements of one example)``: the derivatives by the example's own
        predictions. Where coupled, ``(*values.shape, p.size)``.
    """
    h = 1e-30
    if coupled and stacks:
        moved = p + 1j * h * np.eye(p.size).reshape(p.size, *p.shape)
        return np.moveaxis(np.imag(formula(moved)) / h, 0, -1)
    columns = []
    for j in range(p.size if coupled else p[0].size):
        moved = np.array(p, complex, order="C")
        view = moved.reshape(-1) if coupled else moved.reshape(len(p), -1)
        view[..., j] += 1j * h
        columns.append(np.imag(formula(moved)) / h)
    return np.stack(columns, axis=-1)


def coefficients(reduction: str, shape: tuple[int, ...], w: Array | None, mask: Array | None) -> Array:
    """Return what a reduction multiplies each value with before it adds them all up.

    ``keras.losses.Loss``: ``sum`` adds, ``sum_over_batch_size`` and ``mean`` divide by the number of values (of
    unmasked ones where there is a mask), ``mean_with_sample_weight`` by the sum of the weights. Nothing to divide by
    makes 0.

    Parameters
    ----------
    reduction : str
        ``none`` for the weights themselves.
    shape : tuple of int
        Shape of the values.
    w : array, optional
        Sample weights, one for each example or each value.
    mask : array of bool, optional
        False where a value does not count.
    """
    kept = np.ones(shape) if mask is None else np.broadcast_to(_trailing(mask, shape), shape).astype(np.float64)
    weights = kept if w is None else kept * np.broadcast_to(_trailing(w, shape), shape)
    if reduction in ("none", "sum"):
        return np.asarray(weights)
    count = weights.sum() if reduction == "mean_with_sample_weight" else kept.sum()
    return np.asarray(weights / count if count else np.zeros(shape))


def _trailing(values: Array, shape: tuple[int, ...]) -> Array:
    """Return values by example or by element with as many axes as `shape`: they belong to the first ones."""
    values = np.asarray(values)
    if values.ndim > len(shape):
        return values.reshape(shape)
    return values.reshape(values.shape + (1,) * (len(shape) - values.ndim))


# One value for each example ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formula:
    """One loss or metric.

    Attributes
    ----------
    values : callable
        ``values(y, p) -> array (examples,)``.
    sizes : callable
        ``sizes(y, p) -> array (examples,)``.
    margin : callable, optional
        ``margin(p) -> array (examples,)``, for a decision: how far a prediction must move to change it.
    """

    values: Callable[[Array, Array], Array]
    sizes: Callable[[Array, Array], Array]
    margin: Callable[[Array], Array] | None = None


def _aligned(y: Array, p: Array) -> Array:
    """Return the targets with the predictions' shape: ``(N,)`` stands for ``(N, 1)``."""
    return np.asarray(y, np.float64).reshape(p.shape)


def _mean(values: Array) -> Array:
    """Return the mean over all axes but the examples'."""
    return np.asarray(values.reshape(len(values), -1).mean(axis=1))


def _labels(y: Array, p: Array) -> Array:
    return np.asarray(y).reshape(p.shape[:-1]).astype(np.int64)


def _by_example(y: Array, p: Array, *, name: str, labels: bool = False, **options: Any) -> Array:
    return _mean(ROWS[name](y if labels else _aligned(y, p), p, **options))


def _label_accuracy(y: Array, p: Array) -> Array:
    return _mean((p.argmax(axis=-1) == _labels(y, p)).astype(np.float64))


def _top_margin(p: Array) -> Array:
    ordered = np.sort(p, axis=-1)
    return np.asarray((ordered[..., -1] - ordered[..., -2]).reshape(len(p), -1).min(axis=1))


def _linear_size(y: Array, p: Array) -> Array:
    return _mean(np.abs(p) + np.abs(_aligned(y, p)))


def _squared_size(y: Array, p: Array) -> Array:
    return _mean((np.abs(p) + np.abs(_aligned(y, p))) ** 2)


def _logit_size(y: Array, p: Array) -> Array:
    return 1.0 + _mean(2.0 * np.abs(p).max(axis=-1, keepdims=True))


def _one(y: Array, p: Array) -> Array:
    return np.ones(len(p))


def _likelihood_size(y: Array, p: Array, *, name: str, labels: bool = False) -> Array:
    """Return the size of a cross-entropy of probabilities, and with it what the definition leaves open.

    Keras takes the logits themselves where it finds them behind the probabilities, and clips the probabilities where
    it does not: both are the loss, up to the clipping. Of outputs that are no distribution only the clipped form is
    one, and which form is taken depends on how the model was built: such rows bound nothing.
    """
    binary = name == "BinaryCrossentropy"
    sums = p.sum(axis=-1)
    distribution = np.abs(sums - 1) < 1e-3
    unclear = (distribution if p.shape[-1] > 1 else np.zeros(sums.shape, bool)) if binary else ~distribution
    with np.errstate(all="ignore"):
        q = np.stack([p, 1 - p]) if binary else p / sums[..., None]
        logs = -np.log(q)
        if binary:
            target = _aligned(y, p)
            plain = np.where(
                target == 1, logs[0], np.where(target == 0, logs[1], target * logs[0] + (1 - target) * logs[1])
            )
            plain, steep = plain.mean(axis=-1), (1 / np.maximum(q.min(axis=0), EPSILON)).mean(axis=-1)
        else:
            weights = np.eye(p.shape[-1])[_labels(y, p)] if labels else _aligned(y, p)
            plain, steep = np.where(weights == 0, 0.0, weights * logs).sum(axis=-1), np.ones(sums.shape)
        guarded = ROWS[name](y if labels else _aligned(y, p), p)
        told = np.abs(plain - guarded) <= 1e-9 * (1 + np.abs(guarded))
    return 1.0 + _mean(np.where(told & ~unclear, np.abs(guarded) + steep, OPEN))


_LABEL_LOGITS = functools.partial(_by_example, name="SparseCategoricalCrossentropy", labels=True, from_logits=True)
_BINARY_LOGITS = functools.partial(_by_example, name="BinaryCrossentropy", from_logits=True)
_CLASS_LOGITS = functools.partial(_by_example, name="CategoricalCrossentropy", from_logits=True)


def _likelihood(name: str, labels: bool = False) -> Formula:
    values = functools.partial(_by_example, name=name, labels=labels)
    return Formula(values, functools.partial(_likelihood_size, name=name, labels=labels))


LOSSES: Mapping[str, Formula] = {
    "mean_squared_error": Formula(functools.partial(_by_example, name="MeanSquaredError"), _squared_size),
    "mean_absolute_error": Formula(functools.partial(_by_example, name="MeanAbsoluteError"), _linear_size),
    "huber": Formula(functools.partial(_by_example, name="Huber"), _linear_size),
    "sparse_categorical_crossentropy from logits": Formula(_LABEL_LOGITS, _logit_size),
    "binary_crossentropy from logits": Formula(_BINARY_LOGITS, _logit_size),
    "categorical_crossentropy from logits": Formula(_CLASS_LOGITS, _logit_size),
    "sparse_categorical_crossentropy": _likelihood("SparseCategoricalCrossentropy", labels=True),
    "categorical_crossentropy": _likelihood("CategoricalCrossentropy"),
    "binary_crossentropy": _likelihood("BinaryCrossentropy"),
}
LABEL_ACCURACY = Formula(_label_accuracy, _one, _top_margin)

_ALIASES = {"mse": "mean_squared_error", "mae": "mean_absolute_error", "huber_loss": "huber"}

#: Options of a loss object that the formulas above stand for.
_PLAIN = {
    "label_smoothing": (0, 0.0), "axis": (-1,), "delta": (1, 1.0), "ignore_class": (None,),
    "reduction": ("sum_over_batch_size",), "dtype": (None, "float32", "float64"),
}  # fmt: skip


def of_loss(loss: Any) -> Formula | None:
    """Return the formula of a loss (a name, or a Keras loss object with plain options), or None."""
    if isinstance(loss, str):
        return LOSSES.get(_ALIASES.get(loss, loss))
    if not hasattr(loss, "get_config") or not type(loss).__module__.startswith("keras."):
        return None
    config = dict(loss.get_config())
    name = str(config.pop("name", ""))
    logits = config.pop("from_logits", False)
    plain = all(config.get(key) in values for key, values in _PLAIN.items() if key in config and key != "dtype")
    if not plain:
        return None
    return LOSSES.get(f"{name} from logits" if logits else _ALIASES.get(name, name))


def of_metric(metric: Any, y: Array, p: Array) -> Formula | None:
    """Return the formula of a metric given by name, for targets and predictions like these, or None."""
    if not isinstance(metric, str):
        return None
    labels = np.asarray(y).dtype.kind in "iu" and p.ndim == 2 and p.shape[-1] > 1 and np.size(y) == len(p)
    if metric in ("accuracy", "acc", "sparse_categorical_accuracy"):
        return LABEL_ACCURACY if labels else None
    if metric in ("mean_absolute_error", "mae", "mean_squared_error", "mse"):
        return LOSSES[_ALIASES.get(metric, metric)] if np.size(y) == p.size else None
    return None
