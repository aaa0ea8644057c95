"""A small model of bscheck's own, compiled as users compile theirs, in Keras's own loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import CAPACITY, Array, precision, seeded_initializers
from bscheck.runtime.inference import filled, given, numbers, quiet
from bscheck.runtime.probe import applied, make_probe


class Compiled:
    """A model in float64 (or another precision) whose optimizer leaves the weights alone.

    Parameters
    ----------
    build : callable
        Returns the model; called under the precision.
    mode : str
        Execution mode.
    options : callable
        Returns further options of ``Model.compile``; called under the precision.
    micro_batches : int, optional
        Accumulate so many gradients and keep what reaches the update, see `gradient`.
    """

    def __init__(
        self,
        build: Callable[[], Any],
        mode: str,
        options: Callable[[], Mapping[str, Any]],
        *,
        micro_batches: int | None = None,
        dtype: str = "float64",
    ) -> None:
        self.dtype = dtype
        with seeded_initializers(), precision(dtype):
            self.model = build()
            self.optimizer = (
                make_probe(CAPACITY, micro_batches) if micro_batches else keras_module().optimizers.SGD(0.0)
            )
            self.optimizer.build(self.model.trainable_variables)
            compiled = {**current().compile_options(mode), **options()}
            self.model.compile(optimizer=self.optimizer, **compiled)
            self._first = [np.array(keras_module().ops.convert_to_numpy(v)) for v in self.optimizer.variables]

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Assign the trainable weights; the optimizer starts anew."""
        with precision(self.dtype):
            for variable, value in zip(self.model.trainable_variables, weights, strict=True):
                variable.assign(value.astype(variable.dtype))
            for variable, value in zip(self.optimizer.variables, self._first, strict=True):
                variable.assign(value)

    def run(self, path: str, batch: Sequence[Any], batch_size: int, source: str, **more: Any) -> Mapping[str, float]:
        """Return what ``evaluate`` (``whole``), ``fit``, ``train_on_batch`` or ``test_on_batch`` reports."""
        with precision(self.dtype), quiet():
            if path in ("train_on_batch", "test_on_batch"):
                x, y, w = batch
                self.model.reset_metrics()  # what an earlier call leaves behind is another promise
                return numbers(getattr(self.model, path)(x, y, sample_weight=w, return_dict=True, **more))
            arguments = {**given(filled(batch), batch_size, source), "verbose": 0, **more}
            if path == "whole":
                return numbers(self.model.evaluate(**arguments, return_dict=True))
            history = self.model.fit(**arguments, shuffle=False, epochs=1).history
        return numbers({name: values[-1] for name, values in history.items()})

    def gradient(self, batches: Sequence[Any]) -> list[Array]:
        """Return the gradient that reaches the update after ``train_on_batch`` of each micro-batch."""
        with precision(self.dtype), quiet():
            for x, y, w in batches:
                self.model.train_on_batch(x, y, sample_weight=w)
            gradients, _ = applied(self.optimizer)
        return [np.asarray(g).astype(np.float64) for g in gradients]
