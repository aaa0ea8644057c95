"""Several optimizers behind one: each member updates its own variables as it would alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, MemberCase, seeds
from bscheck.checks import check
from bscheck.checks.context import Context, cached_in_process, random
from bscheck.checks.updates import FORMULA, State, compare_states, eager_if_any, optimizer_params, state_of
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.rig import SHAPES, Rig
from bscheck.surface.optimizers import exports, make, several, variant
from bscheck.tolerance import UNIT_ROUNDOFF

#: The variable that the other optimizer has: neither the first nor the last, so that mixed-up positions show.
OTHERS = "bias"


def _lacks_members(context: Context) -> str | None:
    return None if exports("MultiOptimizer") else "this Keras exports no MultiOptimizer"


def _corners(context: Context) -> Sequence[Case]:
    mode = eager_if_any(context)
    accumulating = MemberCase(mode=mode, micro_batches=2, other=3, updates=3, exponent=4, seed=1)
    if context.runtime.compiles_per_shape:
        return (accumulating,)
    corners = [accumulating]
    if context.param.get("optimizer") in ("sgd", "adam"):
        # A clip that binds forgives a gradient that is still scaled: it comes with an unscaled loss.
        corners += [MemberCase(mode=mode, clip="global", seed=3)]
        corners += [MemberCase(mode=mode, given="function", ema="overwrite", updates=3, seed=2)]
    return tuple(corners)


def _cases(context: Context) -> Any:
    from hypothesis import strategies as st

    return st.builds(
        MemberCase,
        micro_batches=st.sampled_from((1, 2, 5)),
        other=st.sampled_from((1, 3)),
        updates=st.integers(1, 3),
        given=st.sampled_from(("map", "function")),
        clip=st.sampled_from(("none", "norm", "global")),
        mode=st.just(eager_if_any(context)),
        seed=seeds(),
    )


@check(
    family="accumulation",
    claims=("C4", "C9"),
    case=MemberCase,
    params=optimizer_params,
    cases=_cases,
    corners=_corners,
    applies=_lacks_members,
    examples=(0, 0, 100),
    per_subject=False,
    catches="a member that is given another's variables or gradients, whose global norm spans more than its own "
    "variables, whose window opens or closes with another's, that never sees the loss unscaled, or whose averages do "
    "not take over at the end; updates that are counted once a member",
    formula=FORMULA + "; here: each member's variables by the same optimizer alone, accumulation included",
    source="https://keras.io/api/optimizers/ MultiOptimizer: 'delegates variables to different optimizers', which "
    "'overrides the loss_scale_factor passed to the sub-optimizers'",
    example="after update 2, weight embeddings[0,1] is off by 0.05: 110.00% of the update",
)
def member_updates_its_own_variables_as_alone(context: Context, case: MemberCase) -> Reading:
    """An optimizer behind MultiOptimizer updates its own variables as it does alone."""
    name = context.param.get("optimizer")
    bare = replace(case, seed=0, updates=1)
    run, own, other = _together(name, bare), _alone(name, bare), _other(bare)
    start = _tensors(case, 0)
    run.reset(list(start.values()))
    own.reset(_own(start))
    other.reset([start[OTHERS]])
    readings = []
    for j in range(case.micro_batches * case.updates):
        before, gradients = _joined(own, other), _tensors(case, 1 + j)
        run.apply([g * np.asarray(2.0**case.exponent, g.dtype) for g in gradients.values()])
        own.apply(_own(gradients))
        other.apply([gradients[OTHERS]])
        reading = compare_states(_sorted(state_of(run)), _joined(own, other), before, j + 1, UNIT_ROUNDOFF[case.dtype])
        readings.append(replace(reading, seen=reading.seen.replace("after update", "after micro-batch")))
        if not reading.holds:
            return worst(readings)
    return worst([*readings, *_ended(case, run, own, other)])


def _ended(case: MemberCase, run: Rig, own: Rig, other: Rig) -> list[Reading]:
    """Hold what training ends with: the number of updates, and the averages in the place of the weights."""
    readings = []
    if case.micro_batches == case.other == 1:
        seen = f"after {case.updates} updates MultiOptimizer says that it has made {run.told()}"
        readings.append(Reading(0.0 if run.told() == case.updates else np.inf, "iterations", seen, f"{case.updates}"))
    if case.ema != "none":
        before = _joined(own, other)
        for rig in (run, own, other):
            rig.finalize()
        unit = UNIT_ROUNDOFF[case.dtype]
        ended = compare_states(_sorted(state_of(run)), _joined(own, other), before, case.updates, unit)
        told = ended.seen.replace("after update", "finalize_variable_values after update")
        readings.append(replace(ended, seen=told))
    return readings


def _tensors(case: MemberCase, salt: int) -> dict[str, Array]:
    rng = random(case.seed, 8, salt)
    return {name: 2 * rng.standard_normal(shape).astype(case.dtype) for name, shape in SHAPES.items()}


def _own(tensors: dict[str, Array]) -> list[Array]:
    return [v for name, v in tensors.items() if name != OTHERS]


def _sorted(state: State) -> State:
    """Return a state in the order of names, without open windows, which its update brings to light."""
    return State(dict(sorted(state.weights.items())), dict(sorted(state.slots.items())), accumulators=[], updates=0)


def _joined(own: Rig, other: Rig) -> State:
    return _sorted(State(own.weights() | other.weights(), own.slots() | other.slots(), [], 0))


def _member(name: str, case: MemberCase) -> Any:
    k = case.micro_batches if case.micro_batches > 1 else None
    return make(variant(name), clip=case.clip, ema=case.ema, accumulation=k)


def _second(case: MemberCase) -> Any:
    return make(variant("momentum"), clip=case.clip, accumulation=case.other if case.other > 1 else None)


@cached_in_process
def _together(name: str, case: MemberCase) -> Rig:
    factor = 2.0**case.exponent if case.exponent else None
    return Rig(
        lambda: several(case.given, {OTHERS: _second(case)}, _member(name, case), factor),
        mode=case.mode,
        dtype=case.dtype,
    )


@cached_in_process
def _alone(name: str, case: MemberCase) -> Rig:
    shapes = {n: shape for n, shape in SHAPES.items() if n != OTHERS}
    return Rig(lambda: _member(name, case), shapes, mode=case.mode, dtype=case.dtype)


@cached_in_process
def _other(case: MemberCase) -> Rig:
    return Rig(lambda: _second(case), {OTHERS: SHAPES[OTHERS]}, mode=case.mode, dtype=case.dtype)
