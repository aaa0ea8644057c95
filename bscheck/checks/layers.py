"""Every exported layer by itself: an example's output depends on that example alone, and tiny batches work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import LARGER_BATCHES, LayerCase, seeds
from bscheck.checks import check
from bscheck.checks.context import Context, first_reason, require
from bscheck.checks.layer_bench import (
    ROWS,
    LayerBench,
    all_options,
    bench_of,
    compare,
    core_options,
    coupled,
    few_shapes,
    joined,
    layers_of_keras,
    mapped,
    not_made,
    take,
)
from bscheck.diagnose import culprit, is_ours
from bscheck.errors import one_line
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array
from bscheck.runtime.layer_rig import Arguments
from bscheck.surface.layers import Construction, Feature
from bscheck.tolerance import rms

CHANGES = LayerCase.CHOICES["change"]


def layer_cases(context: Context, least: int = 2) -> Any:
    """Draw a construction, a batch size and what is done to the batch."""
    from hypothesis import strategies as st

    return st.builds(
        LayerCase,
        option=st.sampled_from(all_options(context)),
        examples=st.just(3) if few_shapes() else st.integers(least, ROWS),
        change=st.sampled_from(CHANGES),
        dtype=st.sampled_from(["float64", "float32"]),
        seed=seeds(),
    )


def mixed_batch(bench: LayerBench, case: LayerCase) -> tuple[list[int], list[int], Arguments]:
    """Return examples that must come out as they do alone, their places in the batch, and the batch."""
    n = case.examples
    rng = np.random.default_rng((case.seed, 8))
    # Larger batches repeat the examples, which must all come out alike.
    rows = [i % ROWS for i in range(n)]
    batch = take(bench.arguments(case.seed), rows)
    if case.change == "none":
        return rows, list(range(n)), batch
    if case.change == "permuted":
        order = np.roll(np.arange(n), int(rng.integers(1, max(n, 2))))
        return [rows[i] for i in order], list(range(n)), take(batch, order)
    k = int(rng.integers(n))
    other = take(bench.arguments(case.seed + 1), slice(k, k + 1))
    if case.change == "huge":
        other = mapped(other, lambda a: a * 1000 if a.dtype.kind == "f" else a)
    kept = [i for i in range(n) if i != k]
    return [rows[i] for i in kept], kept, joined(joined(take(batch, slice(0, k)), other), take(batch, slice(k + 1, n)))


# Inference ---------------------------------------------------------------------------------------------


def row_corners(context: Context) -> Sequence[LayerCase]:
    """Return every batch size and change for the main constructions, and a few for the others."""
    pairs = [(3, "permuted")] if few_shapes() else [(2, "huge"), (3, "permuted"), (4, "changed")]
    # Dropout does nothing at inference: its constructions are for training.
    names = all_options(context, lambda c: c.name != "dropout")
    small = [LayerCase(option=name, examples=n, change=change) for name in names for n, change in pairs]
    first = [] if few_shapes() else core_options(context, lambda c: c.name != "dropout", most=1)
    return (*small, *(LayerCase(option=name, examples=n, dtype="float32") for name in first for n in LARGER_BATCHES))


@check(
    family="independence",
    claims=("C1", "C8"),
    case=LayerCase,
    cases=layer_cases,
    params=layers_of_keras,
    corners=row_corners,
    applies=not_made,
    examples=(0, 1, 100),
    per_subject=False,
    catches="a layer that mixes, reverses, drops or repeats rows, or computes one batch size or parity otherwise",
    formula="|p-r| <= 16 u m in rms and in the maximum norm; r: the rows one at a time, at the same precision; m: how "
    "far the outputs move when weights and inputs are perturbed, divided by the relative perturbation",
    source="keras.io/api/layers: only layers with batch statistics are documented to look at the batch, in training",
    example="the output is off by 1e-4 for example 2: 1e-4 of the outputs' rms",
)
def layer_output_of_an_example_is_its_own(context: Context, case: LayerCase) -> Reading:
    """A layer's output for an example does not depend on the batch that the example is in (inference)."""
    bench = bench_of(context, case)
    rows, places, batch = mixed_batch(bench, case)
    dtype = bench.dtype(case.dtype)
    seen = [o[places] if len(o) == case.examples else o for o in bench.rig(dtype).call(batch)]
    return compare(seen, bench.alone(dtype, case.seed, rows), bench, dtype, "the output")


