"""Accumulation, second half: the update made from the accumulated gradient is the large batch's update.

Weights of two runs are not compared with each other: Adam hides a gradient scaled by k, Lion any scaling. Instead a
probe shows the gradient that Keras's accumulation passes on, and the accumulating optimizer must then do with it
exactly what a fresh optimizer without accumulation does (*application*). `bscheck.checks.gradients` holds the gradient
itself to the large batch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import Case, MatchingCase, UpdateCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, random, variable_index
from bscheck.checks.run import current_settings
from bscheck.results.verdict import Reading, worst
from bscheck.runtime import current
from bscheck.runtime.bench import CAPACITY, Array, precision
from bscheck.runtime.inference import quiet
from bscheck.runtime.probe import applied, make_probe, step_counter
from bscheck.runtime.rig import MAX_NORM, SHAPES, Rig
from bscheck.surface.optimizers import LEARNING_RATE, accepts, exports, make, variant, variants, wrapped
from bscheck.tolerance import TINY, UNIT_ROUNDOFF

OPTIONS = ("decay", "clip", "ema", "constraint")


@cached_in_process
def _rig(name: str, options: tuple[str, ...], k: int | None, mode: str, dtype: str) -> Rig:
    decay, clip, ema, constraint = options
    return Rig(
        lambda: make(variant(name), decay=decay, clip=clip, ema=ema, accumulation=k),
        mode=mode,
        dtype=dtype,
        constraint=constraint,
    )


@cached_in_process
def _probe_rig(k: int, mode: str, dtype: str, shapes: tuple[tuple[int, ...], ...]) -> Rig:
    named = {f"v{i}": shape for i, shape in enumerate(shapes)}
    return Rig(lambda: make_probe(CAPACITY, k), named, mode=mode, dtype=dtype)


def _options(case: UpdateCase) -> tuple[str, ...]:
    return case.decay, case.clip, case.ema, case.constraint


def draw_tensors(case: UpdateCase, salt: int, scale: float = 1.0) -> list[Array]:
    """Return one tensor for each of the rig's variables, standard normal times `scale`."""
    rng = random(case.seed, 4, salt)
    return [(scale * rng.standard_normal(shape)).astype(case.dtype) for shape in SHAPES.values()]


def first_weights(case: UpdateCase) -> list[Array]:
    """Return the weights that a case starts from; under ``non_negative`` they satisfy the constraint already."""
    weights = draw_tensors(case, 0)
    if case.constraint != "non_negative":
        return weights
    # As small as an update, so that the constraint binds at once.
    return [np.abs(w) * np.asarray(LEARNING_RATE, w.dtype) for w in weights]


def micro_gradients(case: UpdateCase, update: int) -> list[list[Array]]:
    """Return the micro-batch gradients of one window; their sizes differ by powers of four.

    A clip that acts on every micro-batch, or a mean that forgets one, then shows whatever the optimizer forgives.
    """
    k = case.micro_batches
    return [draw_tensors(case, 1 + update * k + j, 4.0 ** ((j + update) % 3 - 1) * 2) for j in range(k)]


def accumulated(window: Sequence[Sequence[Array]], mode: str, dtype: str) -> list[Array]:
    """Return the gradient that Keras's accumulation passes on for a window of micro-batch gradients.

    A compiled graph may divide by k as it likes, so there a probe says; operation by operation, IEEE 754 leaves only
    one result, which NumPy gives at once. (On JAX, Keras's accumulation is a compiled ``lax.cond`` in eager mode too.)
    """
    k = len(window)
    if mode == "eager" and not current().compiles_per_shape:
        sums = [np.zeros_like(g) for g in window[0]]
        for gradients in window:
            sums = [g + s for g, s in zip(gradients, sums, strict=True)]
        return [s / np.asarray(k, dtype) for s in sums]
    probe = _probe_rig(k, mode, dtype, tuple(g.shape for g in window[0]))
    probe.reset([np.zeros_like(g) for g in window[0]])
    for gradients in window:
        probe.apply(gradients)
    return applied(probe.optimizer)[0]


