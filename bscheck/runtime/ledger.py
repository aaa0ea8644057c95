"""The ledger's model in Keras: trained by any loop, with a journal of what its optimizer was given.

See `bscheck.oracles.ledger` for what it is and for NumPy's side.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bscheck.oracles.ledger import CENTRE, COLUMNS, FACTOR, SLOPE, Journal, Ledger
from bscheck.runtime import current, keras_module
from bscheck.runtime.probe import step_counter
from bscheck.runtime.rig import accumulators, updates

#: Micro-steps that a journal has room for.
CAPACITY = 48


def _journaling(base: type) -> type:
    """Return a subclass of an optimizer class that writes down every gradient given to it, and the weights then."""
    ops = keras_module().ops

    class Journaling(base):  # type: ignore[misc]
        def build(self, variables: Any) -> None:
            if self.built:
                return
            super().build(variables)
            shape = (CAPACITY, 3, COLUMNS)
            self.bscheck_journal = self.add_variable(shape, dtype="float32", name="bscheck_journal")

        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            if not self.built and trainable_variables is not None:
                self.build(list(trainable_variables))
            (given,) = grads
            (variable,) = trainable_variables or self._trainable_variables
            kept = ops.convert_to_tensor(self.bscheck_journal)
            # A graph that runs out of data still runs what needs no data: a counter of its own would be wrong.
            step = ops.sum(kept[:, 2, 0])
            here = ops.reshape(ops.equal(ops.arange(CAPACITY, dtype="float32"), step), (-1, 1, 1))
            flat, weights = ops.reshape(given, (-1,)), ops.reshape(ops.convert_to_tensor(variable), (-1,))
            row = ops.stack([flat, weights, ops.ones_like(flat)])
            self.bscheck_journal.assign(ops.where(here, ops.expand_dims(row, 0), kept))
            return super().apply(grads, trainable_variables)

    Journaling.__name__ = base.__name__
    return Journaling


class Trainee:
    """The compiled model, its journaling SGD (learning rate 1) and its state within reach.

    Parameters
    ----------
    k : int
        Micro-batches in one update; 1: no accumulation.
    mode : str
        Execution mode.
    steps_per_execution : int
        As in ``compile``.
    model_class : type, optional
        What to build instead of ``keras.Model``.
    """

    def __init__(
        self, k: int, mode: str, steps_per_execution: int = 1, model_class: Callable[..., Any] | None = None
    ) -> None:
        keras = keras_module()
        self.keras, self.k = keras, k
        inputs = keras.Input((COLUMNS,))
        hidden = keras.layers.Dense(1, use_bias=False)(inputs)
        outputs = keras.layers.LeakyReLU(negative_slope=SLOPE)(hidden)
        self.model = (model_class or keras.Model)(inputs, outputs)
        made = _journaling(current().optimizer_class(keras.optimizers.SGD))
        self.optimizer = made(1.0, gradient_accumulation_steps=k if k > 1 else None)
        self.optimizer.build(self.model.trainable_variables)
        options: dict[str, Any] = dict(current().compile_options(mode))
        if steps_per_execution != 1:  # Keras on torch takes no other, and before 3.1 the option was not there
            options["steps_per_execution"] = steps_per_execution
        self.model.compile(optimizer=self.optimizer, loss=ledger_loss(), **options)
        self._first = [np.array(keras.ops.convert_to_numpy(v)) for v in self.optimizer.variables]

    def reset(self, ledger: Ledger) -> None:
        """Give the weights the ledger's first values, and the optimizer's variables their own."""
        (kernel,) = self.model.trainable_variables
        kernel.assign(ledger.start.astype("float32")[:, None])
        for variable, value in zip(self.optimizer.variables, self._first, strict=True):
            variable.assign(value)

    def fit(self, given: dict[str, Any], **options: Any) -> None:
        """Call ``fit``; generators and datasets that end where they should are no news."""
        with _quiet():
            self.model.fit(**given, verbose=0, **options)

    def journal(self) -> Journal:
        """Return what happened since `reset`."""
        convert = self.keras.ops.convert_to_numpy
        rows = np.asarray(convert(self.optimizer.bscheck_journal), np.float64)
        rows = rows[: int(rows[:, 2, 0].sum())]
        held, counted = accumulators(self.optimizer), int(convert(step_counter(self.optimizer)))
        (kernel,) = self.model.trainable_variables
        return Journal(
            rows[:, 0],
            rows[:, 1],
            np.asarray(convert(kernel), np.float64)[:, 0],
            np.asarray(held[0], np.float64).ravel() if held else None,
            # Releases that count micro-batches under this name break a promise of its own; here it is passed over.
            updates(self.optimizer) if hasattr(self.optimizer, "_iterations") else counted // self.k,
            counted,
        )


def ledger_loss() -> Any:
    """Return the ledger's loss, a sum over the batch."""
    keras = keras_module()

    class LedgerLoss(keras.losses.Loss):  # type: ignore[misc, name-defined]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            targets = keras.ops.cast(y_true, y_pred.dtype)
            return keras.ops.sum((targets - CENTRE) * FACTOR * y_pred, axis=-1)

    return LedgerLoss(reduction="sum")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield
