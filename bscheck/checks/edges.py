"""Tiny batches, last part: training at the edge of what a batch may be, through every loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import Case, EdgeCase, seeds
from bscheck.checks import check
from bscheck.checks.context import Context, cached_in_process, random
from bscheck.checks.loss_truth import class_params, known_variants, make_loss, no_construction, stored
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array
from bscheck.runtime.edges import EdgeLearner
from bscheck.surface.losses import (
    CLASSES,
    FRAMES,
    SYMBOLS,
    construction,
    draw_targets,
    of_one_class,
)

#: Examples and batch size of each edge.
SIZES = {
    "one_example": (1, 1),
    "masked": (2, 2),
    "weightless": (2, 2),
    "one_class": (3, 3),
    "larger": (2, 5),
    "tail": (3, 2),
}
STEPS = 2


@cached_in_process
def _learner(loss: str, variant: str, steps: int, mode: str) -> EdgeLearner:
    kind = construction(loss).variants[variant].predictions
    return EdgeLearner(
        lambda: make_loss(loss, variant, "sum_over_batch_size", "float32"), kind, _shape(kind, steps), mode
    )


def _shape(kind: str, steps: int) -> tuple[int, ...]:
    """Return the shape of one example's predictions."""
    if kind == "frames":
        return (FRAMES, SYMBOLS)
    return (steps, CLASSES) if steps else (CLASSES,)


def _edges(loss: str, variant: str) -> list[str]:
    """Return the edges that a loss has: only rows of their own can be masked or weighed."""
    known = construction(loss)
    left_out = set() if known.steps and not known.variants[variant].coupled else {"masked"}
    return [edge for edge in SIZES if edge not in left_out]


def _variants(context: Context) -> list[str]:
    """Return the variants whose classes are along the last axis, as the model's are."""
    return [name for name, variant in known_variants(context).items() if not variant.moved]


def edge_cases(context: Context) -> Any:
    """Draw an edge, a path and a variant."""
    from hypothesis import strategies as st

    loss, first = context.param.get("loss"), _variants(context)[0]
    few = context.runtime.compiles_per_shape
    situations = [
        (variant, edge)
        for variant in _variants(context)
        if variant == first or not few
        for edge in _edges(loss, variant)
    ]
    return st.builds(
        lambda situation, **fields: EdgeCase(variant=situation[0], edge=situation[1], **fields),
        st.sampled_from(situations),
        path=st.sampled_from(EdgeCase.CHOICES["path"]),
        mode=st.just(_mode(context)),
        seed=seeds(),
    )


def _mode(context: Context) -> str:
    """Return op by op where there is such a mode: every edge has a shape of its own."""
    return "eager" if "eager" in context.runtime.modes else context.runtime.modes[0]


def edge_corners(context: Context) -> Sequence[Case]:
    """Return every edge once; only ``fit`` can be given a batch size above the number of examples."""
    first, mode = _variants(context)[0], _mode(context)
    edges = _edges(context.param.get("loss"), first)
    if context.runtime.compiles_per_shape:
        edges = edges[:3]
    return tuple(
        EdgeCase(edge=edge, variant=first, path="fit" if edge == "larger" else "train_on_batch", mode=mode)
        for edge in edges
    )


@check(
    family="tiny batches",
    claims=("C3", "C8"),
    case=EdgeCase,
    cases=edge_cases,
    corners=edge_corners,
    params=class_params,
    applies=no_construction,
    examples=(0, 0, 60),
    per_subject=False,
    catches="a loss or weights that turn to NaN or infinity in silence: batch statistics of one example, a mean over "
    "nothing, one class alone, a batch size above the number of examples, a last batch of one; an update made from "
    "examples that do not count",
    formula="after an epoch of training every reported loss and every variable of model and optimizer is finite; where "
    "nothing counts (all masked, all weights 0) no trainable weight has moved at all. No statistics: no false alarms",
    source="keras.io/api/losses: nothing to divide by makes 0; keras.io/api/layers/normalization_layers",
    example="after one example by train_on_batch, batch_normalization/moving_variance is nan",
)
def training_at_the_edge_stays_finite(context: Context, case: EdgeCase) -> Reading:
    """Training on batches at the edge of what a batch may be leaves finite losses and finite weights."""
    learner, (x, y, w) = edge(context, case)
    losses, before, after = learner.train(case.seed, x, y, w, SIZES[case.edge][1], case.path)
    where = f"{case.edge.replace('_', ' ')} by {case.path}"
    for what, value in [*(("the reported loss", np.array(v)) for v in losses), *after.items()]:
        if not np.isfinite(value).all():
            seen = f"after {where}, {what} is {np.ravel(value)[~np.isfinite(np.ravel(value))][0]}"
            return Reading(np.inf, where=what, seen=seen, allowed="finite values")
    if case.edge in ("masked", "weightless"):
        trainable = {getattr(v, "path", v.name) for v in learner.model.trainable_variables}
        for name in sorted(trainable):
            if not np.array_equal(before[name], after[name]):
                moved = float(np.abs(after[name] - before[name]).max())
                seen = f"after {where}, {name} has moved by {moved:.2g}"
                return Reading(np.inf, where=name, seen=seen, allowed="no update: no example counts")
    return Reading(0.0, where=where)


def edge(context: Context, case: EdgeCase) -> tuple[EdgeLearner, tuple[Array, Array, Array | None]]:
    """Return the model of a case, and its inputs, targets and sample weights."""
    loss = context.param.get("loss")
    learner = _learner(loss, case.variant, STEPS if case.edge == "masked" else 0, case.mode)
    return learner, _draw(loss, case)


def _draw(loss: str, case: EdgeCase) -> tuple[Array, Array, Array | None]:
    """Return inputs, targets and sample weights."""
    known, (n, _) = construction(loss), SIZES[case.edge]
    rng = random(case.seed, 52)
    shape = (n, *_shape(known.variants[case.variant].predictions, STEPS if case.edge == "masked" else 0))
    x = np.zeros if case.edge == "masked" else rng.standard_normal
    y = draw_targets(known.targets, rng, shape if known.targets != "letters" else (n,))
    if case.edge == "one_class":
        y = of_one_class(y)
    w = np.zeros(n, np.float32) if case.edge == "weightless" else None
    return np.asarray(x((*shape[:-1], EdgeLearner.FEATURES))).astype(np.float32), stored(y, "float32"), w