def state_difference(
    seen: dict[str, Array], expected: dict[str, Array], before: dict[str, Array], u: float, what: str, update: int
) -> Reading:
    """Compare two states, elementwise, in units in the last place of what went into them.

    ``|seen - expected| <= 8 u (|before| + |expected| + |change|)``: the two runs do the same operations in the same
    execution mode, so most are equal bit for bit; a graph that is fused otherwise rounds each of the few (about eight)
    operations of an update anew, each by at most u of terms no larger than the old and new values together.
    """
    readings = []
    for name, value in seen.items():
        want = expected[name].astype(np.float64)
        old = before.get(name, np.zeros_like(want)).astype(np.float64)
        if want.size == 0:
            continue
        bound = 8 * u * (np.abs(old) + np.abs(want) + np.abs(want - old)) + TINY
        difference = np.abs(value.astype(np.float64) - want)
        share = np.where(np.isfinite(difference), difference, np.inf) / bound
        at = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape))
        moved = float(np.sqrt(np.mean((want - old) ** 2)))
        relative = float(difference[at]) / moved if moved else np.inf
        place = variable_index(name, at)
        readings.append(
            Reading(
                float(share[at]),
                where=f"{place} after update {update}",
                seen=f"after update {update}, {what} {place} is off by {difference[at]:.2g}: "
                f"{relative:.2%} of the update",
                allowed=f"{100 * float(bound[at]) / moved if moved else 0:.1g}% of the update",
                cause="gradients agree; their application does not",
            )
        )
    return worst(readings)


@dataclass(frozen=True)
class State:
    """What an optimizer keeps and moves, at one moment."""

    weights: dict[str, Array]
    slots: dict[str, Array]
    accumulators: list[Array]
    updates: int


def state_of(rig: Rig) -> State:
    """Return a rig's state."""
    return State(rig.weights(), rig.slots(), rig.accumulators(), rig.updates())


def compare_states(
    run: State, expected: State, before: State, update: int, u: float, *, count: bool = False
) -> Reading:
    """Compare weights, slots, accumulators and, if asked to, the count of updates after an update."""
    readings = [state_difference(run.weights, expected.weights, before.weights, u, "weight", update)]
    if len(run.slots) != len(expected.slots):
        readings.append(
            Reading(np.inf, "slots", f"slots {list(run.slots)} differ from {list(expected.slots)}", "the same slots")
        )
    else:
        # By position: a slot is named for its variable's path, which differs between a model and a rig.
        seen = dict(zip(expected.slots, run.slots.values(), strict=True))
        old = dict(zip(expected.slots, before.slots.values(), strict=True))
        readings.append(state_difference(seen, expected.slots, old, u, "slot", update))
    if count and run.updates != expected.updates:
        readings.append(
            Reading(
                np.inf,
                where="iterations",
                seen=f"iterations says {run.updates} after {update} updates",
                allowed=f"{expected.updates}",
                cause="micro-batches are counted as updates",
            )
        )
    full = [float(np.abs(a).max()) for a in run.accumulators if a.size and np.any(a)]
    if full:
        readings.append(
            Reading(
                np.inf,
                where="gradient accumulators",
                seen=f"an accumulator still holds {max(full):.2g} after update {update}",
                allowed="0: the next window starts empty",
                cause="a window leaks into the next",
            )
        )
    return worst(readings)


def accumulated_against_fresh(name: str, case: UpdateCase, *, count: bool = False) -> Reading:
    """Run windows through the accumulating optimizer and hold each against a fresh optimizer's single updates.

    The count of updates (`count`) is looked at only where it is the promise: one defect, one promise broken.
    """
    run = _rig(name, _options(case), case.micro_batches, case.mode, case.dtype)
    reference = _rig(name, _options(case), None, case.mode, case.dtype)
    start = first_weights(case)
    run.reset(start)
    reference.reset(start)
    readings = []
    for update in range(case.updates):
        before = state_of(reference)
        window = micro_gradients(case, update)
        for gradients in window:
            run.apply(gradients)
        reference.apply(accumulated(window, case.mode, case.dtype))
        readings.append(
            compare_states(
                state_of(run), state_of(reference), before, update + 1, UNIT_ROUNDOFF[case.dtype], count=count
            )
        )
        if not readings[-1].holds:
            break
    return worst(readings)


