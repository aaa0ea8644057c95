"""Every exported layer that takes a mask: masked time steps and padding change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import LayerMaskCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, random
from bscheck.checks.layer_bench import (
    ROWS,
    LayerBench,
    all_options,
    bench_of,
    compare,
    few_shapes,
    layers_of_keras,
    take,
    without,
)
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.layer_rig import Arguments
from bscheck.surface.layers import Construction, options
from bscheck.tolerance import Deviation, mathematics


def has_steps(construction: Construction) -> bool:
    """Whether the construction masks time steps."""
    return bool(construction.steps)


def masking_layers() -> list[Param]:
    """Return the exported layers that have a construction with masked time steps."""
    return [p for p in layers_of_keras() if any(map(has_steps, options(p.get("layer"))))]


def mask_cases(context: Context) -> Any:
    """Draw a construction, a batch and how far it is padded."""
    from hypothesis import strategies as st

    few = few_shapes()
    return st.builds(
        LayerMaskCase,
        option=st.sampled_from(all_options(context, has_steps)),
        examples=st.just(3) if few else st.integers(1, ROWS),
        padding=st.integers(0, 1 if few else 4),
        gradient=st.booleans(),
        seed=seeds(),
    )


def mask_corners(context: Context) -> Sequence[LayerMaskCase]:
    """Return garbage in masked steps and two more masked steps, for each construction; gradients for the first."""
    names = all_options(context, has_steps)
    corners = [
        LayerMaskCase(option=name, padding=padding, gradient=name == names[0] and padding > 0)
        for name in names
        for padding in (0, 2)
    ]
    return corners if few_shapes() else [*corners, LayerMaskCase(option=names[0], traced=True)]


@check(
    family="independence",
    claims=("C13",),
    case=LayerMaskCase,
    cases=mask_cases,
    params=masking_layers,
    corners=mask_corners,
    applies=without(has_steps, "no time steps to mask"),
    examples=(0, 1, 200),
    per_subject=False,
    catches="a layer or wrapper that lets masked steps move its state, its count, its output or its gradient, for one "
    "merge mode, direction or kind of output only, or where a graph does not know the batch size",
    formula="|p-r| <= 16 u m for outputs of steps that are not masked, and of whole sequences; rms(a-f) <= 1e-10 "
    "(rms S "
    "+ 1e-3 rms S_all) for gradients; p, a: other values in the masked steps, and masked steps appended; r, f: zeros "
    "in the masked steps",
    source="keras.io/guides/understanding_masking_and_padding: masked steps are 'skipped when processing the data'",
    example="with other values in the masked steps, the output is off by 0.2 for example 1: 0.3 of the outputs' rms",
)
def masked_steps_change_nothing(context: Context, case: LayerMaskCase) -> Reading:
    """What stands in masked time steps, and how many are appended, changes no output and no gradient."""
    bench = bench_of(context, case)
    zeros, garbage, valid = masked_pair(bench, case)
    rig = bench.rig(bench.exact)
    what = f"with {case.padding} more masked steps" if case.padding else "with other values in the masked steps"
    what += ", in a graph for any batch size" if case.traced else ""
    expected = valid_steps(rig.call(zeros), valid, bench.construction.steps, valid.shape[1])
    seen = valid_steps(
        rig.call(garbage, traced=case.traced), valid, bench.construction.steps, valid.shape[1] + case.padding
    )
    readings = [compare(seen, expected, bench, bench.exact, f"{what}, the output")]
    if case.gradient:
        readings.append(_gradients(bench, case, zeros, garbage, expected, valid, what))
    return worst(readings)


def masked_pair(bench: LayerBench, case: LayerMaskCase) -> tuple[Arguments, Arguments, Array]:
    """Return sequences with zeros in their masked steps, with garbage there and after them, and the first's mask."""
    rows = take(bench.arguments(case.seed), slice(0, case.examples))
    masks = masks_of(bench.construction, rows)
    zeros = _filled(bench.construction, rows, masks, lambda shape: np.zeros(shape))
    rng = random(case.seed, 10)
    garbage = _filled(bench.construction, rows, masks, lambda shape: 3 * rng.standard_normal(shape))
    return zeros, _padded(bench.construction, garbage, case.padding, rng), masks[0]


def masks_of(construction: Construction, arguments: Arguments) -> list[Array]:
    """Return the mask of each masked input leaf."""
    found = [arguments[1][name] for name in construction.masks]
    return list(found[0]) if isinstance(found[0], list) else found


