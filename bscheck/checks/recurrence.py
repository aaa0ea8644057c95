"""The optimizers themselves: single updates, each from Keras's own state, beside the published recurrence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, RecurrenceCase, seeds
from bscheck.checks import check
from bscheck.checks.context import Context, cached_in_process, random, variable_index
from bscheck.checks.trajectory import State, Step, variable_steps
from bscheck.checks.updates import eager_if_any, optimizer_params
from bscheck.oracles.gradient import Approximate
from bscheck.oracles.optimizers import (
    Recurrence,
    hyperparameters,
    keras_slots,
    recurrence_of,
    with_weight_decay,
)
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array
from bscheck.runtime.rig import SHAPES, Rig
from bscheck.surface.optimizers import (
    CLIPS,
    DECAY,
    EMA_MOMENTUM,
    EMAS,
    LEARNING_RATE,
    OTHER_VALUES,
    accepts,
    make,
    other_values,
    own_options,
    variant,
)
from bscheck.tolerance import TINY, UNIT_ROUNDOFF

#: Factors on standard normal gradients; the square of the tiny ones underflows in float32.
MAGNITUDES = {"usual": 2.0, "tiny": 1e-20, "huge": 1e10, "zero": 0.0}
MIXED = ("usual", "huge", "usual", "tiny", "zero")

#: A loss scale that is no power of two, so that dividing by it rounds.
FACTOR = 3.0


def _options(name: str, case: RecurrenceCase) -> dict[str, Any]:
    v = variant(name)
    return other_values(v, case.option)


def _written(name: str, case: RecurrenceCase) -> Recurrence | None:
    """Return the recurrence of an optimizer with the case's options, with weight decay where it has any."""
    v = variant(name)
    entry = recurrence_of(v.class_name, _options(name, case))
    if entry is None or case.decay == "none" or "weight_decay" in entry.hyperparameters:
        return entry
    return with_weight_decay(entry, DECAY)


def _unwritten(context: Context) -> str | None:
    name = context.param.get("optimizer")
    return None if _written(name, RecurrenceCase()) else f"no oracle is written for {name} yet"


@cached_in_process
def _rig(name: str, case: RecurrenceCase) -> Rig:
    more = _options(name, case)
    if case.scaled:
        more["loss_scale_factor"] = FACTOR
    return Rig(
        lambda: make(variant(name), decay=case.decay, clip=case.clip, ema=case.ema, **more),
        mode=case.mode,
        dtype=case.dtype,
    )


# Gradients, and what becomes of them before the recurrence ---------------------------------------------


def _gradients(case: RecurrenceCase, update: int) -> list[Array]:
    """Return an update's gradients, one entry of each exactly zero."""
    rng = random(case.seed, 9, update)
    size = MIXED[update % len(MIXED)] if case.magnitude == "mixed" else case.magnitude
    found = [(MAGNITUDES[size] * rng.standard_normal(shape)).astype(case.dtype) for shape in SHAPES.values()]
    for i, gradient in enumerate(found):
        gradient.flat[i] = 0
    if case.gradient == "rows":
        found[-1][_left_out(case, update)] = 0
    return found


def _left_out(case: RecurrenceCase, update: int) -> Array:
    """Return the rows of the table that an update's gradient has no value for."""
    table = list(SHAPES.values())[-1][0]
    return random(case.seed, 10, update).permutation(table)[: table - 3]


def _given(context: Context, case: RecurrenceCase, update: int) -> list[Any]:
    gradients: list[Any] = _gradients(case, update)
    if case.gradient == "rows":
        table = gradients[-1]
        rows = np.setdiff1d(np.arange(table.shape[0]), _left_out(case, update))[::-1].copy()
        gradients[-1] = context.runtime.sparse(rows, table[rows], table.shape)
    return gradients