# Parameters and cases ----------------------------------------------------------------------------------


def optimizer_params() -> list[Param]:
    """Return a parameter for each optimizer that the installed Keras exports, and each variant."""
    return [Param.of(optimizer=name) for name in variants()]


def eager_if_any(context: Context) -> str:
    """Return the mode in which one more optimizer costs least: eager, but for JAX's compiled ``cond`` at each call."""
    return "eager" if "eager" in context.modes() else context.runtime.modes[0]


def update_cases(**fixed: Any) -> Callable[[Context], Any]:
    """Return the strategy of cases whose options are drawn from the given values."""

    def strategy(context: Context) -> Any:
        from hypothesis import strategies as st

        drawn = {
            key: st.sampled_from(list(values)) if isinstance(values, tuple) else st.just(values)
            for key, values in fixed.items()
        }
        return st.builds(
            UpdateCase,
            micro_batches=st.integers(2, 8),
            updates=st.integers(1, 3),
            seed=seeds(),
            mode=st.just(eager_if_any(context)),
            **drawn,
        )

    return strategy


def option_corners(**option: Any) -> Callable[[Context], Sequence[Case]]:
    """Return the smallest case with the options on, then one with more windows.

    Every option meets compiled execution in `accumulated_update_matches_large_batch`; here a trace would cost more
    than a dozen cases.
    """

    def corners(context: Context) -> Sequence[Case]:
        eager = eager_if_any(context)
        return (
            UpdateCase(micro_batches=2, updates=1, mode=eager, **option),
            UpdateCase(micro_batches=3, updates=2 if option else 3, mode=eager, seed=1, **option),
        )

    return corners


def in_turn(context: Context, corners: Sequence[Sequence[Case]]) -> tuple[Case, ...]:
    """Return each option's smallest case, and the larger one of the option whose turn it is with this optimizer.

    Options are code that the optimizers share: together they meet every case many times.
    """
    if current_settings().profile == "thorough":
        return tuple(case for cases in corners for case in cases)
    turn = list(variants()).index(context.param.get("optimizer")) % len(corners)
    return (*(smallest for smallest, *_ in corners), *corners[turn][1:])


def longer_windows(context: Context) -> Sequence[Case]:
    """Return windows of more micro-batches, and more of them, for one optimizer: accumulation is shared code."""
    if context.param.get("optimizer") != "sgd" or context.runtime.compiles_per_shape:
        return ()
    eager = eager_if_any(context)
    longer = [UpdateCase(micro_batches=k, updates=1, mode=eager, seed=k) for k in (5, 6, 7, 16, 33)]
    return (*longer, UpdateCase(micro_batches=2, updates=8, mode=eager, seed=8))


def lacks(option: str) -> Callable[[Context], str | None]:
    """Return the reason function for optimizers whose constructor does not take the option."""

    def applies(context: Context) -> str | None:
        v = variant(context.param.get("optimizer"))
        return first_reason((not accepts(v, option), f"{v.class_name} takes no {option}"))

    return applies


@cached_in_process
def depends_on_step_count(name: str) -> bool:
    """Probe whether an update depends on how many came before it, beyond what slots and weights say."""
    rig = _rig(name, ("none",) * len(OPTIONS), None, "eager", "float32")
    case = UpdateCase()
    outcomes = []
    for count in (0, 10):
        rig.reset(draw_tensors(case, 0))
        step_counter(rig.optimizer).assign(count)
        rig.apply(draw_tensors(case, 1))
        outcomes.append(np.concatenate([w.ravel() for w in rig.weights().values()]))
    return not np.array_equal(outcomes[0], outcomes[1])


