"""Optimizers that tell what they were given: the probe and the spy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from bscheck.runtime import current, keras_module


def step_counter(optimizer: Any) -> Any:
    """Return the variable in which an optimizer counts the gradients it was given (micro-batches, not updates)."""
    # Keras's LossScaleOptimizer leaves the count to the optimizer inside it.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # Keras before 3.5 had but one count, under the public name.
    return optimizer._iterations if hasattr(optimizer, "_iterations") else optimizer.iterations


def _recording(base: type) -> type:
    """Return a subclass of a Keras optimizer class that keeps every gradient given to ``apply``.

    The gradients go into variables of the optimizer, so that they are seen in every execution mode, inside
    ``fit`` too. Slot ``j`` of the history holds the gradient of micro-step ``j``; the history wraps around.
    """
    ops = keras_module().ops

    class Recording(base):  # type: ignore[misc]
        def build(self, variables: Any) -> None:
            if self.built:
                return
            super().build(variables)
            self.bscheck_history = [
                self.add_variable((self.bscheck_capacity, *v.shape), dtype=v.dtype, name=f"bscheck_history_{i}")
                for i, v in enumerate(variables)
            ]

        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            if not self.built and trainable_variables is not None:
                self.build(list(trainable_variables))
            # Keras 3.1's variables know no %, and its comparisons no mixed integers.
            step = ops.cast(ops.convert_to_tensor(step_counter(self)), "int32") % self.bscheck_capacity
            here = ops.equal(ops.arange(self.bscheck_capacity, dtype="int32"), step)
            for gradient, history in zip(grads, self.bscheck_history, strict=True):
                if gradient is not None:
                    row = ops.reshape(here, (-1,) + (1,) * (len(history.shape) - 1))
                    given = ops.expand_dims(ops.cast(current().dense(gradient), history.dtype), 0)
                    history.assign(ops.where(row, given, ops.convert_to_tensor(history)))
            return super().apply(grads, trainable_variables)

    Recording.__name__ = base.__name__
    return Recording


@functools.cache
def spy_class(base: type) -> type:
    """Return `base`, an optimizer class of Keras, as one that also records what it is given."""
    return _recording(current().optimizer_class(base))


@functools.cache
def probe_class() -> type:
    """Return the probe optimizer: it stores the gradient that reaches its update and moves no weight.

    It has no clip, decay or EMA. ``bscheck_applied[i]`` is the gradient of the last update,
    ``bscheck_updates`` how many there were.
    """
    keras = keras_module()

    class Probe(*_accumulators(), keras.optimizers.Optimizer):  # type: ignore[misc, name-defined]
        def build(self, variables: Any) -> None:
            if self.built:
                return
            super().build(variables)
            self.bscheck_applied = [self.add_variable_from_reference(v, name="bscheck_applied") for v in variables]
            self.bscheck_updates = [self.add_variable((), dtype="int32", name="bscheck_updates") for _ in variables]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            i = self._get_variable_index(variable)
            self.assign(self.bscheck_applied[i], current().dense(gradient))
            self.assign_add(self.bscheck_updates[i], 1)

        def _parallel_update_step(self, gradients: Any, variables: Any, learning_rate: Any) -> None:
            for gradient, variable in zip(gradients, variables, strict=True):
                self.update_step(gradient, variable, learning_rate)

        def get_config(self) -> dict[str, Any]:
            return dict(super().get_config())

    return _recording(Probe)


def _accumulators() -> list[type]:
    """Return the classes through which Keras's own optimizers accumulate, where the backend adds some (torch)."""
    sgd = keras_module().optimizers.SGD
    own = current().optimizer_class(sgd)
    return [c for c in own.__mro__ if c is not own and not issubclass(sgd, c)]


def make_probe(capacity: int, accumulation: int | None) -> Any:
    """Return a probe that records `capacity` micro-steps and accumulates over `accumulation` of them."""
    probe = probe_class()(learning_rate=1.0, gradient_accumulation_steps=accumulation)
    object.__setattr__(probe, "bscheck_capacity", capacity)
    return probe


def make_spy(optimizer_class: type, capacity: int, **options: Any) -> Any:
    """Return an optimizer of this class that records its first `capacity` micro-steps."""
    spy = spy_class(optimizer_class)(**options)
    object.__setattr__(spy, "bscheck_capacity", capacity)
    return spy


def history(optimizer: Any) -> list[Any]:
    """Return the recorded gradients, one array ``(capacity, *shape)`` for each variable."""
    keras = keras_module()
    return [keras.ops.convert_to_numpy(v) for v in optimizer.bscheck_history]


def applied(optimizer: Any) -> tuple[list[Any], list[int]]:
    """Return the probe's last applied gradients and how often each variable was updated."""
    keras = keras_module()
    values: Sequence[Any] = [keras.ops.convert_to_numpy(v) for v in optimizer.bscheck_applied]
    return list(values), [int(keras.ops.convert_to_numpy(v)) for v in optimizer.bscheck_updates]
