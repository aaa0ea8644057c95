"""A model that keeps metrics of its own, as attributes of the model and of one of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array

#: Names of the metrics by what they are attributes of.
TRACKED = {"model": "squared", "layer": "magnitude"}


def told(x: Array, held_out: Array, batch_size: int, mode: str) -> list[tuple[str, Array, Mapping[str, float]]]:
    """Return what each epoch and call reports, and the examples that it is about.

    The model gives its inputs back; its targets are zeros and it learns at rate 0. ``squared``, of the model, is the
    mean of x squared and updated where the loss is computed; ``magnitude``, of the layer, the mean of the absolute
    values and updated where the layer is called.
    """
    model = _model(mode)
    history = model.fit(
        x, 0 * x, batch_size=batch_size, epochs=2, validation_data=(held_out, 0 * held_out), verbose=0, shuffle=False
    ).history
    reports: list[tuple[str, Array, Mapping[str, float]]] = []
    for epoch in range(2):
        told = {name: values[epoch] for name, values in history.items()}
        held = {name.removeprefix("val_"): value for name, value in told.items() if name.startswith("val_")}
        reports += [(f"epoch {epoch + 1}", x, told), (f"the validation of epoch {epoch + 1}", held_out, held)]
    for number in ("first", "second"):
        report = model.evaluate(x, 0 * x, batch_size=batch_size, verbose=0, return_dict=True)
        reports.append((f"the {number} evaluate", x, report))
    for call in ("train_on_batch", "test_on_batch"):
        for rows in (x[:batch_size], held_out):
            reports.append((call, rows, getattr(model, call)(rows, 0 * rows, return_dict=True)))
    return reports


def _model(mode: str) -> Any:
    keras: Any = keras_module()
    ops = keras.ops

    class Watched(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.magnitude = keras.metrics.Mean(name=TRACKED["layer"])

        def call(self, inputs: Any) -> Any:
            self.magnitude.update_state(ops.abs(inputs))
            return inputs

    class Tracking(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.watched = Watched()
            self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
            self.squared = keras.metrics.Mean(name=TRACKED["model"])

        def call(self, inputs: Any) -> Any:
            return self.dense(self.watched(inputs))

        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any:
            self.squared.update_state(ops.square(y_pred))
            return ops.mean(ops.square(ops.subtract(y_pred, y)))

    model = Tracking()
    model.compile(optimizer=keras.optimizers.SGD(0.0), metrics=["mae"], **current().compile_options(mode))
    return model