def _filled(construction: Construction, arguments: Arguments, masks: Sequence[Array], fill: Any) -> Arguments:
    """Return the arguments with something else in the masked steps."""
    args = _leaves_of(arguments[0])
    for position, mask in zip(construction.masked, masks, strict=True):
        x = args[position].astype(np.float64)
        there = mask.reshape(*mask.shape, *(1,) * (x.ndim - 2))
        args[position] = np.where(there, x, fill(x.shape)).astype("float32")
    return with_leaves(arguments[0], args), arguments[1]


def _padded(construction: Construction, arguments: Arguments, steps: int, rng: np.random.Generator) -> Arguments:
    """Return the arguments with masked steps of garbage appended."""
    if not steps:
        return arguments
    args, kwargs = _leaves_of(arguments[0]), dict(arguments[1])
    for position in construction.masked:
        x = args[position]
        more = 3 * rng.standard_normal((len(x), steps, *x.shape[2:]))
        args[position] = np.concatenate([x, more.astype(x.dtype)], axis=1)
    for name in construction.masks:
        mask = kwargs[name]
        kwargs[name] = [_longer(m, steps) for m in mask] if isinstance(mask, list) else _longer(mask, steps)
    return with_leaves(arguments[0], args), kwargs


def _longer(mask: Array, steps: int) -> Array:
    return np.concatenate([mask, np.zeros((len(mask), steps), bool)], axis=1)


def _leaves_of(args: tuple[Any, ...]) -> list[Array]:
    return [leaf for part in args for leaf in (part if isinstance(part, list) else [part])]


def with_leaves(args: tuple[Any, ...], leaves: Sequence[Array]) -> tuple[Any, ...]:
    """Return positional arguments with other arrays in their places."""
    rest = iter(leaves)
    return tuple([next(rest) for _ in part] if isinstance(part, list) else next(rest) for part in args)


def kept_steps(shape: tuple[int, ...], mask: Array, steps: str, length: int) -> Array | None:
    """Return which steps of an output are not masked; None for an output that is one for the whole sequence."""
    if steps == "whole" or len(shape) < 3 or shape[1] != length:
        return None
    there = _longer(mask, length - mask.shape[1])
    return there[:, ::-1] if steps == "reversed" else there


def valid_steps(outputs: Sequence[Array], mask: Array, steps: str, length: int) -> list[Array]:
    """Return outputs with the masked steps' own set to zero and those appended cut off."""
    found = []
    for output in outputs:
        there = kept_steps(output.shape, mask, steps, length)
        if there is None:
            found.append(output)
            continue
        kept = np.where(there.reshape(*there.shape, *(1,) * (output.ndim - 2)), output, 0.0)
        cut = mask.shape[1]
        found.append(kept[:, length - cut :] if steps == "reversed" else kept[:, :cut])
    return found


def _gradients(
    bench: LayerBench,
    case: LayerMaskCase,
    zeros: Arguments,
    garbage: Arguments,
    expected: Sequence[Array],
    valid: Array,
    what: str,
) -> Reading:
    """Compare the weights' gradients, and the inputs' in the steps that are not masked."""
    rig = bench.rig(bench.exact)
    rng = random(case.seed, 11)
    own: list[Array] = [np.asarray(rng.standard_normal(o.shape)) for o in expected]
    steps, length = bench.construction.steps, valid.shape[1]
    before = valid_steps(own, valid, steps, length)
    after = [_lengthened(p, o, steps) for p, o in zip(before, rig.raw(garbage), strict=True)]
    alone, inputs = rig.gradient(zeros, before, False)
    seen, other = rig.gradient(garbage, after, False)
    at = [i for i in bench.construction.masked if i < len(inputs)]
    cut = [np.asarray(other[i][:, : inputs[i].shape[1]]) for i in at]
    names = [v.path for v in rig.layer.trainable_variables]
    readings = [_told(mathematics(a, b, [np.abs(g) for g in b], [0.0] * len(b)), n, what) for a, b, n in (
        (seen, alone, names), (cut, [inputs[i] for i in at], [f"input {i}" for i in at])) if b]  # fmt: skip
    return worst(readings)


def _lengthened(projection: Array, output: Any, steps: str) -> Array:
    """Return a projection with zeros for the steps that were appended."""
    shape = tuple(output.shape)
    if shape == projection.shape:
        return projection
    longer = np.zeros(shape)
    more = shape[1] - projection.shape[1]
    longer[:, more:] = projection if steps == "reversed" else 0.0
    if steps != "reversed":
        longer[:, : projection.shape[1]] = projection
    return longer


def _told(found: Deviation, names: Sequence[str], what: str) -> Reading:
    size = found.difference / found.scale if found.scale else np.inf
    name = names[found.tensor]
    seen = f"{what}, the gradient of {name} is off by {found.difference:.2g}: {size:.2g} of its rms"
    return Reading(found.share, where=name, seen=seen, allowed=f"{found.bound:.1g}")
