"""One layer built at one precision: its outputs, its gradients and what it keeps, as NumPy arrays."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision, seeded_initializers

#: Arguments of a call: positional and by name, trees of arrays.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class LayerRig:
    """A layer that was built once; every method leaves its variables as they were, unless it says otherwise.

    Parameters
    ----------
    make : callable
        ``make(keras) -> layer``.
    arguments : tuple
        What the layer is called with to build it.
    dtype : str
        Dtype policy.
    compiled : bool
        Whether calls are traced once for every batch size: cheaper than eager ones where a layer loops.
    values : sequence of array, optional
        Values for its variables, from a rig of another precision; drawn by default.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        arguments: Arguments,
        dtype: str,
        compiled: bool,
        values: Sequence[Array] | None = None,
    ) -> None:
        self.dtype = dtype
        self.runtime = current()
        self.keras = keras_module()
        with seeded_initializers(), precision(dtype):
            self.layer = make(self.keras)
            # Where XLA compiles every call, a layer that it does not take runs eagerly, as in a model.
            self.compiled = compiled or (self.runtime.compiles_per_shape and self.layer.supports_jit)
            self.takes_training = "training" in inspect.signature(self.layer.call).parameters
            self.layer(*self.tensors(arguments)[0], **self.tensors(arguments)[1])
        self.variables = list(self.layer.variables)
        self.values = list(values) if values is not None else [_drawn(i, v) for i, v in enumerate(self.state())]
        self.assign(self.values)
        self._functions: dict[Any, Callable[..., Any]] = {}

    # Variables ---------------------------------------------------------------------------------------

    def state(self) -> list[Array]:
        """Return the value of every variable: weights, statistics, states and seeds."""
        return [np.array(self.keras.ops.convert_to_numpy(v)) for v in self.variables]

    def assign(self, values: Sequence[Array]) -> None:
        """Give every variable a value, for good."""
        with precision(self.dtype):
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign(np.asarray(value).astype(_numpy_dtype(variable)))

    @property
    def seeds(self) -> list[Any]:
        """The states of random generators among the variables."""
        return [v for v in self.variables if "int" in str(v.dtype) and "seed" in v.path]

    def restore(self) -> None:
        """Give every variable the value that the rig began with."""
        self.assign(self.values)

    # Calls -------------------------------------------------------------------------------------------

    def tensors(self, tree: Any) -> Any:
        """Return a tree of arrays as tensors; floats in the dtype that a user of this policy would give."""
        if isinstance(tree, dict):
            return {key: self.tensors(part) for key, part in tree.items()}
        if isinstance(tree, (list, tuple)):
            return type(tree)(self.tensors(part) for part in tree)
        if not isinstance(tree, np.ndarray):
            return tree
        if tree.dtype.kind in "US":
            return self.runtime.strings(tree)
        if tree.dtype.kind == "f":
            return self.keras.ops.convert_to_tensor(tree, "float64" if self.dtype == "float64" else "float32")
        return self.keras.ops.convert_to_tensor(tree)

    def raw(self, arguments: Arguments, training: bool = False, eager: bool = False, traced: bool = False) -> list[Any]:
        """Return the output tensors of a call; what it does to the variables stays.

        Without `eager` or `traced` (for a batch of unknown size), the call is what is cheaper.
        """
        with precision(self.dtype):
            args, kwargs = self.tensors(arguments)
            if eager or not (self.compiled or traced):
                return self._outputs(args, kwargs, training)
            leaves, rebuild = _flatten((args, kwargs))
            if any(isinstance(leaf, np.ndarray) for leaf in leaves):  # strings, which only eager layers take
                return self._outputs(args, kwargs, training)
            key = (training, tuple(str(leaf.dtype) + str(leaf.shape[1:]) for leaf in leaves))
            if key not in self._functions:

                def call(*leaves: Any) -> Any:
                    args, kwargs = rebuild(leaves)
                    return self._outputs(args, kwargs, training)

                self._functions[key] = self.runtime.compile_for_any_batch(call, leaves)
            return list(self._functions[key](*leaves))

    def call_of_any_length(self, arguments: Arguments) -> list[Array]:
        """Return the outputs at inference, traced where the number of examples and their lengths are not known."""
        with precision(self.dtype):
            leaves, rebuild = _flatten(self.tensors(arguments))

            def call(*leaves: Any) -> Any:
                args, kwargs = rebuild(leaves)
                return self._outputs(args, kwargs, False)

            return self.arrays(list(self.runtime.compile_for_any_length(call, leaves)(*leaves)))

    def call(self, arguments: Arguments, training: bool = False, traced: bool = False) -> list[Array]:
        """Return the outputs of a call as float64 arrays; what it does to the variables stays."""
        # Some layers draw from Python's own generator, seed or no seed.
        with contextlib.ExitStack() as scope:
            if training:
                scope.enter_context(seeded_initializers())
                scope.enter_context(self.runtime.seeded_draws())
            return self.arrays(self.raw(arguments, training, traced=traced))

    def arrays(self, outputs: Sequence[Any]) -> list[Array]:
        """Return tensors as float64 arrays."""
        wide = (self.keras.ops.cast(o, "float32") if "16" in str(o.dtype) else o for o in outputs)
        return [np.asarray(self.keras.ops.convert_to_numpy(o)).astype(np.float64) for o in wide]

    def _outputs(self, args: Any, kwargs: Any, training: bool) -> list[Any]:
        options = {"training": training} if self.takes_training else {}
        outputs = self.layer(*args, **kwargs, **options)
        return [o for o in self.keras.tree.flatten(outputs) if o is not None]

    def symbolic(self, arguments: Arguments) -> list[tuple[int | None, ...]]:
        """Return the shapes that the layer announces for a batch of unknown size."""

        def announced(tensor: Any) -> Any:
            if not hasattr(tensor, "shape"):
                return tensor
            dtype = "string" if isinstance(tensor, np.ndarray) else self.keras.backend.standardize_dtype(tensor.dtype)
            return self.keras.KerasTensor((None, *tensor.shape[1:]), dtype=dtype)

        with precision(self.dtype):
            args, kwargs = self.tensors(arguments)
            leaves, rebuild = _flatten((args, kwargs))
            args, kwargs = rebuild([announced(leaf) for leaf in leaves])
            outputs = self.keras.tree.flatten(self.layer.compute_output_spec(*args, **kwargs))
        return [tuple(o.shape) for o in outputs if o is not None]

    # Gradients ---------------------------------------------------------------------------------------

    def gradient(
        self, arguments: Arguments, projections: Sequence[Array], training: bool
    ) -> tuple[list[Array], list[Array]]:
        """Return the gradients of ``sum(projection * output)`` by the weights and by the float inputs."""
        with precision(self.dtype):
            leaves, rebuild = _flatten(self.tensors(arguments))
            wanted = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
            rest = [i for i in range(len(leaves)) if i not in wanted]
            ops = self.keras.ops

            def loss(inputs: Any, fixed: Any) -> Any:
                order = dict(zip([*wanted, *rest], [*inputs, *fixed], strict=False))
                args, kwargs = rebuild([order[i] for i in range(len(order))])
                outputs = [o for o in self._outputs(args, kwargs, training) if _is_float(o)]
                parts = fixed[len(rest) :]
                return sum(ops.sum(ops.cast(o, p.dtype) * p) for o, p in zip(outputs, parts, strict=True))

            trainable = list(self.layer.trainable_variables)
            key = ("gradient", training, len(leaves))
            if key not in self._functions:
                mode = "graph" if self.runtime.compiles_per_shape and self.layer.supports_jit else "eager"
                self._functions[key] = self.runtime.pullback(loss, trainable, mode)
            inputs = [leaves[i] for i in wanted]
            found = self._functions[key](inputs, [*(leaves[i] for i in rest), *self.tensors(list(projections))])
        dense = [
            np.zeros(tuple(x.shape)) if g is None else np.asarray(ops.convert_to_numpy(g)).astype(np.float64)
            for g, x in zip(found, [*trainable, *inputs], strict=True)
        ]
        return dense[: len(trainable)], dense[len(trainable) :]


