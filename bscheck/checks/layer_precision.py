"""Every exported layer by itself: it computes in the precision that it says it does, and keeps its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import LayerCase, seeds
from bscheck.checks import check
from bscheck.checks.context import Context, require
from bscheck.checks.layer_bench import (
    ROWS,
    LayerBench,
    all_options,
    bench_of,
    compare,
    core_options,
    few_shapes,
    layers_of_keras,
    mapped,
    not_made,
    take,
    without,
)
from bscheck.errors import one_line
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.layer_rig import LayerRig
from bscheck.surface.layers import Construction

MIXED = ("mixed_bfloat16", "mixed_float16")


def smooth(construction: Construction) -> bool:
    """Whether rounding an input cannot make an output jump."""
    return construction.smooth


_NOT_SMOOTH = without(smooth, "outputs are counted, looked up or rounded: they jump")


def _cases(dtypes: Sequence[str]) -> Any:
    def cases(context: Context) -> Any:
        from hypothesis import strategies as st

        return st.builds(
            LayerCase,
            option=st.sampled_from(all_options(context, smooth)),
            examples=st.just(3) if few_shapes() else st.integers(1, ROWS),
            dtype=st.sampled_from(list(dtypes)),
            seed=seeds(),
        )

    return cases


def float32_corners(context: Context) -> Sequence[LayerCase]:
    """Return a batch of three and one of one, for each main construction; and inputs far from 0."""
    sizes = (3,) if few_shapes() else (3, 1)
    names = core_options(context, smooth, most=4)
    corners = [LayerCase(option=name, examples=n, dtype="float32") for name in names for n in sizes]
    return (*corners, *(LayerCase(option=name, dtype="float32") for name in _named(context, "offset")))


def _named(context: Context, option: str) -> list[str]:
    return [name for name in all_options(context, smooth) if name == option]


@check(
    family="independence",
    claims=("C12",),
    case=LayerCase,
    cases=_cases(["float32"]),
    params=layers_of_keras,
    corners=float32_corners,
    applies=_NOT_SMOOTH,
    examples=(0, 0, 100),
    per_subject=False,
    catches="TensorFloat-32, bfloat16 or float16 arithmetic inside a float32 layer; weights or outputs kept in less",
    formula="|p-r| <= 16 u m in rms and in the maximum norm, u = 2**-24; r: the same layer in float64, one "
    "example at a "
    "time; m: how far its outputs move when weights and inputs are perturbed, divided by the relative perturbation",
    source="Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 1.6: forward error <= condition "
    "number times backward error",
    example="the float32 output is off by 2e-3 for example 0: 1e-3 of the outputs' rms",
)
def float32_layer_computes_in_float32(context: Context, case: LayerCase) -> Reading:
    """A float32 layer's outputs are as near to the float64 layer's as float32 can be."""
    return _near_float64(bench_of(context, case), case)


def mixed_corners(context: Context) -> Sequence[LayerCase]:
    """Return a batch of three: the first construction in bfloat16, the second in float16, the only one in both.

    Large inputs in both too, where the layer has a construction with them.
    """
    names = core_options(context, smooth, most=2)
    large = [(name, dtype) for name in _named(context, "large") for dtype in MIXED]
    pairs = [*zip([*names, names[0]], MIXED, strict=False), *large]
    return tuple(LayerCase(option=name, dtype=dtype) for name, dtype in pairs)


@check(
    family="independence",
    claims=("C12",),
    case=LayerCase,
    cases=_cases(MIXED),
    params=layers_of_keras,
    corners=mixed_corners,
    applies=_NOT_SMOOTH,
    examples=(0, 0, 100),
    per_subject=False,
    catches="a mixed-precision layer that overflows, loses its bias, keeps its weights in the compute dtype or sums in "
    "it over and over",
    formula="as for float32, with u = 2**-9 (bfloat16) or 2**-12 (float16); outputs are in the compute dtype that "
    "compute_output_spec announces, weights in the variable dtype",
    source="keras.io/api/mixed_precision/policy: computations in 16 bits, variables in float32",
    example="the mixed_bfloat16 output is off by 0.9 for example 0: 0.7 of the outputs' rms",
)
def mixed_precision_layer_stays_near_its_exact_self(context: Context, case: LayerCase) -> Reading:
    """A mixed-precision layer's outputs stay as near to the float64 layer's as its compute dtype allows."""
    return _near_float64(bench_of(context, case), case)


def _near_float64(bench: LayerBench, case: LayerCase) -> Reading:
    require(bench.exact == "float64" or case.dtype != "float32", f"no float64 twin: {bench.no_float64}")
    rows = range(case.examples)
    try:
        rig = bench.rig(case.dtype)
        seen = rig.call(take(bench.arguments(case.seed), slice(0, case.examples)))
    except Exception as error:
        if not _no_kernel(error):
            raise
        words = f"not computed in {case.dtype}: {one_line(error)}"
        return Reading(0.0, bench.name, words, "reported", figures={"reported": 1.0})
    kept = _variables_in(rig)
    if kept:
        return Reading(np.inf, "weights", kept, "the variable dtype of the policy")
    expected = bench.alone(bench.exact, case.seed, rows)
    return compare(seen, expected, bench, case.dtype, f"the {case.dtype} output")


def _no_kernel(error: Exception) -> bool:
    """Whether the backend has no such operation in 16 bits on this device, or Keras says that it takes none."""
    words = ("Could not find device for node", "Invalid input type. Expected", "is not supported by dot_general")
    return any(part in str(error) for part in words)


def _variables_in(rig: LayerRig) -> str:
    """Return which weights are not in the variable dtype, or nothing."""
    wanted = str(rig.layer.variable_dtype)
    for variable in rig.layer.weights:
        name = str(rig.keras.backend.standardize_dtype(variable.dtype))
        if name.startswith(("float", "bfloat")) and name != wanted:
            return f"{variable.path} is kept in {name}, not in {wanted}"
    return ""


# State -------------------------------------------------------------------------------------------------


def state_cases(context: Context) -> Any:
    """Draw a construction and a batch size."""
    from hypothesis import strategies as st

    return st.builds(
        LayerCase,
        option=st.sampled_from(all_options(context)),
        examples=st.just(3) if few_shapes() else st.integers(1, ROWS),
        seed=seeds(),
    )


def state_corners(context: Context) -> Sequence[LayerCase]:
    """Return one batch for each main construction."""
    return tuple(LayerCase(option=name) for name in core_options(context, most=2))


@check(
    family="independence",
    claims=("C8",),
    case=LayerCase,
    cases=state_cases,
    params=layers_of_keras,
    corners=state_corners,
    applies=not_made,
    examples=(0, 0, 50),
    per_subject=False,
    catches="statistics or states that inference moves on (seeds are reported); something kept from the call "
    "before, beside the "
    "variables or in them",
    formula="every variable but a seed is equal bit for bit before and after; outputs are equal bit for bit "
    "before and after a "
    "call on other examples",
    source="keras.io/getting_started/faq: with training=False a layer 'runs in inference mode', its state frozen",
    example="inference moves batch_normalization/moving_mean by 0.02",
)
def inference_leaves_nothing_behind(context: Context, case: LayerCase) -> Reading:
    """Inference changes no variable of a layer, and no later output."""
    bench = bench_of(context, case)
    rig = bench.rig(bench.exact)
    batch = take(bench.arguments(case.seed), slice(0, case.examples))
    rig.restore()
    first = rig.call(batch)
    rig.call(mapped(batch, lambda a: a[::-1] * (3 if a.dtype.kind == "f" else 1) if a.dtype.kind in "fi" else a[::-1]))
    second, after = rig.call(batch), rig.state()
    seeds = [id(v) for v in rig.seeds]
    moved = [(v, a, b) for v, a, b in zip(rig.variables, rig.values, after, strict=True) if not _same(a, b)]
    rig.restore()
    readings = [_moved(v.path, a, b, id(v) in seeds) for v, a, b in moved]
    return worst([*readings, *(_repeated(i, a, b) for i, (a, b) in enumerate(zip(first, second, strict=True)))])


def _same(before: Any, after: Any) -> bool:
    return np.array_equal(before, after, equal_nan=before.dtype.kind == "f")


def _moved(name: str, before: Any, after: Any, seed: bool) -> Reading:
    """Return that a variable was moved: a failure, but for a seed, which no output of inference depends on."""
    by = float(np.max(np.abs(np.asarray(after, np.float64) - before)))
    if seed:
        words = f"inference draws random numbers that it does not use: later training draws others ({name})"
        return Reading(0.0, name, words, "reported", figures={"reported": 1.0})
    return Reading(np.inf, name, f"inference moves {name} by {by:.2g}", "the same bits")


def _repeated(output: int, first: Any, second: Any) -> Reading:
    if np.array_equal(first, second, equal_nan=True):
        return Reading(0.0)
    by = float(np.max(np.abs(first - second)))
    seen = f"after a call on other examples, output {output} for the same batch is off by {by:.2g}"
    return Reading(np.inf, f"output {output}", seen, "the same bits")
