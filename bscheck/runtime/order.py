"""Single steps of small dense models whose arithmetic is exact, each from the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bscheck.cases import OrderCase
from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision

#: Steps of each model: most orders of execution stay as they are from step to step, some do not.
STEPS = 3


def updates(case: OrderCase, loss: str, weights: Sequence[Array], x: Array, y: Array) -> Iterator[list[Array]]:
    """Yield what each step takes from the weights: with SGD and a learning rate of 1, its gradients."""
    with precision("float32"):
        for _ in range(case.models):
            model = _model(case, loss)
            for _ in range(STEPS):
                model.set_weights(weights)
                if case.path == "fit":
                    model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0)
                else:
                    model.train_on_batch(x, y)
                yield [w - np.asarray(new) for w, new in zip(weights, model.get_weights(), strict=True)]


def _model(case: OrderCase, loss: str) -> Any:
    keras: Any = keras_module()
    ops = keras.ops
    of_predictions = {
        "product": lambda y_true, y_pred: ops.sum(y_true * y_pred),
        "prediction": lambda y_true, y_pred: ops.sum(y_pred),
        "square": lambda y_true, y_pred: ops.sum(ops.square(y_pred - y_true)),
    }
    options: Mapping[str, Any] = {"use_bias": case.bias == "on"}
    hidden = [keras.layers.Dense(case.HIDDEN, activation=case.activation, **options) for _ in range(case.layers - 1)]
    last = keras.layers.Dense(case.HIDDEN, **options)
    model = keras.Sequential([keras.Input((case.HIDDEN,)), *hidden, last])
    model.compile(keras.optimizers.SGD(1.0), loss=of_predictions[loss], **current().compile_options(case.mode))
    return model
