"""Penalties, heads, class weights and masks through Keras's own loops, on linear models that NumPy follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import GradientCase, InferenceCase, RegularizerCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, draw_sample_weights, random, require
from bscheck.oracles.linear import ROUNDINGS, masked_rows, masked_slopes, penalized_loss, penalized_slopes
from bscheck.oracles.losses import ROWS
from bscheck.oracles.penalties import REGULARIZERS, slope
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.compiled import Compiled
from bscheck.runtime.inference import sources
from bscheck.runtime.losses import regularizer_gradient
from bscheck.subject import take
from bscheck.surface.penalties import (
    FEATURES,
    FORMS,
    HEADS,
    HIDDEN,
    IDLE,
    OUTPUTS,
    PENALTIES,
    REGULARIZER_OPTIONS,
    classification_loss,
    head_losses,
    linear,
    make_regularizer,
    masked,
    penalized,
    regularizers,
    two_headed,
)
from bscheck.tolerance import TINY, UNIT_ROUNDOFF

PATHS = ("whole", "test_on_batch", "train_on_batch", "fit")
U = UNIT_ROUNDOFF["float64"]
LOOPS = "keras.io/api/models/model_training_apis"


# Regularizers ----------------------------------------------------------------------------------------------


def regularizer_params() -> list[Param]:
    """Return a parameter for every regularizer of the installed Keras."""
    return [Param.of(regularizer=name) for name in regularizers()]


def unknown_regularizer(context: Context) -> str | None:
    """Return why a regularizer cannot be made."""
    name = context.param.get("regularizer")
    known = name in REGULARIZERS and name in REGULARIZER_OPTIONS
    return None if known else f"no construction: bscheck.surface.penalties knows no options of {name}"


def regularizer_cases(context: Context) -> Any:
    """Draw shapes, options and dtypes."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    shapes = st.sampled_from([2, 3]) if few else st.integers(2, 6)
    return st.builds(
        RegularizerCase,
        rows=shapes,
        columns=shapes,
        option=st.integers(0, len(REGULARIZER_OPTIONS[context.param.get("regularizer")]) - 1),
        dtype=st.sampled_from(["float32", "float64"]),
        seed=seeds(),
    )


def regularizer_corners(context: Context) -> Sequence[RegularizerCase]:
    """Return each choice of options, in float64 and float32."""
    options = range(len(REGULARIZER_OPTIONS.get(context.param.get("regularizer"), ())))
    return [RegularizerCase(option=i, dtype=dtype) for i in options for dtype in ("float64", "float32")]


@check(
    family="independence",
    claims=("C1",),
    case=RegularizerCase,
    cases=regularizer_cases,
    corners=regularizer_corners,
    params=regularizer_params,
    applies=unknown_regularizer,
    examples=(2, 4, 200),
    per_subject=False,
    catches="a regularizer with another factor (a half before the square), another mean over pairs, or a slope that is "
    "not that of its value",
    formula="|r - f(w)| <= (n + 16) u (|f| + sum |w df/dw|), and the same for the slope with max |df/dw|, n weights; "
    "f by NumPy in float64, df/dw by complex steps",
    source="keras.io/api/layers/regularizers",
    example="the penalty is 1.02; by the formula it is 0.51",
)
def regularizer_equals_its_formula(context: Context, case: RegularizerCase) -> Reading:
    """A regularizer gives the value and slope of its documented formula."""
    name = context.param.get("regularizer")
    options = REGULARIZER_OPTIONS[name][case.option]
    w = random(case.seed, 10).standard_normal((case.rows, case.columns)).astype(case.dtype)
    exact = w.astype(np.float64)

    def formula(z: Array) -> Any:
        return REGULARIZERS[name](z, **options)

    value, slopes = float(formula(exact)), slope(formula, exact)
    seen, seen_slopes = regularizer_gradient(lambda: make_regularizer(name, case.option), w, case.dtype)
    scale = (w.size + 16) * UNIT_ROUNDOFF[case.dtype]
    size = abs(value) + float(np.abs(exact * slopes).sum())
    steep = float(np.abs(slopes).max(initial=0.0)) + size
    return worst(
        [
            number(float(seen), value, scale * size, "the penalty", "by the formula"),
            *_slopes([seen_slopes], [slopes], [scale * steep], "the penalty's slope"),
        ]
    )


