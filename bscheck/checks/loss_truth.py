"""What a loss must give: a case's targets and predictions, and the values and slopes of the loss's formula there."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.cases import LossCase
from bscheck.checks import Param
from bscheck.checks.context import Context, random, require
from bscheck.oracles.losses import ROWS, STACKS, coefficients, jacobian
from bscheck.results.verdict import Reading
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array
from bscheck.runtime.losses import call, scope
from bscheck.surface.losses import (
    CLASSES,
    CONSTRUCTIONS,
    Variant,
    accepts,
    at_the_edge,
    class_of,
    construction,
    draw_predictions,
    draw_targets,
    loss_classes,
    of_one_class,
    variants,
)
from bscheck.tolerance import TINY

#: Unit roundoff of the dtypes a loss computes in.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}

#: Kinds of predictions that may be of any size.
UNBOUNDED = ("real", "logits", "positive", "frames")


@dataclass(frozen=True)
class LossTruth:
    """A case's arrays and what they come to.

    Attributes
    ----------
    y, p
        Targets and predictions as they are given to Keras.
    w, mask : array or None
        Sample weights and mask as they are given to Keras.
    values : array
        The formula's values, one for each example and time step.
    slopes : array, shape (*values.shape, ...)
        Their derivatives, see `bscheck.oracles.losses.jacobian`.
    bounds : array, shape values.shape
        How far rounding may move each value.
    u : float
        Unit roundoff.
    terms : int
        Roundings that one value is made of.
    kept : array of bool or None
        The values that count: where neither the mask nor the loss itself leaves one out.
    """

    y: Array
    p: Array
    w: Array | None
    mask: Array | None
    values: Array
    slopes: Array
    bounds: Array
    u: float
    terms: int
    kept: Array | None


def class_params() -> list[Param]:
    """Return a parameter for every loss class of the installed Keras."""
    return [Param.of(loss=name) for name in loss_classes()]


def no_construction(context: Context) -> str | None:
    """Return why a loss cannot be drawn for."""
    name = context.param.get("loss")
    return None if class_of(name) else f"no construction: bscheck.surface.losses does not say how to draw for {name}"


def known_variants(context: Context, coupled: bool | None = None) -> Mapping[str, Variant]:
    """Return the variants of the parameter's loss; only the coupled or uncoupled ones if asked for."""
    found = variants(context.param.get("loss"))
    return {name: v for name, v in found.items() if coupled is None or v.coupled == coupled}


def make_loss(name: str, variant: str, reduction: str | None, dtype: str) -> Any:
    """Return a new loss object; called under the loss's `scope`."""
    options = {**construction(name).variants[variant].options, "reduction": reduction}
    if accepts(name, "dtype"):
        # In float32, what users get who say nothing.
        options |= {} if dtype == "float32" else {"dtype": dtype}
    else:
        require(dtype != "bfloat16", "this Keras has losses without a dtype of their own")
    return getattr(keras_module().losses, name)(**options)


def loss_truth(context: Context, case: LossCase) -> LossTruth:
    """Draw a case's arrays and compute the formula's values, slopes and bounds."""
    y, p = draw(context, case)
    variant = construction(context.param.get("loss")).variants[case.variant]
    row = formula(context.param.get("loss"), variant, y)
    exact = p.astype(np.float64)
    values = row(exact)
    slopes = jacobian(row, exact, variant.coupled, class_of(context.param.get("loss")) in STACKS)
    w, mask = draw_weights(case, values.shape), draw_mask(case, values.shape)
    u, terms = unit_roundoff(context, case.dtype), 16 + slopes.shape[-1]
    bounds = terms * u * sizes(values, slopes, y, exact) + 2.0**-24 * construction(context.param.get("loss")).constants
    return LossTruth(y, p, w, mask, values, slopes, bounds + TINY, u, terms, counted(context, case, y, values, mask))


def formula(name: str, variant: Variant, y: Array) -> Any:
    """Return the values of a loss as a function of its predictions."""
    exact = y.astype(np.float64) if y.dtype.kind == "f" else y
    return lambda p: ROWS[class_of(name)](_aligned(exact, p, name), p, **variant.options)


