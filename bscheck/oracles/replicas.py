"""Linear regression on one device or on several, in NumPy float64: weights and history of a whole training.

Model and loss: ``f(x) = x W + b``, the mean over a batch (and over outputs) of ``w_i (f(x_i) - y_i)**2``, with or
without ``l2 sum W**2`` (Keras's L2 has no half). Optimizer: ``v <- m v - eta g; w <- w + v`` (Keras's documentation of
SGD with momentum), g the mean of k micro-batch gradients; or another one
of `bscheck.cases.ReplicaCase`: Adam as in Kingma and Ba (2015), section 2, with decoupled weight decay (Loshchilov and
Hutter 2019).

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

#: Gradients have a norm of about 1: these clips bind.
CLIP = 2.0**-3
DECAY, AVERAGED, EVERY = 2.0**-2, 0.5, 2
#: Of Adam; its epsilon is large so that the sign of a gradient near 0 decides nothing.
BETA_1, BETA_2, ADAM_EPSILON = 0.75, 0.875, 2.0**-3

#: Batch normalization: what is kept of a moving statistic, and ``epsilon`` as Keras documents it.
KEPT, EPSILON = 0.75, 1e-3


@dataclass(frozen=True)
class Regression:
    """Examples, and the weights that training starts from: kernel, then bias."""

    x: Array
    y: Array
    w: Array
    start: tuple[Array, Array]


def draw(seed: int, examples: int, weighted: bool, overflow: bool = False) -> Regression:
    """Return examples of a seed; sample weights lie between 1/4 and 4, or are 1; the last target may be infinite."""
    rng = np.random.default_rng((seed, 0xDA7A))
    x, y = rng.normal(size=(examples, FEATURES)), rng.normal(size=(examples, OUTPUTS))
    w = 2.0 ** rng.uniform(-2, 2, examples) if weighted else np.ones(examples)
    start = rng.normal(size=(FEATURES, OUTPUTS)), rng.normal(size=OUTPUTS)
    if overflow:
        y[-1] = np.inf
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


class _Optimizer:
    """An optimizer by its name in `bscheck.cases.ReplicaCase`, and what it keeps between updates."""

    def __init__(self, name: str, weights: Sequence[Array]) -> None:
        self.name = name
        self.updates = 0
        self.first, self.second = ([np.zeros_like(w) for w in weights] for _ in range(2))
        self.averages = [w.copy() for w in weights]

    def update(self, weights: Sequence[Array], gradients: Sequence[Array]) -> None:
        """Change the weights in place; nothing happens where a scaled gradient is not finite."""
        if self.name == "overflow" and not all(np.isfinite(g).all() for g in gradients):
            return
        self.updates += 1
        for i, (w, g) in enumerate(zip(weights, self._clipped(gradients), strict=True)):
            if self.name == "adam":
                w -= RATE * DECAY * w + self._adam(i, g)
            else:
                self.first[i] = MOMENTUM * self.first[i] - RATE * g
                w += self.first[i]
            kept = AVERAGED if self.updates > 1 else 0.0
            self.averages[i] = kept * self.averages[i] + (1 - kept) * w
        if self.name == "averaged" and self.updates % EVERY == 0:
            self.end(weights)

    def end(self, weights: Sequence[Array]) -> None:
        """Give the weights their averages, if they have any."""
        if self.name in ("adam", "averaged"):
            for w, average in zip(weights, self.averages, strict=True):
                w[...] = average

    def _clipped(self, gradients: Sequence[Array]) -> list[Array]:
        if self.name == "clipvalue":
            return [np.clip(g, -CLIP, CLIP) for g in gradients]
        norms = [float(np.linalg.norm(g)) for g in gradients]
        if self.name == "global_clipnorm":
            norms = [float(np.linalg.norm(norms))] * len(norms)
        if "clip" not in self.name:
            return list(gradients)
        return [g * min(1.0, CLIP / norm) if norm else g for g, norm in zip(gradients, norms, strict=True)]

    def _adam(self, i: int, g: Array) -> Array:
        self.first[i] = BETA_1 * self.first[i] + (1 - BETA_1) * g
        self.second[i] = BETA_2 * self.second[i] + (1 - BETA_2) * g**2
        rate = RATE * np.sqrt(1 - BETA_2**self.updates) / (1 - BETA_1**self.updates)
        return np.asarray(rate * self.first[i] / (np.sqrt(self.second[i]) + ADAM_EPSILON))


def train(
    data: Regression,
    batch_size: int,
    epochs: int,
    *,
    penalty: bool,
    k: int,
    devices: int,
    optimizer: str = "momentum",
) -> Training:
    """Return the training of so many epochs, unshuffled.

    The history is over examples: ``loss`` (weighted, with the penalty), ``mean_absolute_error`` (unweighted) and
    ``weighted_mean_squared_error`` (divided by the sum of the weights).
    """
    kernel, bias = (a.copy() for a in data.start)
    rule = _Optimizer(optimizer, (kernel, bias))
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
            largest = max(largest, *(_largest(g) for g in window[-1]))
            if len(window) == k:
                rule.update((kernel, bias), [np.mean([g[i] for g in window], axis=0) for i in range(2)])
                window = []
        values = sums / np.array([examples, examples, data.w.sum()])
        for name, value in zip(history, values, strict=True):
            history[name].append(float(value))
    rule.end((kernel, bias))
    return Training((kernel, bias), history, max(largest, _largest(kernel), _largest(data.y)))


def predicted(data: Regression) -> Array:
    """Return the outputs for every example, by the first weights."""
    return np.asarray(data.x @ data.start[0] + data.start[1])


def evaluated(data: Regression) -> dict[str, float]:
    """Return the loss and metrics over the examples, by the first weights and without a penalty; names as in `train`.

    Keras divides the loss by the number of examples, a weighted metric by the sum of the weights.
    """
    error = predicted(data) - data.y
    squares = float(data.w @ np.mean(error**2, axis=1))
    absolute = float(np.mean(np.abs(error)))
    return {
        "loss": squares / len(data.x),
        "mean_absolute_error": absolute,
        "weighted_mean_squared_error": squares / float(data.w.sum()),
    }


def _largest(values: Array) -> float:
    """Return the largest finite size."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


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
