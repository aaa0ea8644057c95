"""Losses: every exported one against its formula, in values, reductions and gradients, whole and in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import LARGER_BATCHES, LossCase, micro_batch_sizes, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, first_reason
from bscheck.checks.loss_truth import (
    LossTruth,
    class_params,
    compare,
    denominator,
    draw,
    draw_mask,
    draw_weights,
    edges,
    known_variants,
    loss_truth,
    make_loss,
    no_construction,
    part_of,
    seen_values,
    sequence,
    weigh,
)
from bscheck.checks.run import current_settings
from bscheck.diagnose import is_ours
from bscheck.oracles.losses import coefficients
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.losses import call, gradient, numbers, scope, tensor
from bscheck.surface.losses import CONSTRUCTIONS, accepts, construction, loss_classes, loss_functions, reductions

#: Where the formulas come from; each formula's own paper is cited beside it in `bscheck.oracles.losses`.
SOURCE = "keras.io/api/losses and the papers that it cites; complex steps: Squire and Trapp 1998"
WEIGHTINGS = ("none", "unequal", "zeros", "column", "elements", "nothing")


def loss_params() -> list[Param]:
    """Return a parameter for every loss class and every loss function."""
    return [*class_params(), *(Param.of(loss=name) for name in loss_functions())]


def _case(context: Context, variant: str, **fields: Any) -> LossCase:
    """Return a case of a variant, with the time steps that it needs."""
    moved = known_variants(context)[variant].moved
    return LossCase(variant=variant, **{"steps": 2 if moved else 0, **fields})


def _dtypes(context: Context) -> list[str]:
    name = context.param.get("loss")
    return ["float64", "float32", *(["bfloat16"] if name not in CONSTRUCTIONS or accepts(name, "dtype") else [])]


def _again(corners: Sequence[LossCase]) -> Any:
    """Return the corners, with other seeds in a thorough run: compiling leaves no room for more."""
    from hypothesis import strategies as st

    drawn = seeds() if current_settings().profile == "thorough" else st.just(0)
    return st.builds(lambda case, seed: replace(case, seed=seed or case.seed), st.sampled_from(list(corners)), drawn)


def _few_shapes(context: Context) -> bool:
    """Whether every new shape costs a compilation."""
    return context.runtime.compiles_per_shape or construction(context.param.get("loss")).traced


def _takes_other_targets(context: Context) -> bool:
    """Whether targets come in two shapes: functions leave those of regressions alone."""
    known, name = construction(context.param.get("loss")), context.param.get("loss")
    return known.labels or (name in CONSTRUCTIONS and (known.flat and name not in ("Dice", "Tversky")))


# Values ----------------------------------------------------------------------------------------------------


def value_cases(context: Context) -> Any:
    """Draw sizes, time steps, options, target shapes and dtypes."""
    from hypothesis import strategies as st

    if _few_shapes(context):
        return _again(value_corners(context))
    return st.builds(
        _value_case,
        st.just(context),
        variant=st.sampled_from(list(known_variants(context))),
        examples=st.sampled_from([1, 2, 3]) if _few_shapes(context) else st.integers(1, 9),
        steps=st.integers(0, 3),
        other=st.booleans(),
        dtype=st.sampled_from(_dtypes(context)),
        seed=seeds(),
    )


def _value_case(
    context: Context, variant: str, examples: int, steps: int, other: bool, dtype: str, seed: int
) -> LossCase:
    known = construction(context.param.get("loss"))
    if known_variants(context)[variant].moved:
        steps, other = max(steps, 2), False
    other = other and _takes_other_targets(context)
    steps = steps if known.steps and not (other and known.flat) else 0
    targets = "other" if other else "same"
    return LossCase(variant=variant, sizes=(examples,), steps=steps, targets=targets, dtype=dtype, seed=seed)


def value_corners(context: Context) -> Sequence[LossCase]:
    """Return small batches, odd and even, then every variant, shape and dtype once."""
    known = construction(context.param.get("loss"))
    names = list(known_variants(context))
    if not names:
        return ()
    sizes = [1, 2, 3] if _few_shapes(context) else [1, 2, 3, 4]
    if context.runtime.compiles_per_shape:  # op by op, each shape of each operation is compiled
        sizes, names = [1, 3], names[:3]
    corners = [_case(context, names[0], sizes=(n,), seed=n) for n in sizes]
    corners += [_case(context, name, sizes=(3,), seed=5) for name in names[1:]]
    if not _few_shapes(context):
        corners += [_case(context, names[0], sizes=(n,), dtype="float32", seed=n) for n in LARGER_BATCHES]
    corners += [_case(context, names[0], sizes=(3,), dtype=dtype) for dtype in _dtypes(context)[1:]]
    if known.steps:
        corners += [_case(context, names[0], sizes=(2,), steps=3)]
    if _takes_other_targets(context):
        corners += [_case(context, names[0], sizes=(3,), targets="other")]
    return sequence(corners)


@check(
    family="independence",
    claims=("C1", "C8"),
    case=LossCase,
    cases=value_cases,
    corners=value_corners,
    params=loss_params,
    applies=no_construction,
    examples=(1, 3, 400),
    per_subject=False,
    catches="a loss, by its class or as a function, that is wrong for one example, one size of batch, one dtype, one "
    "option (smoothing, logits, axis, gamma, alpha, an ignored class), or for labels given as a column",
    formula="|v_i - f(y_i, p_i)| <= (16 + n) u (|f| + (1 + sum |df/dp|)(1 + max |p| + max |y|)) for each example i and "
    "time step, f by NumPy in float64, n the predictions that f takes",
    source=SOURCE,
    example="the loss of example 2 is 0.3132; by the formula it is 0.3135",
)
def loss_equals_its_formula(context: Context, case: LossCase) -> Reading:
    """A loss gives every example the value of its published formula."""
    truth = loss_truth(context, case)
    return compare(seen_values(context, case, truth), truth.values, truth.bounds, "the loss")


# Reductions ------------------------------------------------------------------------------------------------


def row_by_row(context: Context) -> str | None:
    """Return why the loss of a batch need not be a combination of the losses of its parts."""
    return no_construction(context) or first_reason(
        (not known_variants(context, coupled=False), "the loss is defined over the batch, not for an example")
    )


def _row_variant(context: Context) -> str:
    return next(iter(known_variants(context, coupled=False)))


def reduction_cases(context: Context) -> Any:
    """Draw parts, reductions, weights, masks, time steps and dtypes."""
    from hypothesis import strategies as st

    if _few_shapes(context):
        return _again(reduction_corners(context))
    few = _few_shapes(context)
    known = construction(context.param.get("loss"))
    names = [name for name in known_variants(context, coupled=False) if name in (_row_variant(context), "ignored")]
    return st.builds(
        _case,
        st.just(context),
        st.sampled_from(names),
        sizes=st.sampled_from([(1,), (2, 1)]) if few else micro_batch_sizes(1, 3, 4),
        steps=st.integers(0, 3) if known.steps else st.just(0),
        reduction=st.sampled_from(reductions()),
        weights=st.sampled_from(WEIGHTINGS),
        mask=st.sampled_from(["none", "none", "some", "full"]),
        dtype=st.sampled_from(_dtypes(context)[:2]),
        seed=seeds(),
    )


def reduction_corners(context: Context) -> Sequence[LossCase]:
    """Return each reduction, each kind of weights and masks, ragged and even parts, one example alone."""
    if row_by_row(context):
        return ()
    plain = _case(context, _row_variant(context))
    corners = [replace(plain, sizes=(1,)), replace(plain, sizes=(2, 2)), plain]
    if _few_shapes(context):
        names = [name for name in reductions() if name != "mean"]
        corners = [replace(plain, sizes=(1,)), plain, replace(plain, weights="column"), replace(plain, mask="some")]
        alone = replace(plain, sizes=(2,), weights="zeros")
        return sequence([*corners, *(replace(alone, reduction=name) for name in names)])
    corners += [replace(plain, reduction=name, weights="unequal", seed=1) for name in reductions()]
    corners += [replace(plain, weights=weights, sizes=(3, 1), seed=2) for weights in WEIGHTINGS[2:]]
    corners += [replace(plain, mask="some", weights=weights, sizes=(2, 2), seed=3) for weights in ("none", "unequal")]
    corners += [
        replace(plain, mask="some", reduction=name, weights="zeros", sizes=(2, 2), seed=4) for name in reductions()[1:]
    ]
    corners += [replace(plain, dtype="float32", weights="unequal", sizes=(3,))]
    corners += [replace(plain, weights="unequal", sizes=cut) for cut in ((7, 26), (64, 36), (129,))]
    if construction(context.param.get("loss")).steps:
        timed = replace(plain, steps=2, sizes=(2, 1))
        corners += [replace(timed, weights=weights) for weights in ("elements", "column")]
        corners += [replace(timed, mask="some", weights="elements"), replace(timed, steps=3, sizes=(3,))]
        corners += [replace(timed, weights="unequal", sizes=(2,))]
        if "mean_with_sample_weight" in reductions():
            corners += [replace(timed, weights="column", reduction="mean_with_sample_weight")]
    corners += [replace(plain, variant="ignored", weights="unequal")] if "ignored" in known_variants(context) else []
    return sequence(corners)


@check(
    family="independence",
    claims=("C1", "C8"),
    case=LossCase,
    cases=reduction_cases,
    corners=reduction_corners,
    params=class_params,
    applies=row_by_row,
    examples=(1, 3, 400),
    per_subject=False,
    catches="a reduction with a wrong denominator (masked rows, weights, time steps, an ignored class), sample "
    "weights that reach the wrong example, and zero weights that count",
    formula="|L - sum c_i f_i| <= sum |c_i| bound_i + (n + 8) u sum |c_i f_i|; c_i = w_i, w_i / n, w_i / sum w, over "
    "unmasked values; the parts' losses, each weighted with its share of the divisor, add up to L within the same",
    source="keras.io/api/losses: reduction; a mask leaves values out of sum and count",
    example="the loss of 2+1 examples, sum_over_batch_size, is 1.21; by the formula it is 1.27",
)
def loss_of_a_batch_is_the_combination_of_its_parts(context: Context, case: LossCase) -> Reading:
    """Every reduction combines the weighted losses of the examples, and so those of the parts of a batch."""
    truth = loss_truth(context, case)
    with scope(case.dtype):
        loss = make_loss(context.param.get("loss"), case.variant, case.reduction, case.dtype)
        w = None if truth.w is None else tensor(truth.w)
        whole = call(loss, truth.y, truth.p, w, truth.mask)
        if w is not None and not np.array_equal(numbers(w), np.asarray(truth.w, np.float64)):
            return Reading(np.inf, seen="the loss changes the sample weights that it is given", allowed="no change")
        if case.reduction == "none":
            return _unreduced(whole, truth, weigh(truth, case))
        readings = [_total(whole, truth, weigh(truth, case), f"the loss of {_told(case)}")]
        if len(case.sizes) > 1:
            readings.append(_parts(loss, whole, truth, case))
    return worst(readings)


def _told(case: LossCase) -> str:
    return f"{'+'.join(map(str, case.sizes))} examples, {case.reduction},"


def _unreduced(seen: Array, truth: LossTruth, c: Array) -> Reading:
    values = truth.values * np.ones(c.shape)
    return compare(seen, c * values, c * truth.bounds + 4 * truth.u * np.abs(c * values) + 1e-37, "the weighted loss")


def _total(seen: Array, truth: LossTruth, c: Array, what: str) -> Reading:
    """Hold a reduced loss against the coefficients' sum."""
    values = truth.values * np.ones(c.shape)
    total = np.asarray((c * values).sum())
    return compare(seen, total, np.asarray(_total_bound(truth, c)), what)


