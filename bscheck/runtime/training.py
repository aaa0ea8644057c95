"""Training by Keras itself, followed update by update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from bscheck.runtime.bench import Array, Bench, build_model, concatenate, precision
from bscheck.subject import examples

T = TypeVar("T")


class Training:
    """A model and an optimizer compiled once; every call of `follow` trains them from the start.

    Parameters
    ----------
    bench : Bench
        Says the subject and the precision. The model is one of its own, with the loss but without metrics.
    make : callable
        Returns a new Keras optimizer; called under the bench's precision.
    mode : str
        Execution mode.

    Attributes
    ----------
    model, optimizer
        Keras's own, for reading.
    """

    def __init__(self, bench: Bench, make: Callable[[], Any], mode: str) -> None:
        self.bench = bench
        self.model = build_model(bench.subject, bench.dtype)
        with precision(bench.dtype):
            self.optimizer = make()
            self.optimizer.build(self.model.trainable_variables)
            options = bench.runtime.compile_options(mode)
            bench.compile_model(self.model, self.optimizer, **options)
            self._initial = [np.array(bench.keras.ops.convert_to_numpy(v)) for v in self.optimizer.variables]

    def follow(
        self,
        weights: Array,
        batches: Iterable[Sequence[Any]],
        rates: Sequence[float],
        path: str,
        read: Callable[[], T],
    ) -> list[T]:
        """Train for ``len(rates)`` updates and return what `read` returns before the first and after each.

        Parameters
        ----------
        weights : array, shape (parameters,)
            Where training starts; the optimizer starts as it was built.
        batches : iterable of (x, y, sample_weight)
            For the path ``fit`` all of one size, but for a smaller last one; passed over again when they end.
        rates : sequence of float
            Learning rate of each update.
        path : str
            ``train_on_batch``, or ``fit`` (read by a callback at the end of each batch).
        read : callable
            Reads `model` and `optimizer`; what it returns must not change afterwards.
        """
        given = [self.bench.cast(batch) for batch in batches]
        with precision(self.bench.dtype):
            self._reset(weights)
            seen = [read()]
            if path == "fit":
                self._fit(given, rates, lambda: seen.append(read()))
            else:
                for i, rate in enumerate(rates):
                    x, y, w = given[i % len(given)]
                    self.optimizer.learning_rate = rate
                    self.model.train_on_batch(x, y, sample_weight=w)
                    seen.append(read())
        return seen

    def _fit(self, batches: Sequence[Any], rates: Sequence[float], after: Callable[[], None]) -> None:
        batches = batches[: len(rates)]
        x, y, w = concatenate(batches)
        size, epochs = examples(batches[0][1]), -(-len(rates) // len(batches))
        follower = _follower(self.bench.keras, rates, after)
        options = {"shuffle": False, "verbose": 0, "callbacks": [follower]}
        self.model.fit(x, y, sample_weight=w, batch_size=size, epochs=epochs, **options)

    def _reset(self, weights: Array) -> None:
        for variable, value in zip(self.model.trainable_variables, self.bench.split(weights), strict=True):
            variable.assign(np.asarray(value).astype(variable.dtype))
        for variable, value in zip(self.optimizer.variables, self._initial, strict=True):
            variable.assign(value)


def _follower(keras: Any, rates: Sequence[float], after: Callable[[], None]) -> Any:
    """Return a callback that sets each update's learning rate and calls `after` when it is made."""

    class Follower(keras.callbacks.Callback):  # type: ignore[misc]
        made = 0

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            # On JAX, asking for the model is what brings its variables up to date.
            self.model.optimizer.learning_rate = rates[min(self.made, len(rates) - 1)]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.made < len(rates) and self.model is not None:
                after()
            self.made += 1

    return Follower()
