"""Keras on JAX."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import keras
import numpy as np

from bscheck.runtime.promotion import wide_floats


class JaxRuntime:
    """See `bscheck.runtime.Runtime`. ``graph`` is ``jax.jit``, and ``jit`` the very same program."""

    name = "jax"
    modes = ("graph", "eager")
    #: Op by op, every operation of every shape is compiled on its own, and loops anew at every call.
    drawn_modes = ("graph",)
    compiles_per_shape = True
    joins_steps = True
    traces_unknown_lengths = False
    _looked = 0.0

    def precision_scope(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        return _x64() if dtype == "float64" else contextlib.nullcontext()

    def seeded_draws(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def compile_options(self, mode: str) -> dict[str, bool]:
        return {"run_eagerly": mode == "eager", "jit_compile": mode != "eager"}

    def optimizer_class(self, base: type) -> type:
        return base

    def compile(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        return function if mode == "eager" else _Compiled(function)

    def compile_for_any_batch(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        return _Compiled(function)

    def compile_for_any_length(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        return self.compile_for_any_batch(function, tensors)

    def strings(self, array: Any) -> Any:
        return array

    def gradient_function(self, model: Any, loss: Callable[..., Any], mode: str) -> Callable[..., Any]:
        differentiate = self._differentiate(model, loss, mode)

        def gradient(x: Any, y: Any, w: Any) -> Any:
            value, gradients, _ = differentiate(x, y, w)
            flat = [np.asarray(g).astype(np.float64).ravel() for g in gradients]
            return float(value), np.concatenate(flat)

        return gradient

    def input_gradient(self, function: Callable[..., Any], array: Any) -> tuple[Any, Any]:
        value, slope = jax.value_and_grad(function)(jnp.asarray(array))
        return value, slope

    def pullback(self, function: Callable[..., Any], variables: Sequence[Any], mode: str) -> Callable[..., list[Any]]:
        variables = list(variables)

        def pure(values: Any, inputs: Any, fixed: Any) -> Any:
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
                return function(inputs, fixed)

        gradient = jax.grad(pure, argnums=(0, 1))
        compiled = gradient if mode == "eager" else jax.jit(gradient)

        def run(inputs: Any, fixed: Any) -> list[Any]:
            of_values, of_inputs = compiled(_values(variables), _tensors(list(inputs)), _tensors(list(fixed)))
            return [*of_values, *of_inputs]

        return run

    def training_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        if mode == "eager":
            return self.micro_step(model, loss, optimizer, mode)
        return _Step(model.trainable_variables, loss, optimizer)

    def micro_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        # Two programs, where Keras's own trainer compiles one: the update is compiled once for all batch sizes,
        # and the gradient once for all optimizers. `train_on_batch` and `fit` go through Keras's one.
        differentiate = self._differentiate(model, loss, mode)
        apply = self._apply(optimizer, model.trainable_variables, mode)

        def step(x: Any, y: Any, w: Any) -> None:
            _, gradients, updated = differentiate(x, y, w)
            apply(gradients)
            _assign(updated)

        return step

    def apply_function(self, optimizer: Any, variables: Sequence[Any], mode: str) -> Callable[..., None]:
        apply = self._apply(optimizer, variables, mode)

        def run(gradients: Sequence[Any]) -> None:
            apply([None if g is None else jnp.asarray(g) for g in gradients])

        return run

    def sparse(self, rows: Any, values: Any, shape: tuple[int, ...]) -> Any:
        return None

    def is_sparse(self, gradient: Any) -> bool:
        return False

    def dense(self, gradient: Any) -> Any:
        return gradient

    def synchronize(self, variables: Sequence[Any] = ()) -> None:
        # Arrays are computed in the background; effects_barrier waits for side effects alone.
        jax.effects_barrier()
        jax.block_until_ready([getattr(v, "value", v) for v in variables] if variables else jax.live_arrays())

    def relieve(self, forget: Callable[[], None]) -> None:
        # On a CPU every program takes about 50 memory mappings; where the kernel grants no more (65530 by default,
        # 1,300 programs), XLA dies of a segmentation fault.
        if time.monotonic() - self._looked < 1:  # looking takes up to 20 ms
            return
        self._looked = time.monotonic()
        if _mappings() > 0.5:
            forget()
            gc.collect()
            jax.clear_caches()

    def inference(self, model: Any, mode: str) -> Callable[[Any], Any]:
        call = self.compile(lambda x: model(x, training=False), mode)
        return lambda x: call(_tensors(x))

    def memory(self) -> tuple[int, int]:
        counters = jax.devices()[0].memory_stats() or {}
        return int(counters.get("bytes_in_use", 0)), int(counters.get("peak_bytes_in_use", 0))

    def reset_peak_memory(self) -> None:
        pass

    def tracing(self) -> bool:
        return isinstance(jnp.zeros(()) + 0, jax.core.Tracer)

    def live_tensors(self) -> int:
        return len(jax.live_arrays())

    def compiled_memory(self, step: Callable[..., None], batch: Sequence[Any]) -> int | None:
        return step.memory(*batch) if isinstance(step, _Step) else None

    def global_settings(self) -> Sequence[tuple[str, Callable[[], Any], Callable[[Any], Any]]]:
        names = ("jax_enable_x64", "jax_disable_jit", "jax_debug_nans")
        return [
            (name, functools.partial(getattr, jax.config, name), functools.partial(jax.config.update, name))
            for name in names
        ]

    def describe(self) -> dict[str, str]:
        device = jax.devices()[0]
        gpu = device.platform not in ("cpu", "tpu")
        one_thread = "xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", "")
        # On a GPU, JAX's default precision lets XLA use TensorFloat-32 for float32 products.
        precision = str(jax.config.jax_default_matmul_precision or "default").lower()
        return {
            "backend_version": jax.__version__,
            "device": "gpu" if gpu else device.platform,
            "device_name": device.device_kind if gpu else "",
            "threads": "1" if one_thread else "all",
            "tf32": "on" if gpu and precision not in ("highest", "float32") else "off",
        }

    def _differentiate(self, model: Any, loss: Callable[..., Any], mode: str) -> Callable[..., Any]:
        """Return ``f(x, y, w) -> (loss, gradients, other variables with their new values)``; it assigns nothing.

        One function a model, loss and mode, so that every user of it shares what was compiled.
        """
        kept: dict[Any, Callable[..., Any]] = model.__dict__.setdefault("_bscheck_differentiate", {})
        key = (loss, mode == "eager")
        if key not in kept:
            kept[key] = _Differentiated(model.trainable_variables, loss, mode)
        return kept[key]

    def _apply(self, optimizer: Any, variables: Sequence[Any], mode: str) -> Callable[..., None]:
        """Return ``f(gradients)`` that updates `variables` and the optimizer's own."""
        variables = list(variables)
        if mode == "eager":
            return lambda gradients: optimizer.apply(gradients, variables)
        if not optimizer.built:
            optimizer.build(variables)
        update = jax.jit(optimizer.stateless_apply)

        def apply(gradients: Any) -> None:
            moved, slots = update(_values(optimizer.variables), gradients, _values(variables))
            _assign(zip([*variables, *optimizer.variables], [*moved, *slots], strict=True))

        return apply


