"""The optimizers themselves: single updates, each from Keras's own state, beside the published recurrence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from bscheck.oracles.rounding import precision_of
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.probe import step_counter
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
    variants,
)
from bscheck.tolerance import TINY

#: Factors on standard normal gradients; the square of the tiny ones underflows in float32.
MAGNITUDES = {"usual": 2.0, "opposed": 2.0, "tiny": 1e-20, "huge": 1e10, "zero": 0.0}
MIXED = ("usual", "huge", "usual", "tiny", "zero")

#: The momentum's share in Lion's direction at its default.
OPPOSED = 0.9

#: What a changing rate is multiplied by, update after update; no two neighbours are the same.
RATES = (1.0, 0.6, 1.7)

#: Optimizers that divide by ``1 - beta_2^t``, which is 0 in bfloat16: 0.999, their default, is 1 there.
NOT_IN_BFLOAT16 = ("Lamb", "Nadam", "ScheduleFreeAdamW")

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
    if name not in variants():
        return f"this Keras exports no {name}"
    return None if _written(name, RecurrenceCase()) else f"no oracle is written for {name} yet"


@cached_in_process
def _rig(name: str, case: RecurrenceCase) -> Rig:
    more = _options(name, case)
    if case.scaled:
        more["loss_scale_factor"] = FACTOR
    k = case.micro_batches if case.micro_batches > 1 else None
    return Rig(
        lambda: make(variant(name), decay=case.decay, clip=case.clip, ema=case.ema, accumulation=k, **more),
        mode=case.mode,
        dtype=case.dtype,
        undecayed=("bias",) if case.decay == "exclude_listed" else (),
    )


# Gradients, and what becomes of them before the recurrence ---------------------------------------------


def _gradients(case: RecurrenceCase, micro_batch: int, state: State) -> list[Array]:
    """Return a micro-batch's gradients, one entry of each exactly zero."""
    rng = random(case.seed, 9, micro_batch)
    size = MIXED[micro_batch % len(MIXED)] if case.magnitude == "mixed" else case.magnitude
    found = [(MAGNITUDES[size] * rng.standard_normal(shape)) for shape in SHAPES.values()]
    if case.magnitude == "opposed":
        found = [_opposed(g, slots) for g, slots in zip(found, state.slots, strict=True)]
    for i, gradient in enumerate(found):
        gradient.flat[i] = 0
    if case.gradient == "rows":
        found[-1][_left_out(case, micro_batch)] = 0
    return [g.astype(case.dtype) for g in found]


def _opposed(gradient: Array, slots: Mapping[str, Array]) -> Array:
    """Return a gradient that an average of `OPPOSED` of the momentum and the rest of it all but cancels."""
    momentum = slots.get("momentum")
    if momentum is None or not momentum.any():
        return gradient
    return -OPPOSED / (1 - OPPOSED) * momentum * (1 + 2e-3 * np.sign(gradient))


def _left_out(case: RecurrenceCase, update: int) -> Array:
    """Return the rows of the table that an update's gradient has no value for."""
    table = list(SHAPES.values())[-1][0]
    return random(case.seed, 10, update).permutation(table)[: table - 3]


def _given(context: Context, gradients: Sequence[Array], case: RecurrenceCase, micro_batch: int) -> list[Any]:
    """Return gradients as Keras gets them."""
    if case.gradient == "dense":
        return list(gradients)
    table = gradients[-1]
    rows = np.setdiff1d(np.arange(table.shape[0]), _left_out(case, micro_batch))[::-1].copy()
    return [*gradients[:-1], context.runtime.sparse(rows, table[rows], table.shape)]