def _is_float(tensor: Any) -> bool:
    return "float" in str(getattr(tensor, "dtype", ""))


def _numpy_dtype(variable: Any) -> str:
    name = str(keras_module().backend.standardize_dtype(variable.dtype))
    return "float32" if name == "bfloat16" else name


def _flatten(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return the tensors of a tree, and the function that puts others in their places."""
    leaves: list[Any] = []

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            for value in part.values():
                collect(value)
        elif isinstance(part, (list, tuple)):
            for value in part:
                collect(value)
        elif hasattr(part, "dtype"):
            leaves.append(part)

    def rebuild(replacements: Sequence[Any]) -> Any:
        rest = iter(replacements)

        def place(part: Any) -> Any:
            if isinstance(part, dict):
                return {key: place(value) for key, value in part.items()}
            if isinstance(part, (list, tuple)):
                return type(part)(place(value) for value in part)
            return next(rest) if hasattr(part, "dtype") else part

        return place(tree)

    collect(tree)
    return leaves, rebuild


def _drawn(index: int, value: Array) -> Array:
    """Return a variable's first value moved by a third of its own size, so that no bias is zero; seeds stay."""
    if value.dtype.kind != "f" or value.size == 0:
        return value
    rng = np.random.default_rng((7, index))
    spread = 0.3 * float(np.std(value) or np.abs(value).mean()) or 0.1
    # Positive moves only: a variance stays positive.
    moved = value + spread * np.abs(rng.standard_normal(value.shape))
    return np.asarray(moved.astype("float32").astype(value.dtype))
