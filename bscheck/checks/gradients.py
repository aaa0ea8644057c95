"""Accumulation, first half: the gradient that reaches the update is the large batch's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import Case, GradientCase, micro_batch_sizes, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import (
    Context,
    cached_in_process,
    draw_micro_batches,
    draw_weights,
    first_reason,
    require,
    variable_index,
)
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import CAPACITY, Array, Bench, Window, concatenate
from bscheck.tolerance import (
    UNIT_ROUNDOFF,
    UNIT_ROUNDOFF_OF_ACCUMULATOR,
    Deviation,
    arithmetic,
    end_to_end,
    mathematics,
    rms,
    weighted_size,
)
from bscheck.traits import NO_MEAN, NO_TWIN

#: Splits for backends that compile every shape anew: all splits of up to 4 examples, so that the micro-batches
#: and their sums make 4 shapes.
FEW_SHAPES = (
    (1, 1), (2, 1), (1, 2), (1, 1, 1), (2, 2), (3, 1), (1, 3), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 1, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Gradients:
    """Gradients of one case: the large batch, and each micro-batch (rows)."""

    large: Array
    micro: Array


def shares(context: Context, sizes: Sequence[int], weights: Sequence[Array | None]) -> list[float]:
    """Return each micro-batch's share p_j of the large batch's loss, as the loss's reduction documents it."""
    if context.traits.reduction == "sum":
        return [1.0] * len(sizes)
    if context.traits.reduction == "weighted mean" and weights[0] is not None:
        sums = [float(np.sum(w)) for w in weights if w is not None]
        return [s / sum(sums) for s in sums]
    return [n / sum(sizes) for n in sizes]


def gradients(bench: Bench, batches: Sequence[Any], mode: str) -> Gradients:
    """Return the large-batch and the micro-batch gradients at the bench's present weights."""
    large = bench.gradient(concatenate(batches), mode)[1]
    return Gradients(large, np.stack([bench.gradient(batch, mode)[1] for batch in batches]))


def loses_meaning(context: Context) -> str | None:
    """Return why gradients of micro-batches need not add up to the large batch's, or None."""
    traits = context.traits
    return first_reason(
        (traits.stochastic, "training calls are random (dropout or noise): two runs differ by design"),
        (
            traits.coupled,
            (
                f"batch statistics couple the examples: a training output moves by {traits.coupling:.1%} when only "
                f"other examples change ({', '.join(traits.batch_statistics) or 'no batch-statistics layer found'})"
            ),
        ),
        (bool(traits.stateful), "stateful recurrent layers carry one batch into the next"),
        (traits.masked_loss, "the loss is a mean over each batch's unmasked entries, so their counts weigh in"),
        (traits.reduction == "other", f"the loss is {NO_MEAN}"),
        (
            traits.reduction == "sum" and traits.penalties,
            "the loss sums over examples and has penalties, which every micro-batch counts once",
        ),
    )


def needs_double(context: Context) -> str | None:
    """Return why the promise does not apply where it needs a float64 twin of the subject."""
    if not context.traits.double:
        return NO_TWIN
    return loses_meaning(context)


def any_sizes(context: Context) -> Any:
    """Return the strategy for a ragged split, few shapes where each one is compiled."""
    from hypothesis import strategies as st

    if context.given is not None:
        return promised_sizes(context, ragged=True)
    if context.runtime.compiles_per_shape:
        return st.sampled_from(FEW_SHAPES)
    return micro_batch_sizes()


def promised_sizes(context: Context, *, ragged: bool) -> Any:
    """Return the strategy for windows that a team promises: k micro-batches of one size, the last maybe smaller."""
    from hypothesis import strategies as st

    if context.runtime.compiles_per_shape:  # splits that the corners have compiled
        return st.sampled_from([s for s in promised_splits(context) if ragged or len(set(s)) == 1])

    def split(size: int, k: int, missing: int) -> tuple[int, ...]:
        return (*(size,) * (k - 1), max(1, size - missing) if ragged else size)

    sizes, counts = st.sampled_from(context.batch_sizes), st.sampled_from(context.accumulation)
    return st.builds(split, sizes, counts, st.integers(0, max(context.batch_sizes) - 1))