def prepared(window: Sequence[Sequence[Array]], case: RecurrenceCase) -> list[Approximate]:
    """Return a window's gradients unscaled, averaged and clipped, as the options say, with their rounding error.

    Unscaling is one rounding, a mean of k at most k of the magnitudes that were summed; a norm of n elements and a
    quotient are at most ``n + 8`` of the result. The norm's change by the mean's error is that error once more.
    """
    u, k = precision_of(case.dtype).unit, len(window)
    each = [[g.astype(np.float64) / (FACTOR if case.scaled else 1.0) for g in gradients] for gradients in window]
    found = [sum(parts) / k for parts in zip(*each, strict=True)]
    summed = [sum(np.abs(p) for p in parts) / k for parts in zip(*each, strict=True)]
    roundings = float(case.scaled) + (k if k > 1 else 0)
    before = [(roundings * u * s, float(np.sqrt(np.square(roundings * u * s).sum()))) for s in summed]
    clip = CLIPS[case.clip]
    if "clipvalue" in clip:
        # The limit itself may not be a number of the dtype.
        limit = clip["clipvalue"]
        return [Approximate(np.clip(g, -limit, limit), e + u * limit) for g, (e, _) in zip(found, before, strict=True)]
    if not clip:
        return [Approximate(g, e) for g, (e, _) in zip(found, before, strict=True)]
    own = [float(np.sqrt(np.square(g).sum())) for g in found]
    together = "global_clipnorm" in clip
    norms = [float(np.sqrt(np.square(own).sum()))] * len(own) if together else own
    off = [float(np.sqrt(sum(e**2 for _, e in before)))] * len(own) if together else [e for _, e in before]
    limit, clipped = next(iter(clip.values())), []
    more = sum(g.size for g in found) + 8
    for g, (e, _), norm, norm_off in zip(found, before, norms, off, strict=True):
        factor = min(1.0, limit / norm) if norm else 1.0
        relative = norm_off / norm if norm else 0.0
        clipped.append(Approximate(factor * g, factor * (e + (relative + more * u) * np.abs(g)) * (1 + 1e-3)))
    return clipped


# Keras's state ------------------------------------------------------------------------------------------


def _read(rig: Rig, recurrence: Recurrence) -> State:
    weights = [w.astype(np.float64) for w in rig.weights().values()]
    return State(weights, [keras_slots(rig.optimizer, i, recurrence) for i in range(len(weights))])


def _averages(rig: Rig) -> list[Array]:
    found = [value for name, value in rig.slots().items() if name.endswith("_average")]
    return [a.astype(np.float64) for a in found]


def _misread(run: _Run, name: str, case: RecurrenceCase) -> Reading | None:
    """Return a broken reading unless the optimizer holds what it was given and starts as documented."""
    hyper, first = run.hyper, run.states[0]
    asked = {**_options(name, case), **({"weight_decay": DECAY} if case.decay != "none" else {})}
    for option, value in asked.items():
        if option in hyper and hyper[option] != value:
            seen = f"{option}={value} was given, {option}={hyper[option]} is held"
            return Reading(np.inf, option, seen, "what was given")
    for i, (variable, slots) in enumerate(zip(SHAPES, first.slots, strict=True)):
        if variant(name).class_name == "Muon" and ("velocity" in slots) is not _adamws(variable, asked):
            kind = "AdamW" if "velocity" in slots else "Muon"
            return Reading(np.inf, variable, f"{variable} is updated by {kind}", "the other, as documented")
        for slot, value in slots.items() if case.start != "apart" else ():
            wanted = _first_value(name, slot, asked, first.weights[i])
            # Keras may send a number through float32, and holds it in the variable's dtype.
            through = [np.asarray(wanted).astype(dtype).astype(np.float64) for dtype in ("float32", case.dtype)]
            if all(np.any(value != held) for held in (np.asarray(wanted), *through)):
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


def _rates(case: RecurrenceCase) -> list[float]:
    """Return each update's learning rate, as the precision under test holds it."""
    factors = RATES if case.rate == "changing" else RATES[:1]
    return [float(np.asarray(LEARNING_RATE * factors[t % len(factors)], case.dtype)) for t in range(case.updates)]


def _expected(run: _Run, given: Sequence[Approximate], case: RecurrenceCase) -> list[Step]:
    rates = _rates(case)
    found: list[Step] = []
    for i, (variable, gradient) in enumerate(zip(SHAPES, given, strict=True)):
        excluded = case.decay.startswith("exclude") and variable == "bias"
        held = {k: 0.0 if excluded and "weight_decay" in k else v for k, v in run.hyper.items()}
        found += variable_steps(run.recurrence, run.states, i, gradient, rates, held, case.dtype, case.earlier + 1)
    return found