def needs_step_count(context: Context) -> str | None:
    """Return why the promise about the step count does not apply."""
    name = context.param.get("optimizer")
    return first_reason((not depends_on_step_count(name), "its update does not depend on the number of updates"))


SOURCE = (
    "the promise of gradient_accumulation_steps (https://keras.io/api/optimizers/): variables are updated once every "
)
SOURCE += "N steps, 'using the average value of the gradients since the last update'"
FORMULA = "|seen - expected| <= 8 u (|old| + |new| + |change|) elementwise for weights and slots; expected: a fresh "
FORMULA += "optimizer without accumulation given the accumulated gradient in the same execution mode"


@check(
    family="accumulation",
    claims=("C4",),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(),
    corners=option_corners(),
    applies=needs_step_count,
    examples=(1, 1, 200),
    per_subject=False,
    catches="bias correction, warm-up or a decaying rate that counts micro-batches for updates",
    formula=FORMULA,
    source=SOURCE + "; Kingma & Ba, Adam (2015), algorithm 1: t counts updates",
    example="after update 1, weight kernel[2,1] is off by 0.013: 26% of the update",
)
def bias_correction_counts_updates(context: Context, case: UpdateCase) -> Reading:
    """Bias correction counts updates, not micro-batches."""
    return accumulated_against_fresh(context.param.get("optimizer"), case, count=True)


@check(
    family="accumulation",
    claims=("C4",),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(decay=("on", "exclude_bias")),
    corners=lambda context: (
        *option_corners(decay="on")(context),
        UpdateCase(decay="exclude_bias", mode=eager_if_any(context), seed=2),
    ),
    applies=lacks("weight_decay"),
    examples=(1, 1, 200),
    per_subject=False,
    catches="decoupled weight decay that acts on every micro-batch, or on excluded weights",
    formula=FORMULA,
    source=SOURCE + "; Loshchilov & Hutter, Decoupled Weight Decay Regularization (2019), algorithm 2",
    example="after update 1, weight kernel[0,2] is off by 0.0031: 6.20% of the update",
)
def weight_decay_acts_once_per_update(context: Context, case: UpdateCase) -> Reading:
    """Weight decay acts once per update, not on every micro-batch."""
    return accumulated_against_fresh(context.param.get("optimizer"), case)


@check(
    family="accumulation",
    claims=("C4",),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(clip=("norm", "value", "global", "norm_loose")),
    corners=lambda context: in_turn(
        context, [option_corners(clip=clip)(context) for clip in ("norm", "value", "global")]
    ),
    applies=lacks("clipnorm"),
    examples=(1, 1, 200),
    per_subject=False,
    catches="a clip (by norm, value or global norm) of each micro-batch's gradient instead of their mean",
    formula=FORMULA,
    source=SOURCE + "; Pascanu, Mikolov & Bengio, On the difficulty of training RNNs (2013), algorithm 1",
    example="after update 1, weight bias[1] is off by 0.08: 160.00% of the update",
)
def clipping_acts_on_the_accumulated_gradient(context: Context, case: UpdateCase) -> Reading:
    """Clipping acts on the accumulated gradient, not on each micro-batch's."""
    return accumulated_against_fresh(context.param.get("optimizer"), case)


@check(
    family="accumulation",
    claims=("C4",),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(ema=("on", "overwrite")),
    corners=lambda context: (
        UpdateCase(micro_batches=2, updates=2, ema="on", mode=eager_if_any(context)),
        UpdateCase(micro_batches=3, updates=2, ema="overwrite", mode=eager_if_any(context), seed=1),
        UpdateCase(micro_batches=2, updates=3, ema="on", mode=eager_if_any(context), seed=2),
    ),
    applies=lacks("use_ema"),
    examples=(1, 1, 200),
    per_subject=False,
    catches="a moving average of the weights that advances on every micro-batch, or starts from zero",
    formula=FORMULA + "; the averages are among the slots",
    source=SOURCE + "; the same page: 'EMA frequency will look at accumulated iterations value'",
    example="after update 1, slot kernel_average[0,0] is off by 0.17: 19.00% of the update",
)
def moving_average_advances_once_per_update(context: Context, case: UpdateCase) -> Reading:
    """The moving average of the weights advances once per update."""
    return accumulated_against_fresh(context.param.get("optimizer"), case)


