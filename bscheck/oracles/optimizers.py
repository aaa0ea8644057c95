"""Optimizers as float64 NumPy recurrences, written from the papers, with the rounding each step may show.

Every recurrence follows its paper's equations; where Keras documents or does something else, the recurrence
does what Keras does and `Recurrence.differences` says so. `rounding_bound` runs the *same* recurrence on
numbers that carry their error, so a bound can never belong to another formula than the value it bounds.

Nothing here imports Keras: an optimizer is only ever handed in, and read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bscheck.oracles.rounding import PRECISIONS, Rounded, allow, is_rounded, is_zero, precision_of, rounded_to

__all__ = [
    "RECURRENCES",
    "Recurrence",
    "hyperparameters",
    "keras_slots",
    "recurrence_of",
    "rounding_bound",
    "with_weight_decay",
]

Array: TypeAlias = NDArray[np.float64]
Slots: TypeAlias = dict[str, Array]
State: TypeAlias = Mapping[str, Array]
Hyper: TypeAlias = Mapping[str, float | bool]


class Step(Protocol):
    """One update: ``step(weight, slots, gradient, update=, learning_rate=, hyper=)``, pure, in float64."""

    def __call__(
        self,
        weight: Array,
        slots: State,
        gradient: Array,
        *,
        update: int,
        learning_rate: float,
        hyper: Hyper,
    ) -> tuple[Array, Slots]: ...


@dataclass(frozen=True)
class _Now:
    """What an update depends on besides its arrays."""

    update: int
    learning_rate: float
    hyper: Hyper


_Rule: TypeAlias = Callable[[Array, State, Array, _Now], tuple[Array, Slots]]


@dataclass(frozen=True)
class Recurrence:
    """An optimizer as its paper writes it, tied to the Keras class that claims to be it.

    Attributes
    ----------
    name : str
        Key in `RECURRENCES`.
    keras_class : str
        Name exported by ``keras.optimizers``.
    options : Mapping[str, object]
        Constructor options that select this variant of the class.
    hyperparameters : tuple of str
        Attributes read from the Keras optimizer by `hyperparameters`.
    slots : tuple of str
        State per weight, in Keras's order and under Keras's slot names.
    source : str
        Where the equations come from.
    differences : tuple of str
        Every place where Keras departs from the source, one sentence each.
    step : Step
        ``step(weight, slots, gradient, *, update, learning_rate, hyper) -> (new_weight, new_slots)``; all
        arrays float64, `update` counts from 1, nothing is modified in place.
    """

    name: str
    keras_class: str
    options: Mapping[str, object]
    hyperparameters: tuple[str, ...]
    slots: tuple[str, ...]
    source: str
    differences: tuple[str, ...]
    step: Step = field(repr=False)


# --- the recurrences ---------------------------------------------------------------------------------------


def _sgd(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Goodfellow, Bengio & Courville 2016, Algorithm 8.1."""
    return weight - now.learning_rate * gradient, {}


