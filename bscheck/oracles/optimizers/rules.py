"""One update of each optimizer, by its paper's equations.

A rule takes and returns float64 arrays, or numbers that carry their rounding error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bscheck.oracles.optimizers.recurrence import Array, Hyper, Now, Rule, Slots, State, Step
from bscheck.oracles.rounding import Rounded, allow, is_rounded, is_zero


def sgd_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Goodfellow, Bengio & Courville 2016, Algorithm 8.1."""
    return weight - now.learning_rate * gradient, {}


def momentum_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Sutskever et al. 2013, equations 1 and 2."""
    velocity = _cast(now.hyper, "momentum") * slots["momentum"] - now.learning_rate * gradient
    return weight + velocity, {"momentum": velocity}


def nesterov_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Bengio, Boulanger-Lewandowski & Pascanu 2013, section 3.5, with a constant momentum."""
    mu = _cast(now.hyper, "momentum")
    velocity = mu * slots["momentum"] - now.learning_rate * gradient
    step = mu * mu * slots["momentum"] - (1.0 + mu) * now.learning_rate * gradient
    return weight + step, {"momentum": velocity}


def adam_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Kingma & Ba 2015, Algorithm 1 in the order of section 2, last paragraph (epsilon hat)."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    second = _average(slots["velocity"], np.square(gradient), now.hyper["beta_2"])
    rate = _adam_rate(now)
    new_weight = weight - rate * first / (np.sqrt(second) + now.hyper["epsilon"])
    return new_weight, {"momentum": first, "velocity": second}


def amsgrad_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Reddi, Kale & Kumar 2018, Algorithm 2, with Adam's bias corrections in the rate."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    second = _average(slots["velocity"], np.square(gradient), now.hyper["beta_2"])
    largest = np.maximum(slots["velocity_hat"], second)
    rate = _adam_rate(now)
    new_weight = weight - rate * first / (np.sqrt(largest) + now.hyper["epsilon"])
    return new_weight, {"momentum": first, "velocity": second, "velocity_hat": largest}


def _adam_rate(now: Now) -> float:
    """Kingma & Ba 2015, section 2: alpha_t = alpha sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
    first_correction = 1.0 - _cast(now.hyper, "beta_1") ** now.update
    second_correction = 1.0 - _cast(now.hyper, "beta_2") ** now.update
    rate: float = now.learning_rate * np.sqrt(second_correction) / first_correction
    return rate


def rmsprop_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Hinton 2012, lecture 6e: divide the gradient by a running root mean square."""
    mean_square = _average(slots["velocity"], np.square(gradient), now.hyper["rho"])
    step = now.learning_rate * gradient / np.sqrt(mean_square + now.hyper["epsilon"])
    return _travel(weight, slots, step, now, {"velocity": mean_square})


def rmsprop_centered_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Graves 2013, equations 38 to 41; without a momentum slot the step is taken as it is."""
    mean_square = _average(slots["velocity"], np.square(gradient), now.hyper["rho"])
    mean = _average(slots["average_gradient"], gradient, now.hyper["rho"])
    step = now.learning_rate * gradient / np.sqrt(mean_square - np.square(mean) + now.hyper["epsilon"])
    return _travel(weight, slots, step, now, {"velocity": mean_square, "average_gradient": mean})


def _travel(weight: Array, slots: State, step: Array, now: Now, new_slots: Slots) -> tuple[Array, Slots]:
    """Take the step, through a momentum (Graves 2013, equations 40 and 41) where there is a slot for one."""
    if "momentum" not in slots:
        return weight - step, new_slots
    momentum = now.hyper["momentum"] * slots["momentum"] + step
    return weight - momentum, {**new_slots, "momentum": momentum}


def adagrad_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Duchi, Hazan & Singer 2011, Figure 1, diagonal case, the unconstrained composite mirror step."""
    accumulator = slots["accumulator"] + np.square(gradient)
    new_weight = weight - now.learning_rate * gradient / np.sqrt(accumulator + now.hyper["epsilon"])
    return new_weight, {"accumulator": accumulator}


