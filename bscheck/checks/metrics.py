"""Independence, metrics: a metric is a function of the examples, however they are cut into updates."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import MetricCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, random
from bscheck.checks.metric_inputs import COARSE, Shape, draw_inputs, draw_metric_weights
from bscheck.diagnose import is_ours
from bscheck.oracles.metrics import MEANS, ROWS, Value, definition, rows
from bscheck.results.verdict import NotApplicable, Reading, worst
from bscheck.runtime.bench import precision
from bscheck.surface.metrics import (
    CONSTRUCTIONS,
    Construction,
    exported,
    given,
    is_class,
    make,
    numbers,
    takes_masks,
    value_of,
    variants,
)
from bscheck.tolerance import TINY

Array = np.ndarray[Any, Any]

#: Unit roundoff of the dtypes that predictions come in.
ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}

#: Metrics whose result Keras computes in float32, whatever the dtype.
SINGLE = ("BinaryIoU", "IoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU")

#: Kinds of targets that are 0 or 1.
BOOLEAN = ("binary", "multilabel", "onehot", "probability")

#: Kinds of predictions that may be whole numbers.
WHOLE = ("binary",)


#: Metrics that may refuse an empty batch with an error: where TensorFlow takes no maximum over no rows.
REFUSE_EMPTY = ("CategoricalHinge", "F1Score", "FBetaScore", "categorical_hinge")


def metric_params() -> list[Param]:
    """Return a parameter for each metric class that Keras exports."""
    return [Param.of(metric=name) for name, member in exported().items() if is_class(member)]


def constructible(context: Context) -> str | None:
    """Return why the metric cannot be made here."""
    name = context.param.get("metric")
    if name not in CONSTRUCTIONS:
        return "no construction: bscheck.surface.metrics does not say how to make and feed this metric"
    return None if variants(name) else "this Keras knows none of the options under test"


# One situation -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """A case made concrete: NumPy arrays with the examples along the first axis.

    Attributes
    ----------
    name, options, dtype : str, mapping, str or None
        The metric, its constructor options without the dtype, and the dtype argument.
    y, p, w, mask : array or None
        Targets, predictions, weights and the predictions' mask.
    inputs : str
        Dtype that predictions are cast to, "" for their own.
    u : float
        Unit roundoff of the coarsest dtype on the way.
    """

    name: str
    options: Mapping[str, Any]
    dtype: str | None
    y: Array | None
    p: Array
    w: Array | None
    mask: Array | None
    inputs: str
    u: float

    def new(self) -> Any:
        """Return a new metric."""
        return make(self.name, self.options, **({} if self.dtype is None else {"dtype": self.dtype}))

    def rows(self, pick: Any) -> Situation:
        """Return the situation of some of the examples: a slice, or indices."""
        y, w, mask = (None if a is None else a[pick] for a in (self.y, self.w, self.mask))
        return replace(self, p=self.p[pick], y=y, w=w, mask=mask)

    def cut(self, sizes: Iterable[int]) -> list[Situation]:
        """Return the situations of consecutive chunks."""
        edges = np.concatenate([[0], np.cumsum(list(sizes))]).astype(int)
        return [self.rows(slice(a, b)) for a, b in itertools.pairwise(edges)]

    def expected(self) -> Value:
        """Return the value by definition over all examples."""
        w = self.w
        if self.mask is not None:
            w = self.mask.astype(np.float64) if w is None else _times(w, self.mask)
        return definition(self.name, self.y, self.p, w, self.options)

    def update(self, metric: Any) -> bool:
        """Give all examples to a metric in one update; return whether it took them: it must unless there are none."""
        p = self.predictions()
        arguments = (p,) if self.y is None else (self.y, p)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                metric.update_state(*arguments, **({} if self.w is None else {"sample_weight": self.w}))
            except Exception as error:
                if len(self.p) or self.name not in REFUSE_EMPTY or is_ours(error):
                    raise
                return False
        return True

    def predictions(self) -> Any:
        """Return the predictions as Keras gets them."""
        try:
            return given(self.p, self.inputs, self.mask)
        except AttributeError:
            raise NotApplicable("this backend's tensors carry no mask outside a model") from None


def _times(w: Array, mask: Array) -> Array:
    """Return weights times mask, the one of fewer axes spread over the other's."""
    rank = max(w.ndim, mask.ndim)
    w, mask = (a.reshape(a.shape + (1,) * (rank - a.ndim)) for a in (w, mask))
    return np.asarray(w * mask)