# Unknown lengths ---------------------------------------------------------------------------------------

#: Layers that ask for inputs of known lengths, as they document or say; and constructions that do.
KNOWN_LENGTHS = ("Adaptive",)
KNOWN_LENGTH_OPTIONS = ("unroll_mask", "axes", "dropout")


def of_any_length(construction: Construction) -> bool:
    """Whether all inputs have a length, which a construction need not know."""
    parts = [leaf for part in construction.args for leaf in (part if isinstance(part, list) else [part])]
    plain = bool(parts) and all(isinstance(p, Feature) and p.kind == "normal" and len(p.shape) > 1 for p in parts)
    return plain and construction.name not in KNOWN_LENGTH_OPTIONS


def no_lengths(context: Context) -> str | None:
    """Return why a layer is not asked for inputs of unknown lengths."""
    refused = context.param.get("layer").startswith(KNOWN_LENGTHS)
    return not_made(context) or first_reason(
        (not context.runtime.traces_unknown_lengths, f"{context.runtime.name} traces no functions of unknown lengths"),
        (refused or not all_options(context, of_any_length), "takes inputs of known lengths, or of none"),
    )


def length_cases(context: Context) -> Any:
    """Draw a construction and a number of examples."""
    from hypothesis import strategies as st

    names = all_options(context, of_any_length)
    return st.builds(LayerCase, option=st.sampled_from(names), examples=st.integers(1, ROWS), seed=seeds())


def length_corners(context: Context) -> Sequence[LayerCase]:
    """Return the first construction, and the first with a mask: each is a trace."""
    masked = all_options(context, lambda c: of_any_length(c) and bool(c.steps))
    return tuple(LayerCase(option=name) for name in [*all_options(context, of_any_length)[:1], *masked[:1]])


@check(
    family="independence",
    claims=("C1", "C13"),
    case=LayerCase,
    cases=length_cases,
    params=layers_of_keras,
    corners=length_corners,
    applies=no_lengths,
    examples=(0, 0, 30),
    per_subject=False,
    catches="a layer with a branch of its own for sequences or images whose length is not known when it is traced, as "
    "those of unequal lengths are: wrong only there",
    formula="|p-r| <= 16 u m, p: traced for any number of examples and any length (the second axis), r: the rows one "
    "at a time; m as for a layer's rows in any batch",
    source="keras.io/guides/functional_api: keras.Input(shape=(None, ...)), 'a sequence of unknown length'",
    example="the output of unknown length is off by 0.1 for example 2: 0.2 of the outputs' rms",
)
def unknown_lengths_change_nothing(context: Context, case: LayerCase) -> Reading:
    """A layer's output does not depend on whether the length of its inputs is known when it is traced."""
    bench = bench_of(context, case)
    rows = list(range(case.examples))
    seen = bench.rig(bench.exact).call_of_any_length(take(bench.arguments(case.seed), rows))
    return compare(seen, bench.alone(bench.exact, case.seed, rows), bench, bench.exact, "the output of unknown length")


# Training ----------------------------------------------------------------------------------------------


def training_cases(context: Context) -> Any:
    """Draw a construction and a batch one of whose examples is replaced."""
    from hypothesis import strategies as st

    return st.builds(
        LayerCase,
        option=st.sampled_from(all_options(context)),
        examples=st.just(3) if few_shapes() else st.integers(2, ROWS),
        change=st.sampled_from(["changed", "huge"]),
        seed=seeds(),
    )


