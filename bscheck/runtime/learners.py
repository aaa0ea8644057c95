"""Small models that learn: what the figures about learning are measured on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, flatten, precision, seeded_initializers
from bscheck.runtime.parallel_runs import trainings_traced


def _initial(model: Any) -> list[Array]:
    convert = keras_module().ops.convert_to_numpy
    return [np.array(convert(v)) for v in (*model.variables, *model.optimizer.variables)]


def _restore(model: Any, values: list[Array]) -> None:
    for variable, value in zip((*model.variables, *model.optimizer.variables), values, strict=True):
        variable.assign(value)


@dataclass(frozen=True)
class Trained:
    """A run of ``fit``, read at the end of every epoch.

    Attributes
    ----------
    weights : tuple of tuple of array
        Keras's own, epochs first.
    updates : tuple of int
        Updates made so far, as the optimizer counts them.
    seconds : tuple of float
        Wall time so far; reading is not counted.
    """

    weights: tuple[tuple[Array, ...], ...]
    updates: tuple[int, ...]
    seconds: tuple[float, ...]


def _reader(keras: Any) -> Any:
    """Return a callback that reads weights, updates and seconds at the end of every epoch."""

    class Reader(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: Any = None) -> None:
            self.weights: list[tuple[Array, ...]] = []
            self.updates: list[int] = []
            self.seconds: list[float] = []
            self._spent, self._since = 0.0, time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            # On JAX, asking for the model is what brings its variables up to date.
            model, convert = self.model, keras.ops.convert_to_numpy
            self._spent += time.perf_counter() - self._since
            self.weights.append(tuple(np.array(convert(v), np.float64) for v in model.trainable_variables))
            self.updates.append(int(convert(model.optimizer.iterations)))
            self.seconds.append(self._spent)
            self._since = time.perf_counter()

    return Reader()


class Classifier:
    """Two dense layers on noisy clusters, as in Keras's own integration tests: 500 examples, 8 features, 4 classes.

    Parameters
    ----------
    optimizer : str
        Name of an exported class.
    options : mapping
        Its constructor's arguments.
    """

    examples, features, hidden, classes = 500, 8, 16, 4

    def __init__(self, optimizer: str, options: Mapping[str, Any]) -> None:
        keras = keras_module()
        with precision("float32"):
            hidden = keras.layers.Dense(self.hidden, activation="tanh")
            self.model = keras.Sequential([keras.Input((self.features,)), hidden, keras.layers.Dense(self.classes)])
            self.model.compile(
                optimizer=getattr(keras.optimizers, optimizer)(**options),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                **current().compile_options(current().modes[0]),
            )
            self.model.optimizer.build(self.model.trainable_variables)
        self._first = _initial(self.model)
        for batch_size in (16, 160):  # compiled before anything is timed
            self.train(0, 1, batch_size)

    def data(self, seed: int) -> tuple[Array, Array]:
        """Return inputs (N, features) and labels (N,)."""
        rng = np.random.default_rng((seed, 41))
        labels = rng.integers(0, self.classes, self.examples)
        centres = rng.standard_normal((self.classes, self.features))
        return (centres[labels] + rng.standard_normal((self.examples, self.features))).astype("float32"), labels

    def _weights(self, seed: int) -> list[Array]:
        """Return first weights of the size that Glorot's initializer gives them, biases of 0."""
        rng = np.random.default_rng((seed, 45))
        sizes = ((self.features, self.hidden), (self.hidden, self.classes))
        found = []
        for shape in sizes:
            found += [rng.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape)), np.zeros(shape[1])]
        return found

    def _batches(self, seed: int, batch_size: int) -> Iterator[tuple[Array, Array]]:
        """Yield one epoch's batches after the other, every epoch in an order of its own, the last batch ragged."""
        x, labels = self.data(seed)
        rng = np.random.default_rng((seed, 46, batch_size))
        while True:
            order = rng.permutation(self.examples)
            for start in range(0, self.examples, batch_size):
                rows = order[start : start + batch_size]
                yield x[rows], labels[rows]

    def train(self, seed: int, epochs: int, batch_size: int) -> Trained:
        """Train by ``fit`` from the seed's own weights."""
        reader = _reader(keras_module())
        with precision("float32"), warnings.catch_warnings():
            # Keras advises against a generator that shuffles for itself.
            warnings.simplefilter("ignore")
            _restore(self.model, self._first)
            for variable, value in zip(self.model.trainable_variables, self._weights(seed), strict=True):
                variable.assign(value)
            self.model.fit(
                self._batches(seed, batch_size),
                steps_per_epoch=-(-self.examples // batch_size),
                epochs=epochs,
                verbose=0,
                callbacks=[reader],
            )
        return Trained(tuple(reader.weights), tuple(reader.updates), tuple(reader.seconds))


@dataclass(frozen=True)
class Report:
    """What a trained model tells of itself, and the same by its own predictions.

    Attributes
    ----------
    training_loss : float
        Mean of ``-log p`` over the predictions of the examples learned from.
    loss, truth : float
        Loss over the examples held out: reported, and by the predictions.
    accuracy : float
        Share of the held-out examples predicted right.
    """

    training_loss: float
    loss: float
    truth: float
    accuracy: float


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

    def traced_anew(self) -> bool:
        """Whether ``train_on_batch`` is traced at every call (Keras up to 3.6), also of batches seen before."""
        model, _ = self._models[1]
        self._run(0, 1, 4)
        before = trainings_traced(model)
        self._run(0, 1, 1)
        return trainings_traced(model) > before

    def train(self, seed: int, batch_size: int, updates: int) -> Report:
        """Return what the model tells, and what its predictions say, after so many updates on batches of this size."""
        model = self._run(seed, batch_size, updates)
        x, y = self._data(seed)
        held_out = slice(self.examples, None)
        with precision("float64"):
            told = model.evaluate(x[held_out], y[held_out], batch_size=self.held_out, verbose=0, return_dict=True)
            logits = np.asarray(model.predict_on_batch(x))
        truth = np.logaddexp(0.0, np.where(y > 0, -logits, logits))
        return Report(
            float(np.mean(truth[: self.examples])),
            float(told["loss"]),
            float(np.mean(truth[held_out])),
            float(told["binary_accuracy"]),
        )

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
