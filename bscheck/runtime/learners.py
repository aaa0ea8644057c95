"""Small models that learn: what the figures about learning are measured on."""

from __future__ import annotations

from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, flatten, precision, seeded, seeded_initializers


def _initial(model: Any) -> list[Array]:
    convert = keras_module().ops.convert_to_numpy
    return [np.array(convert(v)) for v in (*model.variables, *model.optimizer.variables)]


def _restore(model: Any, values: list[Array]) -> None:
    for variable, value in zip((*model.variables, *model.optimizer.variables), values, strict=True):
        variable.assign(value)


class Classifier:
    """Two dense layers on noisy clusters, as in Keras's own integration tests: 500 examples, 8 features, 4 classes."""

    examples = 500

    def __init__(self, optimizer: str) -> None:
        keras = keras_module()
        with seeded_initializers(), precision("float32"):
            self.model = keras.Sequential(
                [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)]
            )
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.model.compile(optimizer=optimizer, loss=loss, **current().compile_options(current().modes[0]))
            self.model.optimizer.build(self.model.trainable_variables)
        self._first = _initial(self.model)

    def train(self, seed: int, epochs: int, batch_size: int) -> tuple[float, int]:
        """Return the loss over all examples after ``fit``, and the number of updates made."""
        rng = np.random.default_rng((seed, 41))
        labels = rng.integers(0, 4, self.examples)
        x = (rng.standard_normal((4, 8))[labels] + rng.standard_normal((self.examples, 8))).astype("float32")
        with precision("float32"), seeded(seed):
            _restore(self.model, self._first)
            self.model.fit(x, labels, batch_size=batch_size, epochs=epochs, verbose=0)
            loss = self.model.evaluate(x, labels, batch_size=self.examples, verbose=0)
        return float(loss), int(keras_module().ops.convert_to_numpy(self.model.optimizer.iterations))


class SequenceLearner:
    """An LSTM that learns whether a sequence's sum is positive: 192 examples to learn from, 192 held out."""

    examples, held_out, steps, features = 192, 192, 6, 3
    updates = 24

    def __init__(self) -> None:
        self._models = {accumulation: self._build(accumulation) for accumulation in (1, 2)}

    def _build(self, accumulation: int) -> tuple[Any, list[Array]]:
        keras = keras_module()
        with seeded_initializers(), precision("float64"):
            model = keras.Sequential(
                [keras.Input((self.steps, self.features)), keras.layers.LSTM(8), keras.layers.Dense(1)]
            )
            more = {"gradient_accumulation_steps": accumulation} if accumulation > 1 else {}
            model.compile(
                optimizer=keras.optimizers.SGD(0.2, momentum=0.9, **more),
                loss=keras.losses.BinaryCrossentropy(from_logits=True),
                metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
                **current().compile_options(current().modes[0]),
            )
            model.optimizer.build(model.trainable_variables)
        return model, _initial(model)

    def _data(self, seed: int) -> tuple[Array, Array]:
        rng = np.random.default_rng((seed, 42))
        x = rng.standard_normal((self.examples + self.held_out, self.steps, self.features))
        noisy = x.sum(axis=(1, 2)) + 0.5 * rng.standard_normal(len(x))
        return x, (noisy > 0).astype("float64")[:, None]

    def _run(self, seed: int, batch_size: int, updates: int, accumulation: int = 1) -> Any:
        model, first = self._models[accumulation]
        x, y = self._data(seed)
        order = np.random.default_rng((seed, 43)).permutation(self.examples)
        with precision("float64"):
            _restore(model, first)
            for step in range(updates * accumulation):
                rows = np.take(order, range(step * batch_size, (step + 1) * batch_size), mode="wrap")
                model.train_on_batch(x[rows], y[rows])
        return model

    def train(self, seed: int, batch_size: int, updates: int) -> tuple[float, float]:
        """Return held-out loss and accuracy after so many updates on batches of this size."""
        model = self._run(seed, batch_size, updates)
        x, y = self._data(seed)
        with precision("float64"):
            report = model.evaluate(x[self.examples :], y[self.examples :], batch_size=192, verbose=0, return_dict=True)
        return float(report["loss"]), float(report["binary_accuracy"])

    def paths(self, seed: int) -> tuple[Array, Array, Array]:
        """Return the weights at the start, after batches of 32, and after as many accumulated from two of 16."""
        start = self._weights(self._run(seed, 32, 0))
        ends = [self._weights(self._run(seed, size, self.updates, k)) for size, k in ((32, 1), (16, 2))]
        return start, ends[0], ends[1]

    @staticmethod
    def _weights(model: Any) -> Array:
        convert = keras_module().ops.convert_to_numpy
        return flatten([np.array(convert(v)) for v in model.trainable_variables])


class Wells:
    """Runs in a double well, in parallel: ``mean over the batch of (w^2 - 1)^2 + TILT w + x w``, x the noise."""

    RUNS, TILT, NOISE = 256, 0.3, 6.0

    def __init__(self, rate: float) -> None:
        keras = keras_module()
        runs, tilt = self.RUNS, self.TILT

        class Well(keras.layers.Layer):  # type: ignore[misc, name-defined]
            def build(self, shape: Any) -> None:
                self.w = self.add_weight(shape=(runs,), initializer="ones", name="w")

            def call(self, x: Any) -> Any:
                return (self.w**2 - 1) ** 2 + tilt * self.w + x * self.w

        with precision("float64"):
            self.model = keras.Sequential([keras.Input((runs,)), Well()])
            self.model.compile(
                optimizer=keras.optimizers.SGD(rate * runs),
                loss=lambda y_true, y_pred: y_pred,
                **current().compile_options(current().modes[0]),
            )

    def noise(self, seed: int, batch_size: int, updates: int) -> Array:
        """Return the examples' noise, shape (updates, B, runs)."""
        rng = np.random.default_rng((seed, 44, batch_size))
        return self.NOISE * rng.standard_normal((updates, batch_size, self.RUNS))

    def follow(self, noise: Array) -> Array:
        """Return the position of every run before the first update and after each, shape (updates + 1, runs)."""
        convert = keras_module().ops.convert_to_numpy
        weights = self.model.trainable_variables[0]
        with precision("float64"):
            weights.assign(np.ones(self.RUNS))
            seen = [np.array(convert(weights), np.float64)]
            for x in noise:
                self.model.train_on_batch(x, np.zeros_like(x))
                seen.append(np.array(convert(weights), np.float64))
        return np.stack(seen)
