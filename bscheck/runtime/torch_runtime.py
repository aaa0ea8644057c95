"""Keras on torch."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import torch

from bscheck.runtime.promotion import wide_floats


class TorchRuntime:
    """See `bscheck.runtime.Runtime`. Keras on torch runs eagerly; ``torch.compile`` is not used."""

    name = "torch"
    modes = ("eager",)
    drawn_modes = ("eager",)
    compiles_per_shape = False
    joins_steps = False
    traces_unknown_lengths = False

    def precision_scope(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        return wide_floats() if dtype == "float64" else contextlib.nullcontext()

    @contextlib.contextmanager
    def seeded_draws(self) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield

    def compile_options(self, mode: str) -> dict[str, bool]:
        return {"run_eagerly": False, "jit_compile": False}

    def optimizer_class(self, base: Any) -> type:
        # Keras swaps its own classes, but not their subclasses, for twins that update all variables at once.
        return type(base.__new__(base))

    def compile(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        return function

    def compile_for_any_batch(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        return function

    def compile_for_any_length(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        return self.compile_for_any_batch(function, tensors)

    def strings(self, array: Any) -> Any:
        return array

    def gradient_function(self, model: Any, loss: Callable[..., Any], mode: str) -> Callable[..., Any]:
        def gradient(x: Any, y: Any, w: Any) -> Any:
            value, gradients = _differentiate(model, loss, x, y, w)
            flat = [
                np.zeros(tuple(v.shape)) if g is None else g.cpu().to(torch.float64).numpy()
                for g, v in zip(gradients, model.trainable_variables, strict=True)
            ]
            return float(value.detach()), np.concatenate([part.ravel() for part in flat])

        return gradient

    def input_gradient(self, function: Callable[..., Any], array: Any) -> tuple[Any, Any]:
        tensor = keras.ops.convert_to_tensor(np.array(array)).requires_grad_()
        value = function(tensor)
        (slope,) = torch.autograd.grad(value, tensor, allow_unused=True)
        return value.detach(), torch.zeros_like(tensor) if slope is None else slope

    def pullback(self, function: Callable[..., Any], variables: Sequence[Any], mode: str) -> Callable[..., list[Any]]:
        def differentiate(inputs: Any, fixed: Any) -> list[Any]:
            watched = [x.detach().clone().requires_grad_(True) for x in inputs]
            value = function(watched, fixed)
            wanted = [*(v.value for v in variables), *watched]
            if not value.requires_grad:
                return [None] * len(wanted)
            return list(torch.autograd.grad(value, wanted, allow_unused=True))

        return differentiate

    def training_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        def step(x: Any, y: Any, w: Any) -> None:
            _, gradients = _differentiate(model, loss, x, y, w)
            with torch.no_grad():
                optimizer.apply(gradients, model.trainable_variables)

        return step

    micro_step = training_step

    def apply_function(self, optimizer: Any, variables: Sequence[Any], mode: str) -> Callable[..., None]:
        def run(gradients: Sequence[Any]) -> None:
            with torch.no_grad():
                optimizer.apply([None if g is None else _copied(g) for g in gradients], list(variables))

        return run

    def sparse(self, rows: Any, values: Any, shape: tuple[int, ...]) -> Any:
        return None

    def is_sparse(self, gradient: Any) -> bool:
        return False

    def dense(self, gradient: Any) -> Any:
        return gradient

    def synchronize(self, variables: Sequence[Any] = ()) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def relieve(self, forget: Callable[[], None]) -> None:
        pass

    def inference(self, model: Any, mode: str) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            with torch.no_grad():
                return model(_tensors(x), training=False)

        return call

    def memory(self) -> tuple[int, int]:
        return int(torch.cuda.memory_allocated()), int(torch.cuda.max_memory_allocated())

    def reset_peak_memory(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def tracing(self) -> bool:
        return False

    def live_tensors(self) -> int:
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    def compiled_memory(self, step: Callable[..., None], batch: Sequence[Any]) -> int | None:
        return None

    def global_settings(self) -> Sequence[tuple[str, Callable[[], Any], Callable[[Any], Any]]]:
        return [
            ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
            ("recording of gradients", torch.is_grad_enabled, torch.set_grad_enabled),
            ("threads", torch.get_num_threads, torch.set_num_threads),
        ]

    def describe(self) -> dict[str, str]:
        gpu = torch.cuda.is_available()
        tf32 = torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest"
        return {
            "backend_version": str(torch.__version__),
            "device": "gpu" if gpu else "cpu",
            "device_name": torch.cuda.get_device_name() if gpu else "",
            "threads": str(torch.get_num_threads()),
            "tf32": "on" if gpu and tf32 else "off",
        }


def _differentiate(model: Any, loss: Callable[..., Any], x: Any, y: Any, w: Any) -> Any:
    value = loss(*_tensors((x, y, w)))
    variables = [v.value for v in model.trainable_variables]
    return value, torch.autograd.grad(value, variables, allow_unused=True)


def _tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _tensors(part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_tensors(part) for part in tree)
    return None if tree is None else keras.ops.convert_to_tensor(tree)


def _copied(gradient: Any) -> Any:
    """Return an array as a tensor of its own: torch optimizers may change a gradient in place."""
    return torch.clone(keras.ops.convert_to_tensor(gradient)).detach()


RUNTIME = TorchRuntime()