def _total_bound(truth: LossTruth, c: Array) -> float:
    terms = np.abs(c * truth.values)
    return float((np.abs(c) * truth.bounds).sum() + (c.size + 8) * truth.u * terms.sum()) + 1e-37


def _parts(loss: Any, whole: Array, truth: LossTruth, case: LossCase) -> Reading:
    """Hold the loss of the batch against those of its parts."""
    total = denominator(truth, case, slice(None))
    if not total:
        return Reading(0.0)
    combined, bound = 0.0, _total_bound(truth, weigh(truth, case))
    for cut in edges(case):
        given = (truth.y[cut], truth.p[cut], part_of(truth.w, cut), part_of(truth.mask, cut))
        share = 1.0 if case.reduction == "sum" else denominator(truth, case, cut) / total
        combined += share * float(call(loss, *given))
    told = compare(whole, np.asarray(combined), np.asarray(2 * bound), f"the loss of {_told(case)}")
    return replace(told, cause="held against the losses of its parts" if told.share > 1 else "")


# Gradients -------------------------------------------------------------------------------------------------


def gradient_cases(context: Context) -> Any:
    """Draw parts, options, weights and time steps."""
    from hypothesis import strategies as st

    if _few_shapes(context):
        return _again(gradient_corners(context))
    few = _few_shapes(context)
    known = construction(context.param.get("loss"))
    return st.builds(
        _gradient_case,
        st.just(context),
        st.sampled_from(list(known_variants(context, coupled=False))),
        sizes=st.sampled_from([(1,), (2, 1)]) if few else micro_batch_sizes(1, 3, 4),
        steps=st.integers(0, 3) if known.steps else st.just(0),
        reduction=st.sampled_from(["sum_over_batch_size", "sum"]),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        dtype=st.sampled_from(["float64", "float32"]),
        seed=seeds(),
    )


