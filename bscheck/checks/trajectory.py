"""Tiny batches, second half: training, update by update, beside the published recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.cases import Case, TrajectoryCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, draw_weights, random, variable_index
from bscheck.checks.run import current_settings
from bscheck.oracles.gradient import Approximate, Dense, Network, gradient
from bscheck.oracles.optimizers import RECURRENCES, Recurrence, hyperparameters, keras_slots, rounding_bound
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array, Bench
from bscheck.runtime.training import Training
from bscheck.subject import take

#: Examples in the training set: batches of 2, 3 and 16 leave a ragged tail of one, batches of 17 one of 15.
EXAMPLES = 49

#: Batch sizes followed: the tiny ones, a power of two and its neighbour, and the full set.
BATCH_SIZES = (1, 2, 3, 16, 17, EXAMPLES)

#: Updates of a long trajectory, in thorough runs.
LONG = 300

#: Where each shape and each precision is compiled anew, one precision for each of few batch sizes.
FEW_PROGRAMS = ((1, "float64"), (3, "float32"), (17, "float32"))

#: The models by the name a case gives them, as their definition reads.
NETWORKS = {
    "classifier": Network((Dense("tanh", l2=2.0**-7), Dense()), "sparse_categorical_crossentropy"),
    "regression": Network((Dense(),), "mean_squared_error"),
}

#: Values of each class's hyperparameters, all given to its constructor, so that what it then holds can be
#: held against them. Documented defaults, but for Ftrl, whose default strengths of 0 leave terms unseen.
OPTIONS: dict[str, dict[str, float | None]] = {
    "SGD": {},
    "Adam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "AdamW": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "Adamax": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "Nadam": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "Lamb": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
    "RMSprop": {"rho": 0.9, "epsilon": 1e-7},
    "Adagrad": {"initial_accumulator_value": 0.1, "epsilon": 1e-7},
    "Adadelta": {"rho": 0.95, "epsilon": 1e-7},
    "Lion": {"beta_1": 0.9, "beta_2": 0.99},
    "Ftrl": {
        "learning_rate_power": -0.5,
        "initial_accumulator_value": 0.1,
        "l1_regularization_strength": 0.01,
        "l2_regularization_strength": 0.02,
        "l2_shrinkage_regularization_strength": 0.1,
        "beta": 0.3,
    },
    "Muon": {
        "momentum": 0.95,
        "adam_beta_1": 0.9,
        "adam_beta_2": 0.999,
        "epsilon": 1e-7,
        "ns_steps": 5,
        "rms_rate": None,
    },
    "ScheduleFreeAdamW": {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8},
    "Adafactor": {"beta_2_decay": -0.8, "epsilon_1": 1e-30, "epsilon_2": 1e-3, "clip_threshold": 1.0},
}

#: What slots hold before the first update; the others hold zero.
FIRST_SLOTS = {"accumulator": 0.1, "u_product": 1.0}

#: Slots that start as a copy of the weights, which training then replaces.
COPIED_SLOTS = frozenset({("schedulefreeadamw", "momentum")})

#: Recurrences that take a norm or a mean over a variable: one update at a time. All others treat every
#: element alone, so that the updates of a case, each from Keras's own state, are computed at once.
WHOLE_VARIABLE = frozenset({"lamb", "adafactor", "muon"})


@dataclass(frozen=True)
class State:
    """Keras's own state at one moment: weights and slots of every trainable variable, in float64."""

    weights: list[Array]
    slots: list[dict[str, Array]]


@dataclass(frozen=True)
class Step:
    """One part of the state (the weights, or one slot) of one variable over all updates; updates come first.

    Attributes
    ----------
    part : str
        ``weight``, or the slot's name.
    """

    part: str
    variable: int
    keras: Array
    oracle: Array
    bound: Array
    before: Array

    def shares(self) -> Array:
        """Return every element's difference as a share of its bound."""
        difference = np.abs(self.keras - self.oracle)
        return np.where(np.isfinite(difference), difference / self.bound, np.inf)


