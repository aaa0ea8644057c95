"""Accumulation in every precision: what the dtype of the accumulator costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import AccumulatorCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, random
from bscheck.checks.updates import eager_if_any
from bscheck.results.verdict import Reading
from bscheck.runtime.accumulator import accumulate_in
from bscheck.runtime.bench import CAPACITY

#: (unit roundoff, half of the smallest positive number) of each dtype that Keras keeps weights in.
ROUNDING = {
    "float64": (2.0**-53, 2.0**-1074),
    "float32": (2.0**-24, 2.0**-150),
    "bfloat16": (2.0**-8, 2.0**-134),
    "float16": (2.0**-11, 2.0**-25),
}

#: Elements of the gradient: many, as the variables of the other checks have few, and what is wide may be treated apart.
ELEMENTS = 5000


def accumulator_params() -> list[Param]:
    """Return a parameter for each dtype."""
    return [Param.of(dtype=dtype) for dtype in ROUNDING]


def accumulator_cases(context: Context) -> Any:
    """Draw how many micro-batches there are, and whether their gradients cancel."""
    from hypothesis import strategies as st

    counts = st.sampled_from([2, 3, CAPACITY]) if context.runtime.compiles_per_shape else st.integers(2, CAPACITY)
    return st.builds(
        AccumulatorCase,
        micro_batches=counts,
        cancelling=st.booleans(),
        mode=st.just(eager_if_any(context)),
        dtype=st.just(context.param.get("dtype")),
        seed=seeds(),
    )


def accumulator_corners(context: Context) -> Sequence[AccumulatorCase]:
    """Return the fewest, an odd number and the most micro-batches."""
    case = AccumulatorCase(mode=eager_if_any(context), dtype=context.param.get("dtype"))
    return (case, replace(case, micro_batches=3, cancelling=True, seed=1), replace(case, micro_batches=CAPACITY))


@check(
    family="accumulation",
    claims=("C4", "C12"),
    case=AccumulatorCase,
    params=accumulator_params,
    cases=accumulator_cases,
    corners=accumulator_corners,
    examples=(0, 4, 200),
    per_subject=False,
    catches="an accumulator kept in a lower precision than its weight, gradients rounded on their way into it, a mean "
    "taken of rounded shares; and it tells what accumulating in 16 bits costs",
    formula="|a - mean G_j| <= (k+1) u / (1 - (k+1) u) mean |G_j| + (k+1) h, elementwise; u the unit roundoff of the "
    "dtype, h half its smallest positive number; k-1 additions, the division, and the rounding of 1/k",
    source="Higham, Accuracy and Stability of Numerical Algorithms, 2002, sections 2.2, 3.1 and 4.2",
    example="element 12 of the mean of 8 gradients in float32 is off by 3e-3",
)
def accumulator_errs_no_more_than_its_precision(context: Context, case: AccumulatorCase) -> Reading:
    """An accumulator errs by no more than the roundings of its weight's dtype, in 16 bits too."""
    k, (u, least) = case.micro_batches, ROUNDING[case.dtype]
    rng = random(case.seed, 11)
    given = rng.standard_normal((k, ELEMENTS)) * 2.0 ** rng.integers(-8, 8, ELEMENTS)
    if case.cancelling:
        given[-1] -= given.sum(axis=0)
    micro, applied = accumulate_in(case.dtype, given, case.mode)
    mean, size = micro.mean(axis=0), np.abs(micro).mean(axis=0)
    bound = (k + 1) * u / (1 - (k + 1) * u) * size + (k + 1) * least
    wrong = np.abs(applied - mean)
    i = int(np.argmax(np.where(np.isfinite(wrong), wrong / bound, np.inf)))
    cost = float(np.sqrt(np.mean((wrong / size) ** 2)))
    return Reading(
        float(wrong[i] / bound[i]) if np.isfinite(wrong[i]) else np.inf,
        where=f"element {i}",
        seen=f"element {i} of the mean of {k} gradients in {case.dtype} is off by {wrong[i]:.2g}",
        allowed=f"{bound[i]:.1g}",
        cause="not the roundings of the dtype that the weight is kept in",
        figures={"relative_error": cost, "micro_batches": float(k)},
    )
