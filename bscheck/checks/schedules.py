"""Learning-rate schedules: their documented values, and what they count under accumulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, ScheduleCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, random
from bscheck.checks.updates import accumulated, compare_states, eager_if_any, optimizer_params, state_of
from bscheck.oracles.schedules import jumps, knows, rate, rounding
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.rig import SHAPES, Rig, number
from bscheck.surface.optimizers import LEARNING_RATE, make, variant
from bscheck.surface.schedules import SETTINGS, make_schedule, schedules, settings
from bscheck.tolerance import UNIT_ROUNDOFF

#: Steps at which values are held against the formula: through every warm-up, decay, cycle and restart of the settings.
STEPS = (*range(26), 40, 97)

#: Those of them that are tried where each value is compiled anew: starts, ends, boundaries and their neighbours.
FEW_STEPS = (0, 1, 2, 3, 4, 7, 8, 9, 10, 15, 40)

#: The schedule that every optimizer is driven by; the others meet the same promise with SGD.
COMMON = "ExponentialDecay"

SCHEDULES_PAGE = "https://keras.io/api/optimizers/learning_rate_schedules/"


def schedule_params() -> list[Param]:
    """Return a parameter for each schedule that the installed Keras exports."""
    return [Param.of(schedule=name) for name in schedules()]


def _unwritten(context: Context) -> str | None:
    name = context.param.get("schedule")
    return first_reason((not knows(name) or name not in SETTINGS, f"no formula is written for {name} yet"))


def _settings_of(context: Context) -> range:
    return range(len(settings(context.param.get("schedule"))))


@check(
    family="accumulation",
    claims=("C4",),
    case=ScheduleCase,
    params=schedule_params,
    cases=lambda context: _schedule_cases(context),
    corners=lambda context: tuple(
        ScheduleCase(setting=i, dtype=dtype)
        for i in _settings_of(context)
        for dtype in (("float64",) if context.runtime.compiles_per_shape else ("float32", "float64"))
    ),
    applies=_unwritten,
    examples=(0, 0, 20),
    per_subject=False,
    catches="a schedule with a wrong constant, off by one step, past its end, at a boundary, in one option only",
    formula="|seen - documented formula in float64| <= (16 + 16 pi + 2 max(1, power) decay_steps) u R, R the largest "
    "rate; at a restart of CosineDecayRestarts the end of the run before it counts too",
    source=f"{SCHEDULES_PAGE}; Loshchilov & Hutter, SGDR (2017), equation 5; Goyal et al. (2017), section 2.2",
    example="at step 4, the rate is 0.0512, not 0.0507",
)
def schedule_has_its_documented_values(context: Context, case: ScheduleCase) -> Reading:
    """A learning-rate schedule has its documented value at every step."""
    name = context.param.get("schedule")
    options = settings(name)[case.setting % len(settings(name))]
    steps = FEW_STEPS if context.runtime.compiles_per_shape else STEPS
    seen = _values(name, case.setting, case.dtype, steps)
    bound = rounding(name, options, UNIT_ROUNDOFF[case.dtype])
    readings = []
    for step, value in zip(steps, seen, strict=True):
        wanted = [rate(name, options, step)]
        if jumps(name, options, step):
            wanted.append(_end_of_run(name, options, step))
        off = min(abs(value - w) for w in wanted)
        share = off / bound if np.isfinite(value) else np.inf
        text = f"at step {step}, the rate is {value:.9g}, not {wanted[0]:.9g}"
        readings.append(Reading(float(share), f"step {step}", text, f"{bound:.1g}"))
    return worst(readings)


def _end_of_run(name: str, options: Any, step: int) -> float:
    """Return what the run of cosine decay that ends at the step has reached: its floor."""
    return float(options["initial_learning_rate"] * options.get("alpha", 0.0))


@cached_in_process
def _values(name: str, setting: int, dtype: str, steps: Sequence[int]) -> list[float]:
    return [number(make_schedule, name, setting, dtype, dtype=dtype, step=step) for step in steps]


def _schedule_cases(context: Context) -> Any:
    from hypothesis import strategies as st

    dtypes = st.sampled_from(("float32", "float64"))
    return st.builds(ScheduleCase, setting=st.sampled_from(_settings_of(context)), dtype=dtypes)


# What schedules count ----------------------------------------------------------------------------------


def driven_params() -> list[Param]:
    """Return every optimizer with one schedule, and every schedule with SGD."""
    names = [name for name in schedules() if knows(name) and name in SETTINGS]
    driven = [Param.of(optimizer=p.get("optimizer"), schedule=COMMON) for p in optimizer_params()]
    return driven + [Param.of(optimizer="sgd", schedule=name) for name in names if name != COMMON]


def _driven_corners(context: Context) -> Sequence[Case]:
    mode = eager_if_any(context)
    name = context.param.get("optimizer")
    corners = [ScheduleCase(mode=mode, micro_batches=3)]
    if name == "sgd":
        corners += [ScheduleCase(mode=mode, setting=1, micro_batches=2, updates=4, seed=1)]
    if name == "adamw" and not context.runtime.compiles_per_shape:
        corners += [ScheduleCase(mode=mode, micro_batches=3, decay="on", seed=2)]
    return tuple(corners)


def _driven_cases(context: Context) -> Any:
    from hypothesis import strategies as st

    return st.builds(
        ScheduleCase,
        setting=st.integers(0, 2),
        micro_batches=st.integers(2, 8),
        updates=st.integers(1, 4),
        mode=st.just(eager_if_any(context)),
        seed=seeds(),
    )


@check(
    family="accumulation",
    claims=("C4",),
    case=ScheduleCase,
    params=driven_params,
    cases=_driven_cases,
    corners=_driven_corners,
    examples=(0, 0, 60),
    per_subject=False,
    catches="a schedule under accumulation that is read at another step than the window's last micro-batch",
    formula="|seen - expected| <= 8 u (|old| + |new| + |change|) elementwise for weights and slots; expected: update j "
    "(from 0) by an optimizer of the constant rate schedule(j k + k - 1)",
    source="https://keras.io/api/optimizers/, gradient_accumulation_steps",
    example="after update 2, weight kernel[0,1] is off by 0.004: 9.10% of the update",
    exception="'Learning rate schedules will look at \"real\" iterations value (optimizer steps)' "
    "(https://keras.io/api/optimizers/): micro-batches, not updates, so decay_steps must be scaled by k",
    excepts="accumulated_update_matches_large_batch",
)
def schedules_count_micro_batches(context: Context, case: ScheduleCase) -> Reading:
    """A learning-rate schedule under accumulation counts micro-batches: an update has its last micro-batch's rate."""
    optimizer, schedule = context.param.get("optimizer"), context.param.get("schedule")
    k = case.micro_batches
    run = _driven_rig(optimizer, schedule, replace(case, seed=0, updates=1))
    reference = _constant_rig(optimizer, case.decay, case.mode, case.dtype)
    start = _tensors(case, 0)
    run.reset(start)
    reference.reset(start)
    readings = []
    for update in range(case.updates):
        before = state_of(reference)
        window = [_tensors(case, 1 + update * k + j) for j in range(k)]
        for gradients in window:
            run.apply(gradients)
        step = update * k + k - 1
        reference.set_rate(number(make_schedule, schedule, case.setting, dtype=case.dtype, step=step))
        reference.apply(accumulated(window, case.mode, case.dtype))
        reading = compare_states(state_of(run), state_of(reference), before, update + 1, UNIT_ROUNDOFF[case.dtype])
        readings.append(replace(reading, cause=f"the rate is not the schedule's at micro-batch {step}"))
        if not readings[-1].holds:
            break
    return worst(readings)