def _averaged(step: Step, averages: Sequence[Array], case: RecurrenceCase, coarse: float) -> list[Step]:
    """Return a weight's steps with those of its moving average, overwriting where it does.

    ``average' = m average + (1 - m) weight'``, the first one the weight itself; four roundings of its terms, and
    twice the rounding of m itself, which ``1 - m`` inherits whole.
    """
    u = max(precision_of(case.dtype).unit, coarse)
    seen = np.stack(averages[1:]).reshape(step.keras.shape)
    before = np.stack(averages[:-1]).reshape(step.keras.shape)
    momentum = np.full(case.updates, EMA_MOMENTUM)
    momentum[0] = 0.0 if not case.earlier else EMA_MOMENTUM
    momentum = momentum.reshape((-1,) + (1,) * (step.keras.ndim - 1))
    terms = momentum * np.abs(before) + (1 - momentum) * np.abs(step.oracle)
    average = momentum * before + (1 - momentum) * step.oracle
    bound = (1 - momentum) * step.bound + u * (4 * terms + 2 * momentum * np.abs(step.oracle)) + TINY
    every = EMAS[case.ema].get("ema_overwrite_frequency")
    oracle, limit = step.oracle.copy(), np.broadcast_to(step.bound, step.oracle.shape).copy()
    if every:
        due = (np.arange(case.updates) + case.earlier + 1) % every == 0
        oracle[due], limit[due] = average[due], bound[due]
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
    takes, free = accepts(v, "use_ema"), v.class_name == "ScheduleFreeAdamW"
    every = RecurrenceCase(option="all", mode=mode, updates=3, scaled=takes, seed=2)
    corners = [
        RecurrenceCase(mode=mode),
        RecurrenceCase(mode=mode, updates=6, part="slots" if free else "all", magnitude="mixed", seed=1),
        every,
        *([replace(every, part="slots")] if free else []),
        RecurrenceCase(mode=mode, magnitude="huge", gradient="rows" if sparse else "dense", seed=3),
        RecurrenceCase(mode=mode, magnitude="tiny", seed=4),
        RecurrenceCase(mode=mode, updates=2, magnitude="zero", seed=5),
        RecurrenceCase(mode=mode, option="all", scaled=takes, earlier=1000, seed=11),
        RecurrenceCase(mode=mode, start="zero", seed=12),
    ]
    if not context.runtime.compiles_per_shape:
        corners += [RecurrenceCase(mode=mode, option=n, updates=3, magnitude="mixed", seed=6) for n in _switches(name)]
        single = RecurrenceCase(mode=mode, option="all", dtype="float32", decay="on", clip="global", ema="overwrite")
        corners += [
            replace(single, rate="changing", updates=5, seed=7),
            RecurrenceCase(mode=mode, dtype="float32", updates=3, seed=8),
        ]
        corners += [RecurrenceCase(mode=mode, decay="exclude_bias", clip="norm", ema="on", updates=4, seed=9)]
        corners += [RecurrenceCase(mode=mode, clip="value", updates=2, seed=10)]
        corners += [RecurrenceCase(mode=mode, decay="exclude_listed", updates=2, seed=15)]
        combined = RecurrenceCase(mode=mode, option="all", micro_batches=7)
        corners += [replace(combined, rate="changing", updates=2, scaled=takes, seed=13)]
        corners += [RecurrenceCase(mode=mode, rate="changing", decay="on", ema="on", updates=4, seed=15)]
        if v.class_name not in NOT_IN_BFLOAT16:
            corners += [RecurrenceCase(mode=mode, dtype="bfloat16", start="zero", updates=2, seed=17)]
        changing = replace(every, rate="changing", updates=4, seed=16)
        corners += [changing, *([replace(changing, part="slots")] if free else [])]
    if free:
        # Its weights are held after the first update on TensorFlow and torch; its slots never are.
        corners += [RecurrenceCase(mode=mode, option="all", earlier=1000, part="slots", seed=11)]
        # Without a gradient the iterate stays, old and new are one, and the weights are held at every update.
        still = RecurrenceCase(mode=mode, start="apart", magnitude="zero", earlier=3, updates=3, seed=18)
        corners += [still, replace(still, option="all", rate="changing", seed=19)]
    if v.class_name == "Lion":
        opposed = RecurrenceCase(mode=mode, updates=3, magnitude="opposed", seed=14)
        corners += [opposed]
        if not context.runtime.compiles_per_shape:
            corners += [replace(opposed, rate="changing"), replace(opposed, option="all")]
    return tuple(corners)