def adadelta_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Zeiler 2012, Algorithm 1, its update scaled by a learning rate."""
    rho, epsilon = now.hyper["rho"], now.hyper["epsilon"]
    squares = _average(slots["accumulated_grad"], np.square(gradient), rho)
    step = np.sqrt(slots["accumulated_delta_var"] + epsilon) / np.sqrt(squares + epsilon) * gradient
    steps = _average(slots["accumulated_delta_var"], np.square(step), rho)
    return weight - now.learning_rate * step, {"accumulated_grad": squares, "accumulated_delta_var": steps}


def adamax_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Kingma & Ba 2015, Algorithm 2."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    norm = np.maximum(now.hyper["beta_2"] * slots["norm"], np.abs(gradient))
    rate = now.learning_rate / (1.0 - _cast(now.hyper, "beta_1") ** now.update)
    return weight - rate * first / (norm + now.hyper["epsilon"]), {"momentum": first, "norm": norm}


def nadam_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
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


def lion_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """Chen et al. 2023, Algorithm 2."""
    direction = np.sign(_average(slots["momentum"], gradient, _averaging(now.hyper, "beta_1")))
    momentum = _average(slots["momentum"], gradient, _averaging(now.hyper, "beta_2"))
    return weight - now.learning_rate * direction, {"momentum": momentum}


def ftrl_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
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


def lamb_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    """You et al. 2020, Algorithm 2, with phi the identity and one layer per variable."""
    first = _average(slots["momentum"], gradient, now.hyper["beta_1"])
    second = _average(slots["velocity"], np.square(gradient), now.hyper["beta_2"])
    first_hat = first / (1.0 - _cast(now.hyper, "beta_1") ** now.update)
    second_hat = second / (1.0 - _cast(now.hyper, "beta_2") ** now.update)
    ratio = first_hat / (np.sqrt(second_hat) + now.hyper["epsilon"])
    trust = trust_ratio(np.sqrt(np.square(weight).sum()), np.sqrt(np.square(ratio).sum()))
    return weight - now.learning_rate * trust * ratio, {"momentum": first, "velocity": second}


def adafactor_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
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


def muon_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
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
    new_weight = decayed(weight, now) - rate * _orthogonal(direction, now.hyper)
    return new_weight, {"momentum": momentum}


def _muons_adamw(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
    names = {"beta_1": "adam_beta_1", "beta_2": "adam_beta_2"}
    hyper = {**now.hyper, **{a: now.hyper[b] for a, b in names.items()}}
    hyper |= {f"cast_{a}": _cast(now.hyper, b) for a, b in names.items()}
    inside = Now(now.update, now.learning_rate * now.hyper["adam_lr_ratio"], hyper)
    return adam_step(decayed(weight, now, "adam_weight_decay"), slots, gradient, inside)


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


def schedule_free_step(weight: Array, slots: State, gradient: Array, now: Now) -> tuple[Array, Slots]:
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


def as_step(rule: Rule) -> Step:
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
        return rule(weight, slots, gradient, Now(update, learning_rate, hyper))

    return step


def decayed(weight: Array, now: Now, option: str = "weight_decay") -> Array:
    """Loshchilov & Hutter 2019, equation 1: the weights shrink by a share of themselves."""
    loss = now.learning_rate * _cast(now.hyper, option) * weight
    # On torch Keras forms `1 - weight_decay * learning_rate` in float32 whatever the weights' dtype.
    coarse = now.hyper.get("decay_unit", 0.0) * (np.abs(weight) + 3.0 * np.abs(loss))
    return allow(weight - loss, coarse, unit=1.0)


def trust_ratio(weight_norm: Any, step_norm: Any) -> Any:
    """You et al. 2020: the ratio of the norms, 1 where either is zero; infinite error where undecided."""
    if not is_rounded(weight_norm) or not is_rounded(step_norm):
        return weight_norm / step_norm if weight_norm > 0 and step_norm > 0 else 1.0
    if is_zero(weight_norm) or is_zero(step_norm):
        return weight_norm.like(1.0, 0.0)
    ratio = weight_norm / step_norm
    return ratio if weight_norm.value > weight_norm.error else ratio.like(ratio.value, np.inf)
