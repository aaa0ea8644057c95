"""A model whose loss tells which entries Dropout dropped."""

from __future__ import annotations

from typing import Any

import numpy as np

from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array
from bscheck.runtime.compiled import Compiled

#: Examples of a call, and entries of each: all of them are bits of one float64.
EXAMPLES, BITS = 2, 26


class Drawing:
    """A model ``x -> x`` with Dropout behind it, compiled; its targets are powers of two, its loss their sum.

    Parameters
    ----------
    mode : str
        Execution mode.
    """

    def __init__(self, mode: str) -> None:
        self.model = Compiled(_dropping, mode, lambda: {"loss": _sum_of_products()})

    def call(self, path: str, batch_size: int) -> list[Array]:
        """Train on ones in batches of this size; return which entries were dropped, example by example."""
        self.model.set_weights([np.eye(BITS)])
        x = np.ones((EXAMPLES, BITS))
        codes = 2.0 ** np.arange(EXAMPLES * BITS).reshape(EXAMPLES, BITS)
        if path == "fit":
            # The mean over the batches, of sums over their examples.
            batches = -(-EXAMPLES // batch_size)
            total = batches * self.model.run(path, (x, codes, None), batch_size, "arrays")["loss"]
        else:
            parts = [slice(i, i + batch_size) for i in range(0, EXAMPLES, batch_size)]
            total = sum(self.model.run(path, (x[part], codes[part], None), 0, "")["loss"] for part in parts)
        kept = int(total) // 2  # what is kept is doubled
        return [np.array([not kept >> (i * BITS + j) & 1 for j in range(BITS)]) for i in range(EXAMPLES)]


def _dropping() -> Any:
    keras = keras_module()
    inputs = keras.Input((BITS,))
    hidden = keras.layers.Dense(BITS, use_bias=False)(inputs)
    return keras.Model(inputs, keras.layers.Dropout(0.5, seed=1)(hidden))


def _sum_of_products() -> Any:
    keras = keras_module()

    class SumOfProducts(keras.losses.Loss):  # type: ignore[misc, name-defined]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return keras.ops.sum(y_true * y_pred, axis=-1)

    return SumOfProducts(reduction="sum")