@check(
    family="accumulation",
    claims=("C4",),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(constraint=("max_norm", "non_negative")),
    corners=lambda context: in_turn(
        context, [option_corners(constraint=name)(context) for name in ("non_negative", "max_norm")]
    ),
    examples=(1, 1, 200),
    per_subject=False,
    catches="a weight constraint applied on micro-batches that make no update, or not at all for some variable",
    formula=FORMULA,
    source=SOURCE + "; Keras documents constraints as applied 'after each gradient update'",
    example="after update 1, weight kernel[1,1] is off by 0.14: 90.00% of the update",
)
def constraints_act_once_per_update(context: Context, case: UpdateCase) -> Reading:
    """Weight constraints act once per update, after it."""
    name = context.param.get("optimizer")
    reading = accumulated_against_fresh(name, case)
    return worst([reading, _constrained(_rig(name, _options(case), None, case.mode, case.dtype).weights(), case)])


def _constrained(weights: Mapping[str, Array], case: UpdateCase) -> Reading:
    """Return whether weights are as their constraint says: none below 0, or no column longer than `MAX_NORM`."""
    readings = []
    for variable, w in weights.items():
        if case.constraint == "non_negative":
            off, limit = max(0.0, -float(w.min())), "0 or more"
            share = np.inf if off else 0.0
        else:
            longest = float(np.sqrt(np.square(w.astype(np.float64)).sum(axis=0)).max())
            # A norm of n elements and a quotient; Keras adds its epsilon to the norm that it divides by.
            off, limit = longest - MAX_NORM, f"columns of {MAX_NORM} at most"
            share = off / ((len(w) + 8) * UNIT_ROUNDOFF[case.dtype] * MAX_NORM)
        seen = f"after an update {variable} is off its constraint by {max(off, 0.0):.2g}"
        readings.append(Reading(max(share, 0.0), where=variable, seen=seen, allowed=limit))
    return worst(readings)


@check(
    family="accumulation",
    claims=("C4", "C9"),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(decay=("none", "on", "exclude_bias"), clip=("none", "norm", "value", "global")),
    corners=lambda context: (
        # Where the number of updates matters, `bias_correction_counts_updates` asks the larger one of these.
        *option_corners()(context)[: None if needs_step_count(context) else 1],
        UpdateCase(micro_batches=3, updates=3, decay="on", clip="global", mode=context.runtime.modes[0], seed=3),
        UpdateCase(micro_batches=8, updates=1, decay="exclude_bias", clip="norm", mode=eager_if_any(context), seed=4),
        *longer_windows(context),
    ),
    examples=(1, 1, 300),
    per_subject=False,
    catches="anything an optimizer does otherwise under accumulation: state advanced, scaled, kept or counted per "
    "micro-batch, alone or with decay and clipping together",
    formula=FORMULA,
    source=SOURCE,
    example="after update 2, slot kernel_momentum[0,1] is off by 0.2: 33.00% of the update",
)
def accumulated_update_matches_large_batch(context: Context, case: UpdateCase) -> Reading:
    """Accumulated micro-batches end where one large batch ends."""
    return accumulated_against_fresh(context.param.get("optimizer"), case, count=True)


# Which gradient belongs to which variable --------------------------------------------------------------


def matching_corners(context: Context) -> Sequence[Case]:
    """Return another order, a variable without a gradient before the others, and the same inside other optimizers."""
    # Op by op on JAX too, whose compiled updates take their variables in the built order.
    corners = [MatchingCase(order="reversed"), MatchingCase(missing="first", seed=1)]
    if context.param.get("optimizer") in ("sgd", "adam") and not context.runtime.compiles_per_shape:
        alone = MatchingCase(micro_batches=1, order="reversed", seed=2)
        corners += [replace(alone, inside=name) for name in MatchingCase.CHOICES["inside"][1:] if exports(name)]
    return corners