def prepared(gradients: Sequence[Array], case: RecurrenceCase) -> list[Approximate]:
    """Return the gradients unscaled and clipped, as the options' documentation says, with their rounding error.

    A norm of n elements and a quotient are at most ``n + 8`` roundings of the result; unscaling is one.
    """
    u = UNIT_ROUNDOFF[case.dtype]
    found = [g.astype(np.float64) / (FACTOR if case.scaled else 1.0) for g in gradients]
    roundings = float(case.scaled)
    clip = CLIPS[case.clip]
    if "clipvalue" in clip:
        found = [np.clip(g, -clip["clipvalue"], clip["clipvalue"]) for g in found]
        # The limit itself may not be a number of the dtype.
        roundings += 1
    for option, norms in (
        ("clipnorm", [np.sqrt(np.square(g).sum()) for g in found]),
        ("global_clipnorm", [np.sqrt(sum(np.square(g).sum() for g in found))] * len(found)),
    ):
        if option in clip:
            found = [g * min(1.0, clip[option] / n) if n else g for g, n in zip(found, norms, strict=True)]
            roundings += sum(g.size for g in found) + 8
    return [Approximate(g, roundings * u * np.abs(g)) for g in found]


# Keras's state ------------------------------------------------------------------------------------------


def _read(rig: Rig, recurrence: Recurrence) -> State:
    weights = [w.astype(np.float64) for w in rig.weights().values()]
    return State(weights, [keras_slots(rig.optimizer, i, recurrence) for i in range(len(weights))])


def _averages(rig: Rig) -> list[Array]:
    found = [value for name, value in rig.slots().items() if name.endswith("_average")]
    return [a.astype(np.float64) for a in found]


def _misread(rig: Rig, name: str, case: RecurrenceCase, hyper: Mapping[str, Any], first: State) -> Reading | None:
    """Return a broken reading unless the optimizer holds what it was given and starts as documented."""
    asked = {**_options(name, case), **({"weight_decay": DECAY} if case.decay != "none" else {})}
    for option, value in asked.items():
        if option in hyper and hyper[option] != value:
            seen = f"{option}={value} was given, {option}={hyper[option]} is held"
            return Reading(np.inf, option, seen, "what was given")
    for i, (variable, slots) in enumerate(zip(SHAPES, first.slots, strict=True)):
        if variant(name).class_name == "Muon" and ("velocity" in slots) is not _adamws(variable, asked):
            kind = "AdamW" if "velocity" in slots else "Muon"
            return Reading(np.inf, variable, f"{variable} is updated by {kind}", "the other, as documented")
        for slot, value in slots.items():
            wanted = _first_value(name, slot, asked, first.weights[i])
            # Keras may send a number through float32.
            if np.any(value != np.asarray(wanted)) and np.any(value != np.asarray(wanted).astype(np.float32)):
                seen = f"{slot} of {variable} starts at {np.ravel(value)[0]:.6g}"
                return Reading(np.inf, variable, seen, f"{np.ravel(wanted)[0]:.6g}")
    return None


def _adamws(variable: str, asked: Mapping[str, Any]) -> bool:
    """Whether Muon's documentation gives the variable to AdamW."""
    excluded = any(re.search(pattern, variable) for pattern in asked.get("exclude_layers", []))
    table = "embedding" in variable and asked.get("exclude_embeddings", True)
    return len(SHAPES[variable]) != 2 or table or excluded


def _first_value(name: str, slot: str, asked: Mapping[str, Any], weight: Array) -> Any:
    if slot == "accumulator":
        return asked.get("initial_accumulator_value", 0.1)
    if slot == "momentum" and variant(name).class_name == "ScheduleFreeAdamW":
        return weight
    return 1.0 if slot == "u_product" else 0.0


# One update after the other -----------------------------------------------------------------------------


def _expected(
    recurrence: Recurrence, states: Sequence[State], given: Sequence[Approximate], hyper: Any, case: RecurrenceCase
) -> list[Step]:
    rate = float(np.asarray(LEARNING_RATE, case.dtype))
    found: list[Step] = []
    for i, (variable, gradient) in enumerate(zip(SHAPES, given, strict=True)):
        excluded = case.decay == "exclude_bias" and variable == "bias"
        held = {k: 0.0 if excluded and "weight_decay" in k else v for k, v in hyper.items()}
        found += variable_steps(recurrence, states, i, gradient, [rate] * case.updates, held, case.dtype)
    return found