# Penalties through the loops -------------------------------------------------------------------------------


def penalty_params() -> list[Param]:
    """Return a parameter for every kind of penalty."""
    return [Param.of(penalty=kind) for kind in PENALTIES]


def loop_cases(context: Context, **fixed: Any) -> Any:
    """Draw batch sizes, tails, paths, weights and sources; eagerly, where a case costs milliseconds."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    fields: dict[str, Any] = {
        "seed": seeds(),
        "batch_size": st.just(2) if few else st.integers(1, 5),
        "batches": st.integers(1, 3),
        "tail": st.integers(0, 1),
        "mode": st.just(_mode(context)),
        "path": st.sampled_from(PATHS),
        "weights": st.sampled_from(["none", "unequal", "zeros"]),
        "source": st.sampled_from(sources()),
        "dtype": st.just("float64"),
        **fixed,
    }
    return st.builds(_loop_case, **fields)


def _loop_case(batch_size: int, tail: int, **fields: Any) -> InferenceCase:
    return InferenceCase(batch_size=batch_size, tail=min(tail, batch_size - 1), **fields)


def _mode(context: Context) -> str:
    """Return the cheap execution mode: op by op, except where every operation would be compiled."""
    return "graph" if context.runtime.compiles_per_shape else context.runtime.modes[-1 if _torch(context) else 1]


def _torch(context: Context) -> bool:
    return len(context.runtime.modes) == 1


def loop_corners(context: Context) -> Sequence[InferenceCase]:
    """Return every path over ragged batches, single examples, and for one parameter a graph of several batches."""
    plain = InferenceCase(mode=_mode(context), dtype="float64", batches=2, tail=1)
    corners = [replace(plain, path=path, batch_size=1, tail=0) for path in PATHS[:2]]
    corners += [replace(plain, path=path, weights="unequal") for path in PATHS]
    corners += [replace(plain, batches=0, batch_size=4, tail=3)]
    if _mode(context) != context.runtime.modes[0] and context.param.get("penalty", "all") == "all":
        corners += [replace(plain, mode=context.runtime.modes[0])]  # a trace costs as much as all the others
    return tuple(corners)


@cached_in_process
def _penalized(kind: str, mode: str, micro_batches: int | None) -> Compiled:
    options = {"loss": "mean_squared_error"}
    return Compiled(lambda: penalized(kind), mode, lambda: options, micro_batches=micro_batches)


def _penalized_weights(seed: int) -> list[Array]:
    rng = random(seed, 11)
    shapes: Sequence[tuple[int, ...]] = ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, OUTPUTS), (OUTPUTS,))
    return [rng.standard_normal(shape) for shape in shapes]


def _idle(kind: str) -> list[Array]:
    """Return the first weights, and slopes, of the model that has some on which nothing depends."""
    return [np.zeros(IDLE)] if kind == "shared" else []


def _examples(seed: int, n: int) -> tuple[Array, Array]:
    rng = random(seed, 12)
    return rng.standard_normal((n, FEATURES)), rng.standard_normal((n, OUTPUTS))


@check(
    family="independence",
    claims=("C8", "C13"),
    case=InferenceCase,
    cases=loop_cases,
    corners=loop_corners,
    params=penalty_params,
    examples=(2, 2, 300),
    per_subject=False,
    catches="an activity penalty that is not divided by the batch's size, a penalty counted once a batch and divided "
    "by the wrong number, or forgotten in one of evaluate, fit, train_on_batch and test_on_batch",
    formula="|v - (mean w_i l_i + l1 sum |W| + l2 sum W**2 + activity / n + added)| <= 160 u size, size the same with "
    "absolute values, averaged over batches by their numbers of examples",
    source="keras.io/api/layers/regularizers: the activity penalty is divided by the batch's size",
    example="evaluate gives loss = 2.71; with its penalties it is 2.35",
)
def penalties_count_once_whatever_the_batch_size(context: Context, case: InferenceCase) -> Reading:
    """Weight and activity penalties and added losses are in the reported loss once, at every batch size."""
    kind = context.param.get("penalty")
    weights = _penalized_weights(case.seed)
    x, y = _examples(case.seed, case.examples)
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    model = _penalized(kind, case.mode, None)
    model.set_weights([*_idle(kind), *weights])
    return _held(model, case, (x, y, w), lambda cut: penalized_loss(kind, weights, x[cut], y[cut], _cut(w, cut)))


def _held(
    model: Compiled,
    case: InferenceCase,
    batch: Sequence[Any],
    expected: Callable[[slice], tuple[float, float]],
    name: str = "loss",
    **more: Any,
) -> Reading:
    """Hold what a loop reports against the mean over batches of what each must give."""
    x, y, w = batch
    cuts = [slice(start, stop) for start, stop in case.edges]
    if case.path in ("train_on_batch", "test_on_batch"):
        readings = []
        for cut in cuts:
            seen = model.run(case.path, (x[cut], take(y, cut), _cut(w, cut)), 0, "", **more)
            what = f"{case.path} of {cut.stop - cut.start}"
            reading = _reported(seen, name, [expected(cut)], [1.0], what)
            place = {"first": cut.start} if reading.figures else {}
            readings.append(replace(reading, figures={**reading.figures, **place}))
        return worst(readings)
    seen = model.run(case.path, batch, case.batch_size, case.source, **more)
    shares = [(cut.stop - cut.start) / case.examples for cut in cuts]
    what = f"{'evaluate' if case.path == 'whole' else 'fit'} in batches of {case.batch_size}"
    return _reported(seen, name, [expected(cut) for cut in cuts], shares, what)


def _reported(
    seen: Any, name: str, parts: Sequence[tuple[float, float]], shares: Sequence[float], what: str
) -> Reading:
    if name not in seen:
        return Reading(np.inf, seen=f"{what} reports no {name}", allowed=name)
    value = sum(share * part[0] for share, part in zip(shares, parts, strict=True))
    size = sum(share * part[1] for share, part in zip(shares, parts, strict=True))
    return number(seen[name], value, ROUNDINGS * U * size, f"{name} of {what}", "by NumPy")


def number(seen: float, wanted: float, bound: float, what: str, by: str) -> Reading:
    """Hold one number against what it must be."""
    difference = abs(seen - wanted)
    share = difference / (bound + TINY) if np.isfinite(difference) else np.inf
    return Reading(
        share,
        where=what,
        seen=f"{what} is {seen:.9g}; {by} it is {wanted:.9g}",
        allowed=f"off by {bound:.1g}",
        figures={"seen": seen, "expected": wanted} if share > 1 else {},
    )


def _cut(a: Any, cut: slice) -> Any:
    return None if a is None else take(a, cut)


# Accumulated penalties -------------------------------------------------------------------------------------


def window_cases(context: Context) -> Any:
    """Draw windows of micro-batches of one size (ragged ones have no large batch that they equal)."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    return st.builds(
        lambda k, size, **fields: GradientCase(sizes=(size,) * k, dtype="float64", **fields),
        st.sampled_from([2, 3]),
        st.just(2) if few else st.integers(1, 4),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        mode=st.just(_mode(context)),
        path=st.just("train_on_batch"),
        seed=seeds(),
    )


