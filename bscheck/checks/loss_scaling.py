"""Accumulation under loss scaling: scaling the loss changes nothing but what can be represented.

Each optimizer runs twice: once with the gradients of a scaled loss, once plainly. Scales are powers of two, so that
scaling and unscaling are exact and the two runs round alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, LossScaleCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, random, variable_index
from bscheck.checks.updates import (
    FORMULA,
    State,
    compare_states,
    eager_if_any,
    optimizer_params,
    state_difference,
    state_of,
)
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.rig import SHAPES, Rig, overwrites_with_gradient
from bscheck.surface.optimizers import BASE_OPTIONS, accepts, make, scaling, variant
from bscheck.tolerance import UNIT_ROUNDOFF

#: The rig's variables with one that its gradient overwrites in their midst, where a shifted index would show.
FLOAT8_SHAPES: Mapping[str, tuple[int, ...]] = {"kernel": (3, 4), "amax": (6,), "bias": (4,)}

#: Ways to scale the loss by a wrapper.
WRAPPED = ("wrapper", "both")

#: Loss scale factor of an optimizer inside a wrapper, which is to have no effect there.
INSIDE = 8.0

#: What a wrapper keeps for itself.
OWN_STATE = ("step_counter", "dynamic_scale")

DOCUMENTED = "https://keras.io/api/mixed_precision/loss_scale_optimizer/"
RULE = "'if a nonfinite gradient is encountered, the loss scale is halved, and the train step is skipped. If "
RULE += "dynamic_growth_steps have occurred since the last time the loss scale was updated, and no nonfinite "
RULE += f"gradients have occurred, the loss scale is doubled' ({DOCUMENTED})"


class DocumentedScale:
    """The loss scale as Keras documents it, one micro-batch at a time."""

    def __init__(self, exponent: int, growth: int) -> None:
        self.value, self._growth, self._finite = 2.0**exponent, growth, 0

    def finite(self) -> None:
        """Count a micro-batch whose gradients are all finite."""
        self._finite += 1
        if self._finite == self._growth:
            self.value, self._finite = 2 * self.value, 0

    def not_finite(self) -> None:
        """Count a micro-batch with a gradient that is not."""
        self.value, self._finite = self.value / 2, 0


def documented_scale(case: LossScaleCase) -> DocumentedScale:
    """Return the scale at a case's start; an optimizer's own factor stays as it is."""
    return DocumentedScale(case.exponent, case.growth if case.way != "factor" else 0)


def _make(name: str, case: LossScaleCase, **more: Any) -> Any:
    """Return an optimizer that undoes the case's loss scale."""
    k = case.micro_batches if case.micro_batches > 1 else None
    if case.way == "factor":
        return make(variant(name), accumulation=k, loss_scale_factor=2.0**case.exponent, **more)
    if case.way == "both":
        more["loss_scale_factor"] = INSIDE
    return scaling(make(variant(name), accumulation=k, **more), 2.0**case.exponent, case.growth)


@cached_in_process
def _plain_rig(name: str, k: int, mode: str, dtype: str) -> Rig:
    return Rig(lambda: make(variant(name), accumulation=k if k > 1 else None), mode=mode, dtype=dtype)


def scaled_rig(name: str, case: LossScaleCase) -> Rig:
    """Return the rig of an optimizer that undoes the case's loss scale."""
    return _scaled_rig(name, replace(case, seed=0, updates=1, spoiled=(), value="inf"))


@cached_in_process
def _scaled_rig(name: str, case: LossScaleCase) -> Rig:
    return Rig(lambda: _make(name, case), mode=case.mode, dtype=case.dtype)