def situation(context: Context, case: MetricCase, *salt: int) -> Situation:
    """Return what a case stands for; other `salt` draws other examples."""
    name = context.param.get("metric")
    construction, known = CONSTRUCTIONS[name], variants(name)
    if case.variant >= len(known):
        raise NotApplicable("this Keras lacks that variant")
    options = dict(known[case.variant])
    dtype = options.pop("dtype", None) or ("float64" if case.dtype == "argument" else None)
    steps = case.steps if construction.steps and not _plain_only(options) else 0
    one = case.targets == "other" and construction.one and not _plain_only(options)
    coarse = case.inputs in COARSE and construction.inputs not in ("equal", "classes", "onehot_classes")
    rng = random(case.seed, 3, *salt)
    shape = Shape(case.examples, steps, one, coarse)
    y, p = draw_inputs(construction.inputs, rng, shape, options)
    y, p = _as_dtype(y, p, case, construction)
    sized = label_shape(name, y, p, options)
    whole = construction.whole_weights and dtype is None
    w = draw_metric_weights(rng, case.weights, _weight_shape(case, construction, sized), whole)
    mask = rng.random(sized[: 2 if steps else 1]) < 0.6 if case.mask and takes_masks(name) else None
    u = ROUNDOFF["float64" if case.dtype == "float64" and name not in SINGLE else "float32"]
    return Situation(
        name, options, dtype, y, p, w if w is None else w.astype("float64" if case.dtype == "float64" else "float32"),
        mask, case.inputs if coarse else "", max(u, ROUNDOFF[case.inputs] if coarse else 0.0),
    )  # fmt: skip


def _plain_only(options: Mapping[str, Any]) -> bool:
    """Whether the options take examples of one row of scores only."""
    return bool({"top_k", "class_id", "multi_label", "label_weights"} & set(options))


