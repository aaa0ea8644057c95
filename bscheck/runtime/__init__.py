"""The backends behind one small interface; only this package imports TensorFlow, JAX or torch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bscheck.errors import MissingEnvironmentError, one_line, unknown

BACKENDS = ("tensorflow", "jax", "torch")


class Runtime(Protocol):
    """What a backend does for bscheck. Tensors stay behind this interface; NumPy arrays cross it."""

    name: str
    #: Execution modes; the first is the one users get from ``fit``.
    modes: tuple[str, ...]
    #: Those of them that are cheap enough to draw from; the others are left to corners.
    drawn_modes: tuple[str, ...]
    #: Whether every new shape costs a compilation, so that cases must reuse few shapes.
    compiles_per_shape: bool
    #: Whether ``Model.compile`` takes a ``steps_per_execution`` above 1.
    joins_steps: bool
    #: Whether a function can be traced for inputs of unknown lengths.
    traces_unknown_lengths: bool

    def precision_scope(self, dtype: str) -> AbstractContextManager[Any]:
        """Return the scope in which the dtype policy `dtype` really computes in that dtype."""

    def seeded_draws(self) -> AbstractContextManager[Any]:
        """Return the scope in which layers without a seed of their own draw the same numbers again.

        Where a layer keeps the state of its generator, seed or no seed, restoring that state is enough.
        """

    def compile_options(self, mode: str) -> dict[str, bool]:
        """Return the options of ``Model.compile`` that make ``fit`` run in the execution mode."""

    def optimizer_class(self, base: type) -> type:
        """Return the class of the object that calling the optimizer class `base` gives."""

    def compile(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        """Return `function` (tensors in, tensors out, Keras variables as state) in the execution mode."""

    def compile_for_any_batch(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        """Return `function` compiled for tensors like these with any number of examples, where the backend can."""

    def compile_for_any_length(self, function: Callable[..., Any], tensors: Sequence[Any]) -> Callable[..., Any]:
        """Return `function` compiled where neither number of examples nor length (the second axis) is known."""

    def strings(self, array: Any) -> Any:
        """Return an array of strings as what a layer takes them as."""

    def gradient_function(self, model: Any, loss: Callable[..., Any], mode: str) -> Callable[..., Any]:
        """Return ``f(x, y, w) -> (loss, list of dense gradients)`` over the trainable variables."""

    def input_gradient(self, function: Callable[..., Any], array: Any) -> tuple[Any, Any]:
        """Return the value of a function of one tensor, and its gradient by that tensor, computed eagerly."""

    def pullback(self, function: Callable[..., Any], variables: Sequence[Any], mode: str) -> Callable[..., list[Any]]:
        """Return ``f(inputs, fixed) -> gradients`` of ``function(inputs, fixed)``, a scalar.

        `inputs` and `fixed` are lists of tensors; the gradients, dense or None, are those of the variables' values
        and then those of `inputs`. What `function` assigns to variables is not promised to stay.
        """

    def training_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        """Return ``f(x, y, w)``: gradient of one micro-batch given to ``optimizer.apply``."""

    def micro_step(self, model: Any, loss: Callable[..., Any], optimizer: Any, mode: str) -> Callable[..., None]:
        """Return what `training_step` does, the gradient shared by all optimizers where that saves compiling."""

    def apply_function(self, optimizer: Any, variables: Sequence[Any], mode: str) -> Callable[..., None]:
        """Return ``f(gradients)`` that gives NumPy gradients (or `sparse` ones) to ``optimizer.apply``."""

    def sparse(self, rows: Any, values: Any, shape: tuple[int, ...]) -> Any:
        """Return a gradient of some rows, or None where the backend has no such gradients."""

    def is_sparse(self, gradient: Any) -> bool:
        """Whether a gradient holds some rows only."""

    def dense(self, gradient: Any) -> Any:
        """Return a gradient as a dense tensor; repeated rows are added."""

    def synchronize(self, variables: Sequence[Any] = ()) -> None:
        """Wait until the variables have their values, and without them until all work given to the device is done."""

    def relieve(self, forget: Callable[[], None]) -> None:
        """Call `forget`, which drops all compiled functions, where they leave too little room for more."""

    def inference(self, model: Any, mode: str) -> Callable[[Any], Any]:
        """Return ``f(x) -> outputs`` of the model at inference, without what training would keep for a gradient."""

    def memory(self) -> tuple[int, int]:
        """Return the device's bytes in use and their peak, (0, 0) where it has no counters (a CPU)."""

    def reset_peak_memory(self) -> None:
        """Let the peak begin anew where the backend can; JAX's is the process's."""

    def tracing(self) -> bool:
        """Whether what runs now is being traced into a program."""

    def live_tensors(self) -> int:
        """Return how many tensors this process holds."""

    def compiled_memory(self, step: Callable[..., None], batch: Sequence[Any]) -> int | None:
        """Return the bytes that the compiled step needs for a batch, exactly; None where the compiler does not say."""

    def global_settings(self) -> Sequence[tuple[str, Callable[[], Any], Callable[[Any], Any]]]:
        """Return the backend's own global state: a name, how to read it and how to put it back."""

    def describe(self) -> dict[str, str]:
        """Return backend_version, device (``cpu`` or ``gpu``), device_name, threads and tf32."""


def keras_module() -> Any:
    """Return the installed Keras.

    Raises
    ------
    MissingEnvironmentError
        With one line that says what to install, when Keras or its backend cannot be imported.
    """
    try:
        return importlib.import_module("keras")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "keras":
            text = "Keras is not installed here; install it with a backend: pip install 'bscheck[cpu]'"
        elif missing in BACKENDS:
            extra = {"tensorflow": "cpu"}.get(missing, missing)
            text = (
                f"Keras's backend {missing!r} is not installed here; install it (pip install "
                f"'bscheck[{extra}]') or choose another with KERAS_BACKEND={'|'.join(BACKENDS)}"
            )
        else:
            text = f"Keras cannot be imported: {one_line(error)}"
        raise MissingEnvironmentError(text) from error
    except Exception as error:
        raise MissingEnvironmentError(f"Keras cannot be imported: {one_line(error)}") from error


@functools.cache
def current() -> Runtime:
    """Return the runtime of the backend that Keras runs on.

    Raises
    ------
    MissingEnvironmentError
        When Keras is missing or runs on a backend that bscheck does not know.
    """
    backend = keras_module().backend.backend()
    if backend not in BACKENDS:
        raise MissingEnvironmentError(unknown("Keras backend", backend, BACKENDS))
    module = importlib.import_module(f"bscheck.runtime.{backend}_runtime")
    runtime: Runtime = module.RUNTIME
    return runtime