def _aligned(y: Array, p: Array, name: str) -> Array:
    return y.reshape(p.shape) if construction(name).flat else y


def draw(context: Context, case: LossCase) -> tuple[Array, Array]:
    """Return targets and predictions in the case's dtype; bfloat16 ones as the float32 that hold them."""
    known = construction(context.param.get("loss"))
    variant = known.variants[case.variant]
    rng = random(case.seed, 7)
    outputs = 1 if known.flat and case.targets == "other" else CLASSES
    shape = (case.examples, *((case.steps,) if case.steps else ()), outputs)
    p = draw_predictions(variant.predictions, rng, shape)
    y = draw_targets(known.targets, rng, shape)
    if case.values == "one_class":
        y = of_one_class(y)
    elif case.values == "huge" and variant.predictions in UNBOUNDED:
        p = np.where(p < 0, -1e4, 1e4) if variant.predictions != "positive" else np.full_like(p, 1e4)
    elif case.values == "exact":
        p = at_the_edge(variant.predictions, p)
    if variant.moved:
        y, p = (np.moveaxis(a, -1, 1) if a.ndim == len(shape) else a for a in (y, p))
    if case.targets == "other":
        y = y[..., None] if known.labels or known.targets == "identities" else y[..., 0]
    return stored(y, case.dtype), stored(p, case.dtype)


def stored(a: Array, dtype: str) -> Array:
    """Return an array as a dtype holds it."""
    if a.dtype.kind != "f" or dtype == "float64":
        return a
    a = a.astype(np.float32)
    if dtype == "float32":
        return a
    bits = a.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def unit_roundoff(context: Context, dtype: str) -> float:
    """Return the unit roundoff that the loss really computes with."""
    name = class_of(context.param.get("loss"))
    if name == "CTC" and dtype == "float64" and context.runtime.name == "tensorflow":
        return ROUNDOFF["float32"]  # tf.nn.ctc_loss knows nothing wider
    if name in ("Circle", "LogCosh") and context.runtime.name == "torch":
        # torch.nn.functional.softplus is linear beyond 20, as its page says; 16 is the least number of roundings.
        return max(ROUNDOFF[dtype], float(np.exp(-20.0)) / 16)
    return ROUNDOFF[dtype]


def sizes(values: Array, slopes: Array, y: Array, p: Array) -> Array:
    """Return the magnitude that each value is computed from.

    First-order: an input's own rounding moves a value by its slope, so ``sum |dv/dp| (|p| + |y| + 1)`` bounds what
    relative errors of the predictions and of what is made of them (1 - p, p - y, p + eps) do; beside it the value
    itself, and the summands it is made of, no larger than the largest input and 1.
    """
    largest = float(np.max(np.abs(p), initial=0.0)) + float(np.max(np.abs(y), initial=0.0))
    return np.asarray(np.abs(values) + (np.abs(slopes).sum(axis=-1) + 1) * (largest + 1))


