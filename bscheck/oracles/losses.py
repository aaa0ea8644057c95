"""Losses and metrics as NumPy formulas in float64, one value for each example: no Keras in here.

A formula takes ``y`` and ``p``, the targets and predictions with the examples along the first axis, and
returns one value for each example. ``size`` is the magnitude of what that value is computed from: its
rounding is a few units in the last place of the size, however far the value itself cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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


def _squared_error(y: Array, p: Array) -> Array:
    return _mean((p - _aligned(y, p)) ** 2)


def _absolute_error(y: Array, p: Array) -> Array:
    return _mean(np.abs(p - _aligned(y, p)))


def _huber(y: Array, p: Array) -> Array:
    """Huber (1964) with delta = 1: quadratic within 1 of the target, linear beyond."""
    e = np.abs(p - _aligned(y, p))
    return _mean(np.where(e <= 1.0, 0.5 * e**2, e - 0.5))


def _binary_cross_entropy(y: Array, p: Array) -> Array:
    """Negative log-likelihood of a Bernoulli variable with logit p: ``log(1 + exp p) - y p``."""
    return _mean(np.logaddexp(0.0, p) - _aligned(y, p) * p)


def _labels(y: Array, p: Array) -> Array:
    return np.asarray(y).reshape(p.shape[:-1]).astype(np.int64)


def _categorical_cross_entropy(y: Array, p: Array) -> Array:
    """Negative log-likelihood of the label under a softmax of the logits p."""
    top = p.max(axis=-1, keepdims=True)
    log_sum = top[..., 0] + np.log(np.exp(p - top).sum(axis=-1))
    chosen = np.take_along_axis(p, _labels(y, p)[..., None], -1)[..., 0]
    return _mean(log_sum - chosen)


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


LOSSES: Mapping[str, Formula] = {
    "mean_squared_error": Formula(_squared_error, _squared_size),
    "mean_absolute_error": Formula(_absolute_error, _linear_size),
    "huber": Formula(_huber, _linear_size),
    "sparse_categorical_crossentropy from logits": Formula(_categorical_cross_entropy, _logit_size),
    "binary_crossentropy from logits": Formula(_binary_cross_entropy, _logit_size),
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
