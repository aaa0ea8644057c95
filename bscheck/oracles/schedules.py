"""Learning-rate schedules as float64 formulae of the step, as the Keras documentation and their papers write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Options: TypeAlias = Mapping[str, Any]


def _stairs(step: int, options: Options) -> float:
    quotient = step / options["decay_steps"]
    return float(step // options["decay_steps"]) if options.get("staircase") else quotient


def _exponential(step: int, options: Options) -> float:
    return float(options["initial_learning_rate"] * options["decay_rate"] ** _stairs(step, options))


def _inverse_time(step: int, options: Options) -> float:
    return float(options["initial_learning_rate"] / (1 + options["decay_rate"] * _stairs(step, options)))


def _piecewise(step: int, options: Options) -> float:
    passed = sum(step > boundary for boundary in options["boundaries"])
    return float(options["values"][passed])


def _polynomial(step: int, options: Options) -> float:
    last, end = options["decay_steps"], options.get("end_learning_rate", 0.0001)
    if options.get("cycle"):
        last *= max(1, -(-step // last))
    left = 1 - min(step, last) / last
    return float((options["initial_learning_rate"] - end) * left ** options.get("power", 1.0) + end)


def _cosine(step: int, options: Options) -> float:
    """Loshchilov & Hutter 2017, equation 5, after the linear warm-up of Goyal et al. 2017, section 2.2."""
    start, warm = options["initial_learning_rate"], options.get("warmup_steps", 0)
    target = options.get("warmup_target")
    if target is None:
        target, warm = start, 0
    if step < warm:
        return float(start + (target - start) * step / warm)
    done = min(step - warm, options["decay_steps"]) / options["decay_steps"]
    return float(target * _annealed(done, options.get("alpha", 0.0)))


def _annealed(done: float, alpha: float) -> float:
    return (1 - alpha) * 0.5 * (1 + math.cos(math.pi * done)) + alpha


def _restarts(step: int, options: Options) -> float:
    """Loshchilov & Hutter 2017, equation 5 in each run; a run is `t_mul` times as long as the one before it."""
    period, peak = float(options["first_decay_steps"]), 1.0
    left = float(step)
    while left >= period:
        left -= period
        period *= options.get("t_mul", 2.0)
        peak *= options.get("m_mul", 1.0)
    alpha = options.get("alpha", 0.0)
    # The floor alpha is not lowered with the peak.
    annealed = (1 - alpha) * peak * 0.5 * (1 + math.cos(math.pi * left / period)) + alpha
    return float(options["initial_learning_rate"] * annealed)


_FORMULAE: Mapping[str, Callable[[int, Options], float]] = {
    "ExponentialDecay": _exponential,
    "InverseTimeDecay": _inverse_time,
    "PiecewiseConstantDecay": _piecewise,
    "PolynomialDecay": _polynomial,
    "CosineDecay": _cosine,
    "CosineDecayRestarts": _restarts,
}


def knows(name: str) -> bool:
    """Whether a formula is written for the schedule."""
    return name in _FORMULAE


def rate(name: str, options: Options, step: int) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    name : str
        Class name of the schedule in ``keras.optimizers.schedules``.
    options : mapping
        Constructor options; those left out take their documented defaults.
    step : int
        Counted from 0.
    """
    return _FORMULAE[name](step, options)


def jumps(name: str, options: Options, step: int) -> bool:
    """Whether a run of cosine decay ends at the step, where rounding decides which run it belongs to."""
    if name != "CosineDecayRestarts":
        return False
    end, period = 0.0, float(options["first_decay_steps"])
    while end < step - 1e-9:
        end += period
        period *= options.get("t_mul", 2.0)
    return abs(end - step) < 1e-9 and step > 0


def rounding(name: str, options: Options, dtype_roundoff: float) -> float:
    """Bound the absolute error of a schedule's values computed with that unit roundoff.

    Let R be the largest rate. Every formula makes at most 16 roundings of terms no larger than R or, before the
    last product, than 1. Two operations amplify what went into them: the power of PolynomialDecay, where ``1 - p``
    cancels down to ``1 / decay_steps``, and the restarts' fraction, which loses the digits of the runs before it
    (here at most eight runs) and meets the cosine's slope of pi: ``16 pi`` roundings more.
    """
    largest = max((abs(v) for v in _numbers(options) if abs(v) <= 1), default=1.0)
    amplified = 2.0 * max(1.0, options.get("power", 1.0)) * options.get("decay_steps", 1) + 16 * math.pi
    return float((16.0 + amplified) * dtype_roundoff * largest)


def _numbers(options: Options) -> list[float]:
    rates = ("initial_learning_rate", "end_learning_rate", "warmup_target")
    return [*(options[n] for n in rates if n in options), *options.get("values", ())]