def window_corners(context: Context) -> Sequence[GradientCase]:
    """Return two and three micro-batches, of one example and of several."""
    plain = GradientCase(dtype="float64", mode=_mode(context), path="train_on_batch", sizes=(2, 2))
    return (plain, replace(plain, sizes=(1, 1, 1), weights="unequal"), replace(plain, sizes=(3, 3), weights="zeros"))


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=GradientCase,
    cases=window_cases,
    corners=window_corners,
    params=penalty_params,
    examples=(1, 1, 200),
    per_subject=False,
    catches="a penalty whose gradient is added once for each micro-batch and not averaged, or that is forgotten or "
    "grows with the micro-batch; a gradient that goes astray where another weight has none",
    formula="|g - dL/dW| <= 160 u (1 + max |dL/dW|)(1 + |x|)**2 (1 + |W|)**3, L the large batch's loss with its "
    "penalties once, dL/dW by the chain rule in NumPy",
    source="keras.io/api/optimizers: gradient_accumulation_steps averages; keras.io/api/layers/regularizers",
    example="the gradient of weight 0 is 0.62; with each penalty once it is 0.31",
)
def accumulated_penalties_match_the_large_batch(context: Context, case: GradientCase) -> Reading:
    """The gradient that micro-batches accumulate holds every penalty once, as the large batch's does."""
    kind = context.param.get("penalty")
    return _accumulated(_penalized(kind, case.mode, len(case.sizes)), kind, case)