def label_shape(name: str, y: Array | None, p: Array, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of what is weighed: one value for each label."""
    kind = CONSTRUCTIONS[name].inputs
    sized: Array = p
    if y is not None and (name in MEANS or name in ROWS):
        sized = rows(MEANS.get(name, name), y, p, options).values
    elif kind == "multilabel":
        sized = p[:, 0]
    elif y is not None and kind in ("classes", "onehot_classes"):
        sized = y if kind == "classes" else y[..., 0]
    return tuple(sized.shape)


def _weight_shape(case: MetricCase, construction: Construction, sized: tuple[int, ...]) -> tuple[int, ...]:
    column = (sized[0],) + (1,) * max(1, len(sized) - 1)
    if case.weight_shape == "column":
        return column
    flat_fits = construction.flat_weights_of_steps or not case.steps
    if case.weight_shape == "element" or not flat_fits:
        # Of the scores of one class only a column can be weighed.
        return column if len(sized) > 1 and "class_id" in _options_of(case, construction) else sized
    return sized[:1]


def _options_of(case: MetricCase, construction: Construction) -> Mapping[str, Any]:
    return construction.variants[min(case.variant, len(construction.variants) - 1)]


def _as_dtype(y: Array | None, p: Array, case: MetricCase, construction: Construction) -> tuple[Array | None, Array]:
    """Return targets and predictions in the dtypes of the case."""
    real = "float64" if "float64" in (case.dtype, case.inputs) else "float32"
    if case.inputs in ("float", *COARSE) and construction.single:
        p = p.astype("float32")
        return (y.astype("int32") if y is not None and y.dtype.kind in "iu" else y), p
    whole = construction.inputs in WHOLE and case.inputs in ("integer", "boolean") and bool(np.all((p >= 0) & (p <= 1)))
    p = (p > 0.5).astype("int32") if whole else p.astype("int32" if p.dtype.kind in "iu" else real)
    if y is None:
        return None, p
    if case.inputs == "boolean" and construction.inputs in BOOLEAN:
        return y.astype(bool), p
    integral = y.dtype.kind in "iu" or (case.inputs in ("integer", "boolean") and construction.inputs in BOOLEAN)
    return y.astype("int32" if integral else real), p


# Comparison ----------------------------------------------------------------------------------------------


def compare(seen: Array, expected: Value, u: float, told: str) -> Reading:
    """Return the reading of a result beside its definition; what has no definition may be 0, 1 or NaN."""
    if seen.shape != expected.value.shape:
        text = f"{told} has shape {seen.shape}; by definition it has {expected.value.shape}"
        return Reading(float("inf"), seen=text, allowed="the same shape")
    undefined = np.isnan(expected.value)
    accepted = undefined & (np.isnan(seen) | (seen == 0.0) | (seen == 1.0) | np.isinf(expected.slack))
    with np.errstate(invalid="ignore"):
        bound = expected.bound(u) + TINY
        share = np.where(accepted, 0.0, np.abs(seen - expected.value) / bound)
    share = np.where(np.isnan(share), np.inf, share)
    at = np.unravel_index(int(np.argmax(share)), share.shape) if share.size else ()
    if not share.size:
        return Reading(0.0)
    pair = float(seen[at]), float(expected.value[at])
    text = f"{told} is {pair[0]:.9g}; over the examples it is {pair[1]:.9g}"
    allowed = f"{float(np.broadcast_to(bound, share.shape)[at]):.3g} off"
    figures = {"seen": pair[0], "expected": pair[1]} if share[at] > 1 else {}
    return Reading(float(share[at]), seen=text, allowed=allowed, figures=figures)


def identical(seen: Array, other: Array, told: str) -> Reading:
    """Return the reading of two results that must be the same to the last bit."""
    if seen.shape == other.shape and np.array_equal(seen, other, equal_nan=True):
        return Reading(0.0)
    text = f"{told}: {np.array2string(seen, precision=9)} and {np.array2string(other, precision=9)}"
    return Reading(float("inf"), seen=text, allowed="the same number twice")


def told(of: Situation, how: str) -> str:
    """Return the words for a result: the metric, its options and what was done."""
    options = ", ".join(f"{key}={value!r}" for key, value in of.options.items())
    return f"{of.name}({options}) {how}"


def in_precision(function: Callable[[Context, MetricCase], Reading]) -> Callable[[Context, MetricCase], Reading]:
    """Run a check's body under the case's float type."""

    def run(context: Context, case: MetricCase) -> Reading:
        with precision("float64" if case.dtype == "float64" else "float32"):
            return function(context, case)

    return run


# Cases ---------------------------------------------------------------------------------------------------


def _few_shapes(context: Context) -> bool:
    return context.runtime.compiles_per_shape


def metric_cases(context: Context, **fields: Any) -> Any:
    """Draw variants, chunks, sequences, target forms and dtypes; `fields` replace or add to what is drawn."""
    from hypothesis import strategies as st

    name = context.param.get("metric")
    construction = CONSTRUCTIONS[name]
    more = [] if _few_shapes(context) else [(3, 1), (5,), (0, 4, 3)]
    drawn = {
        "seed": seeds(),
        "variant": st.integers(0, len(variants(name)) - 1),
        "chunks": st.sampled_from([(2, 1), (1, 2), *more]),
        "steps": st.sampled_from([0, 2] if construction.steps and not _few_shapes(context) else [0]),
        "dtype": st.sampled_from(["float64", "float32", "argument"] if more else ["float32"]),
    }
    return st.builds(MetricCase, **{**drawn, **fields})


def each_variant(context: Context, **fields: Any) -> list[MetricCase]:
    """Return a case of each variant, precision and chunks changing from one to the next."""
    chunks = [(2, 1), (1, 3, 1), (3, 2)] if not _few_shapes(context) else [(2, 1)]
    corners = []
    for i in range(len(variants(context.param.get("metric")))):
        dtype = "float32" if i % 2 or (_few_shapes(context) and i) else "float64"
        usual = {"chunks": chunks[i % len(chunks)], "dtype": dtype}
        corners.append(MetricCase(seed=i, variant=i, **{**usual, **fields}))
    return corners


def definition_corners(context: Context) -> Sequence[MetricCase]:
    """Return every variant, an empty chunk, sequences, the other form of targets, and the input dtypes."""
    construction = CONSTRUCTIONS[context.param.get("metric")]
    first = [MetricCase(chunks=(1,)), *each_variant(context)]
    if _few_shapes(context):
        return (*first, MetricCase(chunks=(1, 2), targets="other"))
    plain = MetricCase(chunks=(2, 3))
    first += [replace(plain, chunks=(7, 26)), replace(plain, chunks=(64, 36, 129), dtype="float64", seed=1)]
    more = [replace(plain, chunks=(2, 0, 1)), replace(plain, dtype="argument", seed=1)]
    more += [replace(plain, steps=2, dtype="float64")] if construction.steps else []
    more += [replace(plain, targets="other"), replace(plain, targets="other", steps=3)] if construction.one else []
    more += [replace(plain, inputs=name, seed=2) for name in ("float16", "bfloat16", "integer", "boolean", "float64")]
    return (*first, *more)


def definition_cases(context: Context) -> Any:
    """Draw both forms of targets."""
    from hypothesis import strategies as st

    one = CONSTRUCTIONS[context.param.get("metric")].one
    return metric_cases(context, targets=st.sampled_from(["same", "other"] if one else ["same"]))


# Promises ------------------------------------------------------------------------------------------------


@check(
    family="independence",
    claims=("C8", "C13"),
    case=MetricCase,
    cases=definition_cases,
    params=metric_params,
    corners=definition_corners,
    applies=constructible,
    examples=(2, 3, 100),
    per_subject=False,
    catches="a metric that averages over updates instead of examples, drops or repeats a row, counts in the wrong "
    "denominator or bucket, mixes examples up, or changes by being read",
    formula="|m - M| <= roundings u size + slack, M the NumPy definition over all examples, size the magnitude of what "
    "it sums, slack only where Keras documents an epsilon; counts exactly",
    source="keras.io/api/metrics; definitions cited in bscheck.oracles.metrics; Higham 2002, 3.1 (sums)",
    example="MeanSquaredError() after updates of 2+1 examples is 0.731; over the examples it is 0.652",
)
def metrics_equal_their_definition(context: Context, case: MetricCase) -> Reading:
    """A metric is the value of its definition over all examples, however they are cut into updates."""
    return _definition(context, case)


@in_precision
def _definition(context: Context, case: MetricCase) -> Reading:
    whole = situation(context, case)
    metric = whole.new()
    for i, chunk in enumerate(whole.cut(case.chunks)):
        chunk.update(metric)
        if i == 0 and len(chunk.p):
            value_of(metric)
    first, second = value_of(metric), value_of(metric)
    how = f"after updates of {'+'.join(map(str, case.chunks))} examples"
    return worst(
        [
            compare(first, whole.expected(), whole.u, told(whole, how)),
            identical(first, second, told(whole, "read twice")),
        ]
    )


# Weights


def weight_cases(context: Context) -> Any:
    """Draw weights of every sort and shape."""
    from hypothesis import strategies as st

    return metric_cases(
        context,
        weights=st.sampled_from(["unequal", "zeros", "integers"]),
        weight_shape=st.sampled_from(["flat", "column", "element"]),
    )


def weight_corners(context: Context) -> Sequence[MetricCase]:
    """Return each sort of weights in each shape, and every variant once."""
    sorts = ["unequal", "zeros", "integers"]
    corners = [replace(c, weights=sorts[i % 3]) for i, c in enumerate(each_variant(context))]
    shapes = ["flat", "column", "element"]
    corners += [
        MetricCase(chunks=(2, 1), weights=sorts[i], weight_shape=shapes[i], dtype=("float32", "float64")[i % 2])
        for i in range(3)
    ]
    corners.append(MetricCase(chunks=(2, 1), weights="all_zeros"))
    if _few_shapes(context):
        return corners
    corners += [MetricCase(seed=1, chunks=(3, 2), weights="zeros", weight_shape=shape, steps=2) for shape in shapes]
    return corners


@check(
    family="independence",
    claims=("C8", "C13"),
    case=MetricCase,
    cases=weight_cases,
    params=metric_params,
    corners=weight_corners,
    applies=constructible,
    examples=(1, 2, 100),
    per_subject=False,
    catches="weights that are ignored, for one option or shape only, that weigh the sum but not the count, that are "
    "spread over the wrong axis; weights of 1 that differ from none",
    formula="|m - M| <= roundings u size + slack as without weights, every sum weighted; and with whole weights the "
    "metric of the examples repeated as often",
    source="keras.io/api/metrics: 'sample_weight'; 'Use sample_weight of 0 to mask values'",
    example="Precision(class_id=1) with weights (N,1) is 0.5; over the examples it is 0.8",
)
def sample_weights_count_examples(context: Context, case: MetricCase) -> Reading:
    """A weight counts its example as often as it says, and 0 not at all."""
    return _weights(context, case)


@in_precision
def _weights(context: Context, case: MetricCase) -> Reading:
    whole = situation(context, case)
    metric = whole.new()
    for chunk in whole.cut(case.chunks):
        chunk.update(metric)
    shape = "no weights" if whole.w is None else f"weights {whole.w.shape}"
    how = f"with {shape}{' and a mask' if whole.mask is not None else ''}"
    expected = whole.expected()
    readings = [compare(value_of(metric), expected, whole.u, told(whole, how))]
    if repeats := _repetition(whole):
        other = whole.new()
        repeats.update(other)
        readings.append(compare(value_of(other), expected, whole.u, told(whole, "of repeated examples")))
    return worst(readings)


def _repetition(whole: Situation) -> Situation | None:
    """Return the examples repeated as often as they weigh, where weights are whole numbers of examples.

    Adjusted R2 counts examples, not weights; and no examples at all are another matter.
    """
    w = whole.w
    if w is None or whole.mask is not None or w.size != len(w) or "num_regressors" in whole.options:
        return None
    times = w.reshape(-1).round().astype(int)
    if not np.array_equal(times, w.reshape(-1)) or not times.sum():
        return None
    return replace(whole.rows(np.repeat(np.arange(len(w)), times)), w=None)


# Masks


def mask_params() -> list[Param]:
    """Return the metrics that honour the mask of their predictions."""
    return [param for param in metric_params() if takes_masks(param.get("metric"))]


def mask_cases(context: Context) -> Any:
    """Draw masks with and without weights."""
    from hypothesis import strategies as st

    return metric_cases(
        context,
        mask=st.just(True),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        weight_shape=st.sampled_from(["flat", "element"]),
    )


def mask_corners(context: Context) -> Sequence[MetricCase]:
    """Return masks of examples and of steps, alone and with weights."""
    masked = MetricCase(seed=3, chunks=(3, 2), mask=True)
    if _few_shapes(context):
        return (replace(masked, chunks=(2, 1)),)
    steps = replace(masked, steps=2)
    return (
        masked,
        replace(masked, weights="unequal"),
        steps,
        replace(steps, weights="unequal", weight_shape="element"),
    )


@check(
    family="independence",
    claims=("C8",),
    case=MetricCase,
    cases=mask_cases,
    params=mask_params,
    corners=mask_corners,
    applies=constructible,
    examples=(1, 2, 100),
    per_subject=False,
    catches="masked labels that still count, in the sum or in the count; a mask that replaces the weights, or meets "
    "them along another axis",
    formula="|m - M| <= roundings u size + slack, M with weights times mask",
    source="keras.io/guides/understanding_masking_and_padding: masked steps are skipped",
    example="MeanSquaredError() with no weights and a mask is 2.1; over the examples it is 1.7",
)
def masked_labels_do_not_count(context: Context, case: MetricCase) -> Reading:
    """A label that the predictions' mask leaves out does not count."""
    return _weights(context, case)


# Reset


def reset_corners(context: Context) -> Sequence[MetricCase]:
    """Return a few variants, weighted or not: of one class they keep the same kind of state."""
    corners = each_variant(context, dtype="float32", chunks=(2, 1))[:4]
    return [replace(c, weights=("none", "unequal")[i % 2]) for i, c in enumerate(corners)]


@check(
    family="independence",
    claims=("C8",),
    case=MetricCase,
    cases=metric_cases,
    params=metric_params,
    corners=reset_corners,
    applies=constructible,
    examples=(0, 1, 50),
    per_subject=False,
    catches="state that a reset leaves: a count, a lazily made variable, one threshold or class",
    formula="bit-identical to a new metric given the same updates; and, right after the reset, to one with none",
    source="keras.io/api/metrics/base_metric: reset_state resets all of the metric state variables",
    example="Mean() after a reset: 0.41 and 0.73",
)
def reset_leaves_nothing_behind(context: Context, case: MetricCase) -> Reading:
    """A metric that was reset equals a new one."""
    return _reset(context, case)


@in_precision
def _reset(context: Context, case: MetricCase) -> Reading:
    whole, earlier = situation(context, case), situation(context, case, 1)
    used, new = whole.new(), whole.new()
    earlier.update(used)
    used.reset_state()
    left = [numbers(v) for v in used.variables]
    if any(np.any(a != 0) for a in left):
        largest = max(float(np.abs(a).max(initial=0)) for a in left)
        text = f"{told(whole, 'after a reset')} keeps {largest:.9g} in its state"
        return Reading(float("inf"), seen=text, allowed="zeros")
    for chunk in whole.cut(case.chunks):
        chunk.update(used)
        chunk.update(new)
    return identical(value_of(used), value_of(new), told(whole, "after a reset, and new"))


# Merge


@check(
    family="independence",
    claims=("C8", "C13"),
    case=MetricCase,
    cases=metric_cases,
    params=metric_params,
    corners=reset_corners,
    applies=constructible,
    examples=(0, 1, 50),
    per_subject=False,
    catches="state that does not add up over replicas: a mean kept as a mean, an assignment in place of a sum, a count "
    "that is not merged",
    formula="|m - M| <= roundings u size + slack, m from the aggregate of the states of one metric for each chunk",
    source="tf.distribute and keras.distribution aggregate a metric's variables as they say (sum by default)",
    example="Mean() merged from 2 replicas is 0.41; over the examples it is 0.73",
)
def merged_metrics_equal_one(context: Context, case: MetricCase) -> Reading:
    """The states of metrics on different examples, put together as replicas' are, make the metric of all examples."""
    return _merged(context, case)


@in_precision
def _merged(context: Context, case: MetricCase) -> Reading:
    whole = situation(context, case)
    replicas = []
    for chunk in whole.cut(case.chunks):
        replicas.append(whole.new())
        chunk.update(replicas[-1])
    expected, how = whole.expected(), told(whole, f"merged from {len(replicas)} replicas")
    if hasattr(replicas[0], "merge_state"):
        replicas[0].merge_state(replicas[1:])
        return compare(value_of(replicas[0]), expected, whole.u, how)
    for variables in zip(*(r.variables for r in replicas), strict=True):
        values = [numbers(v) for v in variables]
        variables[0].assign(_aggregated(variables[0], values))
    return compare(value_of(replicas[0]), expected, whole.u, how)


def _aggregated(variable: Any, values: Sequence[Array]) -> Array:
    """Return what the variable says becomes of the replicas' values; older releases sum without saying so."""
    how = getattr(variable, "aggregation", None)
    if how == "mean":
        return np.asarray(np.mean(values, axis=0))
    return values[0] if how == "only_first_replica" else np.asarray(np.sum(values, axis=0, dtype=values[0].dtype))


# Tiny


def tiny_corners(context: Context) -> Sequence[MetricCase]:
    """Return batches of 0, 1 and 2, alone, for every variant."""
    count = len(variants(context.param.get("metric")))
    sizes = [(0,), (1,), (2,)]
    corners = [MetricCase(seed=i, variant=i % count, chunks=sizes[i % 3]) for i in range(max(3, min(count + 2, 6)))]
    return [
        *corners,
        MetricCase(chunks=(0,), weights="unequal"),
        MetricCase(chunks=(1,), weights="all_zeros", dtype="float64"),
    ]


def tiny_cases(context: Context) -> Any:
    """Draw single batches of 0, 1 or 2 examples."""
    from hypothesis import strategies as st

    return metric_cases(
        context, chunks=st.sampled_from([(0,), (1,), (2,)]), weights=st.sampled_from(["none", "zeros", "all_zeros"])
    )


@check(
    family="independence",
    claims=("C8",),
    case=MetricCase,
    cases=tiny_cases,
    params=metric_params,
    corners=tiny_corners,
    applies=constructible,
    examples=(0, 1, 50),
    per_subject=False,
    catches="batches of 0, 1 or 2 examples that give another shape, infinity, or a number that is silently wrong",
    formula="|m - M| <= roundings u size + slack; where M has no definition (no variance, no example) 0, 1 or NaN",
    source="keras.io/api/metrics; the mean, ratio or sum of nothing is 0",
    example="R2Score() of 1 example is 17.2; over the examples it is nan",
)
def metrics_of_tiny_batches_are_right_or_undefined(context: Context, case: MetricCase) -> Reading:
    """One batch of 0, 1 or 2 examples gives the definition's value, or 0, 1 or NaN where there is none."""
    return _tiny(context, case)


@in_precision
def _tiny(context: Context, case: MetricCase) -> Reading:
    whole = situation(context, case)
    metric = whole.new()
    if not whole.update(metric):
        return Reading(0.0)
    return compare(value_of(metric), whole.expected(), whole.u, told(whole, f"of {case.examples} examples"))


# Functions


def function_params() -> list[Param]:
    """Return a parameter for each metric that Keras exports as a function."""
    return [Param.of(metric=name) for name, member in exported().items() if not is_class(member)]


@check(
    family="independence",
    claims=("C8", "C13"),
    case=MetricCase,
    cases=metric_cases,
    params=function_params,
    corners=lambda context: [MetricCase(chunks=(1, 1)), *each_variant(context)],
    applies=constructible,
    examples=(1, 3, 100),
    per_subject=False,
    catches="a metric function whose value for one example depends on the others of the call, or is wrong for each",
    formula="|f(y, p)_i - F(y_i, p_i)| <= roundings u size + slack for every label i of every chunk",
    source="keras.io/api/metrics: functions return one value for each sample",
    example="mean_squared_error() of updates of 2+1 examples is 0.4; over the examples it is 0.3",
)
def metric_functions_give_each_example_its_own_value(context: Context, case: MetricCase) -> Reading:
    """A metric function gives each example its own value, whatever else is in the call."""
    return _function(context, case)


@in_precision
def _function(context: Context, case: MetricCase) -> Reading:
    whole = situation(context, case)
    assert whole.y is not None
    call = exported()[whole.name]
    chunks = [c for c in whole.cut(case.chunks) if len(c.p) or whole.name not in REFUSE_EMPTY]
    seen = [numbers(call(c.y, c.predictions(), **whole.options)) for c in chunks]
    joined = np.concatenate([s.astype(np.float64) for s in seen])
    return compare(joined, of_each_example(whole), whole.u, told(whole, "of one example"))


def of_each_example(whole: Situation) -> Value:
    """Return what a metric function must give for each example."""
    assert whole.y is not None
    own = rows(whole.name, whole.y, whole.p, whole.options)
    counted = np.ones(own.values.shape) if own.counted is None else own.counted
    return Value(own.values * counted, own.sizes, own.slack, own.terms + 16)


# Exception: predictions without a last axis ------------------------------------------------------------------

#: Kinds whose functions reduce the last axis, and what they need of it is one number.
REDUCED = ("regression", "positive")


def flat_params() -> list[Param]:
    """Return the metrics that are the mean of a function over the last axis."""
    names = [p.get("metric") for p in metric_params()]
    found = [n for n in names if n in MEANS and n in CONSTRUCTIONS and not CONSTRUCTIONS[n].elementwise]
    return [Param.of(metric=name) for name in found if CONSTRUCTIONS[name].inputs in REDUCED]


@check(
    family="independence",
    claims=("C8",),
    case=MetricCase,
    cases=metric_cases,
    params=flat_params,
    corners=lambda context: [MetricCase(chunks=(3, 1)), MetricCase(chunks=(2, 1), seed=1, dtype="float64")],
    applies=constructible,
    examples=(0, 1, 50),
    per_subject=False,
    catches="another treatment of predictions (N,): a function that takes one axis less, an update that counts by size",
    formula="|m - mean_j F(chunk j)| <= roundings u size + slack, F(chunk) the mean over the chunk's examples",
    source="keras.io/api/losses: of shape [batch_size, d0, .. dN] functions return [batch_size, d0, .. dN-1]",
    example="MeanSquaredError() of predictions (N,) is 0.73; as the mean of 2 updates it is 0.65",
    exception="predictions (N,) have no axis beside the examples', so a function of the last axis gives one value for "
    "each update, and the metric is the mean of the updates (keras.io/api/losses: shapes of y_true and y_pred)",
    excepts="metrics_equal_their_definition",
)
def metrics_of_flat_predictions_average_the_updates(context: Context, case: MetricCase) -> Reading:
    """Of predictions (N,) a metric over the last axis is the mean of the updates, whatever their sizes."""
    return _flat(context, case)


@in_precision
def _flat(context: Context, case: MetricCase) -> Reading:
    whole, parts, expected = flattened(context, case)
    metric = whole.new()
    for chunk in parts:
        chunk.update(metric)
    return compare(value_of(metric), expected, whole.u, told(whole, "of predictions (N,)"))


def flattened(context: Context, case: MetricCase) -> tuple[Situation, list[Situation], Value]:
    """Return a case's situation with predictions (N,), its chunks that have examples, and the mean of their values."""
    whole = situation(context, replace(case, targets="other", steps=0))
    whole = replace(whole, p=whole.p[:, 0])
    parts = [chunk for chunk in whole.cut(case.chunks) if len(chunk.p)]
    values = [replace(chunk, p=chunk.p[:, None]).expected() for chunk in parts]
    joined = [np.asarray(np.mean([getattr(v, key) for v in values])) for key in ("value", "size", "slack")]
    return whole, parts, Value(joined[0], joined[1], joined[2], max(v.roundings for v in values) + len(values))