def _tensors(case: LossScaleCase, salt: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> list[Array]:
    rng = random(case.seed, 6, salt)
    return [(2.0 * rng.standard_normal(shape)).astype(case.dtype) for shape in shapes.values()]


def _scaled(gradients: Sequence[Array], factor: float) -> list[Array]:
    return [(g.astype(np.float64) * factor).astype(g.dtype) for g in gradients]


def _spoil(gradients: Sequence[Array], case: LossScaleCase, j: int) -> list[Array]:
    """Return the gradients with one value, in one of the variables, that is not finite."""
    spoilt = [g.copy() for g in gradients]
    spoilt[j % len(spoilt)].flat[-1] = float(case.value)
    return spoilt


def without_own(state: State) -> State:
    """Return a state without what the wrapper keeps for itself."""
    return replace(state, slots={k: v for k, v in state.slots.items() if not any(own in k for own in OWN_STATE)})


def _common(state: State, other: State) -> State:
    """Return a state with the slots that the other has too; `wrapper_keeps_the_state_of_its_optimizer` has the rest."""
    return replace(state, slots={k: v for k, v in state.slots.items() if k in other.slots})


def _scale_read(rig: Rig, scale: DocumentedScale, when: str) -> Reading:
    seen = rig.loss_scale()
    share = 0.0 if seen == scale.value else np.inf
    return Reading(share, "the loss scale", f"{when}, a loss of 1 becomes {seen:g}", f"{scale.value:g}")


def scaled_against_plain(name: str, case: LossScaleCase) -> Reading:
    """Run micro-batches under loss scaling and hold every state against the plain optimizer's."""
    run = scaled_rig(name, case)
    reference = _plain_rig(name, case.micro_batches, case.mode, case.dtype)
    start = _tensors(case, 0)
    run.reset(start)
    reference.reset(start)
    scale = documented_scale(case)
    readings = [_scale_read(run, scale, "at first")]
    # The open window's accumulators are compared at its end, through the update: here both runs hold them.
    for j in range(case.micro_batches * case.updates):
        before = state_of(reference)
        if j in case.spoiled:
            run.apply(_spoil(_scaled(_tensors(case, 1 + j), scale.value), case, j))
            scale.not_finite()
            readings.append(_compare(run, before, before, j, case, "a skipped micro-batch left something behind"))
            readings.append(_scale_read(run, scale, f"after a non-finite micro-batch {j + 1}"))
        gradients = _tensors(case, 1 + j)
        run.apply(_scaled(gradients, scale.value))
        reference.apply(gradients)
        scale.finite()
        readings.append(_compare(run, state_of(reference), before, j, case, "scaling the loss changed the update"))
        readings.append(_scale_read(run, scale, f"after micro-batch {j + 1}"))
        if not worst(readings).holds:
            break
    return worst(readings)


def _compare(run: Rig, expected: State, before: State, j: int, case: LossScaleCase, cause: str) -> Reading:
    seen, u = without_own(state_of(run)), UNIT_ROUNDOFF[case.dtype]
    held = [
        state_difference(_named(seen.accumulators), _named(expected.accumulators), {}, u, "gradient accumulator", j + 1)
    ]
    seen, expected = replace(seen, accumulators=[]), replace(expected, accumulators=[])
    seen, expected, before = _common(seen, expected), _common(expected, seen), _common(before, seen)
    found = worst([*held, compare_states(seen, expected, before, j + 1, u, count=True)])
    return replace(found, cause=cause, seen=found.seen.replace("after update", "after micro-batch"))


def _named(arrays: Sequence[Array]) -> dict[str, Array]:
    return {f"of variable {i}": a for i, a in enumerate(arrays)}


# The promises ------------------------------------------------------------------------------------------


def scale_cases(**fixed: Any) -> Callable[[Context], Any]:
    """Return the strategy of cases of loss scaling; few scales, since each is a new optimizer."""

    def strategy(context: Context) -> Any:
        from hypothesis import strategies as st

        drawn = {k: st.sampled_from(list(v)) if isinstance(v, tuple) else v for k, v in fixed.items()}
        return st.builds(
            LossScaleCase,
            micro_batches=st.sampled_from((1, 3)),
            updates=st.integers(1, 3),
            growth=st.sampled_from((2, 1000)),
            mode=st.just(eager_if_any(context)),
            seed=seeds(),
            **drawn,
        )

    return strategy


def _static_corners(context: Context) -> Sequence[Case]:
    mode = eager_if_any(context)
    if context.runtime.compiles_per_shape:
        return (LossScaleCase(mode=mode, micro_batches=3, updates=1, growth=2, seed=1),)
    return (
        *([LossScaleCase(mode=mode, updates=1, growth=2, way=way) for way in WRAPPED] if _closer(context) else []),
        LossScaleCase(mode=mode, micro_batches=3, updates=1, growth=2, seed=1),
        LossScaleCase(mode=mode, way="factor", exponent=-3, micro_batches=3, updates=1, seed=2),
    )


def _closer(context: Context) -> bool:
    """Whether an optimizer stands for the others where how it updates does not matter."""
    return context.param.get("optimizer") in ("sgd", "adam")


@check(
    family="accumulation",
    claims=("C4", "C12"),
    case=LossScaleCase,
    params=optimizer_params,
    cases=scale_cases(way=(*WRAPPED, "factor")),
    corners=_static_corners,
    applies=lambda context: lacks_scaling(context),
    examples=(0, 0, 100),
    per_subject=False,
    catches="a loss scale that reaches the update: unscaled late, twice or not at all; clipped, decayed or accumulated "
    "while still scaled; doubled at the wrong micro-batch",
    formula=FORMULA + "; here: the plain optimizer given the unscaled gradients. The scale itself: equal",
    source=f"Micikevicius et al., Mixed Precision Training (2018), section 3.2; {RULE}",
    example="after micro-batch 1, weight kernel[2,1] is off by 0.05: 95.00% of the update",
)
def update_does_not_depend_on_the_loss_scale(context: Context, case: LossScaleCase) -> Reading:
    """An update does not depend on the scale of the loss."""
    return scaled_against_plain(context.param.get("optimizer"), case)


def lacks_scaling(context: Context) -> str | None:
    """Return why nothing can be said of loss scaling."""
    v = variant(context.param.get("optimizer"))
    return first_reason((not accepts(v, "loss_scale_factor"), f"{v.class_name} takes no loss_scale_factor"))


def _spoiled_corners(context: Context) -> Sequence[Case]:
    mode = eager_if_any(context)
    corners = [LossScaleCase(mode=mode, micro_batches=3, updates=1, spoiled=(1,), growth=2, value="nan", seed=1)]
    if _closer(context):
        corners += [LossScaleCase(mode=mode, updates=5, spoiled=(1, 2, 3), growth=2, value=v) for v in ("inf", "-inf")]
        modes = [m for m in context.modes() if m != mode]
        corners += [LossScaleCase(mode=m, micro_batches=3, spoiled=(0, 4), growth=2, seed=2) for m in modes]
    return tuple(corners)


@check(
    family="accumulation",
    claims=("C4", "C12"),
    case=LossScaleCase,
    params=optimizer_params,
    cases=lambda context: _spoiled_cases(context),
    corners=_spoiled_corners,
    applies=lacks_scaling,
    examples=(0, 0, 100),
    per_subject=False,
    catches="a gradient with inf or NaN that moves a weight, a slot, an average, a count or an accumulator; a scale "
    "that is not halved, or whose count of finite micro-batches goes on",
    formula=FORMULA + "; here: the plain optimizer, never given the non-finite micro-batch. The scale itself: equal",
    source=f"Micikevicius et al., Mixed Precision Training (2018), section 3.2; {RULE}",
    example="after micro-batch 1, weight kernel[2,3] is off by nan",
)
def non_finite_micro_batch_leaves_nothing_behind(context: Context, case: LossScaleCase) -> Reading:
    """A micro-batch with a non-finite gradient is skipped, halves the loss scale and leaves nothing behind."""
    return scaled_against_plain(context.param.get("optimizer"), case)


def _spoiled_cases(context: Context) -> Any:
    from hypothesis import strategies as st

    spoiled = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True).map(tuple)
    return scale_cases(spoiled=spoiled, value=("inf", "-inf", "nan"))(context)


