"""Whether accumulating is the same update, for one split: what `bscheck advise` tells beside the cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bscheck.cases import GradientCase
from bscheck.checks import Param, get_check
from bscheck.checks.context import Context
from bscheck.measure.trials import named_subject
from bscheck.results.verdict import NotApplicable
from bscheck.runtime.bench import CAPACITY

_CHECK = "accumulated_gradient_matches_large_batch"


def share_of_the_bound(subject: str, *, sizes: Sequence[int], dtype: str) -> dict[str, Any]:
    """Hold the accumulated gradient of micro-batches of these sizes against the large batch's.

    Returns
    -------
    dict
        ``share`` of the bound (above 1 the update is another), or ``reason`` why the promise does not apply.
    """
    made = named_subject(subject)
    context = Context.for_subject(made, Param())
    check = get_check(_CHECK)
    if len(sizes) > CAPACITY:
        return {"reason": f"more than {CAPACITY} micro-batches are not compared"}
    path = "loop" if made.step is None else "step"
    case = GradientCase(sizes=tuple(sizes), dtype=dtype, mode=context.runtime.modes[0], path=path)
    try:
        reason = check.applies(context)
        if reason:
            return {"reason": reason}
        reading = check.function(context, case)
    except NotApplicable as error:
        return {"reason": str(error)}
    return {"share": reading.share, "seen": reading.seen}