def _momentum(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Sutskever et al. 2013, equations 1 and 2."""
    velocity = _cast(now.hyper, "momentum") * slots["momentum"] - now.learning_rate * gradient
    return weight + velocity, {"momentum": velocity}


def _nesterov(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Bengio, Boulanger-Lewandowski & Pascanu 2013, section 3.5, with a constant momentum."""
    mu = _cast(now.hyper, "momentum")
    velocity = mu * slots["momentum"] - now.learning_rate * gradient
    step = mu * mu * slots["momentum"] - (1.0 + mu) * now.learning_rate * gradient
    return weight + step, {"momentum": velocity}


def _adam(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Kingma & Ba 2015, Algorithm 1 in the order of section 2, last paragraph (epsilon hat)."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    second = _average(slots["velocity"], np.square(gradient), now.hyper["beta_2"])
    rate = _adam_rate(now)
    new_weight = weight - rate * first / (np.sqrt(second) + now.hyper["epsilon"])
    return new_weight, {"momentum": first, "velocity": second}


def _amsgrad(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Reddi, Kale & Kumar 2018, Algorithm 2, with Adam's bias corrections in the rate."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    second = _average(slots["velocity"], np.square(gradient), now.hyper["beta_2"])
    largest = np.maximum(slots["velocity_hat"], second)
    rate = _adam_rate(now)
    new_weight = weight - rate * first / (np.sqrt(largest) + now.hyper["epsilon"])
    return new_weight, {"momentum": first, "velocity": second, "velocity_hat": largest}


def _adam_rate(now: _Now) -> float:
    """Kingma & Ba 2015, section 2: alpha_t = alpha sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
    first_correction = 1.0 - _cast(now.hyper, "beta_1") ** now.update
    second_correction = 1.0 - _cast(now.hyper, "beta_2") ** now.update
    rate: float = now.learning_rate * np.sqrt(second_correction) / first_correction
    return rate


def _rmsprop(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Hinton 2012, lecture 6e: divide the gradient by a running root mean square."""
    mean_square = _average(slots["velocity"], np.square(gradient), now.hyper["rho"])
    step = now.learning_rate * gradient / np.sqrt(mean_square + now.hyper["epsilon"])
    return _travel(weight, slots, step, now, {"velocity": mean_square})


def _rmsprop_centered(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Graves 2013, equations 38 to 41; without a momentum slot the step is taken as it is."""
    mean_square = _average(slots["velocity"], np.square(gradient), now.hyper["rho"])
    mean = _average(slots["average_gradient"], gradient, now.hyper["rho"])
    step = now.learning_rate * gradient / np.sqrt(mean_square - np.square(mean) + now.hyper["epsilon"])
    return _travel(weight, slots, step, now, {"velocity": mean_square, "average_gradient": mean})


def _travel(weight: Array, slots: State, step: Array, now: _Now, new_slots: Slots) -> tuple[Array, Slots]:
    """Take the step, through a momentum (Graves 2013, equations 40 and 41) where there is a slot for one."""
    if "momentum" not in slots:
        return weight - step, new_slots
    momentum = now.hyper["momentum"] * slots["momentum"] + step
    return weight - momentum, {**new_slots, "momentum": momentum}


def _adagrad(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Duchi, Hazan & Singer 2011, Figure 1, diagonal case, the unconstrained composite mirror step."""
    accumulator = slots["accumulator"] + np.square(gradient)
    new_weight = weight - now.learning_rate * gradient / np.sqrt(accumulator + now.hyper["epsilon"])
    return new_weight, {"accumulator": accumulator}


def _adadelta(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Zeiler 2012, Algorithm 1, its update scaled by a learning rate."""
    rho, epsilon = now.hyper["rho"], now.hyper["epsilon"]
    squares = _average(slots["accumulated_grad"], np.square(gradient), rho)
    step = np.sqrt(slots["accumulated_delta_var"] + epsilon) / np.sqrt(squares + epsilon) * gradient
    steps = _average(slots["accumulated_delta_var"], np.square(step), rho)
    return weight - now.learning_rate * step, {"accumulated_grad": squares, "accumulated_delta_var": steps}


def _adamax(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Kingma & Ba 2015, Algorithm 2."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    norm = np.maximum(now.hyper["beta_2"] * slots["norm"], np.abs(gradient))
    rate = now.learning_rate / (1.0 - _cast(now.hyper, "beta_1") ** now.update)
    return weight - rate * first / (norm + now.hyper["epsilon"]), {"momentum": first, "norm": norm}


def _nadam(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Dozat 2016, Algorithm 2, its momentum schedule mu_t in the look-ahead alone."""
    beta_1, beta_2 = _cast(now.hyper, "beta_1"), _cast(now.hyper, "beta_2")
    mu = _nadam_mu(beta_1, _cast(now.hyper, "schedule_decay"), now.update)
    mu_next = _nadam_mu(beta_1, _cast(now.hyper, "schedule_decay"), now.update + 1)
    product = slots["u_product"] * _nadam_mu(now.hyper["beta_1"], now.hyper["schedule_decay"], now.update)
    first = _average(slots["momentum"], gradient, _averaging(now.hyper, "beta_1"))
    second = _average(slots["velocity"], np.square(gradient), _averaging(now.hyper, "beta_2"))
    ahead = mu_next * first / (1.0 - mu_next * product) + (1.0 - mu) * gradient / (1.0 - product)
    scale = np.sqrt(second / (1.0 - beta_2**now.update)) + now.hyper["epsilon"]
    new_slots = {"momentum": first, "velocity": second, "u_product": product}
    return weight - now.learning_rate * ahead / scale, new_slots


def _nadam_mu(beta_1: float, schedule_decay: float, update: int) -> float:
    """Dozat 2016, with Keras's exponent: mu_t = mu (1 - 0.5 * 0.96^t)."""
    mu: float = beta_1 * (1.0 - 0.5 * schedule_decay**update)
    return mu


def _lion(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Chen et al. 2023, Algorithm 2."""
    direction = np.sign(_average(slots["momentum"], gradient, _averaging(now.hyper, "beta_1")))
    momentum = _average(slots["momentum"], gradient, _averaging(now.hyper, "beta_2"))
    return weight - now.learning_rate * direction, {"momentum": momentum}


def _ftrl(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """McMahan et al. 2013, Algorithm 1, the weights solved for after the update."""
    power = -now.hyper["learning_rate_power"]
    l1, l2 = now.hyper["l1_regularization_strength"], now.hyper["l2_regularization_strength"]
    shrinkage = 2.0 * now.hyper["l2_shrinkage_regularization_strength"]
    accumulator = slots["accumulator"] + np.square(gradient)
    sigma = (accumulator**power - slots["accumulator"] ** power) / now.learning_rate
    linear = slots["linear"] + gradient + shrinkage * weight - sigma * weight
    curvature = (now.hyper["beta"] + accumulator**power) / now.learning_rate + 2.0 * l2
    new_weight = (np.minimum(np.maximum(linear, -l1), l1) - linear) / curvature
    return new_weight, {"accumulator": accumulator, "linear": linear}


def _lamb(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """You et al. 2020, Algorithm 2, with phi the identity and one layer per variable."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    second = _average(slots["velocity"], np.square(gradient), now.hyper["beta_2"])
    first_hat = first / (1.0 - _cast(now.hyper, "beta_1") ** now.update)
    second_hat = second / (1.0 - _cast(now.hyper, "beta_2") ** now.update)
    ratio = first_hat / (np.sqrt(second_hat) + now.hyper["epsilon"])
    trust = _trust_ratio(np.sqrt(np.square(weight).sum()), np.sqrt(np.square(ratio).sum()))
    return weight - now.learning_rate * trust * ratio, {"momentum": first, "velocity": second}


def _adafactor(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Shazeer & Stern 2018, Algorithm 4 (matrices) and 5 (vectors) with the settings of Algorithm 6."""
    squares = np.square(gradient) + now.hyper["epsilon_1"]
    forget = now.update ** now.hyper["beta_2_decay"]  # 1 - beta_2t
    new_slots = dict(slots)
    if weight.ndim < 2:
        second = _blend(slots["velocity"], squares, forget)
    else:
        row = _blend(slots["r"], squares.mean(axis=-1), forget)
        column = _blend(slots["c"], squares.mean(axis=-2), forget)
        second = (row / row.mean(axis=-1, keepdims=True))[..., None] * column[..., None, :]
        new_slots.update(r=row, c=column)
    scaled = gradient / np.sqrt(second)
    clipped = scaled / np.maximum(1.0, _rms(scaled) / now.hyper["clip_threshold"])
    rho = np.minimum(now.learning_rate, 1.0 / np.sqrt(1.0 * now.update))
    step = np.maximum(_cast(now.hyper, "epsilon_2"), _rms(weight)) * rho * clipped
    new_slots["velocity"] = second
    return weight - step, new_slots


def _muon(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Jordan et al. 2024, with the step size of Liu et al. 2025; AdamW for what has a second moment."""
    if "velocity" in slots:
        return _muons_adamw(weight, slots, gradient, now)
    mu = now.hyper["momentum"]
    # Keras's `m + (g + m (mu - 1))` rounds m and g thrice more.
    magnitude = 3.0 * (np.abs(slots["momentum"]) + np.abs(gradient))
    momentum = allow(mu * slots["momentum"] + gradient, magnitude)
    direction = gradient + mu * momentum if now.hyper["nesterov"] else momentum
    rate = now.learning_rate
    if "rms_rate" not in now.hyper:  # Jordan et al.'s own step size, in Keras before 3.13
        rate = rate * math.sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
    elif now.hyper["rms_rate"]:
        rate = rate * now.hyper["rms_rate"] * math.sqrt(max(weight.shape))
    new_weight = _decayed(weight, now) - rate * _orthogonal(direction, now.hyper)
    return new_weight, {"momentum": momentum}


def _muons_adamw(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    names = {"beta_1": "adam_beta_1", "beta_2": "adam_beta_2"}
    hyper = {**now.hyper, **{a: now.hyper[b] for a, b in names.items()}}
    hyper |= {f"cast_{a}": _cast(now.hyper, b) for a, b in names.items()}
    inside = _Now(now.update, now.learning_rate * now.hyper["adam_lr_ratio"], hyper)
    return _adam(_decayed(weight, now, "adam_weight_decay"), slots, gradient, inside)


def _orthogonal(direction: Any, hyper: Hyper) -> Any:
    """Jordan et al. 2024: the quintic Newton-Schulz iteration, from a matrix of Frobenius norm 1."""
    wide = direction if direction.shape[0] <= direction.shape[1] else direction.T
    matrix = wide / (np.sqrt(np.square(wide).sum()) + 1e-7)
    a, b, c = (float(hyper[f"muon_{name}"]) for name in "abc")
    if is_rounded(matrix):
        carried = float(np.sqrt(np.square(matrix.error).sum()))
        for _ in range(int(hyper["ns_steps"])):
            matrix, carried = _tracked_quintic(matrix, carried, a, b, c)
        matrix = matrix.like(matrix.value, carried)
    else:
        for _ in range(int(hyper["ns_steps"])):
            matrix = _quintic(matrix, a, b, c)
    return matrix if direction.shape[0] <= direction.shape[1] else matrix.T


def _quintic(matrix: Any, a: float, b: float, c: float) -> Any:
    """``a X + b X X' X + c (X X')^2 X``: the odd polynomial of the singular values."""
    gram = matrix @ matrix.T
    return a * matrix + (b * gram + c * (gram @ gram)) @ matrix


def _tracked_quintic(matrix: Rounded, carried: float, a: float, b: float, c: float) -> tuple[Rounded, float]:
    """Return the step and the Frobenius norm of its error, given that of the error so far."""
    # Elementwise bounds would grow with each iteration's sum of magnitudes. An odd function of singular values has,
    # in the Frobenius norm, the Lipschitz constant of the function itself (its divided differences are at most that).
    following = _quintic(matrix.like(matrix.value, 0.0), a, b, c)
    largest = float(np.linalg.norm(matrix.value, 2)) + carried
    turning = -3.0 * b / (10.0 * c) if c else 0.0
    squares = [0.0, largest**2, min(max(turning, 0.0), largest**2)]
    steepest = max(abs(a + 3.0 * b * s + 5.0 * c * s**2) for s in squares)
    own = float(np.sqrt(np.square(following.error).sum()))
    return following, steepest * carried + own


def _schedule_free(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
    """Defazio et al. 2024, Algorithm 1: the weights held are y, the slots z and v; x is what they leave."""
    beta_1, beta_2 = _cast(now.hyper, "beta_1"), _cast(now.hyper, "beta_2")
    second = _average(slots["velocity"], np.square(gradient), beta_2)
    denominator = np.sqrt(second / (1.0 - beta_2**now.update)) + _cast(now.hyper, "epsilon")
    rate = now.learning_rate
    if now.hyper["warmup_steps"]:
        rate = rate * np.minimum(now.update / now.hyper["warmup_steps"], 1.0)
    iterate = slots["momentum"] - rate * gradient / denominator
    average = (weight - (1.0 - beta_1) * slots["momentum"]) / beta_1
    share = 1.0 / now.update
    average = (1.0 - share) * average + share * iterate
    new_weight = (1.0 - beta_1) * iterate + beta_1 * average
    return new_weight, {"momentum": iterate, "velocity": second}


def _average(old: Array, new: Array, decay: float) -> Array:
    """``decay * old + (1 - decay) * new``, the exponential moving average of every paper here."""
    kept = 1.0 - decay
    # Keras's `old + (new - old) * (1 - decay)` rounds `(1 - decay) * old` twice more than the paper's form.
    return allow(decay * old + kept * new, 2.0 * abs(kept) * np.abs(old))


def _blend(old: Array, new: Array, forget: float) -> Array:
    """The moving average again, given ``1 - decay``, which is the exact one of the pair for Adafactor."""
    return allow((1.0 - forget) * old + forget * new, 2.0 * np.abs(new))


def _rms(values: Array) -> Array:
    root: Array = np.sqrt(np.square(values).mean())
    return root


def _cast(hyper: Hyper, name: str) -> float:
    """The hyperparameter as Keras's `ops.cast` leaves it, where `hyperparameters` recorded that."""
    return hyper.get(f"cast_{name}", hyper[name])


def _averaging(hyper: Hyper, name: str) -> float:
    """The decay of Lion's and Nadam's averages: cast, but for torch's fused kernels, which take a float."""
    return hyper[name] if hyper.get("fused", False) else _cast(hyper, name)


def _as_step(rule: _Rule) -> Step:
    """The rule with the public, keyword-only signature."""

    def step(
        weight: Array,
        slots: State,
        gradient: Array,
        *,
        update: int,
        learning_rate: float,
        hyper: Hyper,
    ) -> tuple[Array, Slots]:
        return rule(weight, slots, gradient, _Now(update, learning_rate, hyper))

    return step


def _decayed(weight: Array, now: _Now, option: str = "weight_decay") -> Array:
    """Loshchilov & Hutter 2019, equation 1: the weights shrink by a share of themselves."""
    loss = now.learning_rate * _cast(now.hyper, option) * weight
    # On torch Keras forms `1 - weight_decay * learning_rate` in float32 whatever the weights' dtype.
    coarse = now.hyper.get("decay_unit", 0.0) * (np.abs(weight) + 3.0 * np.abs(loss))
    return allow(weight - loss, coarse, unit=1.0)


def with_weight_decay(recurrence: Recurrence, weight_decay: float = 0.004) -> Recurrence:
    """The recurrence with Keras's `weight_decay` option: decoupled, applied before the update.

    Parameters
    ----------
    recurrence : Recurrence
        Any entry of `RECURRENCES` that does not decay already.
    weight_decay : float, default 0.004
        Value for the constructor option; the value used by `step` is ``hyper["weight_decay"]``.

    Returns
    -------
    Recurrence
        Named ``"<name>_decayed"``.

    Raises
    ------
    ValueError
        If the recurrence decays already.
    """
    if "weight_decay" in recurrence.hyperparameters:
        raise ValueError(f"recurrence {recurrence.name!r} decays already")

    def rule(weight: Array, slots: State, gradient: Array, now: _Now) -> tuple[Array, Slots]:
        return recurrence.step(
            _decayed(weight, now),
            slots,
            gradient,
            update=now.update,
            learning_rate=now.learning_rate,
            hyper=now.hyper,
        )

    return replace(
        recurrence,
        name=f"{recurrence.name}_decayed",
        options={**recurrence.options, "weight_decay": weight_decay},
        hyperparameters=(*recurrence.hyperparameters, "weight_decay"),
        source=f"{recurrence.source}; decay: {_DECAY_SOURCE}",
        differences=(*recurrence.differences, *_DECAY_DIFFERENCES),
        step=_as_step(rule),
    )


# --- sources, and where Keras departs from them ------------------------------------------------------------

_KINGMA = "Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, arXiv:1412.6980"
_GRAVES = "Graves 2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850, equations 38-41"
_HINTON = "Hinton 2012, Neural Networks for Machine Learning, lecture 6e, slide 29"
_DECAY_SOURCE = "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101, Algo. 2"

_CAST_NOTE = (
    "on TensorFlow {0} passes through float32 before it reaches the weights' dtype, so float64 training uses "
    "the float32 value."
)
_MEAN_NOTE = "on JAX and torch its means are taken in float32, also for float64 weights (seen in 3.15.1)."
_OPERAND_NOTE = "on torch its Python floats are rounded to float32, also for float64 weights."
_EPSILON_HAT = "epsilon is the paper's epsilon hat: added to sqrt(v) outside the bias correction, not to sqrt(v hat)."
_ADAM_CAST = _CAST_NOTE.format("beta in the bias corrections (not in the moving averages)")
_DECAY_DIFFERENCES = (
    "the decay is multiplied by the learning rate, where only the paper's schedule multiplier eta scales it.",
    "the decay is applied before the update and rounded on its own, where the paper subtracts one sum.",
    _CAST_NOTE.format("weight_decay"),
    "on torch the factor 1 - weight_decay * learning_rate is formed in float32, also for float64 weights.",
)
_INSIDE_ROOT = "epsilon is added inside the square root, where the source {0}."
_ADAM_DIFFERENCES = (_EPSILON_HAT, _ADAM_CAST)


def _entry(
    name: str,
    keras_class: str,
    rule: _Rule,
    hyper: str = "",
    slots: str = "",
    *,
    source: str,
    differences: tuple[str, ...] = (),
    **options: object,
) -> Recurrence:
    return Recurrence(
        name=name,
        keras_class=keras_class,
        options=MappingProxyType(options),
        hyperparameters=tuple(hyper.split()),
        slots=tuple(slots.split()),
        source=source,
        differences=differences,
        step=_as_step(rule),
    )


_ADAM = _entry(
    "adam", "Adam", _adam, "beta_1 beta_2 epsilon", "momentum velocity",
    source=f"{_KINGMA}, Algorithm 1 and section 2", differences=_ADAM_DIFFERENCES,
)  # fmt: skip

_ENTRIES = (
    _entry(
        "sgd", "SGD", _sgd,
        source="Goodfellow, Bengio & Courville 2016, Deep Learning, Algorithm 8.1",
    ),
    _entry(
        "momentum", "SGD", _momentum, "momentum", "momentum",
        source="Sutskever, Martens, Dahl & Hinton 2013, On the importance of initialization and momentum in "
        "deep learning, ICML, equations 1-2 (Polyak 1964)",
        differences=(_CAST_NOTE.format("momentum"),), momentum=0.9,
    ),
    _entry(
        "nesterov", "SGD", _nesterov, "momentum", "momentum",
        source="Bengio, Boulanger-Lewandowski & Pascanu 2013, Advances in Optimizing Recurrent Networks, "
        "arXiv:1212.0901, section 3.5",
        differences=(
            ("the weights held are the look-ahead weights, as in Bengio et al.: Sutskever et al. 2013 "
            "(equations 3-4) hold the others and evaluate the gradient ahead of them."),
            "the momentum is constant, where the paper lets it follow a schedule.",
            _CAST_NOTE.format("momentum"),
        ),
        momentum=0.9, nesterov=True,
    ),
    _ADAM,
    _entry(
        "amsgrad", "Adam", _amsgrad, "beta_1 beta_2 epsilon", "momentum velocity velocity_hat",
        source="Reddi, Kale & Kumar 2018, On the Convergence of Adam and Beyond, arXiv:1904.09237, "
        "Algorithm 2",
        differences=(
            "the rate carries Adam's bias corrections; the paper's algorithm has none.",
            "the maximum is taken over v before the bias correction.",
            "epsilon is added to sqrt(v hat); the paper divides by sqrt(v hat) alone.",
            "the learning rate is as given, where the paper divides it by sqrt(t); there is no projection.",
            _ADAM_CAST,
        ),
        amsgrad=True,
    ),
    replace(
        with_weight_decay(_ADAM), name="adamw", keras_class="AdamW",
    ),
    _entry(
        "rmsprop", "RMSprop", _rmsprop, "rho epsilon", "velocity",
        source=_HINTON, differences=(_INSIDE_ROOT.format("has no epsilon"),),
    ),
    _entry(
        "rmsprop_centered", "RMSprop", _rmsprop_centered, "rho epsilon", "velocity average_gradient",
        source=_GRAVES,
        differences=(
            "without the momentum option the step is not smoothed; Graves always has a momentum of 0.9.",
            ("the default epsilon is 1e-7, Graves's 1e-4: when gradients repeat, v - mean^2 + epsilon can "
            "round to a negative number, and the step to NaN."),
        ),
        centered=True,
    ),
    _entry(
        "rmsprop_momentum", "RMSprop", _rmsprop, "rho epsilon momentum", "velocity momentum",
        source=f"{_HINTON}; momentum: {_GRAVES}",
        differences=(
            _INSIDE_ROOT.format("(Hinton) has no epsilon"),
            "the momentum slot holds the negative of Graves's, and is subtracted.",
        ),
        momentum=0.9,
    ),
    _entry(
        "adagrad", "Adagrad", _adagrad, "epsilon", "accumulator",
        source="Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods, JMLR 12, Figure 1 (diagonal)",
        differences=(
            _INSIDE_ROOT.format("adds delta outside it"),
            "the accumulator starts at initial_accumulator_value (0.1), the paper's sum at zero.",
        ),
    ),
    _entry(
        "adadelta", "Adadelta", _adadelta, "rho epsilon", "accumulated_grad accumulated_delta_var",
        source="Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701, Algorithm 1",
        differences=(
            ("the update is multiplied by a learning rate (default 0.001; the paper has none, that is 1), "
            "and the accumulated updates are those before that factor."),
        ),
    ),
    _entry(
        "adamax", "Adamax", _adamax, "beta_1 beta_2 epsilon", "momentum norm",
        source=f"{_KINGMA}, Algorithm 2",
        differences=(
            "epsilon is added to the infinity norm; the paper has none.",
            _CAST_NOTE.format("beta_1 in the bias correction (not in the moving average)"),
        ),
    ),
    _entry(
        "nadam", "Nadam", _nadam, "beta_1 beta_2 epsilon", "momentum velocity u_product",
        source="Dozat 2016, Incorporating Nesterov Momentum into Adam, ICLR workshop, Algorithm 2",
        differences=(
            "the momentum schedule is mu (1 - 0.5 * 0.96^t), where the paper's exponent is t / 250.",
            "the first moment decays with the constant beta_1; only the look-ahead follows the schedule.",
            "the second moment's correction is v / (1 - beta_2^t), without the paper's factor nu.",
            _CAST_NOTE.format("beta_1, beta_2 and the 0.96 of the schedule (but not in the running product)"),
        ),
    ),
    _entry(
        "lion", "Lion", _lion, "beta_1 beta_2", "momentum",
        source="Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675, "
        "Algorithm 2",
        differences=(
            "weight decay is not part of the step: it is Keras's own option, taken before the update.",
            _CAST_NOTE.format("beta_1 and beta_2"),
        ),
    ),
    _entry(
        "ftrl", "Ftrl", _ftrl,
        "learning_rate_power l1_regularization_strength l2_regularization_strength "
        "l2_shrinkage_regularization_strength beta",
        "accumulator linear",
        source="McMahan et al. 2013, Ad Click Prediction: a View from the Trenches, KDD, Algorithm 1",
        differences=(
            "the weights are solved for after the update, the paper does so before the next prediction.",
            "l2_regularization_strength counts twice (2 * lambda_2 in the denominator).",
            ("sums of squares start at initial_accumulator_value (0.1) and weights at their initial values, "
            "which the first update then forgets: the paper starts both at zero."),
            "the power of the accumulator is an option (the paper's is 1/2).",
            ("l2_shrinkage_regularization_strength adds 2 * strength * weight to the gradient in the linear "
            "term only; the paper has none."),
            _OPERAND_NOTE,
        ),
    ),
    _entry(
        "lamb", "Lamb", _lamb, "beta_1 beta_2 epsilon", "momentum velocity",
        source="You et al. 2020, Large Batch Optimization for Deep Learning, arXiv:1904.00962, Algorithm 2",
        differences=(
            "weight decay stays outside the trust ratio: it is Keras's own option, taken before the update.",
            "phi is the identity, and the ratio is 1 where either norm is zero.",
            "a layer is one variable, so a kernel and its bias have a ratio each.",
            _CAST_NOTE.format("beta in the bias corrections (not in the moving averages)"),
            _OPERAND_NOTE,
        ),
    ),
    _entry(
        "adafactor", "Adafactor", _adafactor,
        "beta_2_decay epsilon_1 epsilon_2 clip_threshold relative_step", "r c velocity",
        source="Shazeer & Stern 2018, Adafactor, arXiv:1804.04235, Algorithms 4-6",
        differences=(
            "rho_t = min(learning_rate, 1/sqrt(t)), where the paper's constant is 1e-2.",
            "relative_step=False changes nothing: the minimum with 1/sqrt(t) is taken all the same.",
            "row and column means stand for the paper's sums, which leaves their outer product unchanged.",
            "the second moment of a matrix is stored too, which gives up the memory the factoring saves.",
            _CAST_NOTE.format("epsilon_2"),
            _MEAN_NOTE,
            _OPERAND_NOTE,
        ),
    ),
    _entry(
        "muon", "Muon", _muon,
        "momentum nesterov ns_steps muon_a muon_b muon_c rms_rate weight_decay "
        "adam_beta_1 adam_beta_2 epsilon adam_lr_ratio adam_weight_decay",
        "momentum velocity",
        source="Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks; step size: Liu et al. "
        f"2025, Muon is Scalable for LLM Training, arXiv:2502.16982, equation 4; AdamW: {_KINGMA}",
        differences=(
            "the iteration runs in the weights' dtype, not in bfloat16.",
            "the step size sqrt(max(n, m)) * 0.2 is Liu et al.'s; rms_rate=None leaves it out.",
            "tables called embedding, and what is no matrix, are updated by AdamW in the same optimizer.",
            _EPSILON_HAT, _CAST_NOTE.format("beta in AdamW's bias corrections and both weight decays"),
        ),
    ),
    _entry(
        "schedulefreeadamw", "ScheduleFreeAdamW", _schedule_free, "beta_1 beta_2 epsilon warmup_steps",
        "momentum velocity",
        source="Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682, Algorithm 1",
        differences=(
            "the average's weights are 1/t, the paper's the squared rates: they differ under warm-up and schedules.",
            "the bias correction is taken of v, with epsilon outside it; the paper's is in the rate.",
            "weight decay is Keras's own option: it shrinks y before the step, the paper subtracts it from z.",
            _CAST_NOTE.format("beta_1, beta_2 and epsilon"),
        ),
    ),
)  # fmt: skip

_RMSPROP_CENTERED_MOMENTUM = _entry(
    "rmsprop_centered_momentum", "RMSprop", _rmsprop_centered,
    "rho epsilon momentum", "velocity momentum average_gradient",
    source=_GRAVES,
    differences=(
        "the momentum slot holds the negative of Graves's, and is subtracted.",
        "the default epsilon is 1e-7, Graves's 1e-4.",
    ),
    centered=True, momentum=0.9,
)  # fmt: skip

RECURRENCES: Mapping[str, Recurrence] = MappingProxyType(
    {entry.name: entry for entry in (*_ENTRIES, _RMSPROP_CENTERED_MOMENTUM)}
)
"""Every recurrence by name."""


#: Options that make another recurrence of the same class.
_SELECTING = ("momentum", "nesterov", "centered", "amsgrad")


def recurrence_of(keras_class: str, options: Mapping[str, object]) -> Recurrence | None:
    """Return the recurrence of an optimizer class with these constructor options, None where none is written."""
    if keras_class == "AdamW" and options.get("amsgrad"):
        return replace(with_weight_decay(RECURRENCES["amsgrad"]), keras_class="AdamW")
    found = [entry for entry in RECURRENCES.values() if entry.keras_class == keras_class]
    if len(found) < 2:
        return found[0] if found else None
    wanted = {name for name in _SELECTING if options.get(name)}
    return next((entry for entry in found if {n for n in _SELECTING if entry.options.get(n)} == wanted), None)


# --- reading a Keras optimizer -----------------------------------------------------------------------------

_CAST_NAMES: Mapping[str, tuple[str, ...]] = {
    "SGD": ("momentum",),
    "Adam": ("beta_1", "beta_2"),
    "AdamW": ("beta_1", "beta_2"),
    "Adamax": ("beta_1",),
    "Nadam": ("beta_1", "beta_2", "schedule_decay"),
    "Lion": ("beta_1", "beta_2"),
    "Lamb": ("beta_1", "beta_2"),
    "Adafactor": ("epsilon_2",),
    "Muon": ("adam_beta_1", "adam_beta_2", "adam_weight_decay"),
    "ScheduleFreeAdamW": ("beta_1", "beta_2", "epsilon"),
}
"""Hyperparameters that Keras sends through `ops.cast`; all others meet tensors as Python floats."""

_NADAM_SCHEDULE_DECAY = 0.96  # Dozat 2016; not an attribute of Keras's Nadam

_SLOT_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "momentum": ("_momentums", "momentums", "adam_momentums", "_m"),
    "velocity": ("adam_velocities", "_velocities", "_v"),
    "velocity_hat": ("_velocity_hats",),
    "average_gradient": ("_average_gradients",),
    "accumulator": ("_accumulators",),
    "accumulated_grad": ("_accumulated_grads",),
    "accumulated_delta_var": ("_accumulated_delta_vars",),
    "norm": ("_u",),
    "linear": ("_linears",),
    "u_product": ("_u_product",),
    "r": ("_r",),
    "c": ("_c",),
}
"""Where Keras 3.1 to 3.15 keeps each slot. In 3.1 their names do not always say whose."""


def keras_slots(optimizer: Any, index: int, recurrence: Recurrence) -> Slots:
    """Read Keras's own state of one trainable variable.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Built optimizer.
    index : int
        Position of the variable in the list the optimizer was built with.
    recurrence : Recurrence
        Says which slots to read.

    Returns
    -------
    dict of str to ndarray
        Float64 copies. `u_product` of Nadam is one scalar shared by all variables; `r` and `c` of Adafactor
        are unused scalars for variables of fewer than two dimensions.

    Raises
    ------
    LookupError
        If the optimizer holds no such slot, for instance because it is not built.
    """
    return {slot: _read(variable) for slot, variable in _slot_variables(optimizer, index, recurrence).items()}


def _slot_variables(optimizer: Any, index: int, recurrence: Recurrence) -> dict[str, Any]:
    """The Keras variables themselves; a slot that an optimizer keeps for other variables only is left out."""
    found = {slot: _slot_variable(optimizer, index, slot) for slot in recurrence.slots}
    return {slot: variable for slot, variable in found.items() if variable is not None}


def _slot_variable(optimizer: Any, index: int, slot: str) -> Any:
    for attribute in _SLOT_ATTRIBUTES[slot]:
        held = getattr(optimizer, attribute, None)
        if isinstance(held, Mapping):  # Muon before Keras 3.13, by the variables' paths
            return held.get(optimizer._trainable_variables[index].path)
        if held is not None and not isinstance(held, (list, tuple)):
            return held
        if held:
            return held[index]
    named = [variable for variable in optimizer.variables if _has_suffix(variable.name, slot)]
    if index >= len(named):
        found = ", ".join(str(variable.name) for variable in optimizer.variables)
        missing = f"{type(optimizer).__name__} holds no slot {slot!r} for variable {index}"
        raise LookupError(f"{missing}; build it first; it holds {found}")
    return named[index]


def _has_suffix(name: str, slot: str) -> bool:
    return name == slot or (name.endswith(f"_{slot}") and not name.endswith("gradient_accumulator"))


def _read(variable: Any) -> Array:
    value = variable.numpy() if hasattr(variable, "numpy") else variable
    return np.array(value, dtype=np.float64)


def hyperparameters(optimizer: Any, recurrence: Recurrence, dtype: str) -> dict[str, float | bool]:
    """Read the hyperparameters a recurrence needs, as Keras on its backend will use them.

    A Python float given to Keras is used in two ways. Most meet a tensor directly and keep their float64
    value for float64 weights. Some go through `ops.cast` first, which on TensorFlow makes a float32 of
    them; those are returned twice, plainly and as ``cast_<name>``. Four more entries tell `step` and
    `rounding_bound` of a backend's habits, where float64 weights meet float32 arithmetic:

    - ``fused`` (torch): averages take the plain value, in one kernel;
    - ``decay_unit`` (torch): unit roundoff of the factor ``1 - weight_decay * learning_rate``;
    - ``operand_unit`` (torch, where not fused: Lamb, Ftrl, Adafactor): that of plain Python floats;
    - ``mean_unit`` (JAX, torch): that of `ops.mean`, which casts float64 to float32 there (seen in 3.15.1).

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Where the values are read.
    recurrence : Recurrence
        Says which.
    dtype : str
        Dtype of the weights.

    Returns
    -------
    dict of str to float or bool
        For `Recurrence.step` and `rounding_bound`.
    """
    values = {
        name: _scalar(getattr(optimizer, name)) for name in recurrence.hyperparameters if hasattr(optimizer, name)
    }
    if recurrence.keras_class == "Muon":  # before Keras 3.13 one decay for all
        values.setdefault("adam_weight_decay", values["weight_decay"])
    if recurrence.keras_class == "Nadam":
        values["schedule_decay"] = _NADAM_SCHEDULE_DECAY
    backend = _backend(optimizer)
    precision = precision_of(dtype)
    for name in (*_CAST_NAMES.get(recurrence.keras_class, ()), "weight_decay"):
        if name in values:
            value = values[name]
            through = rounded_to(value, PRECISIONS["float32"]) if backend == "tensorflow" else value
            values[f"cast_{name}"] = rounded_to(through, precision)
    single = PRECISIONS["float32"].unit
    fused, torch = backend == "torch_fused", backend.startswith("torch")
    values["fused"] = fused
    values["decay_unit"] = single if torch else 0.0
    values["operand_unit"] = single if torch and not fused else 0.0
    values["mean_unit"] = single if torch or backend == "jax" else 0.0
    return values


def _scalar(value: Any) -> float | bool:
    """A hyperparameter, which Keras lets be a number, a tensor, a function of nothing, or None."""
    value = value() if callable(value) else value
    if value is None or isinstance(value, bool):
        return bool(value) if value is not None else 0.0
    return float(value)


def _backend(optimizer: Any) -> str:
    """Which backend's base class the optimizer has; read from its ancestry, so nothing is imported."""
    modules = " ".join(kind.__module__ for kind in type(optimizer).__mro__)
    if "torch_parallel_optimizer" in modules:
        return "torch_fused"
    return next((name for name in ("tensorflow", "jax", "torch") if f"backend.{name}" in modules), "")


# --- rounding ----------------------------------------------------------------------------------------------

_ORDERS = 2.0
"""Keras may group sums and fuse products as it likes. A sum is charged with the magnitude of its terms, so
one more addition over the same terms at most doubles what they were charged."""


def rounding_bound(
    recurrence: Recurrence,
    weight: Array,
    slots: Mapping[str, Array],
    gradient: Array,
    *,
    update: int,
    learning_rate: float,
    hyper: Hyper,
    dtype: str,
    gradient_error: Array | float = 0.0,
) -> tuple[Array, Slots]:
    """Bound ``|Keras - oracle|`` elementwise after one step from the same state.

    Running error analysis (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.3) of the
    recurrence itself: every operation carries its operands' errors through without linearizing (sums add,
    products and quotients expand, roots and powers are taken at both ends of the interval) and adds its own:

    - a sum ``u (|x| + |y|)``, with the terms' magnitude in place of the result's, so that grouping does not
      matter; a sum of n terms ``(n - 1) u`` times the sum of magnitudes;
    - a product, quotient or root ``u |result|``; a power ``(4 + 2 |y log x|) u |result|``, since libraries
      differ and may go by ``exp(y log x)``;
    - `_average` two more roundings of ``(1 - decay) old``, for the form ``old + (new - old) (1 - decay)``;
    - a hyperparameter ``u |value|`` where the dtype cannot hold it;
    - the smallest normal number where a result may be flushed to zero.

    Keras's error is at most twice that (see `_ORDERS`); the oracle's own, the same with u = 2^-53, is added.

    Parameters
    ----------
    recurrence : Recurrence
        The optimizer.
    weight, slots, gradient, update, learning_rate, hyper
        What was given to `Recurrence.step`.
    dtype : str
        Dtype Keras computed in: float64, float32, float16 or bfloat16.
    gradient_error : array or float, default 0
        How far, elementwise, the gradient that Keras used may be from the one given here.

    Returns
    -------
    weight_bound : ndarray
        Same shape as `weight`. Infinite where rounding decides the result, as for a denominator that may be
        zero (centered RMSprop on repeated gradients).
    slot_bounds : dict of str to ndarray
        The same for every slot.

    Raises
    ------
    ValueError
        If the dtype is unknown.
    """
    habits = {"operand": hyper.get("operand_unit", 0.0), "mean": hyper.get("mean_unit", 0.0)}
    keras = (replace(precision_of(dtype), **habits), _ORDERS, gradient_error)
    runs = (keras, (PRECISIONS["float64"], 1.0, 0.0))
    total_weight: Array = np.zeros(np.shape(weight))
    total_slots: Slots = {name: np.zeros(np.shape(slot)) for name, slot in slots.items()}
    for precision, factor, error in runs:
        exact = Rounded.source(precision)
        arguments: dict[str, Any] = {"update": exact(update), "learning_rate": exact(learning_rate)}
        tracked = {name: exact(slot) for name, slot in slots.items()}
        with np.errstate(all="ignore"):
            step: Any = recurrence.step
            given = Rounded(gradient, error, precision)
            new_weight, new_slots = step(exact(weight), tracked, given, hyper=hyper, **arguments)
            total_weight = total_weight + _limit(new_weight, factor)
            total_slots = {name: total_slots[name] + _limit(slot, factor) for name, slot in new_slots.items()}
    return total_weight, total_slots


def _limit(number: Rounded, factor: float) -> Array:
    bound = factor * number.error + number.precision.tiny
    return np.where(np.isnan(bound), np.inf, bound)


def _trust_ratio(weight_norm: Any, step_norm: Any) -> Any:
    """You et al. 2020: the ratio of the norms, 1 where either is zero; infinite error where undecided."""
    if not is_rounded(weight_norm) or not is_rounded(step_norm):
        return weight_norm / step_norm if weight_norm > 0 and step_norm > 0 else 1.0
    if is_zero(weight_norm) or is_zero(step_norm):
        return weight_norm.like(1.0, 0.0)
    ratio = weight_norm / step_norm
    return ratio if weight_norm.value > weight_norm.error else ratio.like(ratio.value, np.inf)
