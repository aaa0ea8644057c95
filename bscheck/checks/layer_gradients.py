"""Every exported layer by itself: its gradient over a batch is the sum of its micro-batches' gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import LayerGradientCase, micro_batch_sizes, seeds
from bscheck.checks import check
from bscheck.checks.context import Context, random, variable_index
from bscheck.checks.layer_bench import (
    ROWS,
    LayerBench,
    all_options,
    bench_of,
    core_options,
    coupled,
    few_shapes,
    layers_of_keras,
    take,
    without,
)
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.surface.layers import Construction, loops
from bscheck.tolerance import Deviation, mathematics, rms

Gradients = tuple[list[Array], list[Array]]


def differentiable(construction: Construction) -> bool:
    """Whether a gradient is worth asking for: outputs that move with weights or inputs."""
    return construction.smooth


def gradient_cases(context: Context) -> Any:
    """Draw a construction and how a batch is cut."""
    from hypothesis import strategies as st

    sizes = st.just((2, 1)) if few_shapes() else micro_batch_sizes(2, 3, 2).filter(lambda sizes: sum(sizes) <= ROWS)
    names = all_options(context, differentiable)
    return st.builds(LayerGradientCase, option=st.sampled_from(names), sizes=sizes, seed=seeds())


#: Two micro-batches each of a size of `LARGER_BATCHES`, or that make one.
LARGER_CUTS = ((7, 26), (64, 36))


def gradient_corners(context: Context) -> Sequence[LayerGradientCase]:
    """Return one and three examples, for each main construction, and for the first one two and one.

    Two odd micro-batches in an even batch: what is wrong with the first or the last example of an odd batch alone
    would cancel in two and one.
    """
    names = core_options(context, differentiable, most=2)
    sizes = [(name, (1, 3)) for name in names] + [(name, (2, 1)) for name in names[:1]]
    if not loops(context.param.get("layer")):  # step by step, eager gradients would cost more than all other layers'
        sizes += [(name, cut) for name in names[:1] for cut in LARGER_CUTS]
    return tuple(LayerGradientCase(option=name, sizes=cut) for name, cut in sizes[: 1 if few_shapes() else None])


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=LayerGradientCase,
    cases=gradient_cases,
    params=layers_of_keras,
    corners=gradient_corners,
    applies=without(differentiable, "outputs are counted, looked up or rounded: no gradient"),
    examples=(0, 0, 100),
    per_subject=False,
    catches="a layer whose gradient is divided by the batch size, drops or repeats rows, or is another one for odd "
    "batches; weights and inputs alike",
    formula="rms(a-f) <= 1e-10 (rms S + 1e-3 rms S_all) in float64; a: the sum over micro-batches of the gradients of "
    "a random projection of the outputs, f: the large batch's, S: the sum of the absolute values; in training, "
    "where the layer neither draws random numbers nor is documented to mix examples, else at inference",
    source="linearity: the derivative of a sum over examples is the sum of the derivatives",
    example="the gradient of kernel is off by 3e-5: 1e-4 of its rms",
)
def layer_gradient_is_the_sum_over_micro_batches(context: Context, case: LayerGradientCase) -> Reading:
    """A layer's gradient over a batch is the sum of its gradients over micro-batches; inputs keep their own."""
    bench = bench_of(context, case)
    n = sum(case.sizes)
    training = not coupled(bench.name) and not bench.stochastic()
    drawn = projections(bench, case, n)
    edges = np.cumsum([0, *case.sizes])
    large = _gradient(bench, case.seed, 0, n, drawn, training)
    micro = [_gradient(bench, case.seed, a, b, drawn, training) for a, b in itertools.pairwise(edges)]
    names = [v.path for v in bench.rig(bench.exact).layer.trainable_variables]
    weights = _weights([m[0] for m in micro], large[0])
    inputs = [np.concatenate(parts) for parts in zip(*(m[1] for m in micro), strict=True)]
    rows = mathematics(inputs, large[1], [np.abs(g) for g in inputs], _gaps(bench, inputs)) if inputs else None
    size = [np.sum([np.abs(g) for g in parts], axis=0) for parts in zip(*(m[0] for m in micro), strict=True)]
    tensors = mathematics(weights, large[0], size, _gaps(bench, size)) if size else None
    words = [f"input {i}" for i in range(len(inputs))]
    return worst([*_told(tensors, names), *_told(rows, words)])


def _weights(micro: Sequence[Sequence[Array]], large: Sequence[Array]) -> list[Array]:
    """Return the sums over micro-batches."""
    return [np.sum(parts, axis=0) for parts in zip(*micro, strict=True)] if large else []


def _gaps(bench: LayerBench, size: Sequence[Array]) -> list[float]:
    """Return the rounding that `mathematics` scales down from float32's to float64's.

    In float64 its first term suffices. Where the layer has float32 alone, 2**29 times float32's own: 64 roundings.
    """
    if bench.exact == "float64":
        return [0.0] * len(size)
    return [2.0**29 * 2.0**-24 * rms(s) for s in size]


def projections(bench: LayerBench, case: LayerGradientCase, n: int) -> list[Array]:
    """Return what the outputs of n examples are multiplied by before they are summed."""
    rng = random(case.seed, 9)
    rig = bench.rig(bench.exact)
    outputs = rig.raw(take(bench.arguments(0), slice(0, 1)))
    floats = [o for o in outputs if "float" in str(o.dtype)]
    return [rng.standard_normal((n, *o.shape[1:])) for o in floats]


def _gradient(bench: LayerBench, seed: int, start: int, stop: int, projections: Any, training: bool) -> Gradients:
    rig = bench.rig(bench.exact)
    # Larger batches repeat the examples.
    arguments = take(bench.arguments(seed), [i % ROWS for i in range(start, stop)])
    found = rig.gradient(arguments, [p[start:stop] for p in projections], training)
    if training:
        rig.restore()
    return found


def _told(found: Deviation | None, names: Sequence[str]) -> list[Reading]:
    if found is None:
        return []
    place = variable_index(names[found.tensor], found.index)
    size = found.difference / found.scale if found.scale else np.inf
    return [
        Reading(
            found.share,
            where=place,
            seen=f"the gradient of {place} is off by {found.difference:.2g}: {size:.2g} of its rms",
            allowed=f"{found.bound:.1g}",
        )
    ]
