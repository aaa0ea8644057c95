"""Every exported layer that hands a mask on: attached or by keyword, it acts alike and goes on with the steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bscheck.cases import MaskPassingCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, first_reason, random
from bscheck.checks.layer_bench import LayerBench, bench_of, few_shapes, layers_of_keras, leaves, not_made, take
from bscheck.checks.layer_masks import masks_of, valid_steps, with_leaves
from bscheck.results.verdict import Reading, worst
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array
from bscheck.runtime.layer_rig import Arguments
from bscheck.runtime.masks import attached, mask_of, masked_call
from bscheck.surface.layers import Construction, Feature, loops, options

#: Layers that make a mask of their own, whatever reaches them.
SOURCES = ("Masking",)

#: Constructions under test beside the first, which is taken in every way.
MORE = 1


def _features(construction: Construction) -> list[Any]:
    return [leaf for part in construction.args for leaf in (part if isinstance(part, list) else [part])]


def _declared(construction: Construction) -> bool:
    """Whether the construction says what a step's output is."""
    return bool(construction.steps) and construction.steps != "whole"


def _positional(construction: Construction) -> bool:
    """Whether the construction is called with sequences of one length alone, (steps, features) each."""
    found = _features(construction)
    if construction.kwargs or construction.name == "channels_first":
        return False
    plain = all(isinstance(f, Feature) and f.kind == "normal" and len(f.shape) == 2 for f in found)
    return plain and len({f.shape[0] for f in found}) == 1


def sequences(name: str) -> list[Construction]:
    """Return the constructions of a layer that take sequences: those that say what a step's output is, if any do."""
    if name in SOURCES:
        return []
    made = options(name)
    found = [c for c in made if _declared(c)]
    return found or [c for c in made if _positional(c)]


def passing_layers() -> list[Param]:
    """Return the exported layers that have a construction with sequences."""
    return [p for p in layers_of_keras() if sequences(p.get("layer"))]


def hands_no_mask_on(context: Context) -> str | None:
    """Return why the promise does not apply to a layer."""
    reason = not_made(context)
    if reason:
        return reason
    name = context.param.get("layer")
    found = sequences(name)
    supports = bool(found) and found[0].make(keras_module()).supports_masking
    return first_reason((not found, "takes no sequences"), (not supports, "supports no masks in this release"))


def passing_cases(context: Context) -> Any:
    """Draw a construction, a way to give the mask, a precision and a batch."""
    from hypothesis import strategies as st

    few = few_shapes()
    made = {c.name: c for c in sequences(context.param.get("layer"))}
    first = list(made)[:1]
    return st.builds(
        MaskPassingCase,
        option=st.sampled_from(first if few else list(made)),
        way=st.just("attached") if few else st.sampled_from(ways(next(iter(made.values())))),
        dtype=st.sampled_from(["float32", "mixed_bfloat16"]),
        examples=st.just(3) if few else st.integers(1, 4),
        seed=seeds(),
    )


def ways(construction: Construction) -> list[str]:
    """Return the ways in which a mask can be given to a construction: by keyword where it has such an argument."""
    # Of sequences of images a Masking layer masks single pixels.
    flat = all(len(f.shape) == 2 for f in _features(construction))
    return ["attached", *(["model"] if flat else []), *(["keyword"] if _declared(construction) else [])]


def passing_corners(context: Context) -> Sequence[MaskPassingCase]:
    """Return every way for the first construction, also where the layer casts its inputs; others attached.

    Of a layer that loops over its steps only what costs few calls.
    """
    name = context.param.get("layer")
    first, *others = sequences(name)
    few, slow = few_shapes(), loops(name)
    chosen = ways(first)[-1:] if few else [way for way in ways(first) if not (slow and way == "model")]
    corners = [MaskPassingCase(option=first.name, way=way) for way in chosen]
    corners.append(MaskPassingCase(option=first.name, dtype="mixed_bfloat16"))
    return corners if few or slow else [*corners, *(MaskPassingCase(option=c.name) for c in others[:MORE])]