# The wrapper's own options -----------------------------------------------------------------------------


def wrapper_option_params() -> list[Param]:
    """Return a parameter for each option of every optimizer that the wrapper might be given too."""
    return [Param.of(option=name) for name in BASE_OPTIONS]


def _option_corners(context: Context) -> Sequence[Case]:
    return (LossScaleCase(mode=eager_if_any(context), updates=4), LossScaleCase(mode=eager_if_any(context), seed=1))


@check(
    family="accumulation",
    claims=("C4", "C12"),
    case=LossScaleCase,
    params=wrapper_option_params,
    cases=lambda context: _wrapper_cases(context),
    corners=_option_corners,
    examples=(1, 1, 50),
    per_subject=False,
    catches="an option given to LossScaleOptimizer that it silently ignores, gradient_accumulation_steps above all",
    formula=FORMULA + "; here: the plain optimizer with the option, given the unscaled gradients; a TypeError or "
    "ValueError instead keeps the promise too",
    source=f"{DOCUMENTED}: the wrapper's signature; https://github.com/keras-team/keras/pull/21706",
    example="after micro-batch 1, weight kernel[0,0] is off by 0.05: inf% of the update",
)
def option_given_to_the_wrapper_acts_or_is_refused(context: Context, case: LossScaleCase) -> Reading:
    """An option given to LossScaleOptimizer acts as it does on the optimizer inside, or is refused."""
    option = context.param.get("option")
    run = _outer_rig(option, case.exponent, case.growth, case.mode)
    if run is None:
        return Reading(0.0, seen=f"LossScaleOptimizer refuses {option}", allowed="to act, or to be refused")
    reference = _inner_rig(option, case.mode)
    start = _tensors(case, 0)
    run.reset(start)
    reference.reset(start)
    scale = documented_scale(case)
    readings = []
    for j in range(case.updates):
        before, gradients = replace(state_of(reference), slots={}), _tensors(case, 1 + j)
        run.apply(_scaled(gradients, scale.value))
        reference.apply(gradients)
        scale.finite()
        seen, expected = replace(state_of(run), slots={}), replace(state_of(reference), slots={}, accumulators=[])
        reading = compare_states(replace(seen, accumulators=[]), expected, before, j + 1, UNIT_ROUNDOFF[case.dtype])
        readings.append(replace(reading, cause=f"{option} is ignored, or acts otherwise than inside"))
    return worst(readings)


