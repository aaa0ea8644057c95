"""Independence: what the progress bar prints is the mean over the examples so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import PrintedCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, random
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import precision
from bscheck.runtime.progress import printed
from bscheck.tolerance import UNIT_ROUNDOFF

#: Keras prints four decimals.
DECIMALS = 0.5e-4


def printed_params() -> list[Param]:
    """Return the calls that print."""
    return [Param.of(call=call) for call in ("fit", "evaluate")]


def printed_cases(context: Context) -> Any:
    """Draw numbers of examples and batch sizes."""
    from hypothesis import strategies as st

    return st.builds(
        PrintedCase,
        examples=st.integers(1, 9),
        batch_size=st.sampled_from([1, 2, 3, 9]),
        verbose=st.sampled_from([1, 2]),
        mode=st.just(context.runtime.modes[0]),
        seed=seeds(),
    )


def printed_corners(context: Context) -> Sequence[PrintedCase]:
    """Return a ragged epoch drawn at every batch."""
    return (replace(PrintedCase(), mode=context.runtime.modes[0]),)


@check(
    family="independence",
    claims=("C8",),
    case=PrintedCase,
    cases=printed_cases,
    params=printed_params,
    corners=printed_corners,
    examples=(0, 0, 20),
    per_subject=False,
    catches="a progress bar that averages running means once more, weighs a ragged batch as a full one, or shows the "
    "figures of another batch: what a person reads while training then depends on the number of batches",
    formula="|v - mean of the first k B examples| <= 0.5e-4 + roundings u v for every figure printed beside k batches; "
    "the last is beside the last batch",
    source="keras.io/api/models/model_training_apis: verbose, 1 = progress bar, 2 = one line per epoch",
    example="fit prints loss: 9.6333 beside batch 4 of 4; over the examples so far it is 17.5",
)
def printed_figures_are_those_of_the_examples_so_far(context: Context, case: PrintedCase) -> Reading:
    """The loss and metrics that ``fit`` and ``evaluate`` print are means over the examples so far."""
    x = (3.0 * random(case.seed, 15).standard_normal((case.examples, 1))).astype(np.float32)
    call = context.param.get("call")
    with precision("float32"):
        lines = printed(call, x, case.batch_size, case.verbose, case.mode)
    steps = -(-case.examples // case.batch_size)
    if not lines or lines[-1][0] != steps:
        seen = f"{call} prints figures last beside batch {lines[-1][0] if lines else 'none'}"
        return Reading(np.inf, seen=seen, allowed=f"{steps}")
    rows = {"loss": x.astype(np.float64) ** 2, "mae": np.abs(x.astype(np.float64))}
    readings = []
    for step, figures in lines:
        for name, figure in figures.items():
            expected = float(np.mean(rows[name][: step * case.batch_size]))
            bound = DECIMALS + 2 * (len(x) + 4) * UNIT_ROUNDOFF["float32"] * expected
            text = f"{call} prints {name}: {figure} beside batch {step} of {steps}; over the examples so far it is"
            readings.append(Reading(abs(figure - expected) / bound, name, f"{text} {expected:.6g}", f"{bound:.2g} off"))
    return worst(readings)