def _averaged(step: Step, averages: Sequence[Array], case: RecurrenceCase, coarse: float) -> list[Step]:
    """Return a weight's steps with those of its moving average, overwriting where it does.

    ``average' = m average + (1 - m) weight'``, the first one the weight itself; four roundings of its terms.
    """
    u = max(UNIT_ROUNDOFF[case.dtype], coarse)
    seen = np.stack(averages[1:]).reshape(step.keras.shape)
    before = np.stack(averages[:-1]).reshape(step.keras.shape)
    momentum = np.full(case.updates, EMA_MOMENTUM)
    momentum[0] = 0.0
    momentum = momentum.reshape((-1,) + (1,) * (step.keras.ndim - 1))
    terms = momentum * np.abs(before) + (1 - momentum) * np.abs(step.oracle)
    average = momentum * before + (1 - momentum) * step.oracle
    bound = (1 - momentum) * step.bound + 4 * u * terms + TINY
    every = EMAS[case.ema].get("ema_overwrite_frequency")
    oracle, limit = step.oracle.copy(), np.broadcast_to(step.bound, step.oracle.shape).copy()
    if every:
        oracle[every - 1 :: every], limit[every - 1 :: every] = average[every - 1 :: every], bound[every - 1 :: every]
    return [replace(step, oracle=oracle, bound=limit), Step("average", step.variable, seen, average, bound, before)]


def _reading(found: Sequence[Step], updates: int) -> Reading:
    """Return the worst element of the first update that breaks its bound, else the worst of all."""
    shares = [step.shares().reshape(updates, -1) for step in found]
    worst_of = np.array([[s[t].max() for t in range(updates)] for s in shares])
    broken = np.flatnonzero(~(worst_of.max(axis=0) <= 1))
    t = int(broken[0]) if broken.size else int(np.argmax(worst_of.max(axis=0)))
    n = int(np.argmax(worst_of[:, t]))
    step, flat = found[n], int(np.argmax(shares[n][t]))
    at = (t, *(int(i) for i in np.unravel_index(flat, step.keras.shape[1:])))
    place = variable_index(list(SHAPES)[step.variable], at[1:])
    what = place if step.part == "weight" else f"{step.part} of {place}"
    off, moved = abs(step.keras[at] - step.oracle[at]), abs(step.oracle[at] - step.before[at])
    relative, allowed = (off / moved, step.bound[at] / moved) if moved else (np.inf, np.inf)
    left = sorted({s.part for s, share in zip(found, worst_of, strict=True) if not share[t] <= 1})
    followed = sorted({s.part for s in found} - set(left))
    return Reading(
        float(shares[n][t][flat]),
        where=f"{what} after update {t + 1}",
        seen=f"after update {t + 1}, {what} is off by {off:.2g}: {relative:.2g} of its update",
        allowed=f"{allowed:.1g} of its update",
        cause=f"{' and '.join(left)} not as published; {' and '.join(followed) or 'nothing else'} is" if left else "",
    )


# The promise --------------------------------------------------------------------------------------------


def _switches(name: str) -> list[str]:
    """Return the options of an optimizer that are no numbers and that it has a recurrence for."""
    own = [n for n in own_options(variant(name)) if n in OTHER_VALUES and type(OTHER_VALUES[n]) not in (int, float)]
    return [n for n in own if _written(name, RecurrenceCase(option=n)) is not None and n not in variant(name).options]


def _corners(context: Context) -> Sequence[Case]:
    name, mode = context.param.get("optimizer"), eager_if_any(context)
    v, sparse = variant(name), context.runtime.name == "tensorflow"
    takes = accepts(v, "use_ema")
    every = RecurrenceCase(option="all", mode=mode, updates=3, scaled=takes, seed=2)
    corners = [
        RecurrenceCase(mode=mode),
        RecurrenceCase(mode=mode, updates=6, part="slots", magnitude="mixed", seed=1),
        every,
        replace(every, part="slots"),
        RecurrenceCase(mode=mode, magnitude="huge", gradient="rows" if sparse else "dense", seed=3),
        RecurrenceCase(mode=mode, magnitude="tiny", seed=4),
        RecurrenceCase(mode=mode, updates=2, magnitude="zero", seed=5),
    ]
    if not context.runtime.compiles_per_shape:
        corners += [RecurrenceCase(mode=mode, option=n, updates=3, seed=6) for n in _switches(name)]
        single = RecurrenceCase(mode=mode, option="all", dtype="float32", decay="on", clip="global", ema="overwrite")
        corners += [replace(single, updates=5, seed=7), RecurrenceCase(mode=mode, dtype="float32", updates=3, seed=8)]
        corners += [RecurrenceCase(mode=mode, decay="exclude_bias", clip="norm", ema="on", updates=4, seed=9)]
        corners += [RecurrenceCase(mode=mode, clip="value", updates=2, seed=10)]
    return tuple(corners)


