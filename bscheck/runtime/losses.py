"""A Keras loss called on arrays, and its gradient by the predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision


def scope(dtype: str) -> Any:
    """Return the scope in which a loss of this dtype is made and called."""
    return precision("float64" if dtype == "float64" else "float32")


def call(loss: Callable[..., Any], y: Array, p: Array, w: Any = None, mask: Array | None = None) -> Array:
    """Return what a loss (or loss function) gives, as float64."""
    keras = keras_module()
    predicted = with_mask(keras.ops.convert_to_tensor(p), mask)
    weights = () if w is None else (keras.ops.convert_to_tensor(w),)
    value = loss(keras.ops.convert_to_tensor(y), predicted, *weights)
    return numbers(value)


def gradient(
    loss: Callable[..., Any], y: Array, p: Array, w: Any = None, mask: Array | None = None
) -> tuple[Array, Array, tuple[int, ...]]:
    """Return the sum of a loss, the sum's gradient by the predictions, and the shape of the loss itself."""
    keras = keras_module()
    weights = () if w is None else (keras.ops.convert_to_tensor(w),)
    targets = keras.ops.convert_to_tensor(y)
    shapes = []

    def total(predicted: Any) -> Any:
        value = loss(targets, with_mask(predicted, mask), *weights)
        shapes.append(tuple(value.shape))
        return keras.ops.sum(value)

    value, slope = current().input_gradient(total, p)
    return numbers(value), numbers(slope), shapes[-1]


def tensor(a: Array) -> Any:
    """Return an array as a tensor of its own."""
    return keras_module().ops.convert_to_tensor(np.array(a))


def with_mask(predicted: Any, mask: Array | None) -> Any:
    """Return predictions with the mask that Keras's layers hand on with them."""
    if mask is None:
        return predicted
    keras = keras_module()
    given = keras.ops.convert_to_tensor(mask)
    try:
        from keras.src.backend import set_keras_mask
    except ImportError:  # Keras before 3.5
        predicted._keras_mask = given
        return predicted
    set_keras_mask(predicted, given)
    return predicted


def numbers(value: Any) -> Array:
    """Return a tensor as a float64 array."""
    keras = keras_module()
    if "bfloat16" in str(getattr(value, "dtype", "")):  # NumPy has no such type
        value = keras.ops.cast(value, "float32")
    return np.asarray(keras.ops.convert_to_numpy(value)).astype(np.float64)


def constrained(make: Callable[[], Any], w: Array, dtype: str) -> Array:
    """Return what a constraint makes of weights, float64."""
    with scope(dtype):
        return numbers(make()(keras_module().ops.convert_to_tensor(w)))


def regularizer_gradient(make: Callable[[], Any], w: Array, dtype: str) -> tuple[Array, Array]:
    """Return the value of a regularizer and its gradient, both float64."""
    with scope(dtype):
        value, slope = current().input_gradient(make(), w)
        return numbers(value), numbers(slope)
