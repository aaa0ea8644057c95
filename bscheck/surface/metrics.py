"""The metrics that the installed Keras exports, as classes and functions, and how each is made and fed."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.runtime import keras_module
from bscheck.surface import takes

Array = np.ndarray[Any, Any]

#: Exported names that are no metric: the abstract base, and the module's own helpers.
NOT_METRICS = ("Metric", "deserialize", "get", "serialize")

#: Classes (and labels) in the drawn data.
CLASSES = 3


@dataclass(frozen=True)
class Construction:
    """How to make a metric and what to feed it.

    Attributes
    ----------
    inputs : str
        Kind of targets and predictions, see `bscheck.checks.metric_inputs`.
    variants : tuple of mapping
        Constructor options under test, the plain one first.
    elementwise : bool
        Whether weights may have one value for each element of the last axis.
    steps : bool
        Whether examples may be sequences.
    one : bool
        Whether targets ``(N,)`` may stand for ``(N, 1)`` (labels: ``(N, 1)`` for ``(N,)``).
    flat_weights_of_steps : bool
        Whether weights ``(N,)`` may weigh sequences; else only weights of the targets' rank.
    whole_weights : bool
        Whether weights must be whole numbers unless the metric is made with a floating dtype.
    single : bool
        Whether predictions are float32 unless a case asks for another input dtype, whatever Keras's float type.
    """

    inputs: str
    variants: tuple[Mapping[str, Any], ...] = ({},)
    elementwise: bool = False
    steps: bool = True
    one: bool = False
    flat_weights_of_steps: bool = True
    whole_weights: bool = False
    single: bool = False


_Variants = tuple[Mapping[str, Any], ...]

_LOGITS: _Variants = (
    {},
    {"from_logits": True},
    {"label_smoothing": 0.2},
    {"from_logits": True, "label_smoothing": 0.3},
)
_FOCAL: _Variants = ({}, {"gamma": 1.0, "alpha": 0.6}, {"from_logits": True}, {"label_smoothing": 0.2})
_THRESHOLDS: _Variants = (
    {},
    {"thresholds": 0.25},
    {"thresholds": [0.25, 0.5, 0.75]},
    {"thresholds": [0.0, 0.25, 0.5, 0.75, 1.0]},
)
_CHOICES = (
    *_THRESHOLDS, {"class_id": 1}, {"top_k": 2}, {"top_k": 1, "class_id": 0}, {"top_k": 2, "thresholds": [0.25, 0.625]},
)  # fmt: skip
_FEW = {"num_thresholds": 5}
_SPARSE: _Variants = ({}, {"from_logits": True}, {"ignore_class": 0}, {"from_logits": True, "ignore_class": 1})
_MATRIX = {"num_classes": CLASSES}
_FLOAT = {"dtype": "float32"}

_VECTORS = Construction("vectors", ({}, {"axis": 1}))
_REAL = Construction("regression", one=True)
_POSITIVE = Construction("positive", one=True)
_HINGE = Construction("hinge", one=True)
_BINARY_ACCURACY = Construction("binary", ({}, {"threshold": 0.25}), elementwise=True, one=True)
_BINARY_CROSSENTROPY = Construction("probability", _LOGITS)
_CATEGORICAL_CROSSENTROPY = Construction("onehot", (*_LOGITS, {"axis": 1}, {"axis": 1, "from_logits": True}))
_SPARSE_CROSSENTROPY = Construction("sparse", _SPARSE, one=True)
_SPARSE_TOP_K = Construction("sparse", ({"k": 1}, {"k": 2}, {"k": 2, "from_sorted_ids": True}), one=True, single=True)
_TOP_K = Construction("onehot", ({"k": 1}, {"k": 2}), single=True)
_SCORE_COUNTS = Construction("binary", _THRESHOLDS, elementwise=True, one=True, flat_weights_of_steps=False)


def _f_scores(**more: Any) -> Construction:
    averages = (None, "micro", "macro", "weighted")
    options = [{"average": average, **more} for average in averages] + [{"average": "macro", "threshold": 0.5, **more}]
    return Construction("multilabel", tuple(options), steps=False)


def _best(option: str) -> Construction:
    variants = ({option: 0.5}, {option: 0.25, **_FEW}, {option: 0.75, **_FEW, "class_id": 1})
    return Construction("binary", variants, elementwise=True, one=True, flat_weights_of_steps=False)


def _iou(*, targets: bool, sparse: bool) -> Construction:
    own = {**_MATRIX, "target_class_ids": [0, 2]} if targets else _MATRIX
    options = [own, {**own, **_FLOAT}, {**own, **_FLOAT, "ignore_class": 0}]
    options += [{**own, **_FLOAT, "sparse_y_pred": not sparse}]
    kind = "classes" if sparse else "onehot_classes"
    return Construction(kind, tuple(options), elementwise=True, flat_weights_of_steps=False, whole_weights=True)


#: How to make and feed each exported metric. A name that is missing here has "no construction": it fails a self-test.
CONSTRUCTIONS: Mapping[str, Construction] = {
    "AUC": Construction(
        "binary",
        (
            {}, {"num_thresholds": 3, "curve": "PR"}, {**_FEW, "curve": "PR"},
            {**_FEW, "curve": "PR", "summation_method": "minoring"},
            {**_FEW, "curve": "PR", "summation_method": "majoring"},
            {**_FEW, "summation_method": "minoring"}, {**_FEW, "summation_method": "majoring"},
            {"thresholds": [0.125, 0.25, 0.625]}, {"thresholds": [0.125, 0.25, 0.625], "curve": "PR"},
            {**_FEW, "multi_label": True},
            {"thresholds": [0.125, 0.5], "multi_label": True, "label_weights": [1.0, 0.5, 2.0]},
            {**_FEW, "label_weights": [1.0, 0.5, 2.0]},
            {**_FEW, "from_logits": True}, {**_FEW, "curve": "PRGAIN"},
        ),
        elementwise=True, one=True, flat_weights_of_steps=False,
    ),
    "Accuracy": Construction("equal", elementwise=True, one=True),
    "BinaryAccuracy": _BINARY_ACCURACY,
    "BinaryCrossentropy": _BINARY_CROSSENTROPY,
    "BinaryIoU": Construction(
        "pixels", ({}, _FLOAT, {**_FLOAT, "threshold": 0.25, "target_class_ids": [1]}),
        flat_weights_of_steps=False, whole_weights=True,
    ),
    "CategoricalAccuracy": Construction("onehot"),
    "CategoricalCrossentropy": _CATEGORICAL_CROSSENTROPY,
    "CategoricalHinge": Construction("onehot"),
    "ConcordanceCorrelation": _VECTORS,
    "CosineSimilarity": _VECTORS,
    "F1Score": _f_scores(),
    "FBetaScore": _f_scores(beta=2.0),
    "FalseNegatives": _SCORE_COUNTS,
    "FalsePositives": _SCORE_COUNTS,
    "Hinge": _HINGE,
    "IoU": _iou(targets=True, sparse=True),
    "KLDivergence": Construction("distribution"),
    "LogCoshError": _REAL,
    "Mean": Construction("values", elementwise=True),
    "MeanAbsoluteError": _REAL,
    "MeanAbsolutePercentageError": _POSITIVE,
    "MeanIoU": _iou(targets=False, sparse=True),
    "MeanMetricWrapper": Construction("regression", elementwise=True),
    "MeanSquaredError": _REAL,
    "MeanSquaredLogarithmicError": _POSITIVE,
    "OneHotIoU": _iou(targets=True, sparse=False),
    "OneHotMeanIoU": _iou(targets=False, sparse=False),
    "PearsonCorrelation": _VECTORS,
    "Poisson": _POSITIVE,
    "Precision": Construction("binary", _CHOICES, elementwise=True, one=True, flat_weights_of_steps=False),
    "PrecisionAtRecall": _best("recall"),
    "R2Score": Construction(
        "regression",
        (
            {}, {"class_aggregation": None}, {"class_aggregation": "variance_weighted_average"}, {"num_regressors": 1},
        ),
        elementwise=True, steps=False, one=True,
    ),
    "Recall": Construction("binary", _CHOICES, elementwise=True, one=True, flat_weights_of_steps=False),
    "RecallAtPrecision": _best("precision"),
    "RootMeanSquaredError": Construction("regression", elementwise=True, one=True),
    "SensitivityAtSpecificity": _best("specificity"),
    "SparseCategoricalAccuracy": Construction("sparse", one=True),
    "SparseCategoricalCrossentropy": _SPARSE_CROSSENTROPY,
    "SparseTopKCategoricalAccuracy": _SPARSE_TOP_K,
    "SpecificityAtSensitivity": _best("sensitivity"),
    "SquaredHinge": _HINGE,
    "Sum": Construction("values", elementwise=True),
    "TopKCategoricalAccuracy": _TOP_K,
    "TrueNegatives": _SCORE_COUNTS,
    "TruePositives": _SCORE_COUNTS,
    "binary_accuracy": _BINARY_ACCURACY,
    "binary_crossentropy": _BINARY_CROSSENTROPY,
    "binary_focal_crossentropy": Construction("probability", (*_FOCAL, {"apply_class_balancing": True})),
    "categorical_accuracy": Construction("onehot"),
    "categorical_crossentropy": _CATEGORICAL_CROSSENTROPY,
    "categorical_focal_crossentropy": Construction("onehot", _FOCAL),
    "categorical_hinge": Construction("onehot"),
    "concordance_correlation": _VECTORS,
    "hinge": _HINGE,
    "huber": Construction("regression", ({}, {"delta": 0.25}), one=True),
    "kl_divergence": Construction("distribution"),
    "log_cosh": _REAL,
    "mean_absolute_error": _REAL,
    "mean_absolute_percentage_error": _POSITIVE,
    "mean_squared_error": _REAL,
    "mean_squared_logarithmic_error": _POSITIVE,
    "pearson_correlation": _VECTORS,
    "poisson": _POSITIVE,
    "sparse_categorical_accuracy": Construction("sparse", one=True),
    "sparse_categorical_crossentropy": _SPARSE_CROSSENTROPY,
    "sparse_top_k_categorical_accuracy": _SPARSE_TOP_K,
    "squared_hinge": _HINGE,
    "top_k_categorical_accuracy": _TOP_K,
}  # fmt: skip


def exported() -> Mapping[str, Any]:
    """Return every metric that the installed Keras exports, class or function, by its name."""
    module = keras_module().metrics
    found = {}
    for name in sorted(dir(module)):
        member = getattr(module, name)
        public = not name.startswith("_") and name not in NOT_METRICS
        if public and (is_class(member) or inspect.isfunction(member)):
            found[name] = member
    return found


def is_class(member: Any) -> bool:
    """Whether an exported name is a metric class."""
    return inspect.isclass(member) and issubclass(member, keras_module().metrics.Metric)


def without_construction() -> list[str]:
    """Return the exported metrics that the table says nothing of."""
    return sorted(set(exported()) - set(CONSTRUCTIONS))


def usable(name: str, options: Mapping[str, Any]) -> bool:
    """Whether the installed Keras knows these options of the metric."""
    member = exported()[name]
    if not takes(member, options):
        return False
    try:
        make(name, options)
    except ValueError:  # such as a curve that an older release does not draw
        return False
    return True


@functools.cache
def variants(name: str) -> tuple[Mapping[str, Any], ...]:
    """Return the options under test that the installed Keras knows."""
    construction = CONSTRUCTIONS.get(name, Construction("none"))
    return tuple(options for options in construction.variants if usable(name, options))


def squared_difference() -> Callable[[Any, Any], Any]:
    """Return the function of `keras.metrics.MeanMetricWrapper`'s example, one value for each element."""
    ops = keras_module().ops

    def squared_difference(y_true: Any, y_pred: Any) -> Any:
        return ops.square(ops.subtract(ops.cast(y_true, y_pred.dtype), y_pred))

    return squared_difference