class _Compiled:
    """A function of tensors and of the Keras variables it meets, compiled; the variables are updated."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.variables: list[Any] = []
        self.updated: list[Any] = []
        self.compiled = jax.jit(self._pure)

    def __call__(self, *tensors: Any) -> Any:
        if not self.variables:
            self.variables = _variables_of(self.function, tensors)
        outputs, values = self.compiled(_values(self.variables), *tensors)
        _assign(zip(self.updated, values, strict=True))
        return outputs

    def _pure(self, values: Sequence[Any], *tensors: Any) -> Any:
        mapping = list(zip(self.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
            outputs = self.function(*tensors)
        # Known once traced: writing every variable back would cost more than a small model's call.
        self.updated = [v for v, value in mapping if scope.get_current_value(v) is not value]
        return outputs, [scope.get_current_value(v) for v in self.updated]


class _Differentiated:
    """A loss and its gradient as a pure function of the variables' values."""

    def __init__(self, trainable: Sequence[Any], loss: Callable[..., Any], mode: str) -> None:
        self.loss = loss
        self.trainable = list(trainable)
        self.others: list[Any] | None = None
        self.pure = jax.value_and_grad(self._pure, has_aux=True)
        self.compiled = self.pure if mode == "eager" else jax.jit(self.pure)

    def __call__(self, x: Any, y: Any, w: Any) -> Any:
        batch = _tensors((x, y, w))
        others = self.others_of(batch)
        (value, after), gradients = self.compiled(_values(self.trainable), _values(others), *batch)
        return value, gradients, list(zip(others, after, strict=True))

    def others_of(self, batch: Sequence[Any]) -> list[Any]:
        """Return the variables that the loss meets beside the trainable ones; found out once."""
        if self.others is None:
            trainable = {id(v) for v in self.trainable}
            found = _variables_of(self.loss, batch, self.trainable)
            self.others = [v for v in found if id(v) not in trainable]
        return self.others

    def _pure(self, trainable: Any, others: Any, x: Any, y: Any, w: Any) -> Any:
        assert self.others is not None
        mapping = zip([*self.trainable, *self.others], [*trainable, *others], strict=True)
        with keras.StatelessScope(state_mapping=list(mapping), collect_losses=True) as scope:
            value = self.loss(x, y, w)
        return value, [scope.get_current_value(v) for v in self.others]