@check(
    family="independence",
    claims=("C13",),
    case=MaskPassingCase,
    cases=passing_cases,
    params=passing_layers,
    corners=passing_corners,
    applies=hands_no_mask_on,
    examples=(0, 0, 50),
    per_subject=False,
    catches="a layer behind which masked steps count again, in the next layer or in the loss: it loses the mask where "
    "it casts its inputs, merges several, or got the mask by keyword; or it ignores a mask that no keyword names",
    formula="the mask of the output equals the mask of the first input, reversed where the steps are; outputs with the "
    "mask attached equal those with the mask by keyword, bit for bit",
    source="keras.io/guides/understanding_masking_and_padding: 'the mask will be automatically propagated through the "
    "network'; Layer.supports_masking",
    example="with a mask attached to inputs that the layer casts, the output has no mask",
)
def mask_goes_on_with_the_steps(context: Context, case: MaskPassingCase) -> Reading:
    """A mask given to a layer, attached or by keyword, acts alike and goes on with the steps of its output."""
    bench = bench_of(context, case)
    rows, masks = masked_rows(bench, case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers inside attention say that they support no masks
        outputs = _called(bench, rows, masks, case)
    readings = []
    if case.way != "keyword" or bench.construction.masks == ("mask",):  # query_mask is for the layer itself
        readings.append(_mask_reading(bench.construction, outputs, masks[0], _words(case)))
    if case.way == "attached" and case.dtype == "float32" and _declared(bench.construction):
        rig, steps = bench.rig(case.dtype), bench.construction.steps
        pair = (outputs, rig.raw(rows, eager=True))
        seen, expected = (valid_steps(rig.arrays(o), masks[0], steps, masks[0].shape[1]) for o in pair)
        readings.append(_same(seen, expected, _words(case)))
    return worst(readings)


def masked_rows(bench: LayerBench, case: MaskPassingCase) -> tuple[Arguments, dict[int, Array]]:
    """Return what the layer is called with, zeros in the masked steps, and the mask of each masked input."""
    rows = take(bench.arguments(case.seed), slice(0, case.examples))
    masks = _masks(bench.construction, rows, case)
    return _zeroed(rows, masks), masks


def _words(case: MaskPassingCase) -> str:
    how = {"attached": "attached to the inputs", "keyword": "given by keyword", "model": "that a model made"}[case.way]
    cast = ", which the layer casts" if case.dtype != "float32" else ""
    return f"with a mask {how}{cast}"


def _masks(construction: Construction, rows: Arguments, case: MaskPassingCase) -> dict[int, Array]:
    """Return the mask of each masked input by its number; inputs of a layer that takes no mask argument share one."""
    if _declared(construction):
        return dict(zip(construction.masked, masks_of(construction, rows), strict=True))
    x = leaves(rows[0])
    mask = Feature(x[0].shape[1:2], "mask").draw(random(case.seed, 12), len(x[0]))
    return dict.fromkeys(range(len(x)), mask)


def _zeroed(rows: Arguments, masks: Mapping[int, Array]) -> Arguments:
    """Return the arguments with zeros in the masked steps, as a Masking layer hands them on."""
    args = leaves(rows[0])
    for number, mask in masks.items():
        args[number] = np.where(mask.reshape(*mask.shape, *(1,) * (args[number].ndim - 2)), args[number], 0.0).astype(
            "float32"
        )
    return with_leaves(rows[0], args), rows[1]


def _called(bench: LayerBench, rows: Arguments, masks: dict[int, Array], case: MaskPassingCase) -> list[Any]:
    """Return the output tensors with the masks given in the case's way."""
    rig = bench.rig(case.dtype)
    if case.way == "keyword":
        return rig.raw(rows, eager=True)
    rest = {key: value for key, value in rows[1].items() if key not in bench.construction.masks}
    if case.way == "model":
        return masked_call(rig, (rows[0], rest))
    return rig.raw(attached(rig, (rows[0], rest), masks), eager=True)


def _mask_reading(construction: Construction, outputs: Sequence[Any], mask: Array, words: str) -> Reading:
    """Return the reading of the mask of the first output, which has the steps."""
    if len(outputs[0].shape) < 3 or outputs[0].shape[1] != mask.shape[1]:
        return Reading(0.0)
    expected = mask[:, ::-1] if construction.steps == "reversed" else mask
    found = mask_of(outputs[0])
    if found is None:
        return Reading(np.inf, "mask", f"{words}, the output has no mask", "the mask of the first input")
    seen = np.asarray(keras_module().ops.convert_to_numpy(found)).astype(bool)
    if seen.shape == expected.shape and np.array_equal(seen, expected):
        return Reading(0.0)
    text = f"{words}, the output's mask is {seen.astype(int).tolist()}"
    return Reading(np.inf, "mask", text, f"{expected.astype(int).tolist()}")


def _same(seen: Sequence[Array], expected: Sequence[Array], words: str) -> Reading:
    for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
        if a.shape != b.shape or not np.array_equal(a, b, equal_nan=True):
            size = float(np.max(np.abs(a - b))) if a.shape == b.shape else np.inf
            text = f"{words}, output {i} is off by {size:.2g} from that with the mask by keyword"
            return Reading(np.inf, f"output {i}", text, "the same bits")
    return Reading(0.0)
