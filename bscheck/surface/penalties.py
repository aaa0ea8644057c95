"""The regularizers that the installed Keras exports, and small linear models with every kind of penalty, mask and head.

The models are linear so that NumPy says in a line what they give; see `bscheck.oracles.linear`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from bscheck.runtime import keras_module

FEATURES, HIDDEN, OUTPUTS = 4, 3, 3
#: Weights of ``shared`` that nothing depends on.
IDLE = 2
HEADS = ("first", "second")
#: Strengths: powers of two, which float32 holds exactly (Keras on TensorFlow rounds Python floats to it).
WEIGHT_L1, WEIGHT_L2, ACTIVITY, ADDED = 2.0**-5, 2.0**-4, 2.0**-2, 2.0**-1

#: Constructor options of each regularizer: powers of two, which float32 holds exactly.
REGULARIZER_OPTIONS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "L1": ({"l1": 2.0**-4},),
    "L1L2": ({"l1": 2.0**-4, "l2": 2.0**-3}, {"l1": 0.0, "l2": 2.0**-3}),
    "L2": ({"l2": 2.0**-3},),
    "OrthogonalRegularizer": ({"factor": 2.0**-3, "mode": "rows"}, {"factor": 2.0**-3, "mode": "columns"}),
}

#: Options of each constraint; standard normal weights of shape (4, 3, 2) have norms of about 2 along the first axis.
CONSTRAINT_OPTIONS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "MaxNorm": ({}, {"max_value": 0.5, "axis": [0, 1]}, {"max_value": 1.5, "axis": 1}, {"max_value": 50.0}),
    "MinMaxNorm": (
        {},
        {"min_value": 3.5, "max_value": 4.0},
        {"min_value": 1.0, "max_value": 1.5, "rate": 0.25, "axis": [0, 1]},
        {"min_value": 0.5, "max_value": 50.0, "axis": 1},
    ),
    "NonNeg": ({},),
    "UnitNorm": ({}, {"axis": 1}, {"axis": [0, 1]}),
}

#: Kinds of penalties; ``shared``: of a model inside the model that is called twice, by one regularizer of two weights.
PENALTIES = ("weights", "activity", "add_loss", "all", "shared")


@functools.cache
def regularizers() -> tuple[str, ...]:
    """Return the name of every regularizer class that the installed Keras exports, its aliases left out."""
    return _classes(keras_module().regularizers, "Regularizer")


def constraints() -> tuple[str, ...]:
    """Return the name of every constraint class that the installed Keras exports, its aliases left out."""
    return _classes(keras_module().constraints, "Constraint")


def _classes(exported: Any, base: str) -> tuple[str, ...]:
    return tuple(
        name
        for name in sorted(dir(exported))
        if inspect.isclass(getattr(exported, name))
        and issubclass(getattr(exported, name), getattr(exported, base))
        and getattr(exported, name) is not getattr(exported, base)
        and getattr(exported, name).__name__ == name
    )


def make_regularizer(name: str, option: int) -> Any:
    """Return a regularizer with one of its choices of options."""
    return getattr(keras_module().regularizers, name)(**REGULARIZER_OPTIONS[name][option])


def make_constraint(name: str, option: int) -> Any:
    """Return a constraint with one of its choices of options."""
    return getattr(keras_module().constraints, name)(**CONSTRAINT_OPTIONS[name][option])


def penalized(kind: str) -> Any:
    """Return a model ``x -> hidden -> output``: penalties on weights, on the hidden layer, or added in a call."""
    keras = keras_module()
    if kind == "shared":
        return _shared()
    many = kind == "all"
    weights = {
        "kernel_regularizer": keras.regularizers.L1L2(l1=WEIGHT_L1, l2=WEIGHT_L2),
        "bias_regularizer": keras.regularizers.L2(WEIGHT_L2),
    }
    activity = {"activity_regularizer": keras.regularizers.L2(ACTIVITY)}
    options = {**(weights if many or kind == "weights" else {}), **(activity if many or kind == "activity" else {})}

    class MeanSquare(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            self.add_loss(ADDED * keras.ops.mean(keras.ops.square(inputs)))
            return inputs

    added = [MeanSquare()] if many or kind == "add_loss" else []
    hidden = keras.layers.Dense(HIDDEN, **options)
    return keras.Sequential([keras.Input((FEATURES,)), hidden, *added, keras.layers.Dense(OUTPUTS)])


def _shared() -> Any:
    """Return a model that adds a model inside it, called twice, to itself; one regularizer acts on both kernels.

    Its first weights are idle: no gradient comes to them.
    """
    keras = keras_module()

    class Idle(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def build(self, input_shape: Any) -> None:
            self.idle = self.add_weight(shape=(IDLE,), name="idle")

        def call(self, inputs: Any) -> Any:
            return inputs

    same = {"kernel_regularizer": keras.regularizers.L2(WEIGHT_L2)}
    hidden = keras.layers.Dense(HIDDEN, activity_regularizer=keras.regularizers.L2(ACTIVITY), **same)
    inner = keras.Sequential([keras.Input((FEATURES,)), hidden])
    inputs = keras.Input((FEATURES,))
    given = Idle()(inputs)
    doubled = keras.layers.Add()([inner(given), inner(given)])
    return keras.Model(inputs, keras.layers.Dense(OUTPUTS, **same)(doubled))


def masked() -> Any:
    """Return a model of sequences whose steps of zeros are masked, one output vector for each step."""
    keras = keras_module()
    return keras.Sequential([keras.Input((None, FEATURES)), keras.layers.Masking(0.0), keras.layers.Dense(OUTPUTS)])


def linear() -> Any:
    """Return a model of one dense layer."""
    keras = keras_module()
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(OUTPUTS)])


def two_headed() -> Any:
    """Return a model with two outputs of one input."""
    keras = keras_module()
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, [keras.layers.Dense(OUTPUTS, name=name)(inputs) for name in HEADS])


def head_losses(form: str) -> tuple[Any, Any]:
    """Return ``(loss, loss_weights)`` of the two heads as ``Model.compile`` takes them.

    The first head's is the mean squared error, the second's the mean absolute error, whatever the form.
    """
    losses = keras_module().losses
    names = ["mean_squared_error", "mean_absolute_error"]
    weights = [0.5, 4.0]
    forms: Mapping[str, tuple[Any, Any]] = {
        "strings": (names, weights),
        "functions": ([losses.mean_squared_error, losses.mean_absolute_error], weights),
        "objects": ([losses.MeanSquaredError(), losses.MeanAbsoluteError()], weights),
        "dict": (dict(zip(HEADS, names, strict=True)), dict(zip(HEADS, weights, strict=True))),
        "unweighted": (names, None),
        "weighed_apart": (names, weights),
    }
    return forms[form]


#: ``weighed_apart``: each head's examples have weights of their own.
FORMS = ("strings", "functions", "objects", "dict", "unweighted", "weighed_apart")


def classification_loss(one_hot: bool) -> Any:
    """Return the softmax cross-entropy of logits, for one-hot labels or class numbers."""
    losses = keras_module().losses
    kind = losses.CategoricalCrossentropy if one_hot else losses.SparseCategoricalCrossentropy
    return kind(from_logits=True)
