"""Tiny batches, first half: what the gradient of a mini-batch is worth, by enumerating every mini-batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.cases import Case, VarianceCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import (
    Context,
    SubjectKey,
    cached_in_process,
    draw_sample_weights,
    draw_weights,
    require,
    weighed,
)
from bscheck.checks.gradients import in_words, needs_double
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array, Bench
from bscheck.subject import take
from bscheck.tolerance import gradient_rounding, rms, unbiased, variance_law, weighted_size

#: Numbers of examples N: enough for several sizes B, few enough that all subsets (at most 20) are quick.
EXAMPLES = (3, 4, 5, 6)

#: (N, B) where every shape is compiled anew: shapes 1, 2, 3 and 5 serve them all.
FEW_SHAPES = ((5, 2), (5, 3), (3, 2))


@dataclass(frozen=True)
class Enumeration:
    """Keras's float64 gradients, each divided by its number of examples where the loss is a sum.

    Attributes
    ----------
    full : array, shape (parameters,)
        Of all N examples as one batch.
    batches : array, shape (N choose B, parameters)
        Of every mini-batch of B distinct examples.
    single : array, shape (N, parameters)
        Of every example as a batch of one.
    rounding : list of float
        For each variable, the rms error that rounding may leave in such a gradient.
    """

    full: Array
    batches: Array
    single: Array
    rounding: list[float]


def subsets(examples: int, batch_size: int) -> list[Array]:
    """Return the rows of every mini-batch of distinct examples: sampling without replacement, exactly."""
    return [np.asarray(rows) for rows in itertools.combinations(range(examples), batch_size)]


def law_factor(examples: int, batch_size: int) -> float:
    """Return ``(N - B) / (B (N - 1))``: variance of a mini-batch's mean in units of one example's variance.

    Cochran 1977, Sampling Techniques, theorem 2.2, with the finite population correction.
    """
    return (examples - batch_size) / (batch_size * (examples - 1))


def enumerate_gradients(context: Context, case: VarianceCase) -> Enumeration:
    """Return every mini-batch's gradient, computed by Keras on that very mini-batch.

    Several laws are read from one enumeration, which is made once in a process.
    """
    return _enumeration(SubjectKey(context.subject), case)


@cached_in_process
def _enumeration(key: SubjectKey, case: VarianceCase) -> Enumeration:
    context = Context.for_subject(key.subject, Param())
    double, single_precision = context.bench("float64"), context.bench("float32")
    x, y, w = _examples(context, case)
    weights = draw_weights(double, case.seed, case.scale)
    double.set_weights(weights)
    single_precision.set_weights(weights)

    def gradient(bench: Bench, rows: Array) -> Array:
        batch = (take(x, rows), take(y, rows), None if w is None else w[rows])
        return bench.gradient(batch, case.mode)[1] / (len(rows) if summed else 1)

    summed = context.traits.reduction == "sum"
    everyone = np.arange(case.examples)
    full = gradient(double, everyone)
    single = np.stack([gradient(double, rows) for rows in subsets(case.examples, 1)])
    batches = np.stack([gradient(double, rows) for rows in subsets(case.examples, case.batch_size)])
    size = double.split(weighted_size([1 / case.examples] * case.examples, single))
    gap = [rms(part) for part in double.split(gradient(single_precision, everyone) - full)]
    return Enumeration(full, batches, single, gradient_rounding(size, gap))


def _examples(context: Context, case: VarianceCase) -> tuple[Any, Any, Array | None]:
    x, y, own = context.subject.draw(case.seed, case.examples)
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    w = weighed(context, own, w)
    weighted = w is not None and context.traits.reduction == "weighted mean"
    require(not weighted, "the loss divides by each batch's own sum of weights, so its gradient is no mean")
    return x, y, w


def coupled_or_double(context: Context) -> str | None:
    """Return why the promise does not apply; coupled examples do apply: the violation is reported."""
    if context.traits.coupled and context.traits.double and not context.traits.stochastic:
        return None
    return needs_double(context)


def variance_cases(context: Context) -> Any:
    """Return the strategy for N, B, data, weights and scale; few shapes where each one is compiled."""
    from hypothesis import strategies as st

    pairs = [(n, b) for n in EXAMPLES for b in range(2, n)]
    only_unweighted = context.traits.reduction == "weighted mean"
    weightings = ["none"] if only_unweighted else ["none", "none", "unequal", "zeros"]

    def build(pair: tuple[int, int], **fields: Any) -> VarianceCase:
        return VarianceCase(examples=pair[0], batch_size=pair[1], **fields)

    return st.builds(
        build,
        st.sampled_from(FEW_SHAPES if context.runtime.compiles_per_shape else pairs),
        seed=seeds(),
        mode=st.just(context.runtime.modes[0]),
        weights=st.sampled_from(weightings),
        scale=st.sampled_from(["usual", "small", "large"]),
    )


def variance_corners(context: Context) -> Sequence[Case]:
    """Return the fewest examples, three of five, weighted examples, and one eager enumeration."""
    modes = context.runtime.modes
    weights = "none" if context.traits.reduction == "weighted mean" else "unequal"
    corners = [
        VarianceCase(mode=modes[0], examples=3),
        VarianceCase(mode=modes[0], examples=5, batch_size=3, weights=weights, seed=1),
    ]
    # Op by op, a recurrent layer's gradient takes fifty times as long.
    if "eager" in context.modes() and not context.traits.recurrent:
        corners += [VarianceCase(mode="eager", examples=4, batch_size=3, seed=2)]
    return tuple(corners)


@check(
    family="tiny batches",
    claims=("C1", "C2"),
    case=VarianceCase,
    cases=variance_cases,
    corners=variance_corners,
    applies=coupled_or_double,
    examples=(1, 1, 100),
    catches="a loss, layer or derivative that treats batch sizes differently: a special case at one size, "
    "a division by B - 1, an example left out",
    formula="rms(mean over all mini-batches S of g_S - full gradient) <= 2 e, in float64, "
    "e = 64*2^-29 max(rms(f32-f64), 2^-24 (rms S + 1e-3 rms S_all)); all mini-batches, N = 3 ... 6",
    source="every example is in the same share of all mini-batches (Cochran 1977, theorem 2.1)",
    example="the gradient of dense/kernel[2,0] is off by 0.01: 0.2 of its rms",
)
def minibatch_gradient_is_unbiased(context: Context, case: VarianceCase) -> Reading:
    """The mean of the gradients of all mini-batches of one size is the gradient of the full data."""
    found = enumerate_gradients(context, case)
    bench = context.bench("float64")
    mean = found.batches.mean(axis=0)
    if context.traits.coupled:
        size = rms(mean - found.full) / rms(found.full)
        return _reported(size, "their mini-batch gradients average off the full one by {:.2g} of its rms")
    off = unbiased(bench.split(mean), bench.split(found.full), found.rounding)
    return in_words(bench, off, _enumerated(case))


@check(
    family="tiny batches",
    claims=("C2",),
    case=VarianceCase,
    cases=variance_cases,
    corners=variance_corners,
    applies=coupled_or_double,
    examples=(2, 4, 100),
    catches="a mini-batch gradient that is noisier or steadier than the examples in it: added noise, "
    "a sum for a mean, an example that counts twice, a special case at one batch size",
    formula="mean over S of |g_S - g|^2 = tr(Sigma)/B (N-B)/(N-1), tr(Sigma) = mean over i of |g_i - g|^2, "
    "within 4 e sqrt(V) (1 + sqrt(k)) + 4 e^2 (1 + k), k = (N-B)/(B(N-1)), V the variance, e as for the mean",
    source="Cochran 1977, Sampling Techniques, theorem 2.2 (sampling without replacement)",
    example="mini-batch gradients of dense/kernel vary 1.33 times as much as the law says",
)
def minibatch_gradient_variance_follows_the_law(context: Context, case: VarianceCase) -> Reading:
    """The variance of a mini-batch's gradient is tr(Sigma)/B (N-B)/(N-1), over all mini-batches."""
    found = enumerate_gradients(context, case)
    bench = context.bench("float64")
    distances, centred = found.batches - found.full, found.single - found.single.mean(axis=0)
    factor = law_factor(case.examples, case.batch_size)
    if context.traits.coupled:
        law = factor * rms(centred) ** 2
        size = rms(distances) ** 2 / law if law else math.inf
        return _reported(size, "mini-batch gradients vary {:.2g} times as much as the law says")
    mini, single = _by_variable(bench, distances), _by_variable(bench, centred)
    spread = variance_law(mini, single, factor, found.rounding)
    name = bench.names[spread.tensor]
    ratio = spread.seen / spread.law if spread.law else math.inf
    return Reading(
        spread.share,
        where=name,
        seen=f"mini-batch gradients of {name} {_compared(ratio)}",
        allowed=f"1 to within {spread.bound / spread.law if spread.law else math.inf:.1g}",
        cause=_enumerated(case),
    )


def _enumerated(case: VarianceCase) -> str:
    count = math.comb(case.examples, case.batch_size)
    return f"{count} mini-batches of {case.batch_size} from {case.examples}, in float64, so not rounding"


def _compared(ratio: float) -> str:
    """Return how a variance compares with the law's, in words that tell the smallest difference."""
    if abs(ratio - 1) > 0.01:
        return f"vary {ratio:.3g} times as much as the law says"
    side = "large" if ratio > 1 else "small"
    return f"have a variance {abs(ratio - 1):.2g} of itself too {side} for the law"


def _by_variable(bench: Bench, rows: Array) -> list[Array]:
    """Return rows of flat gradients as one array for each variable, rows first."""
    return [rows[:, a:b] for a, b in itertools.pairwise(bench.offsets)]


def _reported(size: float, sentence: str) -> Reading:
    """Return the reading of a subject with coupled examples: the violation has a size, and no verdict."""
    return Reading(
        0.0,
        seen=f"the examples of a batch are coupled: {sentence.format(size)}",
        allowed="reported, not asserted: batch statistics are documented",
        figures={"reported": 1.0, "violation": float(size)},
    )
