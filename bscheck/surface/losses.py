"""The losses that the installed Keras exports, and how to draw targets and predictions that suit each.

Losses are enumerated, never listed: one that `CONSTRUCTIONS` does not know is under test as *not applicable: no
construction*, and a self-test fails until the table says how to draw for it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bscheck.errors import BscheckError, unknown
from bscheck.runtime import keras_module
from bscheck.surface import takes

Array = np.ndarray[Any, Any]

#: Classes, or outputs: odd, so that a mean over the wrong axis shows.
CLASSES = 3
#: Frames and classes of a CTC loss, and the longest labelling.
FRAMES, SYMBOLS, LETTERS = 5, 4, 2
#: Length of the embeddings of the Circle loss: just inside the unit sphere, where the distance of an embedding to
#: itself is above the 0 that Keras clips it at. At exactly 1 rounding would decide on which side a derivative is taken.
EMBEDDED = 0.99


@dataclass(frozen=True)
class Variant:
    """One choice of a loss's options.

    Attributes
    ----------
    options : mapping
        Constructor options beside the reduction.
    predictions : str
        How predictions are drawn, see `draw_predictions`.
    moved : bool
        Whether the classes are along axis 1 and the time steps last.
    coupled : bool
        Whether an example's value depends on other examples: the loss is defined over the batch.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    predictions: str = "real"
    moved: bool = False
    coupled: bool = False


@dataclass(frozen=True)
class Construction:
    """How to draw for a loss.

    Attributes
    ----------
    function : str
        Name of the function form.
    targets : str
        How targets are drawn, see `draw_targets`.
    variants : mapping of str to Variant
        By name; the first has every option at its default.
    constants : float
        Magnitude of constants that Keras rounds to float32 whatever the dtype.
    steps : bool
        Whether predictions may have time steps.
    traced : bool
        Whether TensorFlow traces the loss anew for every shape, so that cases must reuse few.
    """

    function: str
    targets: str
    variants: Mapping[str, Variant]
    constants: float = 0.0
    steps: bool = True
    traced: bool = False

    @property
    def flat(self) -> bool:
        """Whether targets ``(N,)`` may stand for ``(N, 1)``."""
        return self.targets in ("real", "positive", "count", "sign", "binary")

    @property
    def labels(self) -> bool:
        """Whether the targets are class numbers."""
        return self.targets == "labels"


def _plain(function: str, targets: str, predictions: str, constants: float = 0.0) -> Construction:
    return Construction(function, targets, {"default": Variant({}, predictions)}, constants)


def _likelihood(function: str, targets: str, predictions: str, **more: Variant) -> Construction:
    """Return the construction of a cross-entropy: of probabilities, of logits, smoothed, along another axis."""
    smooth = {"label_smoothing": 0.3}
    return Construction(
        function,
        targets,
        {
            "default": Variant({}, predictions),
            "logits": Variant({"from_logits": True}, "logits"),
            "smoothed": Variant(smooth, predictions),
            "smoothed_logits": Variant({**smooth, "from_logits": True}, "logits"),
            "axis": Variant({"axis": 1}, predictions, moved=True),
            "smoothed_axis": Variant({**smooth, "axis": 1}, predictions, moved=True),
            **more,
        },
    )


def _overlap(function: str, **more: Mapping[str, Any]) -> Construction:
    """Return the construction of an overlap of masks: over the whole batch by default, or along an axis."""
    variants = {"default": Variant({}, "probabilities", coupled=True), "axis": Variant({"axis": -1}, "probabilities")}
    for name, options in more.items():
        variants[name] = Variant(options, "probabilities", coupled="axis" not in options)
    return Construction(function, "binary", variants)


_UNEQUAL = {"alpha": 0.9, "beta": 0.2}
_FOCAL = {"alpha": 0.6, "gamma": 1.5}