def make(name: str, options: Mapping[str, Any], /, **more: Any) -> Any:
    """Return a new metric; a function is wrapped in ``MeanMetricWrapper``, as ``compile`` does."""
    member, wrapper = exported()[name], keras_module().metrics.MeanMetricWrapper
    if not is_class(member):
        return wrapper(member, **options, **{"name": name, **more})
    if member is wrapper:
        return wrapper(squared_difference(), **options, **more)
    return member(**options, **more)


def given(array: Any, dtype: str, mask: Any) -> Any:
    """Return predictions as Keras gets them: of another dtype (if any), with a mask (if any).

    Raises
    ------
    AttributeError
        When the backend's tensors carry no mask outside a model.
    """
    ops = keras_module().ops
    if not dtype and mask is None:
        return array
    tensor = ops.convert_to_tensor(array, dtype=dtype or None)
    if mask is not None:
        tensor._keras_mask = ops.convert_to_tensor(mask)
    return tensor


def value_of(metric: Any) -> Array:
    """Return a metric's result as a float64 array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return numbers(metric.result()).astype(np.float64)


def numbers(tensor: Any) -> Array:
    """Return a tensor or variable as an array."""
    return np.asarray(keras_module().ops.convert_to_numpy(tensor))


def identity_model(
    shapes: Mapping[str, tuple[int, ...]],
    jit_and_eager: Mapping[str, bool],
    losses: Mapping[str, str] | None = None,
    keyed: bool = False,
    inside: Any = None,
    **compiled: Any,
) -> Any:
    """Return a compiled model that gives each input back as the output of its name.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of one example of each input.
    jit_and_eager : mapping of str to bool
        Options of ``compile`` that choose the execution mode.
    losses : mapping of str to str, optional
        The loss of each output; by default the squared error of the first alone.
    keyed : bool
        Whether the outputs are a dict, whose keys are not the names of the layers, and not a list.
    inside : keras.Model, optional
        Such a model of one input, of the input's name and compiled, that takes the place of the layer.
    **compiled
        ``metrics`` and ``weighted_metrics``.
    """
    keras = keras_module()
    names = {name: f"out_{name}" if keyed else name for name in shapes}
    inputs = {name: keras.Input(shape, name=f"in_{name}") for name, shape in shapes.items()}
    outputs = {name: (inside or keras.layers.Activation("linear", name=names[name]))(x) for name, x in inputs.items()}
    first = next(iter(shapes))
    if len(shapes) == 1:
        model = keras.Model(inputs[first], outputs[first], name=f"around_{first}" if inside else first)
    else:
        model = keras.Model(list(inputs.values()), outputs if keyed else list(outputs.values()))
    loss = dict.fromkeys(shapes, None) | {first: "mse"} if losses is None else dict(losses)
    model.compile(loss=loss, **jit_and_eager, **compiled)
    return model


def takes_masks(name: str) -> bool:
    """Whether the metric is a mean that honours the mask of its predictions."""
    member, wrapper = exported()[name], keras_module().metrics.MeanMetricWrapper
    return not is_class(member) or issubclass(member, wrapper)
