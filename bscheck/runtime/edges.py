"""A small model with batch normalization and any loss, trained on batches at the edge of what a batch may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision
from bscheck.runtime.inference import quiet

#: What makes a model's last numbers predictions of a kind, see `bscheck.surface.losses.draw_predictions`.
ACTIVATIONS = {"positive": "softplus", "probabilities": "sigmoid", "distribution": "softmax"}


class EdgeLearner:
    """Masking (where there are time steps), dense, batch normalization, dense, and a loss.

    Parameters
    ----------
    make_loss : callable
        Returns a new Keras loss.
    kind : str
        Kind of predictions that the loss takes.
    shape : tuple of int
        Shape of one example's predictions; its inputs have the same, but for the last axis.
    mode : str
        Execution mode.
    """

    FEATURES, RATE = 3, 0.1

    def __init__(self, make_loss: Callable[[], Any], kind: str, shape: tuple[int, ...], mode: str) -> None:
        keras = keras_module()
        layers = keras.layers
        with precision("float32"):
            parts = [keras.Input((*shape[:-1], self.FEATURES))]
            parts += [layers.Masking()] if len(shape) > 1 and kind != "frames" else []
            parts += [layers.Dense(4, activation="tanh"), layers.BatchNormalization()]
            parts += [layers.Dense(shape[-1], activation=ACTIVATIONS.get(kind))]
            parts += [layers.UnitNormalization()] if kind == "embeddings" else []
            self.model = keras.Sequential(parts)
            optimizer = keras.optimizers.SGD(self.RATE)
            self.model.compile(optimizer=optimizer, loss=make_loss(), **current().compile_options(mode))
            optimizer.build(self.model.trainable_variables)
        self._first = [np.array(keras.ops.convert_to_numpy(v)) for v in self._variables()]

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def train(
        self, seed: int, x: Array, y: Array, w: Array | None, batch_size: int, path: str
    ) -> tuple[list[float], dict[str, Array], dict[str, Array]]:
        """Train one epoch and return the losses reported, and every variable before and after, by name."""
        with precision("float32"), quiet():
            self.begin(seed)
            before = self._read()
            if path == "fit":
                history = self.model.fit(x, y, sample_weight=w, batch_size=batch_size, shuffle=False, verbose=0)
                losses = [float(value) for value in history.history["loss"]]
            else:
                losses = []
                for start in range(0, len(x), batch_size):
                    cut = slice(start, start + batch_size)
                    weights = None if w is None else w[cut]
                    told = self.model.train_on_batch(x[cut], y[cut], sample_weight=weights, return_dict=True)
                    losses.append(float(told["loss"]))
        return losses, before, self._read()

    def begin(self, seed: int) -> None:
        """Give every variable its first value, and the trainable ones a step from it."""
        rng = np.random.default_rng((seed, 51))
        trainable = {id(v) for v in self.model.trainable_variables}
        for variable, value in zip(self._variables(), self._first, strict=True):
            moved = value + 0.3 * rng.standard_normal(value.shape) if id(variable) in trainable else value
            variable.assign(np.asarray(moved).astype(value.dtype))

    def _read(self) -> dict[str, Array]:
        convert = keras_module().ops.convert_to_numpy
        named = {getattr(v, "path", v.name): np.array(convert(v)) for v in self._variables()}
        return {name: value for name, value in named.items() if value.dtype.kind == "f"}