def optimizer_params() -> list[Param]:
    """Return a parameter for each optimizer that Keras exports, and each variant that has a recurrence."""
    from bscheck.surface.optimizers import variants

    known = {name: entry.keras_class for name, entry in RECURRENCES.items()}
    exported = {variant.class_name for variant in variants().values()}
    names = [name for name, kind in known.items() if kind in exported]
    return [Param.of(optimizer=name) for name in [*names, *(n for n in variants() if n not in known)]]


def has_no_recurrence(context: Context) -> str | None:
    """Return why the optimizer's training is not followed."""
    name = context.param.get("optimizer")
    if name not in {param.get("optimizer") for param in optimizer_params()}:
        return f"this Keras exports no {name}"
    return None if name in RECURRENCES else f"no oracle is written for {name} yet"


def trajectory_cases(context: Context) -> Any:
    """Return the strategy for trajectories; a thorough run follows hundreds of updates."""
    from hypothesis import strategies as st

    programs = [(size, dtype) for dtype in ("float32", "float64") for size in BATCH_SIZES]
    modes = context.modes()
    longest = LONG if _thorough() else 20

    def build(program: tuple[int, str], **fields: Any) -> TrajectoryCase:
        return TrajectoryCase(batch_size=program[0], dtype=program[1], **fields)

    return st.builds(
        build,
        st.sampled_from(FEW_PROGRAMS if context.runtime.compiles_per_shape else programs),
        updates=st.integers(1, longest),
        seed=seeds(),
        # Eager updates take ten times as long; the recurrence is the same.
        mode=st.sampled_from([modes[0]] * 5 + list(modes[1:])),
        rate=st.sampled_from(["constant", "changing"]),
    )


def trajectory_corners(context: Context) -> Sequence[Case]:
    """Return the first update, each batch size, ragged tails, and for SGD and Adam every way to train."""
    mode = context.runtime.modes[0]
    if context.runtime.compiles_per_shape:
        return tuple(
            TrajectoryCase(batch_size=size, dtype=dtype, mode=mode, updates=8, rate="changing")
            for size, dtype in FEW_PROGRAMS
        )
    corners = [
        TrajectoryCase(mode=mode, dtype="float64"),
        TrajectoryCase(mode=mode, dtype="float64", updates=26, batch_size=2, rate="changing", seed=1),
        TrajectoryCase(mode=mode, dtype="float64", updates=4, batch_size=17, seed=2),
        TrajectoryCase(mode=mode, dtype="float64", updates=3, batch_size=EXAMPLES, rate="changing", seed=6),
        TrajectoryCase(mode=mode, updates=12, batch_size=1, rate="changing", seed=3),
    ]
    if context.param.get("optimizer") in ("sgd", "adam") or _thorough():
        # Ragged tails in float32 are one more program to trace; an optimizer does not see the batch's size.
        corners += [TrajectoryCase(mode=mode, updates=18, batch_size=3, seed=4)]
        corners += [TrajectoryCase(mode=mode, updates=5, batch_size=16, rate="changing", seed=5)]
    if context.param.get("optimizer") in ("sgd", "adam"):
        corners += [TrajectoryCase(mode=mode, path="fit", updates=6, batch_size=16, rate="changing", seed=7)]
        corners += [TrajectoryCase(mode=m, updates=3, batch_size=2, seed=8) for m in context.modes()[1:]]
    if context.param.get("optimizer") == "adam":
        left = [m for m in context.runtime.modes if m not in context.modes()]
        corners += [TrajectoryCase(mode=m, updates=3, batch_size=3, seed=8) for m in left]
    if context.param.get("optimizer") == "sgd":
        options: dict[str, Any] = {"mode": mode, "dtype": "float64", "model": "regression", "updates": 4}
        corners += [TrajectoryCase(batch_size=size, seed=9, **options) for size in BATCH_SIZES]
    return (*corners, *(_long_corners(mode) if _thorough() else ()))


