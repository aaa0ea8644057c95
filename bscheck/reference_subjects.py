"""The models the gate ships with: small, and each with a trait that accumulation is known to trip over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bscheck.runtime import keras_module
from bscheck.subject import Subject

FEATURES = 4
STEPS = 5
UNITS = 3


def _dense(l2: float = 0.01) -> Any:
    keras = keras_module()
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(5, activation="tanh", kernel_regularizer=keras.regularizers.L2(l2)),
            keras.layers.Dense(3),
        ]
    )


def _convolution() -> Any:
    keras = keras_module()
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="gelu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )


def _recurrent(layer: str) -> Callable[[], Any]:
    def build() -> Any:
        keras = keras_module()
        return keras.Sequential(
            [
                keras.Input((STEPS, FEATURES)),
                keras.layers.Masking(0.0),
                getattr(keras.layers, layer)(UNITS),
                keras.layers.Dense(1),
            ]
        )

    return build


def _attention() -> Any:
    keras = keras_module()
    inputs = keras.Input((STEPS, FEATURES))
    attended = keras.layers.MultiHeadAttention(num_heads=2, key_dim=2)(inputs, inputs)
    normal = keras.layers.LayerNormalization()(keras.layers.Add()([inputs, attended]))
    pooled = keras.layers.GlobalAveragePooling1D()(normal)
    return keras.Model(inputs, keras.layers.Dense(2)(pooled))


def _embedding() -> Any:
    keras = keras_module()
    return keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32"),
            keras.layers.Embedding(7, 3),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )


def _two_outputs() -> Any:
    keras = keras_module()
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(4, activation="softplus")(inputs)
    return keras.Model(
        inputs, [keras.layers.Dense(2, name="value")(hidden), keras.layers.Dense(3, name="label")(hidden)]
    )


def _batch_norm() -> Any:
    keras = keras_module()
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(1),
        ]
    )


def _rows(seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, 0xB5))


def _vectors(seed: int, size: int, *, shape: tuple[int, ...] = (FEATURES,), outputs: int = 1) -> Any:
    rng = _rows(seed)
    return rng.normal(size=(size, *shape)), rng.normal(size=(size, outputs))


def _labelled(seed: int, size: int) -> Any:
    rng = _rows(seed)
    return rng.normal(size=(size, FEATURES)), rng.integers(0, 3, size)


def _sequences(seed: int, size: int) -> Any:
    """Sequences of unequal lengths, padded with the mask value; never empty."""
    rng = _rows(seed)
    x = rng.normal(size=(size, STEPS, FEATURES))
    lengths = rng.integers(1, STEPS + 1, size)
    x[np.arange(STEPS)[None, :] >= lengths[:, None]] = 0.0
    return x, rng.integers(0, 2, (size, 1)).astype("float64")


def _ids(seed: int, size: int) -> Any:
    """Ids from a small vocabulary, so that rows repeat within an example and between examples."""
    rng = _rows(seed)
    return rng.integers(0, 7, (size, STEPS)).astype("int32"), rng.normal(size=(size, 1))


def _two_targets(seed: int, size: int) -> Any:
    rng = _rows(seed)
    x, value, label = rng.normal(size=(size, FEATURES)), rng.normal(size=(size, 2)), rng.integers(0, 3, size)
    return x, [value, label]


def integers() -> Subject:
    """Return the subject whose arithmetic is exact: small integers, ReLU, a sum of products for a loss."""

    def build() -> Any:
        keras = keras_module()
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)])

    def data(seed: int, size: int) -> Any:
        rng = _rows(seed)
        return rng.integers(-4, 5, (size, 3)).astype(float), rng.integers(-4, 5, (size, 2)).astype(float)

    def product(y_true: Any, y_pred: Any) -> Any:
        return keras_module().ops.sum(y_true * y_pred, axis=-1)

    keras = keras_module()

    class SumOfProducts(keras.losses.Loss):  # type: ignore[misc, name-defined]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return product(y_true, y_pred)

    return Subject("integers", build=build, data=data, loss=SumOfProducts(reduction="sum"))


def classifier() -> Subject:
    """Return the dense subject without metrics: what training trajectories follow.

    Its penalty is a power of two: on TensorFlow Keras passes the strength through float32 (`ops.cast` of a
    Python float), which would round 0.01 in float64 training too.
    """
    dense = REFERENCE_SUBJECTS["dense"]()
    return Subject("classifier", build=lambda: _dense(l2=2.0**-7), data=dense.data, loss=dense.loss)


def regression() -> Subject:
    """Return linear regression: its gradient is the residual's, and with SGD its update is its gradient."""

    def build() -> Any:
        keras = keras_module()
        return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])

    def data(seed: int, size: int) -> Any:
        return _vectors(seed, size, outputs=2)

    return Subject("regression", build=build, data=data, loss="mean_squared_error")