def _gradient_case(context: Context, variant: str, steps: int, weights: str, **fields: Any) -> LossCase:
    if known_variants(context)[variant].moved:
        steps = max(steps, 2)
    weights = "elements" if steps and weights != "none" else weights
    return LossCase(variant=variant, steps=steps, weights=weights, **fields)


def gradient_corners(context: Context) -> Sequence[LossCase]:
    """Return small batches, odd and even, every variant, weights, and time steps."""
    if row_by_row(context):
        return ()
    names = list(known_variants(context, coupled=False))
    plain = _case(context, names[0])
    corners = [replace(plain, sizes=(1,)), replace(plain, sizes=(2, 2), seed=1), replace(plain, weights="unequal")]
    if _few_shapes(context):
        return (plain, replace(plain, weights="unequal"), replace(plain, sizes=(1,)))
    corners += [_case(context, name, weights="elements", sizes=(3,), seed=2) for name in names[1:]]
    corners += [replace(plain, reduction="sum", dtype="float32"), replace(plain, weights="zeros", sizes=(3,), seed=3)]
    corners += [replace(plain, sizes=cut) for cut in ((7, 26), (64, 36))]
    if construction(context.param.get("loss")).steps:
        corners += [replace(plain, steps=2, sizes=(2,), weights="elements")]
    return sequence(corners)


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=LossCase,
    cases=gradient_cases,
    corners=gradient_corners,
    params=class_params,
    applies=row_by_row,
    examples=(2, 2, 300),
    per_subject=False,
    catches="a loss whose derivative is not that of its value, whose examples pull on each other's predictions, or "
    "whose micro-batch gradients do not add up",
    formula="|dL/dp_ij - c_i df_i/dp_j| <= 64 (16 + n) u |c_i| (1 + max_j |df_i/dp_j|), df/dp by complex steps; the "
    "same for each part of the batch alone, times the part's share",
    source=SOURCE,
    example="the slope of example 1 is 0.2501; by the formula it is 0.2500",
)
def loss_gradient_is_the_slope_of_its_formula(context: Context, case: LossCase) -> Reading:
    """A loss's gradient is its formula's slope, example by example, in the batch and in its parts."""
    truth = loss_truth(context, case)
    c = weigh(truth, case)
    expected, bounds = slopes(truth, c)
    with scope(case.dtype):
        loss = make_loss(context.param.get("loss"), case.variant, case.reduction, case.dtype)
        readings = [_slope_reading(loss, truth, slice(None), expected, bounds, 1.0)]
        total = denominator(truth, case, slice(None))
        if len(case.sizes) > 1 and total:
            for cut in edges(case):
                share = 1.0 if case.reduction == "sum" else denominator(truth, case, cut) / total
                readings.append(_slope_reading(loss, truth, cut, expected, bounds, share))
    return worst(readings)