def _thorough() -> bool:
    return current_settings().profile == "thorough"


def _long_corners(mode: str) -> list[TrajectoryCase]:
    """Return several hundred updates at every batch size in both precisions, each size with both kinds of rate."""
    rates = ("constant", "changing")
    return [
        TrajectoryCase(mode=mode, batch_size=size, dtype=dtype, rate=rates[(i + j) % 2], updates=LONG, seed=20 + i)
        for i, size in enumerate(BATCH_SIZES)
        for j, dtype in enumerate(("float32", "float64"))
    ]


@cached_in_process
def _bench(model: str, dtype: str) -> Bench:
    from bscheck import reference_subjects

    return Bench(getattr(reference_subjects, model)(), dtype)


@cached_in_process
def _training(optimizer: str, model: str, dtype: str, mode: str) -> Training:
    recurrence = RECURRENCES[optimizer]
    bench = _bench(model, dtype)
    make = getattr(bench.keras.optimizers, recurrence.keras_class)
    options = _options(recurrence)
    return Training(bench, lambda: make(**options), mode)


def _options(recurrence: Recurrence) -> dict[str, Any]:
    return {**OPTIONS.get(recurrence.keras_class, {}), **recurrence.options}


def _batches(bench: Bench, case: TrajectoryCase) -> list[Any]:
    """Return one pass over the training set in the case's order, the last batch ragged."""
    x, y, _ = bench.subject.draw(case.seed, EXAMPLES)
    order = random(case.seed, 3).permutation(EXAMPLES)
    cuts = [order[start : start + case.batch_size] for start in range(0, EXAMPLES, case.batch_size)]
    return [(take(x, rows), take(y, rows), None) for rows in cuts]