#: By the name of the class.
CONSTRUCTIONS: Mapping[str, Construction] = {
    "BinaryCrossentropy": _likelihood("binary_crossentropy", "binary", "probabilities"),
    "BinaryFocalCrossentropy": _likelihood(
        "binary_focal_crossentropy",
        "binary",
        "probabilities",
        other=Variant({**_FOCAL, "apply_class_balancing": True}, "probabilities"),
        other_logits=Variant({**_FOCAL, "apply_class_balancing": True, "from_logits": True}, "logits"),
    ),
    "CTC": Construction("ctc", "letters", {"default": Variant({}, "frames")}, steps=False, traced=True),
    "CategoricalCrossentropy": _likelihood("categorical_crossentropy", "one_hot", "distribution"),
    "CategoricalFocalCrossentropy": _likelihood(
        "categorical_focal_crossentropy",
        "one_hot",
        "distribution",
        other=Variant({"alpha": [0.25, 0.5, 0.75], "gamma": 1.5}, "distribution"),
        other_logits=Variant({**_FOCAL, "from_logits": True}, "logits"),
    ),
    "CategoricalGeneralizedCrossEntropy": Construction(
        "categorical_generalized_cross_entropy",
        "labels",
        {"default": Variant({}, "distribution"), "other": Variant({"q": 0.8}, "distribution")},
    ),
    "CategoricalHinge": _plain("categorical_hinge", "one_hot", "real"),
    "Circle": Construction(
        "circle",
        "identities",
        {
            "default": Variant({}, "embeddings", coupled=True),
            "other": Variant({"gamma": 5.0, "margin": 0.1, "remove_diagonal": False}, "embeddings", coupled=True),
        },
        steps=False,
    ),
    "CosineSimilarity": Construction(
        "cosine_similarity",
        "real",
        {"default": Variant({}, "real"), "axis": Variant({"axis": 1}, "real", moved=True)},
    ),
    "Dice": _overlap("dice"),
    "Hinge": _plain("hinge", "sign", "real"),
    "Huber": Construction("huber", "real", {"default": Variant({}, "real"), "other": Variant({"delta": 0.4}, "real")}),
    "KLDivergence": _plain("kl_divergence", "distribution", "distribution"),
    # The logarithm of 2 is taken in float32.
    "LogCosh": _plain("log_cosh", "real", "real", constants=0.7),
    "MeanAbsoluteError": _plain("mean_absolute_error", "real", "real"),
    "MeanAbsolutePercentageError": _plain("mean_absolute_percentage_error", "positive", "real"),
    "MeanSquaredError": _plain("mean_squared_error", "real", "real"),
    "MeanSquaredLogarithmicError": _plain("mean_squared_logarithmic_error", "positive", "positive"),
    "Poisson": _plain("poisson", "count", "positive"),
    "SparseCategoricalCrossentropy": Construction(
        "sparse_categorical_crossentropy",
        "labels",
        {
            "default": Variant({}, "distribution"),
            "logits": Variant({"from_logits": True}, "logits"),
            "ignored": Variant({"ignore_class": 1}, "distribution"),
            "ignored_logits": Variant({"ignore_class": 1, "from_logits": True}, "logits"),
            "smoothed": Variant({"label_smoothing": 0.3}, "distribution"),
            "smoothed_logits": Variant({"label_smoothing": 0.3, "from_logits": True}, "logits"),
        },
    ),
    "SparseCategoricalFocalCrossentropy": Construction(
        "sparse_categorical_focal_crossentropy",
        "labels",
        {
            "default": Variant({}, "distribution"),
            "logits": Variant({"from_logits": True}, "logits"),
            "other": Variant({"alpha": [0.25, 0.5, 0.75], "gamma": 1.5}, "distribution"),
            "ignored": Variant({"ignore_class": 1}, "distribution"),
        },
    ),
    "SquaredHinge": _plain("squared_hinge", "sign", "real"),
    "Tversky": _overlap("tversky", other=_UNEQUAL, other_axis={**_UNEQUAL, "axis": -1}),
}

#: Functions of `keras.losses` that are no losses.
NO_LOSSES = ("deserialize", "get", "serialize")


@functools.cache
def loss_classes() -> tuple[str, ...]:
    """Return the name of every loss class that the installed Keras exports, its aliases left out."""
    losses = keras_module().losses
    return tuple(
        name
        for name in sorted(dir(losses))
        if inspect.isclass(getattr(losses, name))
        and issubclass(getattr(losses, name), losses.Loss)
        and getattr(losses, name) is not losses.Loss
        and getattr(losses, name).__name__ == name
    )


@functools.cache
def loss_functions() -> tuple[str, ...]:
    """Return the name of every loss function that the installed Keras exports, its aliases left out."""
    losses = keras_module().losses
    return tuple(
        name
        for name in sorted(dir(losses))
        if inspect.isfunction(getattr(losses, name))
        and name not in NO_LOSSES
        and getattr(losses, name).__name__ == name
    )


def class_of(name: str) -> str:
    """Return the class that a loss, given by the name of its class or of its function, belongs to; "" for none."""
    if name in CONSTRUCTIONS:
        return name
    return next((known for known, c in CONSTRUCTIONS.items() if c.function == name), "")