def slopes(truth: LossTruth, c: Array) -> tuple[Array, Array]:
    """Return the gradient of the reduced loss, one row for each example, and its bounds."""
    n, one = len(truth.p), truth.slopes.shape[-1]
    weighted = (c[..., None] * truth.slopes).reshape(n, -1, one)
    largest = (np.abs(c) * (1 + np.abs(truth.slopes).max(axis=-1))).reshape(n, -1).sum(axis=1)
    bounds = 64 * truth.terms * truth.u * np.broadcast_to(largest[:, None], (n, one)) + 1e-37
    return weighted.sum(axis=1), bounds


def _slope_reading(loss: Any, truth: LossTruth, cut: slice, expected: Array, bounds: Array, share: float) -> Reading:
    given = (truth.y[cut], truth.p[cut], part_of(truth.w, cut), part_of(truth.mask, cut))
    _, slope, _ = gradient(loss, *given)
    part = "" if cut == slice(None) else f" of the part from example {cut.start}"
    return compare(share * slope.reshape(expected[cut].shape), expected[cut], bounds[cut], f"the slope{part}")


# Losses that are defined over the batch --------------------------------------------------------------------


def batch_params() -> list[Param]:
    """Return the losses that have a variant defined over the batch."""
    known = [name for name in loss_classes() if name in CONSTRUCTIONS]
    return [Param.of(loss=name) for name in known if any(v.coupled for v in construction(name).variants.values())]


