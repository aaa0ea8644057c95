"""Many independent training runs of linear regression in one Keras model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision, seeded


def trainings_traced(model: Any) -> int:
    """Return how often a model's ``train_on_batch`` was traced, as far as TensorFlow says; 0 elsewhere."""
    counted = getattr(model.train_function, "experimental_get_tracing_count", None)
    return int(counted()) if counted else 0


class ParallelRuns:
    """One layer whose kernel holds the weights of every run; a run's gradient comes from its own examples alone.

    Keras's mean squared error is a mean over the runs as well, so that a learning rate is multiplied by their number;
    for a power of two that is exact.

    Parameters
    ----------
    runs, dimensions : int
        Number of runs R (a power of two), and of weights in each.
    options : mapping
        Arguments of ``keras.optimizers.SGD`` beside the learning rate.
    dtype : str
        ``float32`` or ``float64``.
    """

    def __init__(self, runs: int, dimensions: int, options: Mapping[str, Any], dtype: str) -> None:
        if runs & (runs - 1):
            raise ValueError(f"runs must be a power of two, not {runs}: the learning rate is multiplied by it")
        keras = keras_module()
        self.runs, self.dtype = runs, dtype
        with precision(dtype):
            layer = keras.layers.EinsumDense("bri,ri->br", output_shape=(runs,))
            self.model = keras.Sequential([keras.Input((runs, dimensions)), layer])
            optimizer = keras.optimizers.SGD(1.0, **options)
            mode = current().compile_options(current().modes[0])
            self.model.compile(optimizer=optimizer, loss=keras.losses.MeanSquaredError(), **mode)
            optimizer.build(self.model.trainable_variables)
        self.kernel = layer.kernel

    @property
    def traces(self) -> int:
        """How often ``train_on_batch`` was traced, see `trainings_traced`."""
        return trainings_traced(self.model)

    def restart(self, weights: Array, rate: float) -> None:
        """Give every run the same weights (d,) and this learning rate, at rest."""
        with precision(self.dtype):
            for variable in self.model.optimizer.variables:
                variable.assign(np.zeros(variable.shape, variable.dtype))
            self.kernel.assign(np.tile(np.asarray(weights, self.dtype), (self.runs, 1)))
            self.model.optimizer.learning_rate = rate * self.runs

    def weights(self) -> Array:
        """Return the weights of every run, float64, shape (R, d)."""
        return np.array(keras_module().ops.convert_to_numpy(self.kernel), np.float64)

    def train_on(self, x: Array, y: Array) -> None:
        """Make one update of every run from its own batch: x (B, R, d), y (B, R)."""
        with precision(self.dtype):
            self.model.train_on_batch(x.astype(self.dtype), y.astype(self.dtype))

    def fit_an_epoch(self, x: Array, y: Array, batch_size: int, seed: int) -> None:
        """Train by one epoch of ``fit``, in the order that Keras shuffles to: x (N, R, d), y (N, R)."""
        given = x.astype(self.dtype), y.astype(self.dtype)
        with precision(self.dtype), seeded(seed):
            self.model.fit(*given, batch_size=batch_size, epochs=1, shuffle=True, verbose=0)
