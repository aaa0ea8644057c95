"""A subject's model that learns through any of Keras's loops, its whole state within reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.runtime.bench import Array, Bench, build_model, precision
from bscheck.runtime.inference import quiet, stream, told
from bscheck.subject import examples, take

#: Learning rate and momentum: large enough that an update left out, or made twice, moves every weight.
RATE, MOMENTUM = 2.0**-5, 0.5


class Learner:
    """A compiled model of a subject; `reset` makes it as good as new.

    Parameters
    ----------
    bench : Bench
        Subject and precision.
    mode : str
        Execution mode.
    **options
        Further options of the optimizer, SGD with momentum.
    """

    def __init__(self, bench: Bench, mode: str, **options: Any) -> None:
        self.bench = bench
        self.model = build_model(bench.subject, bench.dtype)
        with precision(bench.dtype):
            self.optimizer = bench.keras.optimizers.SGD(RATE, momentum=MOMENTUM, **options)
            self.optimizer.build(self.model.trainable_variables)
            bench.compile_model(self.model, self.optimizer, **bench.runtime.compile_options(mode))
        self._first = [np.array(bench.keras.ops.convert_to_numpy(v)) for v in self._variables()]

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables]

    def reset(self, flat: Array) -> None:
        """Assign the trainable weights; every other variable of model and optimizer gets its first value."""
        with precision(self.bench.dtype):
            for variable, value in zip(self._variables(), self._first, strict=True):
                variable.assign(value)
            for variable, value in zip(self.model.trainable_variables, self.bench.split(flat), strict=True):
                variable.assign(np.asarray(value).astype(variable.dtype))

    def learn(self, batch: Sequence[Any], batch_size: int, source: str, epochs: int = 1) -> None:
        """Train for some epochs, unshuffled: through ``fit`` from a source, or ``on_batch``."""
        x, y, w = self.bench.cast(batch)
        with precision(self.bench.dtype), quiet():
            if source != "on_batch":
                arguments = {**stream((x, y, w), batch_size, source), **told(x, batch_size, source, "steps_per_epoch")}
                self.model.fit(**arguments, shuffle=False, epochs=epochs, verbose=0)
                return
            for start in list(range(0, examples(y), batch_size)) * epochs:
                rows = slice(start, start + batch_size)
                weights = None if w is None else w[rows]
                self.model.train_on_batch(take(x, rows), take(y, rows), sample_weight=weights)

    def finalize(self) -> None:
        """Give the weights their final values, as a loop of one's own must."""
        with precision(self.bench.dtype):
            self.optimizer.finalize_variable_values(self.model.trainable_variables)

    def state(self) -> dict[str, Array]:
        """Return every floating-point variable of model and optimizer by name; metrics are reports, not state."""
        found = {}
        for i, variable in enumerate(self._variables()):
            value = np.asarray(self.bench.keras.ops.convert_to_numpy(variable))
            if value.dtype.kind == "f":
                found[f"{getattr(variable, 'path', variable.name)} ({i})"] = value.astype(np.float64)
        return found
