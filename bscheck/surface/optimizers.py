"""The optimizers that the installed Keras exports, their variants and their options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bscheck.errors import BscheckError, unknown
from bscheck.runtime import keras_module
from bscheck.surface import parameters, takes

#: Learning rate of every optimizer under test: large, so that an update is far above the rounding of the weights.
LEARNING_RATE = 0.05

#: Options that select another recurrence of the same class.
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "rmsprop_momentum": ("RMSprop", {"momentum": 0.9}),
    "rmsprop_centered": ("RMSprop", {"centered": True}),
}

#: Exported classes that wrap another optimizer and cannot be made from a learning rate alone.
WRAPPERS = ("LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")

#: Option values of `bscheck.cases.UpdateCase`. Gradients under test have a norm well above 0.5 and entries well above
#: 0.2, so these clips bind; a decay of 0.1 moves a weight by half a percent an update.
DECAY = 0.1
CLIPS: Mapping[str, Mapping[str, float]] = {
    "none": {},
    "norm": {"clipnorm": 0.5},
    "value": {"clipvalue": 0.2},
    "global": {"global_clipnorm": 0.5},
    "norm_loose": {"clipnorm": 1e4},
}
EMA_MOMENTUM = 0.9
EMAS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "on": {"use_ema": True, "ema_momentum": EMA_MOMENTUM},
    "overwrite": {"use_ema": True, "ema_momentum": EMA_MOMENTUM, "ema_overwrite_frequency": 2},
}

#: Options that every optimizer takes from its base class, each with a value that makes a difference.
BASE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "weight_decay": {"weight_decay": DECAY},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.2},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "use_ema": {"use_ema": True, "ema_momentum": EMA_MOMENTUM, "ema_overwrite_frequency": 2},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
}

#: Another value than the default for every option that a class has of its own, chosen so that it makes a difference;
#: a switch is turned over, whatever its default.
OTHER_VALUES: Mapping[str, Any] = {
    "adam_beta_1": 0.8, "adam_beta_2": 0.95, "adam_lr_ratio": 0.3, "adam_weight_decay": 0.2, "amsgrad": True,
    "beta": 0.4, "beta_1": 0.8, "beta_2": 0.95, "beta_2_decay": -0.5, "centered": True, "clip_threshold": 0.5,
    "epsilon": 0.03, "epsilon_1": 0.02, "epsilon_2": 2.0, "exclude_embeddings": False, "exclude_layers": ["kern"],
    "initial_accumulator_value": 0.3, "l1_regularization_strength": 0.3, "l2_regularization_strength": 0.2,
    "l2_shrinkage_regularization_strength": 0.15, "learning_rate_power": -0.7, "momentum": 0.8, "muon_a": 3.0,
    "muon_b": -4.7, "muon_c": 1.8, "nesterov": True, "ns_steps": 3, "relative_step": False, "rho": 0.7,
    "rms_rate": 0.3, "warmup_steps": 5,
}  # fmt: skip

#: Options that are varied by fields of the cases, or that do not reach an update.
COMMON_OPTIONS = frozenset(
    {*BASE_OPTIONS, "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor", "learning_rate", "name"}
)


@dataclass(frozen=True)
class Variant:
    """One exported optimizer class with the options that select one recurrence."""

    name: str
    class_name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@functools.cache
def variants() -> Mapping[str, Variant]:
    """Return every optimizer that the installed Keras exports, by lower-case name, and the known variants."""
    keras = keras_module()
    found = {}
    for name in sorted(dir(keras.optimizers)):
        exported = getattr(keras.optimizers, name)
        is_class = inspect.isclass(exported) and issubclass(exported, keras.optimizers.Optimizer)
        if is_class and exported is not keras.optimizers.Optimizer and name not in WRAPPERS:
            found[name.lower()] = Variant(name.lower(), name)
    for name, (class_name, options) in VARIANTS.items():
        if class_name.lower() in found:
            found[name] = Variant(name, class_name, options)
    return found


def variant(name: str) -> Variant:
    """Return the variant of this name, or raise an error that lists the valid ones."""
    known = variants()
    if name not in known:
        raise BscheckError(unknown("optimizer", name, known))
    return known[name]


def exports(class_name: str) -> bool:
    """Whether the installed Keras exports an optimizer class of this name."""
    return hasattr(keras_module().optimizers, class_name)


def own_options(variant: Variant) -> list[str]:
    """Return the options of the optimizer's constructor that its base class does not have."""
    known = parameters(getattr(keras_module().optimizers, variant.class_name))
    named = [n for n, p in known.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and n != "self"]
    return [n for n in named if n not in COMMON_OPTIONS]