def training_corners(context: Context) -> Sequence[LayerCase]:
    """Return an odd batch for the first constructions, and for those that drop out."""
    names = core_options(context, lambda c: c.name != "dropout", most=2)
    dropping = all_options(context, lambda c: c.name == "dropout")
    return tuple(LayerCase(option=name, examples=3, change="changed") for name in [*names, *dropping])


@check(
    family="independence",
    claims=("C1", "C8"),
    case=LayerCase,
    cases=training_cases,
    params=layers_of_keras,
    corners=training_corners,
    applies=not_made,
    examples=(0, 0, 100),
    per_subject=False,
    catches="a layer that mixes rows while training: a mask, a noise or an augmentation that depends on another "
    "example's values",
    formula="|p-q| <= 16 u m; p, q: the kept examples' outputs with and without the change, from the same seeds and "
    "states; for layers with batch statistics, the relative rms by which they move is reported",
    source="keras.io/api/layers: BatchNormalization, MixUp and CutMix are documented to mix the examples of a batch",
    example="the training output is off by 0.01 for example 0: 0.01 of the outputs' rms",
)
def layer_examples_do_not_mix_in_training(context: Context, case: LayerCase) -> Reading:
    """A layer's training output for an example does not change when another example of the batch does."""
    bench = bench_of(context, case)
    rig = bench.rig(bench.exact)
    _, kept, batch = mixed_batch(bench, case)
    rig.restore()  # inference moves the seeds of some layers on
    before = [o[kept] for o in rig.call(take(bench.arguments(case.seed), slice(0, case.examples)), training=True)]
    rig.restore()
    after = [o[kept] for o in rig.call(batch, training=True)]
    rig.restore()
    if coupled(bench.name):
        return _coupling(before, after, bench.name)
    return compare(after, before, bench, bench.exact, "the training output")


def _coupling(before: Sequence[Array], after: Sequence[Array], name: str) -> Reading:
    """Return the size of a documented coupling: reported, never a failure, never hidden."""
    a, b = (np.concatenate([np.ravel(o) for o in part]) for part in (before, after))
    effect = rms(b - a) / rms(a) if rms(a) else 0.0
    return Reading(
        0.0,
        where=name,
        seen=f"{name} couples the examples: another example moves a training output by {effect:.1%}",
        allowed="reported",
        figures={"reported": 1.0, "coupling": effect},
    )


# Tiny batches ------------------------------------------------------------------------------------------


def _cases_of(sizes: Sequence[int]) -> Any:
    def cases(context: Context) -> Any:
        from hypothesis import strategies as st

        return st.builds(
            LayerCase,
            option=st.sampled_from(all_options(context)),
            examples=st.sampled_from(list(sizes)),
            dtype=st.just("float32"),
            seed=seeds(),
        )

    return cases


def _corners_of(*sizes: int) -> Any:
    def corners(context: Context) -> Sequence[LayerCase]:
        return tuple(
            LayerCase(option=name, examples=n, dtype="float32") for n in sizes for name in core_options(context, most=3)
        )

    return corners