def batch_cases(context: Context) -> Any:
    """Draw sizes, options, reductions, weights and masks."""
    from hypothesis import strategies as st

    return st.builds(
        _batch_case,
        st.just(context),
        st.sampled_from(list(known_variants(context, coupled=True))),
        st.sampled_from([2, 3]) if _few_shapes(context) else st.integers(1, 6),
        reduction=st.sampled_from(["sum_over_batch_size", "sum"]),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        mask=st.sampled_from(["none", "some"]),
        dtype=st.sampled_from(["float64", "float32"]),
        seed=seeds(),
    )


def _batch_case(context: Context, variant: str, examples: int, weights: str, mask: str, **fields: Any) -> LossCase:
    if context.param.get("loss") != "Circle":  # one number for the batch: there are no rows to weigh or mask
        mask = "none"
    return LossCase(variant=variant, sizes=(examples,), weights=weights, mask=mask, **fields)


def batch_corners(context: Context) -> Sequence[LossCase]:
    """Return odd and even batches, every variant, weights, and a mask where there are rows to mask."""
    cases = [
        _batch_case(context, name, n, weights, mask, reduction=reduction, dtype=dtype, seed=seed)
        for name in known_variants(context, coupled=True)
        for n, weights, mask, reduction, dtype, seed in (
            (1, "none", "none", "sum_over_batch_size", "float64", 0),
            (4, "none", "none", "sum_over_batch_size", "float64", 1),
            (3, "unequal", "none", "sum_over_batch_size", "float64", 2),
            (5, "unequal", "some", "sum_over_batch_size", "float64", 3),
            (4, "zeros", "none", "sum", "float32", 4),
        )
    ]
    return sequence(cases)