def accumulated_slopes(kind: str, case: GradientCase) -> tuple[list[Array], Array, Array, Array | None, Any, Any]:
    """Return weights, inputs, targets, sample weights, and the gradient a window must accumulate with its bounds.

    Of a model with penalties of a kind; without one (""), of a model of masked sequences, whose micro-batches count
    equally.
    """
    n, size = sum(case.sizes), case.sizes[0]
    if kind:
        weights, (x, y) = _penalized_weights(case.seed), _examples(case.seed, n)
        w = draw_sample_weights(case.seed, n, case.weights)
        expected: Sequence[Array] = [*_idle(kind), *penalized_slopes(kind, weights, x, y, w)]
    else:
        weights, x, y, w = sequences(case, n)
        parts = [masked_slopes(weights, *batch) for batch in _batches(x, y, w, size)]
        expected = [np.mean(slopes, axis=0) for slopes in zip(*parts, strict=True)]
    bounds = _slope_bounds(expected, weights, x)
    return [*_idle(kind), *weights], x, y, w, expected, bounds


def _batches(x: Array, y: Array, w: Array | None, size: int) -> list[tuple[Array, Array, Array | None]]:
    return [(x[i : i + size], y[i : i + size], _cut(w, slice(i, i + size))) for i in range(0, len(x), size)]


def _accumulated(model: Compiled, kind: str, case: GradientCase) -> Reading:
    """Hold the gradient that a window accumulates against the formula's."""
    weights, x, y, w, expected, bounds = accumulated_slopes(kind, case)
    model.set_weights(weights)
    return worst(_slopes(model.gradient(_batches(x, y, w, case.sizes[0])), expected, bounds, "the gradient"))


def _slope_bounds(expected: Sequence[Array], weights: Sequence[Array], x: Array) -> list[float]:
    """Return bounds: what is summed into a slope is products of inputs, weights and errors."""
    size = (1 + np.abs(x).max(initial=0.0)) ** 2 * (1 + max(np.abs(v).max() for v in weights)) ** 3
    return [ROUNDINGS * U * float(size) * (1 + float(np.abs(e).max())) for e in expected]


def _slopes(seen: Sequence[Array], expected: Sequence[Array], bounds: Sequence[float], what: str) -> list[Reading]:
    readings = []
    for i, (s, e, bound) in enumerate(zip(seen, expected, bounds, strict=True)):
        at = np.unravel_index(int(np.argmax(np.abs(s - e))), e.shape)
        place = f"{what} of weight {i}" if len(seen) > 1 else what
        readings.append(number(float(s[at]), float(e[at]), bound, place, "by the formula"))
    return readings