def _cases(context: Context) -> Any:
    from hypothesis import strategies as st

    name = context.param.get("optimizer")
    own = [n for n in own_options(variant(name)) if n in OTHER_VALUES]
    options = [n for n in own if _written(name, RecurrenceCase(option=n)) is not None]
    return st.builds(
        RecurrenceCase,
        option=st.sampled_from(["none", "all", *options]),
        updates=st.integers(1, 6),
        magnitude=st.sampled_from(RecurrenceCase.CHOICES["magnitude"]),
        decay=st.sampled_from(RecurrenceCase.CHOICES["decay"]),
        clip=st.sampled_from(RecurrenceCase.CHOICES["clip"]),
        ema=st.sampled_from(RecurrenceCase.CHOICES["ema"]),
        part=st.sampled_from(("all", "slots")),
        scaled=st.booleans(),
        dtype=st.sampled_from(("float32", "float64")),
        mode=st.just(eager_if_any(context)),
        seed=seeds(),
    )


@check(
    family="accumulation",
    claims=("C8", "C9"),
    case=RecurrenceCase,
    params=optimizer_params,
    cases=_cases,
    corners=_corners,
    applies=_unwritten,
    examples=(0, 0, 300),
    per_subject=False,
    catches="a wrong constant, sign, term or order in an optimizer's update, one of its options that acts otherwise or "
    "not at all, clipping, decay, unscaling or averaging that departs from its definition, at any size of gradient",
    formula="|seen - oracle| <= bound for weights, slots and averages after every update: one step of the published "
    "recurrence in float64 NumPy from Keras's own state, bound by running error analysis of that recurrence",
    source="the papers named in bscheck.oracles.optimizers; Higham 2002, section 3.3",
    example="after update 1, kernel[0,1] is off by 3e-05: 0.001 of its update",
)
def optimizer_follows_its_published_recurrence(context: Context, case: RecurrenceCase) -> Reading:
    """Every update of an optimizer is a step of its published recurrence, whatever its options and the gradient."""
    name = context.param.get("optimizer")
    recurrence = _written(name, case)
    assert recurrence is not None, "applies() has looked"
    rig = _rig(name, replace(case, seed=0, updates=1, magnitude="usual", gradient="dense", part="all"))
    rng = random(case.seed, 9)
    rig.reset([rng.standard_normal(shape).astype(case.dtype) for shape in SHAPES.values()])
    states, averages = [_read(rig, recurrence)], [_averages(rig)]
    for update in range(case.updates):
        rig.apply(_given(context, case, update))
        states.append(_read(rig, recurrence))
        averages.append(_averages(rig))
    hyper = hyperparameters(rig.optimizer, recurrence, case.dtype)
    wrong = _misread(rig, name, case, hyper, states[0])
    if wrong is not None:
        return wrong
    each = [prepared(_gradients(case, t), case) for t in range(case.updates)]
    given = [
        Approximate(np.stack([g.value for g in parts]), np.stack([g.error for g in parts]))
        for parts in zip(*each, strict=True)
    ]
    with np.errstate(all="ignore"):
        found = _expected(recurrence, states, given, hyper, case)
    if case.ema != "none":
        coarse = UNIT_ROUNDOFF["float32"] if context.runtime.name == "torch" else 0.0
        weights = [s for s in found if s.part == "weight"]
        found = [s for s in found if s.part != "weight"]
        for step in weights:
            found += _averaged(step, [a[step.variable] for a in averages], case, coarse)
    if case.part == "slots":
        found = [s for s in found if s.part not in ("weight", "average")] or found
    return _reading(found, case.updates)