@check(
    family="independence",
    claims=("C1",),
    case=LossCase,
    cases=batch_cases,
    corners=batch_corners,
    params=batch_params,
    applies=no_construction,
    examples=(2, 5, 300),
    per_subject=False,
    exception="a loss over all axes, or over pairs of examples, is one formula of the batch, and not a mean over its "
    "examples (keras.io/api/losses: Dice 'axis', Circle 'pairwise'): losses and gradients of micro-batches differ from "
    "the batch's; an anchor without a pair does not count",
    excepts="loss_of_a_batch_is_the_combination_of_its_parts",
    catches="a loss over the batch that differs from its formula in value or slope, or counts anchors without pairs",
    formula="as for the losses of examples, value and gradient, with f a formula of the whole batch",
    source="Sudre et al. 2017, Salehi et al. 2017 equation 4, Sun et al. 2020 equations 4 to 8",
    example="the loss of 4 examples is 0.41; by the formula it is 0.43",
)
def loss_over_a_batch_follows_its_formula(context: Context, case: LossCase) -> Reading:
    """A loss that is defined over the batch gives the value and the slope of that formula."""
    truth = loss_truth(context, case)
    c = weigh_batch(truth, case)
    with scope(case.dtype):
        loss = make_loss(context.param.get("loss"), case.variant, case.reduction, case.dtype)
        value, slope, _ = gradient(loss, truth.y, truth.p, truth.w, truth.mask)
    expected, bounds = batch_slopes(truth, c)
    told = _total(value, truth, c, f"the loss of {case.examples} examples, {case.reduction},")
    return worst([told, compare(slope, expected, bounds, "the slope")])


def weigh_batch(truth: LossTruth, case: LossCase) -> Array:
    """Return the reduction's coefficients of a loss that is one formula of the batch: without weights, one value."""
    alone = truth.w is None and truth.values.ndim == 0
    return coefficients("none", (1,), None, None) if alone else weigh(truth, case)


def batch_slopes(truth: LossTruth, c: Array) -> tuple[Array, Array]:
    """Return the gradient of a reduced loss that is one formula of the batch, and its bounds."""
    rows = truth.slopes if truth.values.ndim else np.broadcast_to(truth.slopes, (*c.shape, truth.slopes.shape[-1]))
    expected = (c[:, None] * rows).sum(axis=0).reshape(truth.p.shape)
    size = float((np.abs(c) * (1 + np.abs(rows).max(axis=-1))).sum())
    return expected, np.full(expected.shape, 64 * truth.terms * truth.u * size + 1e-37)


# Tiny batches and extreme values ----------------------------------------------------------------------------


def tiny_cases(context: Context) -> Any:
    """Draw batches of up to two examples, and what is at the edge."""
    from hypothesis import strategies as st

    if _few_shapes(context):
        return _again(tiny_corners(context))
    return st.builds(
        _tiny_case,
        st.just(context),
        st.sampled_from(list(known_variants(context))),
        sizes=st.sampled_from([(1,), (2,)]),
        reduction=st.sampled_from(reductions()),
        weights=st.sampled_from(["none", "nothing"]),
        mask=st.sampled_from(["none", "nothing"]),
        values=st.sampled_from(LossCase.CHOICES["values"]),
        dtype=st.sampled_from(["float32", "float64"]),
        seed=seeds(),
    )


def _tiny_case(context: Context, variant: str, weights: str = "none", mask: str = "none", **fields: Any) -> LossCase:
    if known_variants(context)[variant].coupled and context.param.get("loss") != "Circle":
        weights = mask = "none"  # one number for the batch: there are no rows to weigh or mask
    return _case(context, variant, weights=weights, mask=mask, **fields)