# Heads -----------------------------------------------------------------------------------------------------


def form_params() -> list[Param]:
    """Return a parameter for every way to give the losses of two outputs."""
    return [Param.of(form=form) for form in FORMS]


@cached_in_process
def _two_headed(form: str, mode: str) -> Compiled:
    def options() -> dict[str, Any]:
        loss, weights = head_losses(form)
        return {"loss": loss, "loss_weights": weights}

    return Compiled(two_headed, mode, options)


def head_cases(context: Context) -> Any:
    """Draw batches through every path from arrays, and from generators in full."""
    from hypothesis import strategies as st

    return loop_cases(context, source=st.just("arrays"), weights=st.sampled_from(["none", "unequal"]))


def head_corners(context: Context) -> Sequence[InferenceCase]:
    """Return evaluation and training of ragged batches; as a graph for one form."""
    plain = InferenceCase(mode=_mode(context), dtype="float64", batches=1, tail=1)
    paths = ("train_on_batch", "fit", *(["whole"] if context.param.get("form") == "weighed_apart" else []))
    corners = [plain, *(replace(plain, path=path, weights="unequal") for path in paths)]
    graph = _mode(context) != context.runtime.modes[0] and context.param.get("form") == "strings"
    return (*corners, replace(plain, mode=context.runtime.modes[0])) if graph else tuple(corners)


@check(
    family="independence",
    claims=("C8",),
    case=InferenceCase,
    cases=head_cases,
    corners=head_corners,
    params=form_params,
    examples=(1, 1, 200),
    per_subject=False,
    catches="a loss weight that is dropped, squared or given to the other output, and a loss that means something else "
    "as a string, a function, an object or in a dict; sample weights that reach the other output, or both",
    formula="|v - sum_t a_t mean w_ti l_ti| <= 160 u size",
    source=f"{LOOPS}: 'the loss value that will be minimized by the model will then be the weighted sum of all losses'",
    example="evaluate gives loss = 5.1; by NumPy it is 4.7",
)
def output_losses_add_up_with_their_weights(context: Context, case: InferenceCase) -> Reading:
    """The total loss is the weighted sum of the outputs' losses, in whichever form they are given."""
    form = context.param.get("form")
    weights, x, targets, w = headed(case, form)
    model = _two_headed(form, case.mode)
    model.set_weights(weights)
    strengths = (1.0, 1.0) if form == "unweighted" else (0.5, 4.0)

    def expected(cut: slice) -> tuple[float, float]:
        value = size = 0.0
        for t, name in enumerate(("MeanSquaredError", "MeanAbsoluteError")):
            kernel, bias = weights[2 * t : 2 * t + 2]
            own = w[t] if isinstance(w, list) else w
            counted = np.ones(cut.stop - cut.start) if own is None else own[cut]
            most = np.abs(x[cut]) @ np.abs(kernel) + np.abs(bias) + np.abs(targets[t][cut])
            rows = ROWS[name](targets[t][cut], x[cut] @ kernel + bias)
            value += strengths[t] * float((counted * rows).mean())
            size += strengths[t] * float((counted * (1 + most.max(axis=1)) ** 2).mean())
        return value, size

    return _held(model, case, (x, targets, w), expected)


def headed(case: InferenceCase, form: str) -> tuple[list[Array], Array, list[Array], Any]:
    """Return weights, inputs, the targets of both heads, and sample weights: None, an array, or a list of two."""
    rng = random(case.seed, 13)
    weights = [rng.standard_normal(shape) for _ in HEADS for shape in ((FEATURES, OUTPUTS), (OUTPUTS,))]
    x, y = _examples(case.seed, case.examples)
    w: Any = draw_sample_weights(case.seed, case.examples, case.weights)
    if form == "weighed_apart" and w is not None:
        w = [w, draw_sample_weights(case.seed + 1, case.examples, case.weights)]
    return weights, x, [y, y[:, ::-1].copy()], w


