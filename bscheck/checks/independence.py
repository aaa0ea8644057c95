"""Independence, first half: an example's output depends on that example alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import InferenceCase, InfluenceCase, PaddingCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, require
from bscheck.checks.truth import compare_rows, forward, no_twin, trainer, truth
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array, Bench
from bscheck.runtime.inference import ENDLESS, Lengthened, forward_function, lengthened
from bscheck.subject import leaves, map_leaves, take
from bscheck.tolerance import rms

#: Examples in a drawn case: two full batches of the largest size drawn, and a tail.
MOST_EXAMPLES = 40

#: Reference subjects that go through Keras's loops in every situation; the others take a few. Keras's loops
#: are the same code for every model, at 50 ms a call; a team's own subject goes through all of them.
IN_FULL = ("dense", "two_outputs")


def in_full(context: Context) -> bool:
    """Whether the subject is taken through every situation of Keras's loops."""
    return context.given is not None or context.param.get("subject") in IN_FULL


#: Larger batches and their tails; among the numbers of examples are multiples of 3, 4, 5, 7, 10 and 11.
LARGER_TAILS = {7: 5, 33: 17, 64: 36, 100: 5, 129: 3}

# Batches -----------------------------------------------------------------------------------------------


def batch_shapes(context: Context, most: int = MOST_EXAMPLES) -> Any:
    """Return the strategy for ``(batch_size, batches, tail)`` with 1 to `most` examples."""
    from hypothesis import strategies as st

    if context.given is not None:
        return promised_shapes(context, most)
    if context.runtime.compiles_per_shape:
        return st.sampled_from([(1, 2, 0), (2, 1, 0), (2, 1, 1), (2, 2, 1), (3, 1, 2), (3, 2, 1), (3, 0, 2)])
    sizes = sorted({1, 2, 3, 4, 5, 7, 8} | {b for b in context.subject.batch_sizes if b <= most})

    def shapes(size: int) -> Any:
        tails = st.integers(0, min(size - 1, most))
        return st.tuples(st.just(size), st.integers(0, max(1, min(5, most // size - 1))), tails)

    return st.sampled_from(sizes).flatmap(shapes).map(_not_empty)


def promised_shapes(context: Context, most: int) -> Any:
    """Return the strategy for batches of a team's own sizes: a few of them, and a tail of any size."""
    from hypothesis import strategies as st

    if context.runtime.compiles_per_shape:  # shapes that the corners have compiled
        return st.sampled_from([(size, n, min(1, size - 1)) for size in context.batch_sizes for n in (1, 2)])
    return st.sampled_from(context.batch_sizes).flatmap(
        lambda size: st.tuples(
            st.just(size), st.integers(1, max(1, min(5, most // size - 1))), st.integers(0, min(size - 1, most))
        )
    )


def promised_corners(context: Context, plain: InferenceCase) -> list[InferenceCase]:
    """Return each of a team's own batch sizes with a tail, and what else its batches meet, smallest first."""
    sizes = context.batch_sizes
    least, next_one = sizes[0], sizes[min(1, len(sizes) - 1)]
    corners = [replace(plain, batch_size=least), replace(plain, batch_size=least, batches=3)]
    corners += [replace(plain, batch_size=size, tail=min(1, size - 1)) for size in sizes]
    if context.runtime.compiles_per_shape:
        return corners
    usual = replace(plain, batch_size=next_one, seed=1)
    if next_one > 1:  # fewer examples than one batch takes
        corners += [replace(usual, batches=0, tail=next_one - 1)]
    if context.runtime.joins_steps:
        # Three steps in one call for five batches, and more steps than there are batches.
        corners += [replace(usual, batches=4, tail=min(1, next_one - 1), steps_per_execution=3)]
        corners += [replace(usual, steps_per_execution=3)]
    return [*corners, replace(usual, tail=min(1, next_one - 1), mode="eager")]


def _not_empty(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    size, batches, tail = shape
    return shape if batches or tail else (size, 1, 0)


def inference_cases(context: Context, **fields: Any) -> Any:
    """Return the strategy for cases of Keras's loops; `fields` are strategies for what the check varies."""
    from hypothesis import strategies as st

    rich = in_full(context) and not context.runtime.compiles_per_shape
    first = context.runtime.modes[0]
    common: dict[str, Any] = {
        "seed": seeds(),
        "mode": st.sampled_from([first] * 7 + ["eager"] if rich else [first]),
        "scale": st.sampled_from(["usual", "small", "large"]),
        "steps_per_execution": st.sampled_from([1, 1, 1, 3] if rich and context.runtime.joins_steps else [1]),
    }
    shapes = batch_shapes(context)
    return st.builds(_assembled, shapes, st.fixed_dictionaries({**common, **fields}))


def _assembled(shape: tuple[int, int, int], fields: dict[str, Any]) -> InferenceCase:
    size, batches, tail = shape
    # Eagerly, steps are executed one by one whatever is asked: another compiled model would show nothing new.
    if fields["mode"] == "eager" or fields.get("source") == "on_batch":
        fields = {**fields, "steps_per_execution": 1}
    # What was called earlier must be compiled too, so it goes with single steps.
    if fields["steps_per_execution"] > 1 and fields.get("earlier") != "evaluate":
        fields = {**fields, "earlier": "nothing"}
    return InferenceCase(batch_size=size, batches=batches, tail=tail, **fields)


def prediction_cases(context: Context) -> Any:
    """Draw batch sizes, tails and sources for ``predict``."""
    from hypothesis import strategies as st

    given = ["on_batch", "on_batch", "on_batch", *context.sources()]
    return inference_cases(context, source=st.sampled_from(given))


def batch_corners(context: Context) -> list[InferenceCase]:
    """Return the batch shapes and situations that every subject meets, smallest first."""
    mode = context.runtime.modes[0]
    # Two seeds serve them all: the truth of a seed is computed once.
    plain = InferenceCase(mode=mode, batch_size=1)
    if context.given is not None:
        return promised_corners(context, plain)
    corners = [
        plain,
        replace(plain, batches=3),
        replace(plain, batch_size=2),
        replace(plain, batch_size=2, tail=1),
        replace(plain, batch_size=3, batches=2, tail=2, seed=1),
        replace(plain, batch_size=8, batches=0, tail=3, seed=1),
    ]
    if context.runtime.compiles_per_shape:
        return corners
    if not in_full(context):
        return [*corners[1:2], *corners[3:], *_in_precisions(context, corners[3])]
    largest = sorted({b for b in context.subject.batch_sizes if 3 < b <= MOST_EXAMPLES})
    corners += [replace(plain, batch_size=b, tail=1) for b in largest]
    # Three steps in one call for five batches, and more steps than there are batches.
    if context.runtime.joins_steps:
        corners += [replace(plain, batch_size=2, batches=4, tail=1, steps_per_execution=3, seed=1)]
        corners += [replace(plain, batch_size=2, steps_per_execution=3, seed=1)]
    corners += [replace(plain, batch_size=2, tail=1, mode="eager", seed=1)]
    if context.param.get("subject") == "dense":
        # The truth of the most examples serves for all but the last, which has many batches.
        corners += [replace(plain, batch_size=b, tail=tail, seed=2) for b, tail in LARGER_TAILS.items()]
        corners += [replace(plain, batch_size=5, batches=16, tail=4, seed=2)]
    if context.param.get("subject") == "dense" and "jit" in context.runtime.modes:
        corners += [replace(plain, batch_size=2, tail=1, mode="jit", seed=1)]
    return [*corners, *_in_precisions(context, corners[3])]


def _in_precisions(context: Context, case: InferenceCase) -> list[InferenceCase]:
    """Return the case in the other precisions, for the two subjects that are compiled in them."""
    policies = {"dense": ("float64", "mixed_bfloat16"), "lstm": ("mixed_bfloat16",)}
    return [replace(case, dtype=dtype) for dtype in policies.get(context.param.get("subject"), ())]


def prediction_corners(context: Context) -> Sequence[InferenceCase]:
    """Return the smallest batches, the subject's own batch sizes, and each source of data once."""
    corners = batch_corners(context)
    ragged = InferenceCase(mode=context.runtime.modes[0], tail=1)
    given = context.sources()[1:] if in_full(context) else context.sources()[1:2]
    given = (*given, ENDLESS) if in_full(context) and context.given is None else given
    return (*corners, *(replace(ragged, source=source) for source in given))


@check(
    family="independence",
    claims=("C8", "C13"),
    case=InferenceCase,
    cases=prediction_cases,
    corners=prediction_corners,
    applies=no_twin,
    examples=(1, 2, 200),
    catches="rows that are lost, doubled or out of order; a ragged tail, an odd size or a size of one that "
    "is computed otherwise; a layer or a loop that lets one row see another",
    formula="|p-r| <= 6 sigma in rms and <= 8 sigma in the maximum norm; r: the float64 twin, one example "
    "at a time; sigma = max(|f-c|, u |c|, 1e-3 u |c_all|), f-c: the subject's own rounding on 16 or more "
    "rows, one at a time",
    source="keras.io/api/models/model_training_apis: batch_size is the 'number of samples per batch', nothing else",
    example="the prediction of example 4 is off by 0.12: 0.1 of the outputs' rms",
)
def predictions_do_not_depend_on_batch_size(context: Context, case: InferenceCase) -> Reading:
    """Predictions are the same rows in the same order, whatever the batch size."""
    expected = truth(context, case)
    model = trainer(context.bench(case.dtype), case.mode, case.steps_per_execution)
    model.set_weights(expected.weights)
    seen = model.predict(expected.x, case.batch_size, case.source)
    return compare_rows(seen, expected, "the prediction")


# Neighbours --------------------------------------------------------------------------------------------


def influence_cases(context: Context) -> Any:
    """Draw what happens to the other examples."""
    from hypothesis import strategies as st

    most = 3 if context.runtime.compiles_per_shape else 9
    return st.integers(2, most).flatmap(
        lambda n: st.builds(
            InfluenceCase,
            examples=st.just(n),
            kept=st.integers(1, n - 1),
            change=st.sampled_from(InfluenceCase.CHOICES["change"]),
            training=st.booleans(),
            seed=seeds(),
            mode=st.sampled_from([*context.modes()[:1] * 3, *context.modes()]),
            scale=st.sampled_from(["usual", "small", "large"]),
        )
    )


def influence_corners(context: Context) -> Sequence[InfluenceCase]:
    """Return each change with two and with more examples, called for inference and for training."""
    mode = context.runtime.modes[0]
    pairs = [(2, 1)] if context.runtime.compiles_per_shape else [(2, 1), (5, 2)]
    return tuple(
        InfluenceCase(examples=n, kept=kept, change=change, training=training, mode=mode, seed=n)
        for n, kept in pairs
        for change in InfluenceCase.CHOICES["change"]
        for training in (False, True)
    )


@check(
    family="independence",
    claims=("C1", "C8"),
    case=InfluenceCase,
    cases=influence_cases,
    corners=influence_corners,
    applies=no_twin,
    examples=(4, 6, 400),
    catches="a layer that mixes rows of a batch: statistics over the batch at inference, a softmax, a mask, "
    "a state or a sort over the wrong axis; in training too, where no layer is documented to use batch "
    "statistics",
    formula="as for predictions; in training with batch statistics the relative rms by which the kept "
    "examples' outputs move is reported instead",
    source="keras.io/api/layers: only normalization layers with batch statistics are documented to look at the batch",
    example="the output of example 0 is off by 0.4: 0.3 of the outputs' rms",
)
def examples_do_not_influence_each_other(context: Context, case: InfluenceCase) -> Reading:
    """An example's output does not change when the other examples of its batch do."""
    require(not (case.training and context.traits.stochastic), "training calls are random (dropout or noise)")
    expected = truth(context, case, training=case.training)
    bench = context.bench(case.dtype)
    call = forward(bench, case.training, case.mode)
    chosen, among = mixed(context, case, expected.x)
    bench.set_weights(expected.weights)
    seen = [o[chosen] for o in call(among)]
    if case.training and context.traits.batch_statistics:
        bench.set_weights(expected.weights)
        return _coupling([o[: len(chosen)] for o in call(expected.x)], seen, context.traits.batch_statistics)
    rows_kept = [r[: len(chosen)] for r in expected.rows]
    return compare_rows(seen, replace(expected, rows=rows_kept), "the output")


def mixed(context: Context, case: InfluenceCase, x: Any) -> tuple[Array, Any]:
    """Return where the kept examples end up, and the batch with the others changed."""
    n, kept = case.examples, case.kept
    rng = np.random.default_rng((case.seed, 5))
    if case.change == "removed":
        return np.arange(kept), take(x, slice(0, kept))
    if case.change == "permuted":
        order = np.roll(np.arange(n), int(rng.integers(1, n)))
        return np.argsort(order), take(x, order)
    bench = context.bench(case.dtype)
    other, _, _ = bench.cast(context.subject.draw(case.seed + 1, n))
    factor = 1000 if case.change == "huge" else 1
    batch = map_leaves(lambda a: a * factor if a.dtype.kind == "f" else a, other)
    for target, source in zip(leaves(batch), leaves(x), strict=True):
        target[:kept] = source[:kept]
    return np.arange(kept), batch


def _coupling(alone: Sequence[Array], seen: Sequence[Array], layers: Sequence[str]) -> Reading:
    """Return the size of a documented coupling: reported, never a failure, never hidden."""
    before, after = (np.concatenate([np.ravel(o) for o in part]) for part in (alone, seen))
    size = rms(before)
    coupling = rms(after - before) / size if size else 0.0
    return Reading(
        0.0,
        where=", ".join(layers),
        seen=f"batch statistics couple the examples: a training output moves by {coupling:.1%}",
        allowed="reported",
        figures={"reported": 1.0, "coupling": coupling},
    )


# Padding -----------------------------------------------------------------------------------------------


def masked_subjects() -> list[Param]:
    """Return the reference subjects that mask their input."""
    return [Param.of(subject=name) for name in ("lstm", "gru")]


def no_masking(context: Context) -> str | None:
    """Return why the promise about padding does not apply."""
    if _longer(context.bench("float64")) is None:
        return "no input that a Masking layer or mask_zero reads, or no way to rebuild it for longer sequences"
    return no_twin(context)


def padding_cases(context: Context) -> Any:
    """Draw how much is padded."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    return st.builds(
        PaddingCase,
        examples=st.integers(1, 2 if few else 5),
        padding=st.integers(0, 2 if few else 9),
        seed=seeds(),
        mode=st.sampled_from(context.modes()),
        scale=st.sampled_from(["usual", "small", "large"]),
    )


def padding_corners(context: Context) -> Sequence[PaddingCase]:
    """Return no, one and several steps of padding, for one and for several sequences."""
    mode = context.runtime.modes[0]
    return tuple(PaddingCase(examples=n, padding=k, mode=mode, seed=n + k) for n in (1, 3) for k in (0, 1, 3))


@cached_in_process
def _longer(bench: Bench) -> Lengthened | None:
    return lengthened(bench)


@cached_in_process
def _longer_forward(bench: Bench, mode: str) -> Callable[[Any], list[Array]]:
    longer = _longer(bench)
    assert longer is not None
    return forward_function(bench, longer.model, False, mode)


def _without_padding(padded: Array, alone: Sequence[Array], lengths: Array) -> tuple[Array, Array]:
    """Return an output of padded sequences and that of each one alone; of an output for every step, its own steps.

    Parameters
    ----------
    padded : array (N, ...)
    alone : sequence of N arrays (1, ...)
    lengths : array of int (N,)
        Steps of each sequence.
    """
    steps = [a.shape[1] if a.ndim > 1 else -1 for a in alone]
    longest = int(max(lengths))
    by_step = list(lengths) == steps and padded.ndim == alone[0].ndim and padded.shape[1] >= longest
    if not by_step or padded.shape[1] == longest == int(min(lengths)):
        return padded, np.concatenate(list(alone))
    seen, exact = (np.zeros((len(padded), longest, *padded.shape[2:])) for _ in range(2))
    for i, n in enumerate(lengths):
        seen[i, :n], exact[i, :n] = padded[i, :n], alone[i][0]
    return seen, exact


@check(
    family="independence",
    claims=("C13",),
    case=PaddingCase,
    cases=padding_cases,
    params=masked_subjects,
    corners=padding_corners,
    applies=no_masking,
    examples=(4, 4, 400),
    catches="a recurrent layer, wrapper or pooling that lets masked steps move its state, its count or its output",
    formula="as for predictions; r: the float64 twin on each sequence alone, its masked steps cut off",
    source="keras.io/guides/understanding_masking_and_padding: masked steps are 'skipped when processing the data'",
    example="the output of example 1 is off by 0.2: 0.2 of the outputs' rms",
)
def padding_does_not_change_the_output(context: Context, case: PaddingCase) -> Reading:
    """Masked time steps appended to a sequence change nothing."""
    expected = truth(context, case)
    double, bench = context.bench("float64"), context.bench(case.dtype)
    x64, _, _ = double.cast((expected.x, None, None))
    cut, long = _longer(double), _longer(bench)
    assert cut is not None
    assert long is not None
    cut.set_weights(expected.weights)
    lengths = cut.lengths(x64)
    require(bool(lengths.all()), "a sequence is masked entirely")
    alone = _longer_forward(double, "graph")
    parts = [alone(take(x64, (slice(i, i + 1), slice(0, n)))) for i, n in enumerate(lengths)]
    long.set_weights(expected.weights)
    seen = _longer_forward(bench, case.mode)(long.padded(expected.x, case.padding))
    pairs = [_without_padding(s, p, lengths) for s, p in zip(seen, zip(*parts, strict=True), strict=True)]
    seen, exact = ([pair[i] for pair in pairs] for i in (0, 1))
    return compare_rows(seen, replace(expected, rows=exact), "the output")