class _Step:
    """A training step in one program, as Keras's own JAX trainer compiles it."""

    def __init__(self, trainable: Sequence[Any], loss: Callable[..., Any], optimizer: Any) -> None:
        self.gradient = _Differentiated(trainable, loss, "eager")
        self.optimizer = optimizer
        if not optimizer.built:
            optimizer.build(self.gradient.trainable)
        self.compiled = jax.jit(self._pure)

    def __call__(self, x: Any, y: Any, w: Any) -> None:
        batch = _tensors((x, y, w))
        others = self.gradient.others_of(batch)
        variables = [self.gradient.trainable, others, self.optimizer.variables]
        for old, new in zip(variables, self.compiled(*map(_values, variables), *batch), strict=True):
            _assign(zip(old, new, strict=True))

    def memory(self, x: Any, y: Any, w: Any) -> int | None:
        """Return the bytes of arguments, results and scratch of the compiled program."""
        batch = _tensors((x, y, w))
        variables = [self.gradient.trainable, self.gradient.others_of(batch), self.optimizer.variables]
        found = self.compiled.lower(*map(_values, variables), *batch).compile().memory_analysis()
        if found is None:
            return None
        sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
        return int(sum(sizes) - found.alias_size_in_bytes)

    def _pure(self, trainable: Any, others: Any, slots: Any, x: Any, y: Any, w: Any) -> Any:
        (_, after), gradients = self.gradient.pure(trainable, others, x, y, w)
        moved, slots = self.optimizer.stateless_apply(slots, gradients, trainable)
        return moved, after, slots


def _values(variables: Sequence[Any]) -> list[Any]:
    return [v.value for v in variables]


def _assign(updated: Iterable[tuple[Any, Any]]) -> None:
    for variable, value in updated:
        variable.assign(value)


def _variables_of(function: Callable[..., Any], tensors: Sequence[Any], known: Sequence[Any] = ()) -> list[Any]:
    """Return the Keras variables that a function reads or writes; penalties need theirs to be `known`."""
    found: dict[int, Any] = {}

    class Finder(keras.StatelessScope):  # type: ignore[misc]
        def get_current_value(self, variable: Any) -> Any:
            found[id(variable)] = variable
            return super().get_current_value(variable)

        def add_update(self, update: Any) -> None:
            found[id(update[0])] = update[0]
            super().add_update(update)

    def traced(*tensors: Any) -> Any:
        values = [(v, v.value) for v in known]
        with Finder(state_mapping=values, collect_losses=True, initialize_variables=False):
            return function(*tensors)

    jax.eval_shape(traced, *tensors)
    # Metrics make their variables when first called; in the trace they would be given traced values.
    with keras.StatelessScope():
        pass
    return list(found.values())


def _mappings() -> float:
    """Return the share of the memory mappings that the kernel grants this process; 0 where it does not say."""
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        return Path("/proc/self/maps").read_bytes().count(b"\n") / most
    except (OSError, ValueError):
        return 0.0


@contextlib.contextmanager
def _x64() -> Iterator[None]:
    """Compute in float64 inside: JAX turns 64-bit numbers into 32-bit ones otherwise."""
    if hasattr(jax, "enable_x64"):
        scope = jax.enable_x64(True)
    else:  # JAX before 0.8
        from jax.experimental import enable_x64

        scope = enable_x64()
    with scope, wide_floats(), mock.patch.object(jax.nn, "dot_product_attention", _attention):
        yield


_attention_of_jax = jax.nn.dot_product_attention


def _attention(query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **options: Any) -> Any:
    """Return attention whose softmax is in the inputs' dtype: JAX's own is 'always carried out in fp32'."""
    scale, causal = options.pop("scale", None), options.pop("is_causal", False)
    options.pop("implementation", None)
    if query.dtype != jnp.float64 or key.shape[2] != query.shape[2] or any(options.values()):
        return _attention_of_jax(query, key, value, bias, mask, scale=scale, is_causal=causal, **options)
    logits = jnp.einsum("BTNH,BSNH->BNTS", query, key)
    logits = logits * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias
    if causal:
        below = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        mask = below if mask is None else jnp.logical_and(mask, below)
    logits = logits if mask is None else jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(logits, axis=-1), value)


def _tensors(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


RUNTIME = JaxRuntime()