# Class weights ---------------------------------------------------------------------------------------------

#: Weight of the one output's loss: a power of two, beside which no class weight is lost.
STRENGTH = 8.0

#: Class weights; the last or the first class is left out and weighs 1; or the classes are strings, as JSON has them.
CLASS_WEIGHTS: Mapping[str, Mapping[Any, float]] = {
    "none": {0: 0.5, 1: 2.0, 2: 4.0},
    "last": {0: 0.5, 1: 2.0},
    "first": {1: 2.0, 2: 4.0},
    "numerals": {"0": 0.5, "1": 2.0, "2": 4.0},
}

#: How Keras refuses weights of classes that are no integers.
REFUSALS = (ValueError, TypeError, KeyError)


def class_weight_params() -> list[Param]:
    """Return a parameter for every shape of labels, with and without a class left out of the weights."""
    shapes = ("sparse", "column", "one_hot")
    found = [Param.of(labels=labels, omitted=omitted) for labels in shapes for omitted in ("none", "last")]
    return [*found, Param.of(labels="column", omitted="first"), Param.of(labels="sparse", omitted="numerals")]


@cached_in_process
def _classifier(labels: str, mode: str) -> Compiled:
    return Compiled(linear, mode, lambda: {"loss": classification_loss(labels == "one_hot"), "loss_weights": STRENGTH})


def class_weight_cases(context: Context) -> Any:
    """Draw training calls from every source."""
    from hypothesis import strategies as st

    return loop_cases(context, path=st.sampled_from(["fit", "train_on_batch"]), weights=st.just("none"))


def class_weight_corners(context: Context) -> Sequence[InferenceCase]:
    """Return fit from every source, ragged, and training on a batch; once together with sample weights."""
    plain = InferenceCase(mode=_mode(context), dtype="float64", path="fit", batches=2, tail=1, seed=3)
    corners = [replace(plain, source=source) for source in sources()]
    if context.param.get("omitted") == "numerals":
        return (*(c for c in corners if c.source in ("arrays", "dataset")), replace(plain, path="train_on_batch"))
    corners += [replace(plain, path="train_on_batch"), replace(plain, batch_size=1, tail=0)]
    return (*corners, replace(plain, weights="unequal"), replace(plain, path="train_on_batch", weights="unequal"))


@check(
    family="independence",
    claims=("C8", "C14"),
    case=InferenceCase,
    cases=class_weight_cases,
    corners=class_weight_corners,
    params=class_weight_params,
    examples=(1, 1, 200),
    per_subject=False,
    catches="class weights that reach the wrong example or class, are lost or fail for one kind of source or labels, "
    "change the divisor, or silently replace sample weights; a single output's loss_weights that is dropped",
    formula="|v - 8 sum_i c(y_i) l_i / N| <= 160 u size, 8 the loss's own weight, c = 1 for a class without one; with "
    "sample weights, or for a generator, a ValueError",
    source=f"{LOOPS}: class_weight",
    example="fit gives loss = 1.9; by NumPy it is 2.4",
)
def class_weight_weighs_each_example(context: Context, case: InferenceCase) -> Reading:
    """Class weights multiply each example's loss, from arrays and data sets alike, or are refused."""
    require(case.source in sources(), "Keras on this backend has no such source here")
    labels, omitted = context.param.get("labels"), context.param.get("omitted")
    rng = random(case.seed, 14)
    weights = [rng.standard_normal((FEATURES, OUTPUTS)), rng.standard_normal(OUTPUTS)]
    x, _ = _examples(case.seed, case.examples)
    y = rng.permutation(np.arange(case.examples) % OUTPUTS)
    rows = ROWS["SparseCategoricalCrossentropy"](y, x @ weights[0] + weights[1], from_logits=True)
    most = 2 * (np.abs(x) @ np.abs(weights[0]) + np.abs(weights[1])).max(axis=1) + 2
    told = {int(c): weight for c, weight in CLASS_WEIGHTS[omitted].items()}
    of_class = np.array([told.get(int(c), 1.0) for c in y])
    given = {"sparse": y, "column": y[:, None], "one_hot": np.eye(OUTPUTS)[y]}[labels]
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    model = _classifier(labels, case.mode)
    model.set_weights(weights)
    more: dict[str, Any] = {"class_weight": dict(CLASS_WEIGHTS[omitted])}
    if w is not None or (case.source == "generator" and case.path == "fit"):
        return _refused(model, case, (x, given, w), more)

    def expected(cut: slice) -> tuple[float, float]:
        return STRENGTH * float((of_class * rows)[cut].mean()), STRENGTH * float((of_class * most)[cut].mean())

    try:
        return _held(model, case, (x, given, None), expected, **more)
    except REFUSALS:
        if omitted != "numerals":
            raise
        return Reading(0.0, seen="classes that are no integers are refused")