def promised_splits(context: Context) -> list[tuple[int, ...]]:
    """Return windows in which every promised batch size and number of micro-batches occurs, smallest first."""
    sizes, counts = context.batch_sizes, context.accumulation
    usual = sizes[min(1, len(sizes) - 1)]
    splits = [(size,) * counts[0] for size in sizes] + [(usual,) * k for k in counts[1:]]
    return [*splits, (*(usual,) * (counts[0] - 1), max(1, usual // 2))]


def equal_sizes(context: Context) -> Any:
    """Return the strategy for k micro-batches of one size, k among those the subject promises."""
    from hypothesis import strategies as st

    if context.given is not None:
        return promised_sizes(context, ragged=False)
    counts: list[int] = [k for k in context.subject.accumulation if k <= CAPACITY] or [2]
    if context.runtime.compiles_per_shape:
        few: list[tuple[int, ...]] = [s for s in FEW_SHAPES if len(set(s)) == 1 and len(s) in counts]
        least = [(1,) * k for k in counts]
        return st.sampled_from(few or least)
    return st.tuples(st.integers(1, 4), st.sampled_from(counts)).map(lambda t: (t[0],) * t[1])


def gradient_cases(context: Context, sizes: Any, dtypes: Sequence[str], paths: Sequence[str]) -> Any:
    """Return the strategy for gradient cases of the context's subject."""
    from hypothesis import strategies as st

    # A batch without weights is another program: where each one is compiled, those are left to the corners.
    dear = context.runtime.compiles_per_shape or (context.given is not None and "step" not in paths)
    weights = ["unequal", "zeros"] if dear else ["none", "none", "unequal", "zeros"]
    return st.builds(
        GradientCase,
        sizes=sizes,
        seed=seeds(),
        dtype=st.sampled_from(list(dtypes)),
        mode=st.sampled_from(_drawn_modes(context)),
        path=st.sampled_from(list(paths)),
        weights=st.sampled_from(weights),
        scale=st.sampled_from(["usual", "small", "large"]),
        outlier=st.booleans(),
    )


def _drawn_modes(context: Context) -> list[str]:
    """Return the modes in the share in which they are drawn.

    Eager execution is ten times slower than a traced graph, and a hundred times for a recurrent layer: one case in
    eight, or the corners alone.
    """
    usual, *others = context.modes()
    return [usual] if context.traits.recurrent or not others else [usual] * 7 + others[:1]


def float32_cases(context: Context) -> Any:
    """Draw ragged splits in float32."""
    return gradient_cases(context, any_sizes(context), ["float32"], ["loop"])


def window_cases(context: Context) -> Any:
    """Draw windows through Keras's own accumulation, or any split for a team's own step."""
    if context.subject.step is not None:
        return gradient_cases(context, any_sizes(context), ["float32"], ["step"])
    return gradient_cases(context, equal_sizes(context), ["float32"], ["loop"])


def ragged_window_cases(context: Context) -> Any:
    """Draw ragged windows through Keras's own accumulation."""
    return gradient_cases(context, any_sizes(context), ["float32"], ["loop"])


def simple_corners(context: Context) -> Sequence[Case]:
    """Return the smallest split and one with everything that weak inputs hide."""
    mode = context.runtime.modes[0]
    if context.given is not None:
        return promised_windows(context, "loop")
    return (
        GradientCase(sizes=(1, 1), mode=mode),
        GradientCase(sizes=(2, 1), mode=mode, weights="unequal", outlier=True, seed=1),
        GradientCase(sizes=(1, 2, 1), mode=mode, weights="zeros", seed=2),
    )


def window_corners(context: Context) -> Sequence[Case]:
    """Return the smallest window, then one for each path and for each precision."""
    mode = context.runtime.modes[0]
    if context.subject.step is not None:
        return promised_windows(context, "step")
    if context.given is not None:
        equal = promised_windows(context, "loop", ragged=False)
        paths = [path for path in ("train_on_batch", "fit") if path != "fit" or "arrays" in context.sources()]
        return (*equal, *(replace(equal[0], path=path, seed=9) for path in paths))
    few = context.runtime.compiles_per_shape
    three = (1, 1, 1) if few else (2, 2, 2)
    # Every window's length, on every path, is one more program to trace.
    smallest = [GradientCase(sizes=(1, 1), mode=mode)] if few or context.param.get("subject") == "dense" else []
    corners: list[Case] = [
        *smallest,
        GradientCase(sizes=three, mode=mode, weights="unequal", outlier=True, seed=1),
        GradientCase(sizes=(1, 1), mode=mode, path="train_on_batch", seed=2),
        GradientCase(sizes=(2, 2) if few else (2,) * 4, mode=mode, path="fit", seed=3),
    ]
    if not few or context.param.get("subject") == "dense":
        corners += [GradientCase(sizes=(2, 2), mode="eager", path="loop", seed=4)]
    # Each mixed precision is one more model to trace: two models stand for the layers that have a kernel of their own.
    mixed = {"dense": ("mixed_float16", "mixed_bfloat16"), "lstm": ("mixed_bfloat16",)}
    for dtype in mixed.get(context.param.get("subject"), ()):
        corners.append(GradientCase(sizes=(2, 2), mode=mode, dtype=dtype, seed=5))
    return tuple(corners)


def promised_windows(context: Context, path: str, *, ragged: bool = True) -> tuple[GradientCase, ...]:
    """Return a case for each of `promised_splits`, the first without sample weights, some with an outlier."""
    splits = [s for s in promised_splits(context) if ragged or len(set(s)) == 1]
    plain = GradientCase(mode=context.runtime.modes[0], path=path)
    return tuple(
        replace(plain, sizes=sizes, weights=("unequal", "zeros")[i % 2] if i else "none", outlier=i % 3 == 1, seed=i)
        for i, sizes in enumerate(splits)
    )


def in_words(bench: Bench, deviation: Deviation, cause: str = "") -> Reading:
    """Return a deviation as a reading, its place and size in words."""
    name = variable_index(bench.names[deviation.tensor], deviation.index)
    relative = deviation.difference / deviation.scale if deviation.scale else np.inf
    allowed = deviation.bound / deviation.scale if deviation.scale else np.inf
    return Reading(
        deviation.share,
        where=name,
        seen=f"the gradient of {name} is off by {deviation.difference:.2g}: {relative:.2g} of its rms",
        allowed=f"{allowed:.1g} of its rms",
        cause=cause,
    )


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=GradientCase,
    cases=float32_cases,
    corners=simple_corners,
    applies=needs_double,
    examples=(3, 3, 400),
    catches="a loss, a layer or an automatic derivative whose gradient of a batch is not the weighted mean of its "
    "examples' gradients: a wrong denominator, a penalty divided twice, a neighbour's influence",
    formula="float64: rms(a-f) <= max(1e-10 (rms S + 1e-3 rms S_all), 64*2^-29 max(rms(f32-f64), ...)), "
    "a = sum p_j G_j, S = sum p_j |G_j|",
    source="linearity of the derivative; Keras's documentation of each loss's reduction",
    example="the gradient of dense/kernel[0,1] is off by 0.021: 0.11 of its rms",
)
def micro_batch_gradients_average_to_the_large_batch(context: Context, case: GradientCase) -> Reading:
    """The weighted mean of micro-batch gradients is the large batch's gradient."""
    double, single = context.bench("float64"), context.bench(case.dtype)
    batches = draw_micro_batches(context, case)
    weights = draw_weights(double, case.seed, case.scale)
    double.set_weights(weights)
    single.set_weights(weights)
    g = gradients(double, batches, case.mode)
    p = shares(context, case.sizes, [b[2] for b in batches])
    gap = single.gradient(concatenate(batches), case.mode)[1] - g.large
    found = mathematics(
        double.split(np.asarray(p) @ g.micro),
        double.split(g.large),
        double.split(weighted_size(p, g.micro)),
        [rms(part) for part in double.split(gap)],
    )
    return in_words(double, found, "in float64, so not rounding")


def run_window(context: Context, case: GradientCase) -> tuple[Bench, list[Any], Window]:
    """Return the bench at the case's weights, the micro-batches, and what one window through the step did."""
    bench = context.bench(case.dtype)
    batches = draw_micro_batches(context, case)
    bench.set_weights(draw_weights(bench, case.seed, case.scale))
    window = bench.accumulate(batches, case.path, case.mode)
    return bench, batches, window


def step_hides_its_gradients(context: Context) -> str | None:
    """Return why the arithmetic check does not apply."""
    if context.subject.step is not None:
        return "the step's own micro-batch gradients cannot be seen"
    return None


def one_update(window: Window, k: int) -> Reading | None:
    """Return a violated reading unless the window of k micro-batches made exactly one update."""
    if window.updates == 1:
        return None
    return Reading(
        np.inf,
        where=f"{window.updates} updates",
        seen=f"{k} micro-batches made {window.updates} updates of the weights",
        allowed="exactly one",
        cause="the window is not accumulated",
    )


@check(
    family="accumulation",
    claims=("C4",),
    case=GradientCase,
    cases=ragged_window_cases,
    corners=window_corners,
    applies=step_hides_its_gradients,
    examples=(2, 2, 400),
    catches="an accumulator that scales, drops, repeats or leaks a micro-batch, or adds in too low a precision",
    formula="|a - sum p_j G_j| <= 2 u (k+2) sum p_j |G_j| + 1e-37, p_j = 1/k, elementwise, with the step's own G_j",
    source="Higham, Accuracy and Stability of Numerical Algorithms, section 4.2 (error of a sum); Keras documents "
    "'the average value of the gradients since the last update'",
    example="the gradient of dense/bias[2] is off by 0.031: 0.2 of its rms",
)
def accumulated_gradient_is_the_mean_of_what_was_accumulated(context: Context, case: GradientCase) -> Reading:
    """The gradient that reaches the update is the mean of the micro-batch gradients given to the optimizer."""
    bench, _, window = run_window(context, case)
    broken = one_update(window, len(case.sizes))
    if broken is not None:
        return broken
    assert window.micro is not None
    k = len(case.sizes)
    micro = [np.stack(parts) for parts in zip(*(bench.split(m) for m in window.micro), strict=True)]
    u = UNIT_ROUNDOFF_OF_ACCUMULATOR[case.dtype]
    found = arithmetic(bench.split(window.applied), micro, [1 / k] * k, u)
    return in_words(bench, found, _suspect_micro_batch(window.applied, window.micro))


def _suspect_micro_batch(applied: Array, micro: Array) -> str:
    """Return which micro-batch the residual lies along, by projection on each p_j G_j."""
    k = len(micro)
    residual = applied - micro.mean(axis=0)
    if not np.any(residual) or not np.isfinite(residual).all():
        return "the accumulation of the gradients, not their computation"
    norms = np.einsum("ij,ij->i", micro, micro)
    along = np.where(norms > 0, micro @ residual / np.where(norms > 0, norms, 1) * k, 0.0)
    j = int(np.argmax(np.abs(along)))
    rest = residual - along[j] / k * micro[j]
    if rms(rest) < 0.1 * rms(residual):
        return f"micro-batch {j + 1} of {k} counts {1 + along[j]:.3g} times"
    return "the accumulation of the gradients, not their computation"


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=GradientCase,
    cases=window_cases,
    corners=window_corners,
    applies=needs_double,
    examples=(2, 2, 400),
    catches="a step whose accumulated gradient is not the large batch's: a sum for a mean, a ragged micro-batch "
    "weighed as a full one, a dropped or doubled micro-batch, a penalty counted k times",
    formula="sigma = max(|f-r|, |sqrt(sum (p_j (G_j-R_j))^2)|, u |S|, 1e-3 u |S_all|); |a-r| <= 6 sigma in rms and "
    "<= 8 sigma in the maximum norm; r, R_j in float64",
    source="design of the suite: the subject's own rounding, measured beside each case",
    example="the gradient of lstm_cell/kernel[0,3] is off by 0.4: 1 of its rms",
)
def accumulated_gradient_matches_large_batch(context: Context, case: GradientCase) -> Reading:
    """Accumulated micro-batches reproduce the large batch's gradient."""
    bench, batches, window = run_window(context, case)
    broken = one_update(window, len(case.sizes))
    if broken is not None:
        return broken
    p = shares(context, case.sizes, [b[2] for b in batches])
    scale = float(sum(p)) if context.subject.step is not None else float(len(p)) * p[0]
    return _compare_with_float64(context, case, bench, batches, window.applied * scale, p)


def _compare_with_float64(
    context: Context, case: GradientCase, bench: Bench, batches: Sequence[Any], applied: Array, p: Sequence[float]
) -> Reading:
    double = context.bench("float64")
    double.set_weights(bench.weights())
    seen, exact = gradients(bench, batches, case.mode), gradients(double, batches, "graph")
    weighed = np.asarray(p)[:, None]
    reference = exact.large if _shares_are_the_loss(context, case, p) else np.asarray(p) @ exact.micro
    large_error = seen.large - exact.large if reference is exact.large else np.asarray(p) @ (seen.micro - exact.micro)
    found = end_to_end(
        bench.split(applied),
        bench.split(reference),
        bench.split(large_error),
        bench.split(np.sqrt(np.sum((weighed * (seen.micro - exact.micro)) ** 2, axis=0))),
        bench.split(weighted_size(p, exact.micro)),
        UNIT_ROUNDOFF[case.dtype],
    )
    return in_words(bench, found)


def _shares_are_the_loss(context: Context, case: GradientCase, p: Sequence[float]) -> bool:
    """Whether the shares are those of the large batch's loss, so that its gradient is the reference."""
    of_the_loss = np.ones(len(p)) if context.traits.reduction == "sum" else np.asarray(case.sizes) / sum(case.sizes)
    return np.allclose(p, of_the_loss)


def uses_own_step(context: Context) -> str | None:
    """Return why a statement about Keras's own accumulation does not apply."""
    if context.subject.step is not None:
        return "the subject has a step of its own: it is held to the large batch's gradient instead"
    return needs_double(context)


def ragged_only(context: Context) -> Any:
    """Draw windows whose micro-batches have different sizes."""
    if context.given is not None and not _ragged_splits(context):
        return gradient_cases(context, any_sizes(context).map(lambda s: (2, 1)), ["float32"], ["loop"])
    sizes = any_sizes(context).filter(lambda s: len(set(s)) > 1)
    return gradient_cases(context, sizes, ["float32"], ["loop"])


def _ragged_splits(context: Context) -> list[tuple[int, ...]]:
    return [sizes for sizes in promised_splits(context) if len(set(sizes)) > 1]


def ragged_corners(context: Context) -> Sequence[Case]:
    """Return the smallest ragged window, by loop and by ``train_on_batch``."""
    mode = context.runtime.modes[0]
    if context.given is not None:
        splits = _ragged_splits(context) or [(2, 1)]
        return tuple(GradientCase(sizes=sizes, mode=mode, weights="unequal", seed=i) for i, sizes in enumerate(splits))
    three = (1, 2, 1) if context.runtime.compiles_per_shape else (1, 2, 3)
    weights = "unequal" if context.runtime.compiles_per_shape else "none"
    return (
        GradientCase(sizes=(2, 1), mode=mode, weights=weights),
        GradientCase(sizes=three, mode=mode, weights="unequal"),
    )


@check(
    family="accumulation",
    claims=("C4",),
    case=GradientCase,
    cases=ragged_only,
    corners=ragged_corners,
    applies=uses_own_step,
    examples=(2, 2, 200),
    catches="a ragged window that is neither Keras's documented mean of means nor anything else that is documented",
    formula="|a - (1/k) sum R_j| <= 6 sigma, R_j the micro-batch gradients in float64",
    source="keras.io/api/optimizers: gradient_accumulation_steps uses 'the average value of the gradients'",
    example="the gradient of dense/kernel[1,0] is off by 0.05: 0.3 of its rms",
    exception="a ragged window is the plain average of its micro-batches' gradients, whatever their sizes "
    "(https://keras.io/api/optimizers/, gradient_accumulation_steps)",
    excepts="accumulated_gradient_matches_large_batch",
)
def ragged_window_averages_its_micro_batches_equally(context: Context, case: GradientCase) -> Reading:
    """A ragged window takes the plain mean of its micro-batches' gradients, as Keras documents."""
    bench, batches, window = run_window(context, case)
    broken = one_update(window, len(case.sizes))
    if broken is not None:
        return broken
    k = len(case.sizes)
    return _compare_with_float64(context, case, bench, batches, window.applied, [1 / k] * k)


def integer_params() -> list[Param]:
    """Return the parameters of the exact check: it brings its own model."""
    return [Param.of(path=path) for path in ("loop", "train_on_batch", "fit")]


def integer_cases(context: Context) -> Any:
    """Draw windows of equal micro-batches of integers."""
    from hypothesis import strategies as st

    return st.builds(
        GradientCase,
        sizes=equal_integer_sizes(context),
        seed=seeds(),
        mode=st.just(context.runtime.modes[0]),
        path=st.just(context.param.get("path")),
    )


def equal_integer_sizes(context: Context) -> Any:
    """Return the strategy for 2 to 5 micro-batches of one size."""
    from hypothesis import strategies as st

    if context.runtime.compiles_per_shape:
        return st.sampled_from([s for s in FEW_SHAPES if len(set(s)) == 1])
    return st.tuples(st.integers(1, 2), st.integers(2, 5)).map(lambda t: (t[0],) * t[1])


def integer_corners(context: Context) -> Sequence[Case]:
    """Return the smallest windows of 2 and 3 micro-batches."""
    path, mode = context.param.get("path"), context.runtime.modes[0]
    return tuple(GradientCase(sizes=(1,) * k, path=path, mode=mode) for k in (2, 3))


@cached_in_process
def _integer_bench() -> Bench:
    from bscheck.reference_subjects import integers

    return Bench(integers(), "float32")


def integer_window(bench: Bench, case: GradientCase) -> tuple[Array, list[tuple[Array, Array, None]]]:
    """Return weights and micro-batches of small integers."""
    rng = np.random.default_rng((case.seed, 3))
    weights = rng.integers(-3, 4, int(bench.offsets[-1])).astype(np.float64)
    edges = np.concatenate([[0], np.cumsum(case.sizes)])
    x, y, _ = bench.subject.draw(case.seed, int(edges[-1]))
    # Targets in multiples of k make every gradient one, so that dividing by k is exact however it is compiled.
    y = y * len(case.sizes)
    return weights, [(x[a:b], y[a:b], None) for a, b in itertools.pairwise(edges)]


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=GradientCase,
    cases=integer_cases,
    params=integer_params,
    corners=integer_corners,
    examples=(2, 2, 100),
    per_subject=False,
    catches="any error at all, however small: integers, ReLU and a sum are exact in float32, so nothing may differ",
    formula="k a = f bit for bit, with no tolerance",
    source="integers below 2^24 are exact in IEEE 754 binary32, and so are their sums and products",
    example="the gradient of dense/kernel[0,0] is off by 1: 0.2 of its rms",
)
def accumulation_is_exact_on_integers(context: Context, case: GradientCase) -> Reading:
    """On integers the accumulated gradient is the large batch's, bit for bit."""
    bench = _integer_bench()
    weights, batches = integer_window(bench, case)
    bench.set_weights(weights)
    large = bench.gradient(concatenate(batches), case.mode)[1]
    require(float(np.abs(large).max()) < 2**24, "an integer gradient left the exact range")
    window = bench.accumulate(batches, case.path, case.mode)
    broken = one_update(window, len(case.sizes))
    if broken is not None:
        return broken
    expected = (large.astype(np.float32) / np.float32(len(case.sizes))).astype(np.float64)
    wrong = np.abs(window.applied - expected)
    parts = bench.split(wrong)
    t = int(np.argmax([p.max() for p in parts]))
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(parts[t])), parts[t].shape))
    found = Deviation(
        np.inf if wrong.max() > 0 else 0.0, t, at, float(parts[t].max()), rms(bench.split(expected)[t]), 0.0
    )
    return in_words(bench, found, "integers are exact, so not rounding")