def draw_weights(case: LossCase, shape: tuple[int, ...]) -> Array | None:
    """Return the sample weights of a case: powers of two times a draw, or None."""
    if case.weights == "none":
        return None
    rng = random(case.seed, 8)
    if case.weights == "elements":
        return stored(2.0 ** rng.uniform(-2, 2, shape or (case.examples,)), case.dtype)
    w = 2.0 ** rng.uniform(-2, 2, case.examples)
    if case.weights == "zeros":
        w[rng.permutation(case.examples)[: case.examples // 2]] = 0.0
    if case.weights == "nothing":
        w[:] = 0.0
    return stored(w[:, None] if case.weights == "column" else w, case.dtype)


def draw_mask(case: LossCase, shape: tuple[int, ...]) -> Array | None:
    """Return the mask of a case, one entry for each value, or None."""
    if case.mask == "none":
        return None
    mask = np.full(shape, case.mask != "nothing")
    if case.mask == "some":
        rng = random(case.seed, 9)
        mask = rng.random(shape) < 0.5
        mask.reshape(-1)[rng.integers(0, mask.size, 1)] = True
    return mask


def counted(context: Context, case: LossCase, y: Array, values: Array, mask: Array | None) -> Array | None:
    """Return which values count: Circle leaves out anchors without pairs, an ignored class its labels."""
    options = construction(context.param.get("loss")).variants[case.variant].options
    own = None
    if class_of(context.param.get("loss")) == "Circle":
        own = values > 0
    elif options.get("ignore_class") is not None:
        own = y.reshape(values.shape) != options["ignore_class"]
    return own if mask is None else mask if own is None else mask & own


def edges(case: LossCase) -> list[slice]:
    """Return the examples of each part."""
    ends = list(itertools.accumulate(case.sizes))
    return [slice(start, stop) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


def part_of(array: Array | None, cut: slice) -> Array | None:
    """Return the rows of an array that may be None."""
    return None if array is None else array[cut]


def weigh(truth: LossTruth, case: LossCase) -> Array:
    """Return the reduction's coefficient of each value.

    A loss that is one number for the whole batch counts as that number at every example.
    """
    shape = truth.values.shape or (case.examples,)
    return coefficients(case.reduction, shape, truth.w, truth.kept)


def denominator(truth: LossTruth, case: LossCase, cut: slice) -> float:
    """Return what the reduction divides some rows by; their share of the batch is its ratio."""
    kept = np.ones(truth.values.shape) if truth.kept is None else truth.kept.astype(np.float64)
    if case.reduction == "sum":
        return 1.0
    if case.reduction == "mean_with_sample_weight":
        return float(np.sum(coefficients("none", truth.values.shape, truth.w, truth.kept)[cut]))
    return float(np.sum(kept[cut]))


def compare(seen: Array, expected: Array, bounds: Array, what: str) -> Reading:
    """Hold what a loss gives against its values; shapes may differ by axes of one element."""
    seen = np.asarray(seen)
    if seen.size != expected.size:
        return Reading(
            np.inf,
            seen=f"{what} has the shape {seen.shape}",
            allowed=f"the shape {expected.shape}",
            cause="the rows are combined with each other" if seen.size > expected.size else "",
        )
    if not expected.size:
        return Reading(0.0)
    difference = np.abs(seen.reshape(expected.shape) - expected)
    share = np.where(np.isfinite(difference), difference / bounds, np.inf)
    at = np.unravel_index(int(np.argmax(share)), share.shape)
    value, wanted = float(seen.reshape(expected.shape)[at]), float(expected[at])
    place = f" of example {at[0]}" if expected.ndim else ""
    relative = abs(value - wanted) / (abs(wanted) or 1.0)
    return Reading(
        float(share[at]),
        where=f"example {at[0]}" if expected.ndim else "the batch",
        seen=f"{what}{place} is {value:.9g}; by the formula it is {wanted:.9g} (off by {relative:.2g} of it)",
        allowed=f"off by {float(bounds[at]):.1g}",
        figures={"seen": value, "expected": wanted} if share[at] > 1 else {},
    )


def seen_values(context: Context, case: LossCase, truth: LossTruth) -> Array:
    """Return what the loss under test gives for each example: by its class, or as a function."""
    name = context.param.get("loss")
    with scope(case.dtype):
        if name in CONSTRUCTIONS:
            return call(make_loss(name, case.variant, "none", case.dtype), truth.y, truth.p)
        options = construction(name).variants[case.variant].options
        if class_of(name) == "CategoricalGeneralizedCrossEntropy":
            options = {"q": 0.5, **options}  # the function has no default
        function = getattr(keras_module().losses, name)
        return call(functools.partial(function, **options), truth.y, in_dtype(truth.p, case.dtype))


def in_dtype(p: Array, dtype: str) -> Any:
    """Return predictions in the dtype that a loss function takes its own from."""
    return keras_module().ops.cast(p, dtype) if dtype == "bfloat16" else p


def sequence(cases: Sequence[LossCase]) -> tuple[LossCase, ...]:
    """Return the cases, each once, in their order."""
    return tuple(dict.fromkeys(cases))