def _refused(model: Compiled, case: InferenceCase, batch: Sequence[Any], more: dict[str, Any]) -> Reading:
    """Return the reading of weights of both kinds, or for a generator: Keras says that it does not take them."""
    try:
        model.run(case.path, batch, case.batch_size, case.source, **more)
    except ValueError:
        return Reading(0.0, seen="a ValueError")
    return Reading(
        np.inf, seen=f"{case.path} takes class_weight beside sample_weight in silence", allowed="a ValueError"
    )


# Masked losses ---------------------------------------------------------------------------------------------


@cached_in_process
def _masked(mode: str, micro_batches: int | None) -> Compiled:
    options = {"loss": "mean_squared_error", "weighted_metrics": ["mean_squared_error"]}
    return Compiled(masked, mode, lambda: options, micro_batches=micro_batches)


def masked_params() -> list[Param]:
    """Return the one model of masked sequences."""
    return [Param.of(model="masked")]


def masked_cases(context: Context) -> Any:
    """Draw batches through every path, from arrays."""
    from hypothesis import strategies as st

    return loop_cases(context, source=st.just("arrays"), weights=st.sampled_from(["none", "unequal"]))


def sequences(case: Any, n: int) -> tuple[list[Array], Array, Array, Array | None]:
    """Return weights, padded sequences of unequal lengths, targets, and sample weights of each step."""
    rng = random(case.seed, 15)
    steps = 4
    x = rng.standard_normal((n, steps, FEATURES))
    lengths = rng.integers(1, steps + 1, n)
    lengths[0], lengths[-1] = 1, steps  # unequal in every case with two examples
    x[np.arange(steps)[None, :] >= lengths[:, None]] = 0.0
    w = draw_sample_weights(case.seed, n * steps, case.weights)
    weights = [rng.standard_normal((FEATURES, OUTPUTS)), rng.standard_normal(OUTPUTS)]
    return weights, x, rng.standard_normal((n, steps, OUTPUTS)), None if w is None else w.reshape(n, steps)