def matched_elsewhere(context: Context) -> str | None:
    """Return why the optimizer is left out on a backend that compiles whatever an update does, every time."""
    dear = context.runtime.compiles_per_shape and context.param.get("optimizer") not in ("sgd", "adam")
    return first_reason((dear, "op by op a case takes seconds on this backend: sgd and adam stand for what they share"))


def matching_cases(context: Context) -> Any:
    """Draw orders, windows and the variable that is left out."""
    from hypothesis import strategies as st

    return st.builds(
        MatchingCase,
        seed=seeds(),
        micro_batches=st.integers(1, 4),
        updates=st.integers(1, 3),
        order=st.sampled_from(MatchingCase.CHOICES["order"]),
        missing=st.sampled_from(MatchingCase.CHOICES["missing"]),
        inside=st.sampled_from([n for n in MatchingCase.CHOICES["inside"] if n == "none" or exports(n)]),
        mode=st.just("eager"),
    )


@cached_in_process
def _inside(name: str, inside: str, k: int | None, mode: str, dtype: str) -> Rig:
    return Rig(lambda: wrapped(inside, make(variant(name), accumulation=k)), mode=mode, dtype=dtype)


@cached_in_process
def _some(name: str, shapes: tuple[str, ...], mode: str, dtype: str) -> Rig:
    return Rig(lambda: make(variant(name)), {n: SHAPES[n] for n in shapes}, mode=mode, dtype=dtype)


@check(
    family="accumulation",
    claims=("C4",),
    case=MatchingCase,
    params=optimizer_params,
    cases=matching_cases,
    corners=matching_corners,
    applies=matched_elsewhere,
    examples=(0, 0, 200),
    per_subject=False,
    catches="gradients, accumulators or slots matched with variables by their place in a list: wrong as soon as "
    "the list has another order than when the optimizer was built, or a variable has no gradient",
    formula="|seen - expected| <= 8 u (|old| + |new| + |change|) elementwise for weights; expected: a fresh optimizer "
    "without accumulation of the variables that have gradients, in the built order; the others stay as they were",
    source="https://keras.io/api/optimizers/: apply(grads, trainable_variables) takes 'the corresponding list' of "
    "variables; a variable whose gradient is None is left out with a warning",
    example="after update 1, weight bias[1] is off by 0.12: 240.00% of the update",
)
def update_reaches_the_variables_its_gradients_are_for(context: Context, case: MatchingCase) -> Reading:
    """A gradient updates the variable it is given for, in whichever order, and one without a gradient stays."""
    names = list(SHAPES)
    left_out = {"none": None, "first": names[0], "last": names[-1]}[case.missing]
    order = names[::-1] if case.order == "reversed" else names
    k = case.micro_batches if case.micro_batches > 1 else None
    run = _inside(context.param.get("optimizer"), case.inside, k, case.mode, case.dtype)
    kept = tuple(n for n in names if n != left_out)
    reference = _some(context.param.get("optimizer"), kept, case.mode, case.dtype)
    apply = current().apply_function(run.optimizer, [run.variables[names.index(n)] for n in order], case.mode)
    plain = UpdateCase(micro_batches=case.micro_batches, seed=case.seed, dtype=case.dtype, mode=case.mode)
    start = dict(zip(names, draw_tensors(plain, 0), strict=True))
    run.reset(list(start.values()))
    reference.reset([start[n] for n in kept])
    readings = []
    for update in range(case.updates):
        before = reference.weights()
        window = [dict(zip(names, gradients, strict=True)) for gradients in micro_gradients(plain, update)]
        with precision(case.dtype), quiet():
            for given in window:
                apply([None if n == left_out else given[n] for n in order])
        mean = accumulated([[given[n] for n in kept] for given in window], case.mode, case.dtype)
        reference.apply(mean if k else [window[0][n] for n in kept])
        wanted, old = reference.weights(), before
        if left_out is not None:
            wanted, old = ({**values, left_out: start[left_out]} for values in (wanted, old))
        readings.append(state_difference(run.weights(), wanted, old, UNIT_ROUNDOFF[case.dtype], "weight", update + 1))
        if not readings[-1].holds:
            break
    return worst(readings)