def _rates(case: TrajectoryCase) -> list[float]:
    """Return each update's learning rate, as the precision under test holds it."""
    rng = random(case.seed, 4)
    count = -(-case.updates // 3) if case.rate == "changing" else 1
    drawn = 10.0 ** rng.uniform(-2.5, -0.5, count)
    held = drawn if case.dtype == "float64" else drawn.astype(np.float32).astype(np.float64)
    return [float(held[t // 3 if case.rate == "changing" else 0]) for t in range(case.updates)]


def _read(training: Training, recurrence: Recurrence) -> State:
    variables = training.model.trainable_variables
    convert = training.bench.keras.ops.convert_to_numpy
    return State(
        [np.array(convert(v), np.float64) for v in variables],
        [keras_slots(training.optimizer, i, recurrence) for i in range(len(variables))],
    )


def _gradients(
    case: TrajectoryCase, states: Sequence[State], batches: Sequence[Any], bench: Bench
) -> list[Approximate]:
    """Return the oracle's gradient of each variable at each of Keras's own weights, updates first."""
    found = []
    for t, state in enumerate(states):
        x, y, _ = bench.cast(batches[t % len(batches)])
        found.append(gradient(NETWORKS[case.model], state.weights, x, y, case.dtype))
    return [
        Approximate(np.stack([p.value for p in parts]), np.stack([p.error for p in parts]))
        for parts in zip(*found, strict=True)
    ]


def steps(
    recurrence: Recurrence,
    states: Sequence[State],
    gradients: Sequence[Approximate],
    rates: Sequence[float],
    hyper: Any,
    dtype: str,
) -> list[Step]:
    """Return every part of the state after each update: Keras's, and the oracle's from Keras's state before.

    Parameters
    ----------
    recurrence : Recurrence
    states : sequence of State
        Before the first update and after each.
    gradients : sequence of Approximate
        One for each variable, updates first.
    rates : sequence of float
        Learning rate of each update.
    hyper, dtype
        As for `bscheck.oracles.optimizers.rounding_bound`.
    """
    found: list[Step] = []
    for i, given in enumerate(gradients):
        found += variable_steps(recurrence, states, i, given, rates, hyper, dtype)
    return found


def variable_steps(
    recurrence: Recurrence,
    states: Sequence[State],
    i: int,
    given: Approximate,
    rates: Sequence[float],
    hyper: Any,
    dtype: str,
    first: int = 1,
) -> list[Step]:
    """Return what `steps` does, for one variable; `first` is the first update's number."""
    parts = {"weight": np.stack([s.weights[i] for s in states])}
    parts |= {slot: np.stack([s.slots[i][slot] for s in states]) for slot in states[0].slots[i]}
    if recurrence.name.removesuffix("_decayed") in WHOLE_VARIABLE:
        oracle, bound = _one_by_one(recurrence, parts, given, rates, hyper, dtype, first)
    else:
        dimensions = given.value.ndim
        parts = {name: _widen(value, dimensions) for name, value in parts.items()}
        updates = _widen(np.arange(first, len(rates) + first), dimensions)
        oracle, bound = _oracle(
            recurrence, {k: v[:-1] for k, v in parts.items()}, given, updates,
            _widen(np.asarray(rates), dimensions), hyper, dtype,
        )  # fmt: skip
    return [Step(name, i, value[1:], oracle[name], bound[name], value[:-1]) for name, value in parts.items()]


def _widen(values: Array, dimensions: int) -> Array:
    """Append axes, so that one number for each update meets an array for each update."""
    return values.reshape(values.shape + (1,) * (dimensions - values.ndim))


def _oracle(
    recurrence: Recurrence, before: Any, given: Approximate, update: Any, rate: Any, hyper: Any, dtype: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the recurrence's next state and its bound, part by part."""
    slots = {name: value for name, value in before.items() if name != "weight"}
    state = (before["weight"], slots, given.value)
    now = {"update": update, "learning_rate": rate, "hyper": hyper}
    weight, new_slots = recurrence.step(*state, **now)
    bound, slot_bounds = rounding_bound(recurrence, *state, **now, dtype=dtype, gradient_error=given.error)
    return {"weight": weight, **new_slots}, {"weight": bound, **slot_bounds}


def _one_by_one(
    recurrence: Recurrence, parts: Any, given: Approximate, rates: Sequence[float], hyper: Any, dtype: str, first: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    rows = [
        _oracle(
            recurrence, {k: v[t] for k, v in parts.items()}, Approximate(given.value[t], given.error[t]),
            t + first, rate, hyper, dtype,
        )
        for t, rate in enumerate(rates)
    ]  # fmt: skip
    oracle, bound = ({k: np.stack([row[i][k] for row in rows]) for k in parts} for i in (0, 1))
    return oracle, bound


def _misconfigured(training: Training, recurrence: Recurrence, hyper: Any, first: State) -> Reading | None:
    """Return a broken reading unless the optimizer holds what it was given and starts as documented."""
    for name, asked in _options(recurrence).items():
        if asked is not None and name in hyper and hyper[name] != asked:
            seen = f"{recurrence.keras_class}({name}={asked}) holds {name}={hyper[name]}"
            return Reading(np.inf, where=name, seen=seen, allowed="what it was given")
    for i, slots in enumerate(first.slots):
        for slot, value in slots.items():
            if (recurrence.name, slot) in COPIED_SLOTS:
                continue
            start = FIRST_SLOTS.get(slot, 0.0)
            if np.any(value != float(np.float32(start))) and np.any(value != start):
                where = f"{slot} of {training.bench.names[i]}"
                seen = f"{where} starts at {value.ravel()[0]:.6g}"
                return Reading(np.inf, where=where, seen=seen, allowed=f"{start:g}")
    return None


def _reading(found: Sequence[Step], case: TrajectoryCase, names: Sequence[str]) -> Reading:
    """Return the worst element of the first update that breaks its bound, else the worst of all."""
    shares = [step.shares() for step in found]
    by_update = np.max([s.reshape(case.updates, -1).max(axis=1) for s in shares], axis=0)
    broken = np.flatnonzero(~(by_update <= 1))
    t = int(broken[0]) if broken.size else int(np.argmax(by_update))
    worst = max(range(len(found)), key=lambda i: float(shares[i][t].max()))
    step, share = found[worst], shares[worst][t]
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape))
    at = (t, *index)
    difference, moved = abs(step.keras[at] - step.oracle[at]), abs(step.oracle[at] - step.before[at])
    what = variable_index(names[step.variable], index)
    if step.part != "weight":
        what = f"{step.part} of {what}"
    relative = difference / moved if moved else np.inf
    allowed = step.bound[at] / moved if moved else np.inf
    return Reading(
        float(share[index]),
        where=f"{what} after update {t + 1}, batch of {_size(case, t)}",
        seen=f"after update {t + 1}, {what} is off by {difference:.2g}: {relative:.2g} of its update",
        allowed=f"{allowed:.1g} of its update",
        cause=_cause(found, shares, t) if broken.size else "",
        figures={"updates": case.updates, "undecided": _undecided(found)},
    )


def _size(case: TrajectoryCase, t: int) -> int:
    per_pass = -(-EXAMPLES // case.batch_size)
    return min(case.batch_size, EXAMPLES - (t % per_pass) * case.batch_size)


def _cause(found: Sequence[Step], shares: Sequence[Array], t: int) -> str:
    """Return which parts of the state leave the recurrence and which follow it, at one update."""
    parts = list(dict.fromkeys(step.part for step in found))
    broken = {step.part for step, share in zip(found, shares, strict=True) if share[t].max() > 1}
    left = [p for p in parts if p in broken]
    followed = [p for p in parts if p not in left]
    if not followed:
        return "every part of the state leaves the recurrence: the gradient, or the update as a whole"
    return f"{' and '.join(followed)} as published; {' and '.join(left)} not"


def _undecided(found: Sequence[Step]) -> float:
    """Return how many weights rounding leaves open: bounds as large as the update (a sign may flip)."""
    return float(
        sum(
            np.count_nonzero((s.bound >= np.abs(s.oracle - s.before)) & (s.oracle != s.before))
            for s in found
            if s.part == "weight"
        )
    )


@check(
    family="tiny batches",
    claims=("C8", "C9"),
    case=TrajectoryCase,
    cases=trajectory_cases,
    params=optimizer_params,
    corners=trajectory_corners,
    applies=has_no_recurrence,
    examples=(0, 1, 4),
    per_subject=False,
    catches="an optimizer, loss or trainer that departs from its definition at any update: a wrong constant "
    "or term, bias correction out of step, a special case at one batch size, an update skipped, noise",
    formula="|w' - w'_oracle| <= bound, slots likewise: one step of the published recurrence from Keras's "
    "own weights and slots, gradient by the chain rule in float64 NumPy, bound by running error analysis",
    source="the papers named in bscheck.oracles.optimizers; Higham 2002, sections 3.1 and 3.3",
    example="after update 1, dense/kernel[0,1] is off by 3e-05: 0.001 of its update",
)
def training_follows_the_published_recurrence(context: Context, case: TrajectoryCase) -> Reading:
    """Training at any batch size makes the updates of the optimizer's published recurrence."""
    recurrence = RECURRENCES[context.param.get("optimizer")]
    training = _training(recurrence.name, case.model, case.dtype, case.mode)
    bench, batches, rates = training.bench, _batches(training.bench, case), _rates(case)
    states = training.follow(
        draw_weights(bench, case.seed), batches, rates, case.path, lambda: _read(training, recurrence)
    )
    if len(states) != len(rates) + 1:
        seen = f"{len(rates)} batches made {len(states) - 1} updates"
        return Reading(np.inf, seen=seen, allowed="one for each batch")
    hyper = hyperparameters(training.optimizer, recurrence, case.dtype)
    wrong = _misconfigured(training, recurrence, hyper, states[0])
    if wrong is not None:
        return wrong
    gradients = _gradients(case, states[:-1], batches, bench)
    with np.errstate(all="ignore"):
        found = steps(recurrence, states, gradients, rates, hyper, case.dtype)
    return _reading(found, case, bench.names)