@check(
    family="independence",
    claims=("C8",),
    case=InferenceCase,
    cases=masked_cases,
    corners=loop_corners,
    params=masked_params,
    examples=(2, 3, 300),
    per_subject=False,
    exception="a masked loss is a mean over the unmasked steps of each batch, and evaluate and fit average it over "
    "batches by their numbers of examples, not of unmasked steps: the reported loss depends on the batch size "
    "(keras.io/guides/understanding_masking_and_padding); weighted_metrics do not",
    excepts="evaluation_does_not_depend_on_batch_size",
    catches="a denominator that counts masked steps, a mask that is lost on the way to the loss, batches averaged by "
    "another number than that of their examples",
    formula="|v - sum_b n_b/N (sum m w l / sum m)_b| <= 160 u size, m the mask",
    source="keras.io/api/losses; the masked mean: sum of what is left, divided by the number that is left",
    example="evaluate gives loss = 1.31; batch by batch it is 1.27",
)
def masked_loss_is_the_mean_of_what_is_left_in_each_batch(context: Context, case: InferenceCase) -> Reading:
    """A masked loss is the mean over each batch's unmasked steps, averaged over batches by their examples."""
    weights, x, y, w = sequences(case, case.examples)
    rows, kept = masked_rows(weights, x, y)
    model = _masked(case.mode, None)
    model.set_weights(weights)
    size = _masked_size(weights, x, y)

    def expected(cut: slice) -> tuple[float, float]:
        counted = kept[cut] * (1.0 if w is None else w[cut])
        number_left = max(float(kept[cut].sum()), 1.0)
        return float((counted * rows[cut]).sum() / number_left), size * max(1.0, float(np.max(counted)))

    return _held(model, case, (x, y, w), expected)


def _masked_size(weights: Sequence[Array], x: Array, y: Array) -> float:
    kernel, bias = weights
    return float(((np.abs(x) @ np.abs(kernel) + np.abs(bias) + np.abs(y)) ** 2).max())


@check(
    family="independence",
    claims=("C8",),
    case=InferenceCase,
    cases=masked_cases,
    corners=loop_corners,
    params=masked_params,
    examples=(2, 3, 300),
    per_subject=False,
    catches="a weighted metric that averages batches, counts masked steps, or drops the sample weights beside a mask",
    formula="|v - sum m w l / sum m w| <= 160 u size, over all examples (those of the batch alone for train_on_batch "
    "and test_on_batch)",
    source="keras.io/api/metrics: a weighted mean",
    example="evaluate gives mean_squared_error = 1.31; by NumPy it is 1.27",
)
def weighted_metrics_of_masked_steps_are_exact(context: Context, case: InferenceCase) -> Reading:
    """A weighted metric is the mean over the unmasked steps of all examples, whatever the batch size."""
    weights, x, y, w = sequences(case, case.examples)
    rows, kept = masked_rows(weights, x, y)
    counted = kept * (np.ones(kept.shape) if w is None else w)
    model = _masked(case.mode, None)
    model.set_weights(weights)
    size = _masked_size(weights, x, y)
    if case.path in ("train_on_batch", "test_on_batch"):

        def expected(cut: slice) -> tuple[float, float]:
            return float(np.sum((counted * rows)[cut]) / np.sum(counted[cut])), size

        return _held(model, case, (x, y, w), expected, "mean_squared_error")
    whole = float(np.sum(counted * rows) / np.sum(counted))
    return _held(model, case, (x, y, w), lambda cut: (whole, size), "mean_squared_error")


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=GradientCase,
    cases=window_cases,
    corners=window_corners,
    params=masked_params,
    examples=(2, 4, 200),
    per_subject=False,
    exception="the gradient of a masked loss is a mean over the unmasked steps of its micro-batch, and accumulation "
    "averages micro-batches equally (keras.io/api/optimizers): it equals the large batch's only where each has as many "
    "unmasked steps (keras.io/guides/understanding_masking_and_padding)",
    excepts="accumulated_gradient_matches_large_batch",
    catches="a denominator that counts masked steps, a mask that is lost in training, a micro-batch that weighs more",
    formula="|g - mean_j dL_j/dW| <= 160 u size, L_j the masked mean of micro-batch j, its slope by NumPy",
    source="keras.io/api/optimizers: gradient_accumulation_steps; keras.io/guides/understanding_masking_and_padding",
    example="the gradient of weight 0 is 0.62; by the formula it is 0.58",
)
def accumulated_masked_gradient_is_the_mean_of_its_micro_batches(context: Context, case: GradientCase) -> Reading:
    """Accumulation of a masked loss averages the micro-batches' own means over their unmasked steps."""
    return _accumulated(_masked(case.mode, len(case.sizes)), "", case)