def other_values(variant: Variant, option: str) -> dict[str, Any]:
    """Return the optimizer's options with one, ``all`` that are numbers, or ``none`` of its own at another value."""
    own = own_options(variant)
    if option not in (*own, "all", "none"):
        raise BscheckError(unknown(f"option of {variant.class_name}", option, own))
    numbers = [n for n in own if n in OTHER_VALUES and type(OTHER_VALUES[n]) in (int, float)]
    chosen = {"all": numbers, "none": []}.get(option, [option])
    default = parameters(getattr(keras_module().optimizers, variant.class_name))
    other = {n: not default[n].default if type(OTHER_VALUES[n]) is bool else OTHER_VALUES[n] for n in chosen}
    return {**variant.options, **other}


def accepts(variant: Variant, option: str) -> bool:
    """Whether the optimizer's constructor takes the option."""
    return takes(getattr(keras_module().optimizers, variant.class_name), [option])


def make(
    variant: Variant,
    *,
    decay: str = "none",
    clip: str = "none",
    ema: str = "none",
    accumulation: int | None = None,
    make_class: Any = None,
    **more: Any,
) -> Any:
    """Return a new optimizer of the variant with the options of an `UpdateCase` switched on.

    Parameters
    ----------
    accumulation : int, optional
        ``gradient_accumulation_steps``.
    make_class : callable, optional
        Turns the exported class into the one to instantiate (the spy does).
    """
    exported = getattr(keras_module().optimizers, variant.class_name)
    options: dict[str, Any] = {"learning_rate": LEARNING_RATE, **variant.options, **CLIPS[clip], **EMAS[ema], **more}
    if decay != "none":
        options["weight_decay"] = DECAY
    if accumulation:
        options["gradient_accumulation_steps"] = accumulation
    optimizer = (make_class(exported) if make_class else exported)(**options)
    if decay == "exclude_bias":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def scaling(inner: Any, initial_scale: float, growth: int, **more: Any) -> Any:
    """Return a ``LossScaleOptimizer`` around the optimizer, with these options of the wrapper's own."""
    exported = keras_module().optimizers.LossScaleOptimizer
    return exported(inner, initial_scale=initial_scale, dynamic_growth_steps=growth, **more)


def wrapped(inside: str, optimizer: Any) -> Any:
    """Return an optimizer inside another one that changes nothing, see `bscheck.cases.MatchingCase`."""
    if inside == "LossScaleOptimizer":
        return scaling(optimizer, 1.0, 2000)
    return several("map", {}, optimizer, None) if inside == "MultiOptimizer" else optimizer


def several(given: str, members: Mapping[str, Any], default: Any, factor: float | None) -> Any:
    """Return a ``MultiOptimizer``: the named variables' optimizers, and the one of all others.

    Parameters
    ----------
    given : str
        ``map`` or ``function``, see `bscheck.cases.MemberCase`.
    members : mapping
        Optimizers by the path of their variable.
    default
        The optimizer of every other variable.
    factor : float, optional
        ``loss_scale_factor``.
    """
    exported = keras_module().optimizers
    if given == "map":
        return exported.MultiOptimizer(exported.OptimizerMap(default, dict(members)), loss_scale_factor=factor)
    return exported.MultiOptimizer(lambda variable: members.get(variable.path, default), loss_scale_factor=factor)
