"""One layer called on arrays, and its gradient with respect to inputs and weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision
from bscheck.subject import leaves

#: ``call(inputs, masks) -> nested outputs``, of tensors.
TensorCall = Callable[[Sequence[Any], Mapping[str, Any]], Any]


class LayerCall:
    """A layer and one way to call it, at one precision.

    Eager where the backend computes eagerly at little cost; on JAX compiled, once for each shape.

    Parameters
    ----------
    layer : keras.layers.Layer
    dtype : str
        The policy that it was made under.
    call : callable
        ``call(inputs, masks) -> outputs``; it calls the layer.
    """

    def __init__(self, layer: Any, dtype: str, call: TensorCall) -> None:
        self.layer, self.dtype, self.call = layer, dtype, call
        runtime = current()
        self.eager = not runtime.compiles_per_shape
        self._compiled: Any = None

    def weights(self) -> dict[str, Array]:
        """Return the layer's weights by path, in float64."""
        convert = keras_module().ops.convert_to_numpy
        return {v.path: np.array(convert(v), np.float64) for v in self.layer.weights}

    def assign(self, values: Mapping[str, Array]) -> None:
        """Give the weights these values, by path."""
        with precision(self.dtype):
            for variable in self.layer.weights:
                variable.assign(np.asarray(values[variable.path]).astype(variable.dtype))

    def adapt(self, data: Array, batch_size: int) -> None:
        """Adapt the layer to examples, in batches and a smaller last one if the backend's own streams are to be had."""
        given: Any = data
        if current().name == "tensorflow" and len(data) > batch_size:
            import tensorflow as tf

            given = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        with precision(self.dtype):
            self.layer.adapt(given)

    def outputs(self, inputs: Sequence[Array], masks: Mapping[str, Any]) -> list[Array]:
        """Return the outputs, flattened; the layer's state moves as the call moves it."""
        with precision(self.dtype):
            given = self._tensors(inputs, masks)
            found = self.call(*given) if self.eager else self._compiled_call(*given)[0]
        return _arrays(found)

    def gradient(
        self, inputs: Sequence[Array], masks: Mapping[str, Any], cotangents: Sequence[Array]
    ) -> tuple[list[Array], list[Array | None], dict[str, Array | None]]:
        """Return the outputs, and the gradient of ``sum of cotangent * output`` for inputs, and weights by path.

        None stands for a gradient that the backend says there is none of.
        """
        trainable = self.layer.trainable_weights
        with precision(self.dtype):
            tensors, given_masks = self._tensors(inputs, masks)
            name = f"_{current().name}_gradient"
            outputs, found, seen = getattr(self, name)(tensors, given_masks, cotangents, trainable)
        return _arrays(outputs), found, dict(zip([v.path for v in trainable], seen, strict=True))

    def _tensors(self, inputs: Sequence[Array], masks: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        convert = keras_module().ops.convert_to_tensor
        tensors = [convert(a, "int32" if a.dtype.kind == "i" else self.dtype) for a in inputs]
        return tensors, {name: _each(mask, lambda m: convert(m, "bool")) for name, mask in masks.items()}

    def _projection(self, outputs: Any, cotangents: Sequence[Array]) -> Any:
        ops = keras_module().ops
        terms = [
            ops.sum(y * ops.convert_to_tensor(r, self.dtype)) for y, r in zip(leaves(outputs), cotangents, strict=True)
        ]
        return sum(terms[1:], terms[0])

    def _tensorflow_gradient(self, inputs: Any, masks: Any, cotangents: Any, trainable: Any) -> Any:
        tf = importlib.import_module("tensorflow")
        floats = [x for x in inputs if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            outputs = self.call(inputs, masks)
            value = self._projection(outputs, cotangents)
        found = tape.gradient(value, [*floats, *(v.value for v in trainable)])
        arrays = [None if g is None else tf.convert_to_tensor(g).numpy().astype(np.float64) for g in found]
        return outputs, _placed(arrays[: len(floats)], [x.dtype.is_floating for x in inputs]), arrays[len(floats) :]

    def _torch_gradient(self, inputs: Any, masks: Any, cotangents: Any, trainable: Any) -> Any:
        torch = importlib.import_module("torch")
        floats = [x.detach().requires_grad_(True) for x in inputs if x.is_floating_point()]
        given = _placed(list(floats), [x.is_floating_point() for x in inputs])
        outputs = self.call([x if g is None else g for g, x in zip(given, inputs, strict=True)], masks)
        value = self._projection(outputs, cotangents)
        wanted = [*floats, *(v.value for v in trainable)]
        if not wanted or not value.requires_grad:
            found = [None] * len(wanted)
        else:
            found = torch.autograd.grad(value, wanted, allow_unused=True)
        arrays = [None if g is None else g.detach().cpu().numpy().astype(np.float64) for g in found]
        return outputs, _placed(arrays[: len(floats)], [x.is_floating_point() for x in inputs]), arrays[len(floats) :]

    def _jax_gradient(self, inputs: Any, masks: Any, cotangents: Any, trainable: Any) -> Any:
        floats = [np.issubdtype(x.dtype, np.floating) for x in inputs]
        convert = keras_module().ops.convert_to_tensor
        outputs, found = self._compiled_call(inputs, masks, [convert(r, self.dtype) for r in cotangents])
        by_input, by_weight = found
        arrays = [np.asarray(g, np.float64) for g in by_input]
        return outputs, _placed(arrays, floats), [np.asarray(g, np.float64) for g in by_weight]

    def _compiled_call(self, inputs: Any, masks: Any, cotangents: Any = None) -> Any:
        """Return (outputs, gradients or None) on JAX, where state is passed in and out."""
        jax = importlib.import_module("jax")
        if self._compiled is None:
            self._compiled = jax.jit(self._pure, static_argnames="differentiate")
        trainable = [v.value for v in self.layer.trainable_variables]
        others = [v.value for v in self.layer.non_trainable_variables]
        args = (trainable, others, list(inputs), dict(masks), cotangents)
        outputs, after, gradients = self._compiled(*args, differentiate=cotangents is not None)
        for variable, value in zip(self._variables, after, strict=True):
            variable.assign(value)
        return outputs, gradients

    @property
    def _variables(self) -> list[Any]:
        return [*self.layer.trainable_variables, *self.layer.non_trainable_variables]

    def _pure(self, trainable: Any, others: Any, inputs: Any, masks: Any, cotangents: Any, differentiate: bool) -> Any:
        jax = importlib.import_module("jax")
        keras = keras_module()
        variables = self._variables
        floats = [np.issubdtype(x.dtype, np.floating) for x in inputs]

        def run(moving: Any, weights: Any) -> Any:
            left = iter(moving)
            given = [next(left) if is_float else x for x, is_float in zip(inputs, floats, strict=True)]
            mapping = list(zip(variables, [*weights, *others], strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                outputs = self.call(given, masks)
            after = [scope.get_current_value(v) for v in variables]
            value = self._projection(outputs, cotangents) if differentiate else 0.0
            return value, (outputs, after)

        moving = [x for x, is_float in zip(inputs, floats, strict=True) if is_float]
        if not differentiate:
            _, (outputs, after) = run(moving, trainable)
            return outputs, after, None
        gradients, (outputs, after) = jax.grad(run, argnums=(0, 1), has_aux=True)(moving, trainable)
        return outputs, after, gradients


def _each(mask: Any, convert: Callable[[Any], Any]) -> Any:
    return [convert(m) for m in mask] if isinstance(mask, (list, tuple)) else convert(mask)


def _placed(found: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    """Return what was found in the places that are wanted, None in the others."""
    left = iter(found)
    return [next(left) if w else None for w in wanted]


def _arrays(outputs: Any) -> list[Array]:
    convert = keras_module().ops.convert_to_numpy
    return [np.asarray(o if isinstance(o, np.ndarray) else convert(o)).astype(np.float64) for o in leaves(outputs)]
