"""An optimizer over a few variables, with its whole state within reach."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision

#: What an optimizer over several kinds of weights meets: a matrix, a bias, a table whose rows may be looked up twice.
#: The names matter: weight decay is excluded by name.
SHAPES: Mapping[str, tuple[int, ...]] = {"kernel": (3, 4), "bias": (4,), "embeddings": (5, 2)}

#: Largest column norm that ``max_norm`` leaves; columns of standard normal weights have a norm of about 1.7.
MAX_NORM = 0.5


class Rig:
    """A Keras optimizer and the variables it moves; `reset` makes it as good as new.

    Parameters
    ----------
    make : callable
        Returns a new Keras optimizer.
    shapes : mapping of str to tuple of int
        Name and shape of each variable.
    mode, dtype : str
        Execution mode of ``apply``, and dtype of variables and arithmetic.
    constraint : str
        ``none``, ``max_norm`` (see `MAX_NORM`) or ``non_negative``, on every variable.
    overwritten : sequence of str
        Variables that their gradient overwrites (float8's scales), see `overwrites_with_gradient`.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        shapes: Mapping[str, tuple[int, ...]] = SHAPES,
        *,
        mode: str = "eager",
        dtype: str = "float32",
        constraint: str = "none",
        overwritten: Sequence[str] = (),
        undecayed: Sequence[str] = (),
    ) -> None:
        self.keras = keras_module()
        self.dtype = dtype
        self.names = list(shapes)
        rng = np.random.default_rng(0)
        with precision(dtype):
            self.variables = [
                # Distinct values: a slot that starts as a copy of a weight is known by them.
                self.keras.Variable(rng.normal(size=shape).astype(dtype), name=name, dtype=dtype)
                for name, shape in shapes.items()
            ]
            if constraint != "none":
                constraints = self.keras.constraints
                for variable in self.variables:
                    non_negative = constraint == "non_negative"
                    variable.constraint = constraints.NonNeg() if non_negative else constraints.MaxNorm(MAX_NORM)
            for name in overwritten:
                self.variables[self.names.index(name)].overwrite_with_gradient = True
            self.optimizer = make()
            if undecayed:
                listed = [self.variables[self.names.index(name)] for name in undecayed]
                self.optimizer.exclude_from_weight_decay(var_list=listed)
            self.optimizer.build(self.variables)
            self._apply = current().apply_function(self.optimizer, self.variables, mode)
        self._kept = [*self.optimizer.variables, *_untracked(self.optimizer)]
        self._initial = [np.array(self.keras.ops.convert_to_numpy(v)) for v in self._kept]
        built = list(self.weights().values())
        self._copies = [
            next((i for i, w in enumerate(built) if w.shape == v.shape and w.size and np.array_equal(w, v)), None)
            for v in self._initial
        ]

    def reset(self, weights: Sequence[Array]) -> None:
        """Assign the weights and give the optimizer's variables their first values.

        A slot that ``build`` made a copy of a weight (the schedule-free iterate) is given the new weight.
        """
        self.move(weights)
        with precision(self.dtype):
            for variable, value, copied in zip(self._kept, self._initial, self._copies, strict=True):
                variable.assign(value if copied is None else np.asarray(weights[copied], self.dtype))

    def move(self, weights: Sequence[Array]) -> None:
        """Assign the weights alone: the optimizer's variables stay as they are."""
        with precision(self.dtype):
            for variable, value in zip(self.variables, weights, strict=True):
                variable.assign(np.asarray(value, self.dtype))

    def apply(self, gradients: Sequence[Any]) -> None:
        """Give one set of gradients (arrays, or `Runtime.sparse` ones) to ``optimizer.apply``."""
        with precision(self.dtype):
            self._apply(gradients)

    def weights(self) -> dict[str, Array]:
        """Return the weights by name."""
        return {
            name: np.array(self.keras.ops.convert_to_numpy(v))
            for name, v in zip(self.names, self.variables, strict=True)
        }

    def slots(self) -> dict[str, Array]:
        """Return the optimizer's slots and averages, see `slots`."""
        return slots(self.optimizer)

    def accumulators(self) -> list[Array]:
        """Return the gradient accumulators, see `accumulators`."""
        return accumulators(self.optimizer)

    def updates(self) -> int:
        """Return the number of updates that the optimizer (the one inside, of a wrapper) says it has made."""
        return updates(getattr(self.optimizer, "inner_optimizer", self.optimizer))

    def told(self) -> int:
        """Return the number of updates that the optimizer itself, a wrapper too, says it has made."""
        return updates(self.optimizer)

    def finalize(self) -> None:
        """Give the weights their final values, as the end of ``fit`` does."""
        with precision(self.dtype):
            self.optimizer.finalize_variable_values(self.variables)

    def set_rate(self, rate: float) -> None:
        """Give the optimizer another learning rate."""
        with precision(self.dtype):
            self.optimizer.learning_rate = rate

    def loss_scale(self) -> float:
        """Return what the optimizer makes of a loss of one."""
        with precision(self.dtype):
            one = self.keras.ops.convert_to_tensor(np.asarray(1.0, self.dtype))
            return float(self.keras.ops.convert_to_numpy(self.optimizer.scale_loss(one)))


def _untracked(optimizer: Any) -> list[Any]:
    """Return variables that an optimizer, or the one inside it, holds but does not list."""
    listed = {id(v) for v in optimizer.variables}
    owners = (optimizer, getattr(optimizer, "inner_optimizer", None))
    held = [value for owner in owners if owner is not None for value in vars(owner).values()]
    # Keras before 3.6 makes variables of another class than the one it exports.
    return [v for v in held if hasattr(v, "assign") and hasattr(v, "path") and id(v) not in listed]


def overwrites_with_gradient() -> bool:
    """Whether the installed Keras knows variables that their gradient overwrites."""
    return hasattr(keras_module().Variable, "overwrite_with_gradient")


def slots(optimizer: Any) -> dict[str, Array]:
    """Return an optimizer's own variables by name: slots and averages, not counters and accumulators."""
    found: dict[str, Array] = {}
    for variable in optimizer.variables:
        # Keras numbers what has no name of its own; two optimizers of one class then differ by the number.
        name = re.sub(r"^variable_\d+$", "variable", variable.name)
        if not any(part in name for part in ("gradient_accumulator", "iteration", "learning_rate", "bscheck_")):
            # Adafactor names its slots for the variable alone.
            key = name if name not in found else f"{name}_{sum(k.startswith(name) for k in found)}"
            found[key] = np.array(keras_module().ops.convert_to_numpy(variable))
    return found


def accumulators(optimizer: Any) -> list[Array]:
    """Return an optimizer's gradient accumulators."""
    convert = keras_module().ops.convert_to_numpy
    return [np.array(convert(v)) for v in optimizer.variables if "gradient_accumulator" in v.name]


def updates(optimizer: Any) -> int:
    """Return the number of updates that an optimizer says it has made."""
    return int(keras_module().ops.convert_to_numpy(optimizer.iterations))


def number(make: Callable[..., Any], *arguments: Any, dtype: str, step: int) -> float:
    """Make a learning-rate schedule at a precision and return its value at a step."""
    keras = keras_module()
    with precision(dtype):
        return float(keras.ops.convert_to_numpy(make(*arguments)(keras.ops.convert_to_tensor(step, "int32"))))
