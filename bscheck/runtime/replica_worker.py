"""Training on two devices, in a process of its own: ``python -m bscheck.runtime.replica_worker``.

Virtual devices must be there before the backend starts, so the process that asks cannot have them itself. It gets one
JSON object a line on standard input and answers with one line, marked, on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from typing import Any

import numpy as np

from bscheck.errors import one_line
from bscheck.oracles import replicas as oracle
from bscheck.oracles.replicas import DEVICES

#: Marks an answer among whatever else a backend prints.
MARK = "bscheck-answer "


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Whatever else prints, prints elsewhere.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    trainer = _Trainer()
    for line in sys.stdin:
        try:
            request = json.loads(line)
            answer = trainer.answer(request)
        except Exception as error:
            answer = {"error": one_line(error)}
        answers.write(MARK + json.dumps(answer) + "\n")
        answers.flush()


class _Trainer:
    """The devices, and the models that were compiled for them."""

    def __init__(self) -> None:
        self.scope = _devices()
        import keras

        # On JAX, Keras's trainer makes float32 of some of what it is given.
        self.dtype = "float32" if keras.backend.backend() == "jax" else "float64"
        keras.config.set_floatx(self.dtype)
        self.keras = keras
        self.models: dict[tuple[bool, int, str, int], Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what a request of `bscheck.checks.replicas` is answered with."""
        if request.pop("normalize", False):
            return self.normalize(request)
        return self.train(request) if request["path"] == "fit" else self.tell(request)

    def tell(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the evaluation of a model by its first weights, or its predictions."""
        data = oracle.draw(request["seed"], request["examples"], request["weighted"])
        model = self._model(False, 1, "none")  # one of its own: what training meets first must not depend on questions
        for variable, value in zip(model.trainable_variables, data.start, strict=True):
            variable.assign(value)
        x, y, w = (a.astype(self.dtype) for a in (data.x, data.y, data.w))
        if request["path"] == "evaluate":
            seen = model.evaluate(x, y, sample_weight=w, batch_size=request["batch_size"], verbose=0, return_dict=True)
            return {"evaluated": {name: float(v) for name, v in seen.items()}, "dtype": self.dtype}
        if request["path"] == "predict":
            seen = model.predict(x, batch_size=request["batch_size"], verbose=0)
        else:
            seen = model.predict_on_batch(x)
        return {"predicted": np.asarray(seen, np.float64).tolist(), "dtype": self.dtype}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return weights and history of the requested training."""
        overflow = request["optimizer"] == "overflow"
        data = oracle.draw(request["seed"], request["examples"], request["weighted"], overflow)
        name, steps = "scaled" if overflow else request["optimizer"], request["steps_per_execution"]
        model = self._model(request["penalty"], request["k"], name, steps)
        for variable, value in zip(model.trainable_variables, data.start, strict=True):
            variable.assign(value)
        for variable, value in zip(model.optimizer.variables, model.bscheck_initial, strict=True):
            variable.assign(value)
        x, y, w = (a.astype(self.dtype) for a in (data.x, data.y, data.w))
        fitted = model.fit(
            x,
            y,
            sample_weight=w,
            batch_size=request["batch_size"],
            epochs=request["epochs"],
            shuffle=False,
            verbose=0,
        )
        weights = [np.asarray(w, np.float64).tolist() for w in model.get_weights()]
        history = {name: [float(v) for v in values] for name, values in fitted.history.items()}
        return {"weights": weights, "history": history, "dtype": self.dtype}

    def normalize(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the variables that a step on one batch leaves in a batch normalization, by name."""
        keras, data = self.keras, oracle.draw(request["seed"], request["examples"], False)
        # On JAX an array is one whole, however many devices hold it: there is nothing to ask for.
        asked = {} if keras.backend.backend() == "jax" else {"synchronized": True}
        with self.scope():
            layer = keras.layers.BatchNormalization(momentum=oracle.KEPT, **asked)
            model = keras.Sequential([keras.Input((oracle.FEATURES,)), layer])
            model.compile(keras.optimizers.SGD(oracle.RATE), loss="mean_squared_error")
        x, y = data.x.astype(self.dtype), oracle.targets(data).astype(self.dtype)
        model.fit(x, y, batch_size=len(x), epochs=1, shuffle=False, verbose=0)
        held = {name: getattr(layer, name) for name in ("moving_mean", "moving_variance", "gamma", "beta")}
        values = {name: np.asarray(keras.ops.convert_to_numpy(v), np.float64).tolist() for name, v in held.items()}
        return {"variables": values, "dtype": self.dtype}

    def _model(self, penalty: bool, k: int, name: str, steps: int = 1) -> Any:
        if (penalty, k, name, steps) not in self.models:
            keras = self.keras
            with self.scope():
                regularizer = keras.regularizers.L2(oracle.L2) if penalty else None
                layer = keras.layers.Dense(oracle.OUTPUTS, kernel_regularizer=regularizer)
                model = keras.Sequential([keras.Input((oracle.FEATURES,)), layer])
                optimizer = self._optimizer(name, {"gradient_accumulation_steps": k} if k > 1 else {})
                model.compile(
                    optimizer,
                    loss="mean_squared_error",
                    metrics=["mean_absolute_error"],
                    weighted_metrics=[keras.metrics.MeanSquaredError(name="weighted_mean_squared_error")],
                    steps_per_execution=steps,
                )
                optimizer.build(model.trainable_variables)
            initial = [np.array(keras.ops.convert_to_numpy(v)) for v in optimizer.variables]
            object.__setattr__(model, "bscheck_initial", initial)
            self.models[penalty, k, name, steps] = model
        return self.models[penalty, k, name, steps]

    def _optimizer(self, name: str, options: dict[str, Any]) -> Any:
        optimizers, averages = self.keras.optimizers, {"use_ema": True, "ema_momentum": oracle.AVERAGED}
        if name == "adam":
            betas = {"beta_1": oracle.BETA_1, "beta_2": oracle.BETA_2, "epsilon": oracle.ADAM_EPSILON}
            return optimizers.Adam(oracle.RATE, weight_decay=oracle.DECAY, **betas, **averages, **options)
        if "clip" in name:
            options = {**options, name: oracle.CLIP}
        if name == "averaged":
            options = {**options, **averages, "ema_overwrite_frequency": oracle.EVERY}
        optimizer = optimizers.SGD(oracle.RATE, momentum=oracle.MOMENTUM, **options)
        return optimizers.LossScaleOptimizer(optimizer) if name == "scaled" else optimizer


def _devices() -> Any:
    """Make two devices and return the scope in which models are built for both."""
    if os.environ.get("KERAS_BACKEND") == "jax":
        return _data_parallel()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) >= DEVICES:
        names = [f"GPU:{i}" for i in range(DEVICES)]
    else:
        names = [f"CPU:{i}" for i in range(DEVICES)]
        tf.config.set_visible_devices([], "GPU")
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    return tf.distribute.MirroredStrategy(names).scope


def _data_parallel() -> Any:
    import jax
    import keras

    devices = jax.devices()[:DEVICES]
    if len(devices) < DEVICES:
        raise RuntimeError(f"{len(devices)} JAX device where {DEVICES} were asked for")
    names = [f"{d.platform}:{d.id}" for d in devices]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names))
    return contextlib.nullcontext


if __name__ == "__main__":
    main()
