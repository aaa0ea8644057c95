"""Training steps that users write themselves, as Keras's guides show them for each backend.

Sources: keras.io/guides/custom_train_step_in_tensorflow, …_in_jax, …_in_torch, and
keras.io/guides/writing_a_custom_training_loop_in_tensorflow, …_in_jax, …_in_torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bscheck.runtime import current, keras_module

#: One step of a written loop: ``step(x, y, sample_weight)``.
Step = Callable[[Any, Any, Any], None]

LOOPS = {
    "tensorflow": ("train_step", "apply", "apply_gradients"),
    "jax": ("train_step", "stateless_apply"),
    "torch": ("train_step", "backward"),
}


def own_loops() -> tuple[str, ...]:
    """Return the ways in which users of this backend write a training step: ``train_step`` is for ``fit``."""
    return LOOPS[current().name]


def own_model_class() -> type:
    """Return a ``keras.Model`` with a ``train_step`` of its own."""
    made: type = _MODELS[current().name]()
    return made


def own_step(loop: str, model: Any, optimizer: Any, mode: str) -> Step:
    """Return one step of a training loop written by hand around a compiled model's loss."""
    return _STEPS[current().name](loop, model, optimizer, mode)


def _tensorflow_model() -> type:
    import tensorflow as tf

    class OwnModel(keras_module().Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            x, y, w = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True), sample_weight=w)
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    return OwnModel


def _tensorflow_step(loop: str, model: Any, optimizer: Any, mode: str) -> Step:
    import tensorflow as tf

    def step(x: Any, y: Any, w: Any) -> None:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=w)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        if loop == "apply_gradients":
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        else:
            optimizer.apply(gradients, variables)

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "jit")  # type: ignore[no-any-return]


def _loss_and_updates(model: Any) -> Callable[..., Any]:
    """Return ``f(trainable, others, x, y, w) -> (loss, others)`` for ``jax.value_and_grad``."""

    def function(trainable: Any, others: Any, x: Any, y: Any, w: Any) -> Any:
        y_pred, others = model.stateless_call(trainable, others, x, training=True)
        return model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=w), others

    return function


def _jax_model() -> type:
    import jax

    class OwnModel(keras_module().Model):  # type: ignore[misc]
        def train_step(self, state: Any, data: Any) -> Any:
            trainable, others, slots, metrics = state
            x, y, w = data
            differentiate = jax.value_and_grad(_loss_and_updates(self), has_aux=True)
            (loss, others), gradients = differentiate(trainable, others, x, y, w)
            trainable, slots = self.optimizer.stateless_apply(slots, gradients, trainable)
            return {"loss": loss}, (trainable, others, slots, metrics)

    return OwnModel


def _jax_step(loop: str, model: Any, optimizer: Any, mode: str) -> Step:
    import jax

    differentiate = jax.value_and_grad(_loss_and_updates(model), has_aux=True)

    def pure(trainable: Any, others: Any, slots: Any, x: Any, y: Any, w: Any) -> Any:
        (_, others), gradients = differentiate(trainable, others, x, y, w)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return trainable, others, slots

    compiled: Callable[..., Any] = pure if mode == "eager" else jax.jit(pure)

    def step(x: Any, y: Any, w: Any) -> None:
        kept = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        for variables, values in zip(kept, compiled(*map(_values, kept), x, y, w), strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    return step


def _values(variables: Sequence[Any]) -> list[Any]:
    return [v.value for v in variables]


def _torch_model() -> type:
    class OwnModel(keras_module().Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            x, y, w = data
            return {"loss": _backward(self, self.optimizer, x, y, w)}

    return OwnModel


def _torch_step(loop: str, model: Any, optimizer: Any, mode: str) -> Step:
    convert = keras_module().ops.convert_to_tensor

    def step(x: Any, y: Any, w: Any) -> None:
        _backward(model, optimizer, convert(x), convert(y), convert(w))

    return step


def _backward(model: Any, optimizer: Any, x: Any, y: Any, w: Any) -> Any:
    import torch

    model.zero_grad()
    loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=w)
    loss.backward()
    variables = model.trainable_weights
    with torch.no_grad():
        optimizer.apply([v.value.grad for v in variables], variables)
    return loss.detach()


_MODELS = {"tensorflow": _tensorflow_model, "jax": _jax_model, "torch": _torch_model}
_STEPS = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}
