"""Keras on TensorFlow."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


class TensorFlowRuntime:
    """See `bscheck.runtime.Runtime`."""

    name = "tensorflow"
    modes = ("graph", "eager", "jit")
    drawn_modes = ("graph", "eager")
    compiles_per_shape = False
    joins_steps = True
    traces_unknown_lengths = True

    def precision_scope(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def seeded_draws(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def compile_options(self, mode: str) -> dict[str, bool]:
        return {"run_eagerly": mode == "eager", "jit_compile": mode == "jit"}

    def optimizer_class(self, base: type) -> type:
        return base

    def compile(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        if mode == "eager":
            return function
        compiled: Callable[..., Any] = tf.function(
            function, reduce_retracing=True, jit_compile=mode == "jit", autograph=False
        )
        return compiled

    def compile_for_any_batch(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        spec = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in tensors]
        compiled: Callable[..., Any] = tf.function(function, autograph=False).get_concrete_function(*spec)
        return compiled

    def compile_for_any_length(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        spec = [tf.TensorSpec([None, None, *t.shape[2:]] if t.shape.rank > 1 else [None], t.dtype) for t in tensors]
        compiled: Callable[..., Any] = tf.function(function, autograph=False).get_concrete_function(*spec)
        return compiled

    def strings(self, array: Any) -> Any:
        return tf.constant(array)

    def gradient_function(self, model: Any, loss: Callable[..., Any], mode: str) -> Callable[..., Any]:
        differentiate = self._differentiate(model, loss, mode)
        variables = model.trainable_variables

        def gradient(x: Any, y: Any, w: Any) -> Any:
            value, gradients = differentiate(x, y, w)
            flat = [
                np.zeros(int(np.prod(v.shape))) if g is None else self.dense(g).numpy().astype(np.float64).ravel()
                for g, v in zip(gradients, variables, strict=True)
            ]
            return float(value), np.concatenate(flat)

        return gradient

    def input_gradient(self, function: Callable[..., Any], array: Any) -> tuple[Any, Any]:
        tensor = tf.convert_to_tensor(array)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        slope = tape.gradient(value, tensor)
        return value, tf.zeros_like(tensor) if slope is None else slope

    def micro_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        differentiate = self._differentiate(model, loss, mode)
        apply = self.apply_function(optimizer, model.trainable_variables, mode)
        return lambda x, y, w: apply(differentiate(x, y, w)[1])

    def _differentiate(self, model: Any, loss: Callable[..., Any], mode: str) -> Callable[..., Any]:
        """Return ``f(x, y, w) -> (loss, gradients as Keras's trainer gets them)``, traced once for all its users."""
        kept: dict[Any, Callable[..., Any]] = model.__dict__.setdefault("_bscheck_differentiate", {})
        if (loss, mode) not in kept:
            variables = [v.value for v in model.trainable_variables]

            def differentiate(x: Any, y: Any, w: Any) -> Any:
                with tf.GradientTape() as tape:
                    value = loss(x, y, w)
                return value, tape.gradient(value, variables)

            kept[loss, mode] = _relaxed(differentiate, mode)
        return kept[loss, mode]

    def pullback(self, function: Callable[..., Any], variables: Sequence[Any], mode: str) -> Callable[..., list[Any]]:
        values = [v.value for v in variables]

        def differentiate(inputs: Any, fixed: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = function(inputs, fixed)
            gradients = tape.gradient(value, [*values, *inputs])
            return [None if g is None else self.dense(g) for g in gradients]

        return differentiate if mode == "eager" else self.compile(differentiate, mode)

    def training_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        def step(x: Any, y: Any, w: Any) -> None:
            with tf.GradientTape() as tape:
                value = loss(x, y, w)
            gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
            optimizer.apply(gradients, model.trainable_variables)

        return _relaxed(step, mode)

    def apply_function(self, optimizer: Any, variables: Sequence[Any], mode: str) -> Callable[..., None]:
        def apply(*gradients: Any) -> None:
            optimizer.apply(list(gradients), list(variables))

        compiled = apply
        if mode != "eager":
            # The rows of a sparse gradient come in any number.
            compiled = tf.function(apply, jit_compile=mode == "jit", reduce_retracing=True, autograph=False)

        def run(gradients: Sequence[Any]) -> None:
            compiled(*(g if self.is_sparse(g) or g is None else tf.convert_to_tensor(g) for g in gradients))

        return run

    def sparse(self, rows: Any, values: Any, shape: tuple[int, ...]) -> Any:
        return tf.IndexedSlices(tf.convert_to_tensor(values), tf.convert_to_tensor(rows), tf.constant(shape))

    def is_sparse(self, gradient: Any) -> bool:
        return isinstance(gradient, tf.IndexedSlices)

    def dense(self, gradient: Any) -> Any:
        return tf.convert_to_tensor(gradient)

    def synchronize(self, variables: Sequence[Any] = ()) -> None:
        tf.test.experimental.sync_devices()

    def relieve(self, forget: Callable[[], None]) -> None:
        pass

    def inference(self, model: Any, mode: str) -> Callable[[Any], Any]:
        call = _relaxed(lambda x, y, w: model(x, training=False), mode)
        return lambda x: call(x, None, None)

    def memory(self) -> tuple[int, int]:
        info = tf.config.experimental.get_memory_info(_device())
        return int(info["current"]), int(info["peak"])

    def reset_peak_memory(self) -> None:
        tf.config.experimental.reset_memory_stats(_device())

    def tracing(self) -> bool:
        return not tf.executing_eagerly()

    def live_tensors(self) -> int:
        return sum(issubclass(type(o), tf.Tensor) for o in gc.get_objects())

    def compiled_memory(self, step: Callable[..., None], batch: Sequence[Any]) -> int | None:
        return None

    def global_settings(self) -> Sequence[tuple[str, Callable[[], Any], Callable[[Any], Any]]]:
        config = tf.config
        return [
            ("eager execution of functions", config.functions_run_eagerly, config.run_functions_eagerly),
            ("XLA for functions", config.optimizer.get_jit, config.optimizer.set_jit),
            ("soft device placement", config.get_soft_device_placement, config.set_soft_device_placement),
        ]

    def describe(self) -> dict[str, str]:
        gpus = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else ""
        threads = tf.config.threading.get_intra_op_parallelism_threads()
        return {
            "backend_version": tf.__version__,
            "device": "gpu" if gpus else "cpu",
            "device_name": name,
            "threads": str(threads) if threads else "all",
            "tf32": "on" if gpus and tf.config.experimental.tensor_float_32_execution_enabled() else "off",
        }


def _compiled(function: Callable[..., Any], mode: str) -> Any:
    # As Keras's own trainer does: there is no Python control flow to convert, and looking for it is slow.
    return tf.function(function, jit_compile=mode == "jit", autograph=False)


def _relaxed(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Return `function` of arrays compiled once for any number of examples (XLA still compiles per shape)."""
    if mode == "eager":
        return lambda x, y, w: function(_tensors(x), _tensors(y), _tensors(w))
    traced: dict[Any, Any] = {}

    def run(x: Any, y: Any, w: Any) -> Any:
        arguments = (_tensors(x), _tensors(y), _tensors(w))
        flat = tf.nest.flatten(arguments)
        key = tuple(None if t is None else (t.dtype, t.shape[1:]) for t in flat)
        if key not in traced:
            spec = tf.nest.map_structure(
                lambda t: None if t is None else tf.TensorSpec([None, *t.shape[1:]], t.dtype), arguments
            )
            traced[key] = _compiled(function, mode).get_concrete_function(*spec)
        return traced[key](*[t for t in flat if t is not None])

    return run


def _device() -> str:
    return "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"


def _tensors(tree: Any) -> Any:
    return tf.nest.map_structure(lambda a: None if a is None else tf.convert_to_tensor(a), tree)


RUNTIME = TensorFlowRuntime()
