"""Linear regression on one device or on several, in NumPy float64: weights and history of a whole training.

Model and loss: ``f(x) = x W + b``, the mean over a batch (and over outputs) of ``w_i (f(x_i) - y_i)**2``, with or
without ``l2 sum W**2`` (Keras's L2 has no half). Optimizer: ``v <- m v - eta g; w <- w + v`` (Keras's documentation of
SGD with momentum), g the mean of k micro-batch gradients.

Several devices each take a part of the batch and average their gradients (keras.io/guides/distributed_training_with_
tensorflow: synchronous data parallelism). Where all parts have one size, that is the batch's own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Devices that share a batch.
DEVICES = 2
FEATURES, OUTPUTS = 3, 2
RATE, MOMENTUM = 2.0**-4, 0.5
L2 = 2.0**-3

#: Batch normalization: what is kept of a moving statistic, and ``epsilon`` as Keras documents it.
KEPT, EPSILON = 0.75, 1e-3


@dataclass(frozen=True)
class Regression:
    """Examples, and the weights that training starts from: kernel, then bias."""

    x: Array
    y: Array
    w: Array
    start: tuple[Array, Array]


def draw(seed: int, examples: int, weighted: bool) -> Regression:
    """Return examples of a seed; sample weights lie between 1/4 and 4, or are 1."""
    rng = np.random.default_rng((seed, 0xDA7A))
    x, y = rng.normal(size=(examples, FEATURES)), rng.normal(size=(examples, OUTPUTS))
    w = 2.0 ** rng.uniform(-2, 2, examples) if weighted else np.ones(examples)
    start = rng.normal(size=(FEATURES, OUTPUTS)), rng.normal(size=OUTPUTS)
    return Regression(_single(x), _single(y), _single(w), (_single(start[0]), _single(start[1])))


def _single(values: Array) -> Array:
    """Return numbers that float32 has too, so that both precisions start alike."""
    return np.asarray(values, np.float32).astype(np.float64)


def parts_of(rows: Sequence[int], devices: int) -> list[Sequence[int]]:
    """Return how a batch is dealt to the devices: the first ones get more where it is uneven, the last may get none.

    tf.data deals out ``ceil(n / devices)`` examples at a time (tensorflow.org, `distribute_dataset`: 'batches are
    split by the number of replicas').
    """
    size = -(-len(rows) // devices)
    return [rows[i * size : (i + 1) * size] for i in range(devices)]


@dataclass(frozen=True)
class Training:
    """The end of a training: weights, history by name (one number an epoch), and the magnitudes that were added up."""

    weights: tuple[Array, Array]
    history: Mapping[str, list[float]]
    size: float


def train(data: Regression, batch_size: int, epochs: int, *, penalty: bool, k: int, devices: int) -> Training:
    """Return the training of so many epochs, unshuffled.

    The history is over examples: ``loss`` (weighted, with the penalty), ``mean_absolute_error`` (unweighted) and
    ``weighted_mean_squared_error`` (divided by the sum of the weights).
    """
    kernel, bias = (a.copy() for a in data.start)
    slots = [np.zeros_like(kernel), np.zeros_like(bias)]
    window: list[list[Array]] = []
    history: dict[str, list[float]] = {"loss": [], "mean_absolute_error": [], "weighted_mean_squared_error": []}
    largest, examples = 1.0, len(data.x)
    for _ in range(epochs):
        sums = np.zeros(3)
        for start in range(0, examples, batch_size):
            rows = list(range(start, min(start + batch_size, examples)))
            gradients = []
            charge = L2 * float(np.sum(kernel**2)) if penalty else 0.0
            for part in parts_of(rows, devices):
                gradients.append(_gradient(data, part, kernel, bias, penalty))
                if len(part):
                    sums += _report(data, part, kernel, bias) + np.array([charge * len(part), 0.0, 0.0])
            window.append([np.mean([g[i] for g in gradients], axis=0) for i in range(2)])
            largest = max(largest, *(float(np.abs(g).max()) for g in window[-1]))
            if len(window) == k:
                for i, variable in enumerate((kernel, bias)):
                    slots[i] = MOMENTUM * slots[i] - RATE * np.mean([g[i] for g in window], axis=0)
                    variable += slots[i]
                window = []
        values = sums / np.array([examples, examples, data.w.sum()])
        for name, value in zip(history, values, strict=True):
            history[name].append(float(value))
    return Training((kernel, bias), history, max(largest, float(np.abs(kernel).max()), float(np.abs(data.y).max())))


def targets(data: Regression) -> Array:
    """Return targets of the inputs' own shape."""
    return np.asarray(np.roll(data.x, 1, axis=0) * np.array([1.0, -0.5, 2.0]))


def normalized(data: Regression) -> dict[str, Array]:
    """Return the variables that a step of SGD on one batch leaves in a batch normalization, by Keras's names.

    Ioffe and Szegedy (2015), algorithm 1 over the whole batch, from the mean 0, the variance 1, gamma 1 and beta 0; the
    loss is the mean square of the differences from `targets`.
    """
    mean, variance = data.x.mean(axis=0), data.x.var(axis=0)
    outputs = (data.x - mean) / np.sqrt(variance + EPSILON)
    force = 2 * (outputs - targets(data)) / outputs.size
    return {
        "moving_mean": (1 - KEPT) * mean,
        "moving_variance": KEPT + (1 - KEPT) * variance,
        "gamma": 1 - RATE * (force * outputs).sum(axis=0),
        "beta": -RATE * force.sum(axis=0),
    }


def _gradient(data: Regression, rows: Sequence[int], kernel: Array, bias: Array, penalty: bool) -> list[Array]:
    """Return one device's gradient: the mean over its own examples, nothing where it has none."""
    own = 2 * L2 * kernel if penalty else np.zeros_like(kernel)
    if not len(rows):
        return [own, np.zeros_like(bias)]
    x = data.x[list(rows)]
    error = x @ kernel + bias - data.y[list(rows)]
    force = 2 * data.w[list(rows), None] * error / (len(rows) * OUTPUTS)
    return [x.T @ force + own, force.sum(axis=0)]


def _report(data: Regression, rows: Sequence[int], kernel: Array, bias: Array) -> Array:
    """Return what a part adds to the history's sums."""
    error = data.x[list(rows)] @ kernel + bias - data.y[list(rows)]
    weighted = float(data.w[list(rows)] @ np.mean(error**2, axis=1))
    return np.array([weighted, float(np.abs(error).mean(axis=1).sum()), weighted])
