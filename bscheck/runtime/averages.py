"""A subject's model whose optimizer averages the weights, and the callback that lets the averages stand in for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array, Bench, flatten, precision
from bscheck.runtime.inference import arrays, quiet
from bscheck.runtime.learner import Learner
from bscheck.subject import examples, take

#: Share of a moving average that stays at each update: small enough that a replacement shows.
KEPT = 0.5


def swaps() -> bool:
    """Whether the installed Keras has the callback."""
    return hasattr(keras_module().callbacks, "SwapEMAWeights")


class AveragingLearner(Learner):
    """A learner whose optimizer keeps a moving average of the weights.

    Parameters
    ----------
    bench : Bench
        Subject and precision.
    mode : str
        Execution mode.
    every : int
        Updates after which the averages replace the weights; 0: only when training ends.
    """

    def __init__(self, bench: Bench, mode: str, every: int = 0) -> None:
        super().__init__(bench, mode, use_ema=True, ema_momentum=KEPT, ema_overwrite_frequency=every or None)

    def weights(self) -> Array:
        """Return the trainable weights as one vector."""
        return flatten([self.bench.keras.ops.convert_to_numpy(v) for v in self.model.trainable_variables])

    def follow(self, batch: Sequence[Any], batch_size: int, epochs: int) -> list[tuple[Array, Array]]:
        """Train batch by batch; return the weights and their moving average at the end of each epoch.

        The average is made here: the weights after the first update, then ``KEPT`` of it and the rest of the weights.
        """
        ends, average = [], None
        for _ in range(epochs):
            for start in range(0, examples(batch[1]), batch_size):
                rows = slice(start, start + batch_size)
                self.learn([None if part is None else take(part, rows) for part in batch], batch_size, "on_batch")
                now = self.weights()
                average = now if average is None else KEPT * average + (1 - KEPT) * now
            assert average is not None
            ends.append((self.weights(), average))
        return ends

    def evaluated(self, batch: Sequence[Any], batch_size: int, swapped: bool = False) -> list[Array]:
        """Return what ``evaluate`` reports, the loss first, with the callback or without."""
        x, y, w = self.bench.cast(batch)
        with precision(self.bench.dtype), quiet():
            told = self.model.evaluate(
                x, y, sample_weight=w, batch_size=batch_size, verbose=0, return_dict=True, **_callbacks(swapped)
            )
        return [np.array([float(told["loss"]), *(float(told[name]) for name in sorted(told) if name != "loss")])]

    def predicted(self, batch: Sequence[Any], batch_size: int, swapped: bool = False) -> list[Array]:
        """Return what ``predict`` returns, with the callback or without."""
        x, _, _ = self.bench.cast(batch)
        with precision(self.bench.dtype), quiet():
            return arrays(self.model.predict(x, batch_size=batch_size, verbose=0, **_callbacks(swapped)))

    def validated(
        self, batch: Sequence[Any], batch_size: int, epochs: int, on_epoch: bool
    ) -> tuple[list[float], list[Array]]:
        """Train through ``fit`` with the callback and validation on the same examples.

        Returns
        -------
        list of float
            The validation loss of each epoch.
        list of ndarray
            The weights that a later callback finds at the end of each epoch.
        """
        x, y, w = self.bench.cast(batch)
        held = (x, y) if w is None else (x, y, w)
        found: list[Array] = []
        learner = self

        class Later(keras_module().callbacks.Callback):  # type: ignore[misc, name-defined]
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                found.append(learner.weights())

        with precision(self.bench.dtype), quiet():
            swap = keras_module().callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)
            history = self.model.fit(
                x, y, sample_weight=w, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0,
                validation_data=held, validation_batch_size=batch_size, callbacks=[swap, Later()],
            ).history  # fmt: skip
        return [float(v) for v in history["val_loss"]], found


def _callbacks(swapped: bool) -> dict[str, Any]:
    return {"callbacks": [keras_module().callbacks.SwapEMAWeights()]} if swapped else {}