@check(
    family="independence",
    claims=("C3", "C8"),
    case=LayerCase,
    cases=_cases_of((0, 1, 2)),
    params=layers_of_keras,
    corners=_corners_of(0, 1),
    applies=not_made,
    examples=(0, 0, 50),
    per_subject=False,
    catches="an empty batch that crashes or comes out with examples in it, NaN from a mean over nothing, a single "
    "example that is computed otherwise",
    formula="every output has as many rows as the batch; all values finite; |p-r| <= 16 u m, r: the rows within "
    "a batch "
    "of three",
    source="keras.io/api/layers/base_layer: the batch axis is None, any size; NumPy's and TensorFlow's operations are "
    "defined on empty arrays",
    example="a batch of 0 examples: TensorFlow raised InvalidArgumentError",
)
def layer_takes_tiny_batches(context: Context, case: LayerCase) -> Reading:
    """A batch of 0, 1 or 2 examples comes out with as many rows, finite, and as in a larger batch."""
    bench = bench_of(context, case)
    n = case.examples
    what = _words(n)
    rig = bench.rig(case.dtype)
    try:
        # Static shapes, which are what an eager call has, take other paths in Keras than unknown ones.
        raw = rig.raw(take(bench.arguments(case.seed), slice(0, n)), eager=not few_shapes())
    except Exception as error:
        require(n > 0 or not _clear(error), f"Keras refuses an empty batch: {one_line(error)}")
        seen = f"{what}: {culprit(error)} raised {one_line(error)}"
        return Reading(np.inf, what, seen, "outputs, or an error from Keras that says what is wrong")
    if any(len(o) != n for o in raw):
        return Reading(np.inf, what, f"{what}: outputs of shape {[tuple(o.shape) for o in raw]}", f"{n} rows")
    rows = rig.arrays(raw)
    if not all(np.isfinite(o).all() for o in rows):
        return Reading(np.inf, what, f"{what}: an output is not finite", "finite outputs")
    if n == 0:
        return Reading(0.0)
    larger = [o[:n] for o in rig.arrays(bench.together(case.dtype, case.seed))]
    return compare(rows, larger, bench, case.dtype, f"{what}: the output")


def _words(n: int) -> str:
    return f"a batch of {n} example{'s' if n != 1 else ''}"


def _clear(error: Exception) -> bool:
    """Whether an error says of itself that Keras does not take such a batch."""
    return isinstance(error, ValueError) and culprit(error) == "Keras" and "batch" in str(error).lower()


@check(
    family="independence",
    claims=("C8",),
    case=LayerCase,
    cases=_cases_of((0, 1, 2, 3)),
    params=layers_of_keras,
    corners=_corners_of(0, 1, 3),
    applies=not_made,
    examples=(0, 0, 50),
    per_subject=False,
    catches="a single example whose axis is squeezed away, an empty batch that comes out with its input's shape, "
    "a dtype "
    "that depends on the batch size",
    formula="shapes equal those that compute_output_spec announces, with the batch size for None; dtypes equal "
    "those of "
    "a batch of three; an empty batch that raises is another promise's",
    source="keras.io/api/layers/base_layer: compute_output_shape is the shape of what call returns",
    example="a batch of 0 examples: shape (0, 6, 4); announced: (None, 5, 4)",
)
def layer_output_has_the_announced_shape(context: Context, case: LayerCase) -> Reading:
    """A layer's outputs have the shape that it announces, and one dtype, whatever the batch size."""
    bench = bench_of(context, case)
    n = case.examples
    rig = bench.rig(case.dtype)
    together = bench.together(case.dtype, case.seed)
    try:
        raw = together if n == 3 else rig.raw(take(bench.arguments(case.seed), slice(0, n)), eager=not few_shapes())
    except Exception as error:
        if n == 0 and not is_ours(error):
            return Reading(0.0)
        raise
    wrong = _unlike(raw, bench.announced(), together, n)
    if wrong:
        return Reading(np.inf, _words(n), f"{_words(n)}: {wrong}", "what is announced")
    return Reading(0.0)


def _unlike(raw: Sequence[Any], announced: Sequence[tuple[int | None, ...]], together: Sequence[Any], n: int) -> str:
    """Return how outputs differ from what was announced for them, or nothing."""
    if len(raw) != len(announced):
        return f"{len(raw)} outputs; announced: {len(announced)}"
    for output, shape, usual in zip(raw, announced, together, strict=True):
        expected, seen = (n, *shape[1:]), tuple(output.shape)
        if len(seen) != len(expected) or any(b not in (None, a) for a, b in zip(seen, expected, strict=True)):
            return f"shape {seen}; announced: {shape}"
        if output.dtype != usual.dtype:
            return f"dtype {output.dtype}; in a batch of three: {usual.dtype}"
    return ""