def _loss(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(keras_module().losses, name)(**options)


def _make() -> dict[str, Callable[[], Subject]]:
    sparse_labels = _loss("SparseCategoricalCrossentropy", from_logits=True)
    binary = _loss("BinaryCrossentropy", from_logits=True)
    return {
        "dense": lambda: Subject("dense", build=_dense, data=_labelled, loss=sparse_labels(), metrics=("accuracy",)),
        "convolution": lambda: Subject(
            "convolution",
            build=_convolution,
            data=lambda seed, size: _vectors(seed, size, shape=(6, 6, 2)),
            loss="mean_squared_error",
            metrics=("mean_absolute_error",),
        ),
        "lstm": lambda: Subject("lstm", build=_recurrent("LSTM"), data=_sequences, loss=binary()),
        "gru": lambda: Subject("gru", build=_recurrent("GRU"), data=_sequences, loss=binary()),
        "attention": lambda: Subject(
            "attention",
            build=_attention,
            data=lambda seed, size: _vectors(seed, size, shape=(STEPS, FEATURES), outputs=2),
            loss="huber",
        ),
        "embedding": lambda: Subject(
            "embedding", build=_embedding, data=_ids, loss="mean_squared_error", optimizer="adam"
        ),
        "two_outputs": lambda: Subject(
            "two_outputs",
            build=_two_outputs,
            data=_two_targets,
            loss=["mean_squared_error", sparse_labels()],
            metrics=(["mean_absolute_error"], ["accuracy"]),
        ),
        "batch_norm": lambda: Subject("batch_norm", build=_batch_norm, data=_vectors, loss="mean_squared_error"),
    }


#: Factories by name: a subject is made when a check asks for it, so that listing them needs no Keras.
REFERENCE_SUBJECTS: Mapping[str, Callable[[], Subject]] = _make()


def _positionwise() -> Any:
    keras = keras_module()
    return keras.Sequential(
        [
            keras.Input((POSITIONS, UNITS_TIMED)),
            keras.layers.Dense(UNITS_TIMED, activation="relu"),
            keras.layers.Dense(1),
        ]
    )


def _long_short_term_memory() -> Any:
    keras = keras_module()
    return keras.Sequential(
        [keras.Input((STEPS_TIMED, FEATURES_TIMED)), keras.layers.LSTM(UNITS_TIMED), keras.layers.Dense(1)]
    )


def _without_cudnn() -> Any:
    model = _long_short_term_memory()
    model.layers[0].use_cudnn = False  # Keras before 3.4 has no such choice: there it is the timed LSTM once more
    return model


def _timed(name: str, build: Callable[[], Any], inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Subject:
    def data(seed: int, size: int) -> Any:
        rng = _rows(seed)
        return (
            rng.standard_normal((size, *inputs), dtype="float32"),
            rng.standard_normal((size, *outputs), dtype="float32"),
        )

    return Subject(name, build=build, data=data, loss="mean_squared_error", optimizer="sgd")


#: Units of the timing size. On 2 CPU cores a step at batch 16 takes 2 ms (dense) and 3 ms (LSTM).
UNITS_TIMED = 256
#: Positions that share the dense layer's weights: without them applying the gradient, which costs the same at
#: every batch size, outweighs the products (measured: compute share 0.2 to 0.3 at batch 16, with 15 positions
#: 0.5). An odd number, so that 16 examples still make a multiple of 16 rows and 17 do not.
POSITIONS = 15
#: Steps and features of the timed LSTM: as few as leave several of its small products in a row.
STEPS_TIMED, FEATURES_TIMED = 8, 64

#: The timed LSTM where Keras is kept from choosing cuDNN's kernels.
WITHOUT_CUDNN = "lstm_without_cudnn"

#: The subjects that are timed, by the name of the reference subject they enlarge: large enough that most of a
#: step is work that grows with the batch. The fit says how far that succeeded on the machine at hand.
TIMING_SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "dense": lambda: _timed("dense", _positionwise, (POSITIONS, UNITS_TIMED), (POSITIONS, 1)),
    "lstm": lambda: _timed("lstm", _long_short_term_memory, (STEPS_TIMED, FEATURES_TIMED), (1,)),
    WITHOUT_CUDNN: lambda: _timed(WITHOUT_CUDNN, _without_cudnn, (STEPS_TIMED, FEATURES_TIMED), (1,)),
}