def _cases(context: Context) -> Any:
    from hypothesis import strategies as st

    name = context.param.get("optimizer")
    own = [n for n in own_options(variant(name)) if n in OTHER_VALUES]
    options = [n for n in own if _written(name, RecurrenceCase(option=n)) is not None]
    # The average under accumulation is `moving_average_advances_once_per_update`'s.
    several = st.tuples(st.integers(2, 8), st.just("none"))
    alone = st.tuples(st.just(1), st.sampled_from(RecurrenceCase.CHOICES["ema"]))

    def build(windows: tuple[int, str], **fields: Any) -> RecurrenceCase:
        return RecurrenceCase(micro_batches=windows[0], ema=windows[1], **fields)

    return st.builds(
        build,
        st.one_of(alone, several),
        option=st.sampled_from(["none", "all", *options]),
        updates=st.integers(1, 6),
        magnitude=st.sampled_from(RecurrenceCase.CHOICES["magnitude"]),
        decay=st.sampled_from(RecurrenceCase.CHOICES["decay"]),
        clip=st.sampled_from(RecurrenceCase.CHOICES["clip"]),
        start=st.sampled_from(("usual", "usual", "zero")),
        earlier=st.sampled_from((0, 0, 7, 1000)),
        part=st.sampled_from(("all", "slots")),
        scaled=st.booleans(),
        rate=st.sampled_from(RecurrenceCase.CHOICES["rate"]),
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
    run = _follow(context, name, case)
    wrong = _misread(run, name, case)
    if wrong is not None:
        return wrong
    found = _compared(context, run, case)
    if case.part == "slots":
        found = [s for s in found if s.part not in ("weight", "average")] or found
    return worst([_reading(found, case.updates), *_finalized(run)])


def followed(context: Context, case: RecurrenceCase) -> tuple[_Run, list[Step]]:
    """Return what Keras did in a case, and what the recurrence gives beside it."""
    run = _follow(context, context.param.get("optimizer"), case)
    return run, _compared(context, run, case)


def _compared(context: Context, run: _Run, case: RecurrenceCase) -> list[Step]:
    """Return weights, slots and averages after each update, Keras's and the recurrence's."""
    parts = zip(*(prepared(window, case) for window in run.windows), strict=True)
    given = [Approximate(np.stack([g.value for g in p]), np.stack([g.error for g in p])) for p in parts]
    with np.errstate(all="ignore"):
        found = _expected(run, given, case)
    if case.ema != "none":
        coarse = precision_of("float32").unit if context.runtime.name == "torch" else 0.0
        weights, found = [s for s in found if s.part == "weight"], [s for s in found if s.part != "weight"]
        for step in weights:
            found += _averaged(step, [a[step.variable] for a in run.averages], case, coarse)
    return found


@dataclass(frozen=True)
class _Run:
    """What Keras did: its state before the first update and after each, and the gradients that it was given."""

    recurrence: Recurrence
    hyper: Mapping[str, Any]
    states: Sequence[State]
    averages: Sequence[Sequence[Array]]
    windows: Sequence[Sequence[Sequence[Array]]]
    final: Sequence[Array]
    optimizer: Any
    rates: Sequence[float]


def _bare(case: RecurrenceCase) -> RecurrenceCase:
    """Return what of a case makes another optimizer, as a key."""
    return RecurrenceCase(
        option=case.option, micro_batches=case.micro_batches, scaled=case.scaled, decay=case.decay,
        clip=case.clip, ema=case.ema, mode=case.mode, dtype=case.dtype,
    )  # fmt: skip


def _follow(context: Context, name: str, case: RecurrenceCase) -> _Run:
    """Run the updates of a case through Keras."""
    recurrence = _written(name, case)
    assert recurrence is not None, "applies() has looked"
    rig = _rig(name, _bare(case))
    size = 0.0 if case.start == "zero" else 1.0
    rng = random(case.seed, 9)
    rig.reset([(size * rng.standard_normal(shape)).astype(case.dtype) for shape in SHAPES.values()])
    if case.start == "apart":
        rig.move([rng.standard_normal(shape).astype(case.dtype) for shape in SHAPES.values()])
    if case.earlier:
        step_counter(rig.optimizer).assign(case.earlier * case.micro_batches)
    states, averages, windows = [_read(rig, recurrence)], [_averages(rig)], []
    for update, rate in enumerate(_rates(case)):
        if case.rate == "changing":
            rig.optimizer.learning_rate = rate
        window = []
        for j in range(update * case.micro_batches, (update + 1) * case.micro_batches):
            window.append(_gradients(case, j, states[-1]))
            rig.apply(_given(context, window[-1], case, j))
        windows.append(window)
        states.append(_read(rig, recurrence))
        averages.append(_averages(rig))
    rig.finalize()
    hyper = hyperparameters(rig.optimizer, recurrence, case.dtype)
    final = _read(rig, recurrence).weights
    return _Run(recurrence, hyper, states, averages, windows, final, rig.optimizer, _rates(case))


def _finalized(run: _Run) -> list[Reading]:
    """Return a broken reading for each weight that the end of training does not give its final value, exactly."""
    wanted = run.averages[-1] or run.states[-1].weights
    return [
        Reading(np.inf, name, f"finalize_variable_values leaves {name} off by {np.abs(seen - value).max():.2g}", "0")
        for name, seen, value in zip(SHAPES, run.final, wanted, strict=True)
        if not np.array_equal(seen, value)
    ]