def construction(name: str) -> Construction:
    """Return the construction of a loss, given by the name of its class or of its function."""
    if not class_of(name):
        raise BscheckError(unknown("loss", name, [*CONSTRUCTIONS, *(c.function for c in CONSTRUCTIONS.values())]))
    return CONSTRUCTIONS[class_of(name)]


def accepts(name: str, *options: str) -> bool:
    """Whether the installed loss takes these options."""
    exported = getattr(keras_module().losses, name)
    return takes(exported, options)


def variants(name: str) -> Mapping[str, Variant]:
    """Return the variants of a loss whose options the installed Keras has."""
    return {key: v for key, v in construction(name).variants.items() if accepts(name, *v.options)}


def reductions() -> tuple[str, ...]:
    """Return the reductions that the installed Keras knows."""
    known = []
    for reduction in ("sum_over_batch_size", "sum", "none", "mean", "mean_with_sample_weight"):
        try:
            keras_module().losses.MeanSquaredError(reduction=reduction)
        except ValueError:
            continue
        known.append(reduction)
    return tuple(known)


# Targets and predictions --------------------------------------------------------------------------------


def draw_predictions(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return predictions of shape ``(examples, ..., outputs)``, well inside the range where the loss is smooth.

    ``real`` and ``logits`` are standard normal (times 2), ``positive`` between 1/4 and 4, ``probabilities`` between
    0.02 and 0.98, ``distribution`` along the last axis, ``embeddings`` of length `EMBEDDED`, ``frames``
    logits of `SYMBOLS` classes over `FRAMES` frames.
    """
    if kind in ("real", "logits"):
        return np.asarray(2 * rng.standard_normal(shape))
    if kind == "positive":
        return np.asarray(2.0 ** rng.uniform(-2, 2, shape))
    if kind == "probabilities":
        return np.asarray(rng.uniform(0.02, 0.98, shape))
    if kind == "distribution":
        parts = 0.1 + rng.exponential(size=shape)
        return np.asarray(parts / parts.sum(axis=-1, keepdims=True))
    if kind == "embeddings":
        parts = rng.standard_normal(shape)
        return np.asarray(EMBEDDED * parts / np.linalg.norm(parts, axis=-1, keepdims=True))
    if kind == "frames":
        return np.asarray(rng.standard_normal((shape[0], FRAMES, SYMBOLS)))
    raise BscheckError(unknown("kind of predictions", kind, ["real", "positive", "probabilities", "distribution"]))


def draw_targets(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return targets for predictions of shape ``(examples, ..., outputs)``.

    ``labels`` and ``identities`` are class numbers without the last axis, ``letters`` labellings of 1 to `LETTERS`
    symbols padded with 0; the others have the shape of the predictions. Every batch has whatever values come.
    """
    if kind in ("real", "positive", "distribution"):
        return draw_predictions(kind, rng, shape)
    if kind == "count":
        return np.asarray(rng.integers(0, 5, shape).astype(np.float64))
    if kind == "sign":
        return np.asarray(2.0 * rng.integers(0, 2, shape) - 1)
    if kind == "binary":
        return np.asarray(rng.integers(0, 2, shape).astype(np.float64))
    if kind == "labels":
        return np.asarray(rng.integers(0, shape[-1], shape[:-1]))
    if kind == "identities":
        return np.asarray(rng.integers(0, 2, shape[0]))
    if kind == "one_hot":
        return np.asarray(np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])])
    if kind == "letters":
        letters = rng.integers(1, SYMBOLS, (shape[0], LETTERS))
        lengths = rng.integers(1, LETTERS + 1, shape[0])
        return np.asarray(np.where(np.arange(LETTERS) < lengths[:, None], letters, 0))
    raise BscheckError(unknown("kind of targets", kind, ["real", "labels", "one_hot"]))


def at_the_edge(kind: str, p: Array) -> Array:
    """Return predictions at the edge of their kind's range: probabilities 0 and 1, zeros for all others."""
    if kind == "probabilities":
        return np.asarray(np.round(p))
    if kind == "distribution":
        return np.asarray((p == p.max(axis=-1, keepdims=True)).astype(np.float64))
    return np.zeros_like(p)


def of_one_class(y: Array) -> Array:
    """Return targets that are all the same as the first example's first."""
    if y.ndim == 0 or not y.size:
        return y
    return np.broadcast_to(y[:1], y.shape).copy()