def tiny_corners(context: Context) -> Sequence[LossCase]:
    """Return no example, one and two, with no weight, nothing left unmasked, one class, and extreme predictions."""
    names = list(known_variants(context))
    if not names:
        return ()
    kinds = LossCase.CHOICES["values"]
    first = _tiny_case(context, names[0], sizes=(1,), dtype="float32")
    corners = [first, replace(first, sizes=(2,))]
    for name in [*(n for n in names if not known_variants(context)[n].coupled)][:1]:
        for fields in ({"weights": "nothing"}, {"mask": "nothing"}):
            some = reductions()[:1] if _few_shapes(context) else [r for r in reductions() if r != "mean"]
            corners += [_tiny_case(context, name, sizes=(2,), dtype="float32", reduction=r, **fields) for r in some]
    for name in names[:1] if context.runtime.compiles_per_shape else names:
        for values in kinds[1:]:
            corners += [_tiny_case(context, name, sizes=(2,), values=values, dtype="float32")]
    empty = replace(first, sizes=(0,))
    return sequence([*corners, empty, replace(empty, reduction="none"), replace(empty, reduction="sum")])


@check(
    family="independence",
    claims=("C8",),
    case=LossCase,
    cases=tiny_cases,
    corners=tiny_corners,
    params=class_params,
    applies=no_construction,
    examples=(1, 2, 200),
    per_subject=False,
    catches="a loss or gradient that is silently NaN or infinite, or of another shape, for a batch of 0, 1 or 2 "
    "examples, all weights 0, everything masked, targets of one class, predictions of 1e4 or at exactly 0 and 1",
    formula="a scalar (one value for each example and time step without a reduction), finite, with a finite gradient; "
    "exactly 0 where nothing counts; for no examples an error will do",
    source="keras.io/api/losses: a reduced loss is a scalar; nothing to divide by makes 0",
    example="the loss of 2 examples is nan",
)
def loss_of_a_tiny_batch_is_finite(context: Context, case: LossCase) -> Reading:
    """Tiny batches and extreme predictions have a finite loss and gradient of the right shape."""
    y, p = draw(context, case)
    shape = _value_shape(context, case, p)
    w, mask = draw_weights(case, shape), draw_mask(case, shape)
    with scope(case.dtype):
        loss = make_loss(context.param.get("loss"), case.variant, case.reduction, case.dtype)
        try:
            value, slope, seen = gradient(loss, y, p, w, mask)
        except Exception as error:
            if not case.examples and not is_ours(error):  # an error is no silence
                return Reading(0.0, seen="an error")
            raise
    wanted = shape if case.reduction == "none" else ()
    nothing = not case.examples or "nothing" in (case.weights, case.mask)
    coupled = known_variants(context)[case.variant].coupled
    what = f"the loss of {case.examples} examples"
    if seen != wanted:
        return Reading(np.inf, seen=f"{what} has the shape {seen}", allowed=f"the shape {wanted}")
    return worst([_sound(value, nothing and not coupled, what), _sound(slope, nothing and not coupled, "its gradient")])


def _value_shape(context: Context, case: LossCase, p: Array) -> tuple[int, ...]:
    """Return the shape of the unreduced loss."""
    known = construction(context.param.get("loss"))
    variant = known.variants[case.variant]
    if variant.coupled and known.targets != "identities":
        return ()
    if known.targets in ("identities", "letters"):
        return (case.examples,)
    return tuple(int(n) for n in np.delete(p.shape, 1 if variant.moved else -1))


def _sound(seen: Array, zero: bool, what: str) -> Reading:
    if not np.isfinite(seen).all():
        return Reading(np.inf, seen=f"{what} is {seen[~np.isfinite(seen)].ravel()[0]}", allowed="finite values")
    if zero and np.any(seen):
        largest = float(np.max(np.abs(seen)))
        return Reading(np.inf, seen=f"{what} is {largest:.6g} in size", allowed="0: nothing counts")
    return Reading(0.0)