def _tensors(case: ScheduleCase, salt: int) -> list[Array]:
    rng = random(case.seed, 7, salt)
    return [rng.standard_normal(shape).astype(case.dtype) for shape in SHAPES.values()]


@cached_in_process
def _driven_rig(optimizer: str, schedule: str, case: ScheduleCase) -> Rig:
    def made() -> Any:
        rate = make_schedule(schedule, case.setting)
        return make(variant(optimizer), learning_rate=rate, decay=case.decay, accumulation=case.micro_batches)

    return Rig(
        made,
        mode=case.mode,
        dtype=case.dtype,
    )


@cached_in_process
def _constant_rig(optimizer: str, decay: str, mode: str, dtype: str) -> Rig:
    return Rig(lambda: make(variant(optimizer), decay=decay), mode=mode, dtype=dtype)


# Rates that a function gives ---------------------------------------------------------------------------


def _called_corners(context: Context) -> Sequence[Case]:
    """Return updates one by one, and windows of two."""
    mode = eager_if_any(context)
    return (ScheduleCase(mode=mode, micro_batches=1), ScheduleCase(mode=mode, micro_batches=2, updates=2, seed=1))


def _called_cases(context: Context) -> Any:
    from hypothesis import strategies as st

    return st.builds(
        ScheduleCase,
        micro_batches=st.integers(1, 4),
        updates=st.integers(1, 4),
        mode=st.just(eager_if_any(context)),
        seed=seeds(),
    )


@check(
    family="accumulation",
    claims=("C4",),
    case=ScheduleCase,
    params=optimizer_params,
    cases=_called_cases,
    corners=_called_corners,
    examples=(0, 0, 60),
    per_subject=False,
    catches="a learning rate given as a function that is scaled, asked once and then kept, or asked at another time "
    "than at the update",
    formula="|seen - expected| <= 8 u (|old| + |new| + |change|) elementwise for weights and slots; expected: the same "
    "optimizer, each update's rate assigned to it; where updates are compiled, the function gives one rate",
    source="https://keras.io/api/optimizers/: learning_rate, 'a callable that takes no arguments and returns the "
    "actual value to use'",
    example="after update 2, weight kernel[0,1] is off by 0.004: 50.00% of the update",
)
def callable_learning_rate_is_asked_at_every_update(context: Context, case: ScheduleCase) -> Reading:
    """A learning rate given as a function is what the function returns when the update is made."""
    optimizer, k = context.param.get("optimizer"), case.micro_batches
    run, asked = _called_rig(optimizer, k, case.mode, case.dtype)
    reference = _constant_rig(optimizer, "none", case.mode, case.dtype)
    start = _tensors(case, 0)
    run.reset(start)
    reference.reset(start)
    readings = []
    for update in range(case.updates):
        before = state_of(reference)
        asked[0] = LEARNING_RATE * (1 + update) if case.mode == "eager" else LEARNING_RATE
        reference.set_rate(asked[0])
        window = [_tensors(case, 1 + update * k + j) for j in range(k)]
        for gradients in window:
            run.apply(gradients)
        reference.apply(accumulated(window, case.mode, case.dtype) if k > 1 else window[0])
        reading = compare_states(state_of(run), state_of(reference), before, update + 1, UNIT_ROUNDOFF[case.dtype])
        readings.append(replace(reading, cause="the same gradients, with the rate assigned, lead elsewhere"))
        if not readings[-1].holds:
            break
    return worst(readings)


@cached_in_process
def _called_rig(optimizer: str, k: int, mode: str, dtype: str) -> tuple[Rig, list[float]]:
    asked = [LEARNING_RATE]

    def made() -> Any:
        return make(variant(optimizer), learning_rate=lambda: asked[0], accumulation=k if k > 1 else None)

    return Rig(made, mode=mode, dtype=dtype), asked