# Sparse gradients --------------------------------------------------------------------------------------


def has_sparse(context: Context) -> str | None:
    """Return why the promise about sparse gradients does not apply."""
    sparse = context.runtime.sparse(np.array([0]), np.zeros((1, 2), "float32"), (5, 2))
    return first_reason((sparse is None, f"Keras on {context.runtime.name} has no sparse gradients"))


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=UpdateCase,
    params=optimizer_params,
    cases=update_cases(gradient=("sparse", "sparse_unique"), clip=("none", "norm", "value", "global")),
    corners=lambda context: (
        UpdateCase(micro_batches=2, updates=2, gradient="sparse_unique", mode=eager_if_any(context)),
        UpdateCase(updates=1, gradient="sparse", mode=eager_if_any(context), seed=1),
        UpdateCase(updates=3, gradient="sparse", mode=eager_if_any(context), seed=2),
    ),
    applies=has_sparse,
    examples=(1, 1, 200),
    per_subject=False,
    catches="an optimizer that treats the repeated rows of a sparse gradient one by one: it squares values before it "
    "has added them up",
    formula="state after a gradient of rows (rows repeated) = state after the same gradient summed into a dense "
    "tensor, within 8 u (|old| + |new| + |change|)",
    source="definition of tf.IndexedSlices: repeated indices add up",
    example="after update 1, slot embeddings_velocity[3,0] is off by 0.4: 41.00% of the update",
)
def sparse_and_dense_gradients_make_the_same_update(context: Context, case: UpdateCase) -> Reading:
    """A sparse gradient with repeated rows makes the update of the dense gradient that it stands for."""
    name = context.param.get("optimizer")
    run = _sparse_rig(name, case.clip, case.mode)
    reference = _rig(name, ("none", case.clip, "none", "none"), None, case.mode, case.dtype)
    start = draw_tensors(case, 0)
    run.reset(start)
    reference.reset(start)
    readings = []
    for update in range(case.updates):
        before = state_of(reference)
        gradients = draw_tensors(case, 1 + update)
        rng = random(case.seed, 5, update)
        table = SHAPES["embeddings"][0]
        unique = case.gradient == "sparse_unique"
        rows = rng.permutation(table)[:3] if unique else rng.integers(0, table, 3 * case.micro_batches)
        values = _exact_rows(rng, rows).astype(case.dtype)
        dense = np.zeros(SHAPES["embeddings"], case.dtype)
        np.add.at(dense, rows, values)
        given = context.runtime.sparse(rows, values, SHAPES["embeddings"]) if case.gradient != "dense" else dense
        run.apply([*gradients[:2], given])
        reference.apply([*gradients[:2], dense])
        reading = compare_states(state_of(run), state_of(reference), before, update + 1, UNIT_ROUNDOFF[case.dtype])
        readings.append(reading)
        if not reading.holds:
            break
    return worst(readings)


def _exact_rows(rng: np.random.Generator, rows: Array) -> Array:
    """Return values that add up exactly and do not cancel: large where a row comes first, small of either sign after.

    Multiples of 1/8 below 2^20 are exact in float32, so any difference is the optimizer's.
    """
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    shape = len(rows), SHAPES["embeddings"][1]
    large, small = rng.integers(128, 257, shape), rng.integers(1, 5, shape) * rng.choice([-1, 1], shape)
    return np.asarray(np.where(first[:, None], large, small) / 8)


@cached_in_process
def _sparse_rig(name: str, clip: str, mode: str) -> Rig:
    return Rig(lambda: make(variant(name), clip=clip), mode=mode)