def _wrapper_cases(context: Context) -> Any:
    from hypothesis import strategies as st

    mode = eager_if_any(context)
    return st.builds(LossScaleCase, updates=st.integers(3, 6), mode=st.just(mode), seed=seeds())


@cached_in_process
def _outer_rig(option: str, exponent: int, growth: int, mode: str) -> Rig | None:
    given = BASE_OPTIONS[option]
    try:
        return Rig(lambda: scaling(make(variant("sgd")), 2.0**exponent, growth, **given), mode=mode)
    except (TypeError, ValueError):
        return None


@cached_in_process
def _inner_rig(option: str, mode: str) -> Rig:
    return Rig(lambda: make(variant("sgd"), **BASE_OPTIONS[option]), mode=mode)


# The wrapper's state -----------------------------------------------------------------------------------


@check(
    family="accumulation",
    claims=("C4", "C12"),
    case=LossScaleCase,
    params=optimizer_params,
    cases=scale_cases(),
    corners=lambda context: (LossScaleCase(mode=eager_if_any(context), micro_batches=3, growth=2),),
    applies=lacks_scaling,
    examples=(0, 0, 20),
    per_subject=False,
    catches="state of the optimizer inside that LossScaleOptimizer does not list: it is not saved, and on JAX, where "
    "the listed variables are all that a step hands on, it is not updated; a count of updates that stands still",
    formula="names of the slots that an update of the plain optimizer changes: all among the wrapper's; iterations as "
    "the plain optimizer's",
    source="keras.optimizers.Optimizer: 'variables' are what is saved, and what stateless_apply takes and returns",
    example="LossScaleOptimizer(Nadam) does not list variable",
)
def wrapper_keeps_the_state_of_its_optimizer(context: Context, case: LossScaleCase) -> Reading:
    """LossScaleOptimizer lists every variable that the optimizer inside changes, and counts its updates."""
    name = context.param.get("optimizer")
    plain, run = _plain_rig(name, case.micro_batches, case.mode, case.dtype), scaled_rig(name, case)
    for rig in (plain, run):
        rig.reset(_tensors(case, 0))
    before, scale = plain.slots(), documented_scale(case)
    for j in range(case.micro_batches):
        plain.apply(_tensors(case, 1 + j))
        run.apply(_scaled(_tensors(case, 1 + j), scale.value))
        scale.finite()
    if run.told() != plain.told():
        seen = f"iterations of LossScaleOptimizer says {run.told()} after {plain.told()} updates"
        return Reading(np.inf, "iterations", seen, f"{plain.told()}")
    listed = run.slots()
    lost = [k for k, v in plain.slots().items() if k not in listed and not np.array_equal(v, before[k])]
    seen = f"LossScaleOptimizer({variant(name).class_name}) does not list {', '.join(lost)}"
    return Reading(np.inf if lost else 0.0, where=", ".join(lost), seen=seen, allowed="all that an update changes")


# Variables that their gradient overwrites --------------------------------------------------------------


