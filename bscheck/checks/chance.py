"""Independence: what a layer draws in training is drawn anew, for every example of every batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import ChanceCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, require
from bscheck.results.verdict import Reading
from bscheck.runtime.chance import BITS, EXAMPLES, Drawing

#: Calls whose draws are told apart.
CALLS = 3


def dropping_params() -> list[Param]:
    """Return the layer whose draws can be read off a loss: entries are dropped, or doubled."""
    return [Param.of(layer="Dropout")]


def dropping_corners(context: Context) -> Sequence[ChanceCase]:
    """Return two examples in one batch, and in two, through both loops and every way to run a step."""
    first, *others = context.runtime.modes
    plain = ChanceCase(mode=first)
    more = [] if context.runtime.compiles_per_shape else [ChanceCase(mode=mode) for mode in others]
    return [plain, ChanceCase(mode=first, batch_size=1), ChanceCase(mode=first, path="train_on_batch"), *more]


def dropping_cases(context: Context) -> Any:
    """Draw the corners' structures."""
    from hypothesis import strategies as st

    return st.builds(
        ChanceCase,
        seed=seeds(),
        batch_size=st.sampled_from([1, 2]),
        path=st.sampled_from(ChanceCase.CHOICES["path"]),
        mode=st.just(context.runtime.modes[0]),
    )


@cached_in_process
def _drawing(mode: str) -> Drawing:
    return Drawing(mode)


@check(
    family="independence",
    claims=("C1", "C8", "C14"),
    case=ChanceCase,
    cases=dropping_cases,
    corners=dropping_corners,
    params=dropping_params,
    examples=(0, 1, 100),
    per_subject=False,
    catches="a seed that stands still where steps are compiled, so that every batch drops the same entries; one draw "
    "for all the examples of a batch, or of batches of one size; a call of fit that draws what the call before drew",
    formula=f"the dropped entries of {EXAMPLES} examples in {CALLS} calls, {BITS} each, read off losses that are sums "
    "of powers of two: no two alike, nor all or none dropped (by chance once in 4 million cases)",
    source="keras.io/api/layers/regularization_layers/dropout: drawn 'at each step during training time'; Srivastava "
    "et al. 2014: one thinned network is drawn for each case in each mini-batch",
    example="call 2, example 1, and call 1, example 1: both dropped the same 14 of 26 entries",
)
def dropout_is_drawn_anew_for_every_example(context: Context, case: ChanceCase) -> Reading:
    """Dropout is drawn anew for every example of every batch, in graphs and in eager calls alike."""
    require(1 <= case.batch_size <= EXAMPLES, f"there are {EXAMPLES} examples")
    drawing = _drawing(case.mode)
    drawn = {
        f"call {call}, example {example}": mask
        for call in range(1, CALLS + 1)
        for example, mask in enumerate(drawing.call(case.path, case.batch_size), start=1)
    }
    for place, mask in drawn.items():
        if not 0 < mask.sum() < BITS:
            return _broken(place, f"{mask.sum()} of {BITS} entries were dropped", "some of them")
    for (one, first), (other, second) in itertools.combinations(drawn.items(), 2):
        if np.array_equal(first, second):
            text = f"both dropped the same {first.sum()} of {BITS} entries"
            return _broken(f"{other}, and {one}", text, "another draw for each")
    return Reading(0.0)


def _broken(where: str, text: str, allowed: str) -> Reading:
    return Reading(np.inf, where=where, seen=f"{where}: {text}", allowed=allowed)
