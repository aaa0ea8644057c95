"""Weight constraints against their formulae."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import ConstraintCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, random, variable_index
from bscheck.oracles.constraints import CONSTRAINTS, norms
from bscheck.results.verdict import Reading
from bscheck.runtime.losses import constrained
from bscheck.surface.penalties import CONSTRAINT_OPTIONS, constraints, make_constraint
from bscheck.tolerance import TINY, UNIT_ROUNDOFF, Array

#: What Keras adds to a norm that it divides by (keras.io: ``keras.config.epsilon``, 1e-7 unless set).
EPSILON = 1e-7


def constraint_params() -> list[Param]:
    """Return a parameter for every constraint of the installed Keras."""
    return [Param.of(constraint=name) for name in constraints()]


def unknown_constraint(context: Context) -> str | None:
    """Return why a constraint cannot be made."""
    name = context.param.get("constraint")
    known = name in CONSTRAINTS and name in CONSTRAINT_OPTIONS
    return None if known else f"no construction: bscheck.surface.penalties knows no options of {name}"


def constraint_cases(context: Context) -> Any:
    """Draw options, dtypes and weights."""
    from hypothesis import strategies as st

    return st.builds(
        ConstraintCase,
        option=st.integers(0, len(CONSTRAINT_OPTIONS[context.param.get("constraint")]) - 1),
        dtype=st.sampled_from(("float32", "float64")),
        scale=st.sampled_from(ConstraintCase.CHOICES["scale"]),
        seed=seeds(),
    )


def constraint_corners(context: Context) -> Sequence[ConstraintCase]:
    """Return each choice of options, and weights of norm 0 among others."""
    options = range(len(CONSTRAINT_OPTIONS.get(context.param.get("constraint"), ())))
    corners = [ConstraintCase(option=i, dtype=("float64", "float32")[i % 2]) for i in options]
    return [*corners, ConstraintCase(scale="zero", seed=1)]


def weights_of(case: ConstraintCase) -> Array:
    """Return the weights of a case: standard normal, those of the last unit 0 under ``zero``."""
    w = random(case.seed, 11).standard_normal((4, 3, 2))
    w[..., -1] *= case.scale != "zero"
    return w.astype(case.dtype)


@check(
    family="accumulation",
    claims=("C4",),
    case=ConstraintCase,
    cases=constraint_cases,
    corners=constraint_corners,
    params=constraint_params,
    applies=unknown_constraint,
    examples=(1, 2, 200),
    per_subject=False,
    catches="a constraint that bounds another norm, along other axes, or by another rate; weights of norm 0 that it "
    "makes NaN",
    formula="elementwise, |seen - f(w)| <= ((n + 8) u + epsilon / norm) |f(w)|, n weights in a norm: Keras adds its "
    "epsilon, 1e-7, to the norm that it divides by",
    source="keras.io/api/layers/constraints",
    example="w[1,0,1] becomes 0.81; by the formula it is 0.4",
)
def constraint_equals_its_formula(context: Context, case: ConstraintCase) -> Reading:
    """A constraint makes of weights what its documented formula says."""
    name = context.param.get("constraint")
    options = CONSTRAINT_OPTIONS[name][case.option]
    w = weights_of(case)
    exact = w.astype(np.float64)
    expected = CONSTRAINTS[name](exact, **options)
    seen = constrained(lambda: make_constraint(name, case.option), w, case.dtype)
    bound = TINY + np.abs(expected) * allowed(exact, options, case.dtype)
    off = np.abs(seen - expected)
    largest = int(np.argmax(np.where(np.isfinite(off), off / bound, np.inf)))
    at = tuple(int(i) for i in np.unravel_index(largest, off.shape))
    share = float(off[at] / bound[at])
    place = variable_index("w", at)
    return Reading(
        share if np.isfinite(share) else np.inf,
        where=place,
        seen=f"{place} becomes {seen[at]:.9g}; by the formula it is {expected[at]:.9g}",
        allowed=f"{bound[at]:.2g} off",
    )


def allowed(w: Array, options: Any, dtype: str) -> Array:
    """Return the relative error that a constraint may make: the rounding of a norm, and the epsilon added to it."""
    now = norms(w, options.get("axis", 0))
    epsilon = np.where(now > 0, EPSILON / np.where(now > 0, now, 1.0), 0.0)
    return np.asarray((w.size + 8) * UNIT_ROUNDOFF[dtype] + epsilon)