def _cannot_overwrite(context: Context) -> str | None:
    unknown_here = "variables of this Keras have no overwrite_with_gradient"
    return lacks_scaling(context) or first_reason((not overwrites_with_gradient(), unknown_here))


def _overwriting_corners(context: Context) -> Sequence[Case]:
    mode = eager_if_any(context)
    if context.runtime.compiles_per_shape:
        return (LossScaleCase(mode=mode, micro_batches=2, updates=1, seed=1),)
    return (
        *([LossScaleCase(mode=mode, updates=1)] if _closer(context) else []),
        LossScaleCase(mode=mode, micro_batches=2, seed=1),
    )


@check(
    family="accumulation",
    claims=("C4", "C12"),
    case=LossScaleCase,
    params=optimizer_params,
    cases=scale_cases(way=("wrapper", "factor")),
    corners=_overwriting_corners,
    applies=_cannot_overwrite,
    examples=(0, 0, 100),
    per_subject=False,
    catches="float8's scales and histories of amax divided by the loss scale, averaged over a window, decayed, moved "
    "by the learning rate, or written before the window's end",
    formula="value = gradient (under accumulation: the largest of the window, after its end), exactly; the other "
    "weights as without it, within 8 u (|old| + |new| + |change|)",
    source="keras.Variable's overwrite_with_gradient: such a variable is 'overwritten with its computed gradient'; "
    "https://github.com/keras-team/keras/pull/21193",
    example="after micro-batch 1, amax[0] is 0.0012, not 1.2",
)
def overwritten_variables_take_their_gradient_as_it_is(context: Context, case: LossScaleCase) -> Reading:
    """A variable that its gradient overwrites (float8's scales) takes it as it is, whatever the loss scale."""
    name, k = context.param.get("optimizer"), case.micro_batches
    run, reference = _float8_rig(name, replace(case, seed=0, updates=1)), _rest_rig(name, k, case.mode, case.dtype)
    start, at = _tensors(case, 0, FLOAT8_SHAPES), list(FLOAT8_SHAPES).index("amax")
    start[at] = np.abs(start[at])
    run.reset(start)
    reference.reset(_left(start, at))
    scale, readings = documented_scale(case), []
    expected, largest = start[at], np.zeros_like(start[at])
    for j in range(k * case.updates):
        before, gradients = reference.weights(), _tensors(case, 1 + j, FLOAT8_SHAPES)
        gradients[at] = np.abs(gradients[at])
        given = _scaled(gradients, scale.value)
        # A quantized layer computes these itself: the loss and its scale do not come into it.
        given[at] = gradients[at]
        largest = np.maximum(largest, gradients[at])
        if (j + 1) % k == 0:
            expected, largest = largest, np.zeros_like(largest)
        run.apply(given)
        reference.apply(_left(gradients, at))
        scale.finite()
        seen = run.weights()
        readings.append(_overwritten(seen.pop("amax"), expected, j))
        readings.append(state_difference(seen, reference.weights(), before, UNIT_ROUNDOFF[case.dtype], "weight", j + 1))
    return worst(readings)


def _left(arrays: Sequence[Array], at: int) -> list[Array]:
    return [a for i, a in enumerate(arrays) if i != at]


def _overwritten(seen: Array, expected: Array, j: int) -> Reading:
    wrong = np.flatnonzero(~(seen == expected))
    if not wrong.size:
        return Reading(0.0)
    i = int(wrong[0])
    place = variable_index("amax", (i,))
    text = f"after micro-batch {j + 1}, {place} is {seen[i]:.6g}, not {expected[i]:.6g}"
    figures = {"seen": float(seen[i]), "expected": float(expected[i])}
    return Reading(np.inf, place, text, "equality", f"a factor of {seen[i] / expected[i]:.3g}", figures)


@cached_in_process
def _float8_rig(name: str, case: LossScaleCase) -> Rig:
    return Rig(lambda: _make(name, case), FLOAT8_SHAPES, mode=case.mode, dtype=case.dtype, overwritten=("amax",))


@cached_in_process
def _rest_rig(name: str, k: int, mode: str, dtype: str) -> Rig:
    shapes = {n: s for n, s in FLOAT8_SHAPES.items() if n != "amax"}
    return Rig(lambda: make(variant(name), accumulation=k if k > 1 else None), shapes, mode=mode, dtype=dtype)
