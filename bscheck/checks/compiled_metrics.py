"""Independence, metrics in a model: evaluation reports every metric over the examples, whatever the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bscheck.cases import CompiledMetricCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, random
from bscheck.checks.metric_inputs import Shape, draw_inputs, draw_metric_weights
from bscheck.checks.metrics import ROUNDOFF, compare
from bscheck.oracles.metrics import Value, definition
from bscheck.results.verdict import Reading, worst
from bscheck.runtime import current
from bscheck.runtime.bench import precision
from bscheck.surface.metrics import (
    CONSTRUCTIONS,
    exported,
    identity_model,
    is_class,
    make,
    squared_difference,
    variants,
)

Array = np.ndarray[Any, Any]

#: Metrics by name, as ``compile`` takes them, for the output of each kind; and what the name stands for there.
NAMED: Mapping[str, Mapping[str, str]] = {
    "binary": {"accuracy": "binary_accuracy", "acc": "binary_accuracy", "mse": "mean_squared_error"},
    "onehot": {"accuracy": "categorical_accuracy"},
    "regression": {"mae": "mean_absolute_error", "mean_squared_error": "mean_squared_error"},
    "sparse": {"acc": "sparse_categorical_accuracy"},
}

#: Metrics of the model with one output: a few, as they are all among those of the model with several.
ONE_OUTPUT = ("AUC", "BinaryAccuracy", "Precision", "SpecificityAtSensitivity", "TruePositives")

#: Models of two outputs, not in the order of the alphabet, whose targets are told apart by name: how each gives its
#: outputs. In a dict the keys are not the layers' names.
BY_NAME = {"keyed_outputs": "dict", "named_targets": "list"}

#: Losses, and metrics with and without weights, of the outputs told apart by name.
LOSSES = {"regression": "mean_squared_error", "binary": "mean_absolute_error"}
METRICS_BY_NAME = (("regression", "MeanAbsoluteError", 0), ("binary", "BinaryAccuracy", 0))
PLAIN_BY_NAME = (("regression", "mean_squared_error", "mean_squared_error"), ("binary", "acc", "binary_accuracy"))

#: Losses of the model whose only layer is a compiled model, with metrics of its own.
LOSSES_AROUND = {"regression": "mean_squared_error"}

#: Kinds of inputs that no model is given: values without targets.
NO_TARGETS = ("values",)


@dataclass(frozen=True)
class Plan:
    """A model's outputs and the metrics on each.

    Attributes
    ----------
    kinds : tuple of str
        Kind of inputs of each output, which is its name too.
    weighted : tuple of (kind, metric, variant)
        Metrics that get the sample weights.
    plain : tuple of (kind, reported name, row formula)
        Metrics without weights, by their names or as functions.
    outputs : str
        Where targets are a dict: ``dict`` or ``list``, the model's outputs; else nothing.
    losses : mapping of str to str
        Losses of the outputs, where the loss is compared too.
    """

    kinds: tuple[str, ...]
    weighted: tuple[tuple[str, str, int], ...]
    plain: tuple[tuple[str, str, str], ...] = ()
    outputs: str = ""
    losses: Mapping[str, str] = field(default_factory=dict)


def plan(model: str) -> Plan:
    """Return the outputs and metrics of a model by its name."""
    if model == "adjusted_r2":
        adjusted = [i for i, options in enumerate(variants("R2Score")) if "num_regressors" in options]
        return Plan(("regression",), tuple(("regression", "R2Score", i) for i in adjusted))
    if model in BY_NAME:
        return Plan(tuple(LOSSES), METRICS_BY_NAME, PLAIN_BY_NAME, BY_NAME[model], LOSSES)
    if model == "nested":
        return Plan(("regression",), METRICS_BY_NAME[:1], PLAIN_BY_NAME[:1], losses=LOSSES_AROUND)
    classes = [name for name, member in exported().items() if is_class(member) and variants(name)]
    kinds = [k for k in sorted({CONSTRUCTIONS[name].inputs for name in classes}) if k not in NO_TARGETS]
    if model == "one_output":
        kinds, classes = ["binary"], [name for name in ONE_OUTPUT if name in classes]
    weighted = [(CONSTRUCTIONS[n].inputs, n, _floating(n)) for n in classes if CONSTRUCTIONS[n].inputs in kinds]
    plain = [(kind, name, NAMED[kind][name]) for kind in kinds for name in NAMED.get(kind, {})]
    if "regression" in kinds:
        plain += [("regression", function, function) for function in ("squared_difference", "huber")]
    return Plan(tuple(kinds), tuple(weighted), tuple(plain))


def _floating(name: str) -> int:
    """Return the first variant whose weights need not be whole numbers."""
    options = variants(name)
    wanted = [i for i, o in enumerate(options) if "dtype" in o] if CONSTRUCTIONS[name].whole_weights else [0]
    return wanted[0] if wanted else 0


def _reported(metric: str, variant: int) -> str:
    return f"{metric}_{variant}"


@cached_in_process
def compiled(model: str, mode: str) -> tuple[Any, ...]:
    """Return the compiled model, and the compiled one inside where there is one; built once in a process."""
    if model != "nested":
        return (_compiled(plan(model), mode),)
    chosen = plan(model)
    inside = _compiled(chosen, mode)
    data = {kind: _draw(kind, random(0), 1, False) for kind in chosen.kinds}
    _evaluate(inside, chosen, data, np.ones(1, np.float32), 1)  # as a model that was trained before it becomes a part
    return _compiled(chosen, mode, inside), inside


def _compiled(chosen: Plan, mode: str, inside: Any = None) -> Any:
    functions = {"squared_difference": squared_difference(), "huber": exported().get("huber")}
    weighted = {k: [_made(m, v) for kind, m, v in chosen.weighted if kind == k] for k in chosen.kinds}
    plain = {k: [functions.get(n, n) for kind, n, _ in chosen.plain if kind == k] for k in chosen.kinds}
    if len(chosen.kinds) == 1:
        weighted, plain = weighted[chosen.kinds[0]], plain[chosen.kinds[0]]  # type: ignore[assignment]
    shapes = {kind: _draw(kind, random(0), 1, False)[1].shape[1:] for kind in chosen.kinds}
    options = current().compile_options(mode)
    told = {"losses": chosen.losses or None, "keyed": chosen.outputs == "dict", "inside": inside}
    return identity_model(shapes, options, metrics=plain, weighted_metrics=weighted, **told)  # type: ignore[arg-type]


def _made(metric: str, variant: int) -> Any:
    return make(metric, variants(metric)[variant], name=_reported(metric, variant))


def _draw(kind: str, rng: np.random.Generator, examples: int, one: bool) -> tuple[Array, Array]:
    """Return targets and predictions of a kind in float32; binary scores have one column, their targets may not."""
    y, p = draw_inputs(kind, rng, Shape(examples, 0, one or kind == "binary", False), {})
    assert y is not None
    y = y if one or kind != "binary" else y.reshape(p.shape)
    return y.astype(np.float32), p.astype(np.float32)


def model_params() -> list[Param]:
    """Return a parameter for each model."""
    return [Param.of(model=name) for name in ("one_output", "several_outputs", "adjusted_r2", "nested", *BY_NAME)]


def no_variant(context: Context) -> str | None:
    """Return why a model has no metrics here."""
    return None if plan(context.param.get("model")).weighted else "this Keras knows none of the options under test"


def compiled_cases(context: Context) -> Any:
    """Draw numbers of examples, batch sizes and weights."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    if context.param.get("model") == "nested":  # two models to trace: of the options only those of the corner
        return st.sampled_from(compiled_corners(context))
    return st.builds(
        CompiledMetricCase,
        seed=seeds(),
        examples=st.sampled_from([3] if few else [3, 4, 7]),
        batch_size=st.sampled_from([2] if few else [1, 2, 3, 7]),
        weights=st.sampled_from(["unequal", "zeros"]),
        mode=st.just(context.runtime.modes[0]),
    )


def compiled_corners(context: Context) -> Sequence[CompiledMetricCase]:
    """Return ragged, single, odd and whole batches, with and without weights."""
    plain = CompiledMetricCase(mode=context.runtime.modes[0])
    if context.param.get("model") == "adjusted_r2":
        return (plain,)
    if context.param.get("model") in ("nested", *BY_NAME):
        return (replace(plain, weights="none" if context.param.get("model") == "named_targets" else "unequal"),)
    one = context.param.get("model") == "one_output"
    corners = [replace(plain, weights="unequal"), replace(plain, batch_size=3, seed=1)]
    if context.runtime.compiles_per_shape:
        return corners
    return (
        *corners,
        replace(plain, examples=5, batch_size=1, weights="zeros"),
        replace(plain, examples=7, batch_size=3, weights="unequal", seed=2),
        replace(plain, examples=7, batch_size=7, weights="all_zeros", seed=3),
        replace(plain, examples=1, seed=4),
        # The model of many outputs is dear to trace for a further size.
        *([replace(plain, examples=36, batch_size=33, weights="unequal", seed=5)] if one else []),
    )


@check(
    family="independence",
    claims=("C8", "C13"),
    case=CompiledMetricCase,
    cases=compiled_cases,
    params=model_params,
    corners=compiled_corners,
    applies=no_variant,
    examples=(1, 1, 100),
    per_subject=False,
    catches="a metric that is wrong only inside a model: its weights lost on the way, one output's metrics given to "
    "another, a name that stands for another metric, a batch of one size left out, a mean of batches",
    formula="|m - M| <= roundings u size + slack for every reported metric, M the NumPy definition over all examples",
    source="keras.io/api/models/model_training_apis: compile(metrics=, weighted_metrics=)",
    example="evaluate reports binary_AUC_0 0.50; over the examples it is 0.75",
)
def evaluated_metrics_are_those_of_the_examples(context: Context, case: CompiledMetricCase) -> Reading:
    """Every metric that a model reports is its definition over all examples, whatever the batch size."""
    name = context.param.get("model")
    chosen = plan(name)
    data, w = drawn(case, name)
    readings = []
    with precision("float32"):
        models = compiled(name, case.mode)
        reports = [_evaluate(model, chosen, data, w, case.batch_size) for model in models]
    for report in reports:
        readings += _readings(report, chosen, data, w)
    return worst(readings)


def _readings(
    report: Mapping[str, Any], chosen: Plan, data: Mapping[str, tuple[Array, Array]], w: Array
) -> list[Reading]:
    """Return a reading of each figure that a model was to report."""
    readings = []
    weights = weights_of(chosen, w)
    for kind, metric, variant in chosen.weighted:
        options = {key: value for key, value in variants(metric)[variant].items() if key != "dtype"}
        expected = definition(metric, *data[kind], weights[kind], options)
        readings.append(_reading(report, chosen, kind, _reported(metric, variant), expected))
    if chosen.losses:
        loss = np.asarray(report["loss"], np.float64)
        expected = expected_loss(chosen.losses, data, weights)
        readings.append(compare(loss, expected, ROUNDOFF["float32"], "evaluate reports loss, which"))
    for kind, reported, formula in chosen.plain:
        readings.append(_reading(report, chosen, kind, reported, definition(formula, *data[kind], None, {})))
    return readings


def drawn(case: CompiledMetricCase, model: str) -> tuple[Mapping[str, tuple[Array, Array]], Array]:
    """Return targets and predictions of each kind of output, and the sample weights."""
    chosen, rng = plan(model), random(case.seed, 4)
    data = {kind: _draw(kind, rng, case.examples, model == "one_output") for kind in chosen.kinds}
    w = draw_metric_weights(rng, case.weights, (case.examples,), False)
    # Weights of 1 for none: with and without weights are two programs to trace.
    return data, (np.ones(case.examples) if w is None or chosen.outputs == "list" else w).astype(np.float32)


def reported_as(chosen: Plan, kind: str, name: str) -> str:
    """Return the name under which ``evaluate`` reports an output's metric."""
    return name if len(chosen.kinds) == 1 else f"{kind}_{name}"


def weights_of(chosen: Plan, w: Array) -> dict[str, Array]:
    """Return the weights of each output: every one has its own, where Keras can be given them."""
    own = chosen.outputs != "list"
    return {kind: np.roll(w, i) if own else w for i, kind in enumerate(chosen.kinds)}


def _evaluate(
    model: Any, chosen: Plan, data: Mapping[str, tuple[Array, Array]], w: Array, batch_size: int
) -> Mapping[str, Any]:
    x: Any = [data[kind][1] for kind in chosen.kinds]
    y: Any = [data[kind][0] for kind in chosen.kinds]
    weights: Any = list(weights_of(chosen, w).values())
    if len(chosen.kinds) == 1:
        x, y, weights = x[0], y[0], w
    elif chosen.outputs:
        y = dict(zip(chosen.kinds, y, strict=True))
        # Weights go by the structure of the outputs, targets by either.
        weights = weights_of(chosen, w) if chosen.outputs == "dict" else None
    report: Mapping[str, Any] = model.evaluate(
        x, y, sample_weight=weights, batch_size=batch_size, verbose=0, return_dict=True
    )
    return report


def expected_loss(
    losses: Mapping[str, str], data: Mapping[str, tuple[Array, Array]], weights: Mapping[str, Array]
) -> Value:
    """Return the loss: the sum over the outputs of ``sum w l / N``, each with the loss of its name."""
    parts = [definition(formula, *data[kind], weights[kind], {}) for kind, formula in losses.items()]
    (share,) = {float(np.mean(np.sort(w), dtype=np.float64)) for w in weights.values()}
    examples = len(next(iter(weights.values())))
    # Each batch's loss is rounded as it is divided, multiplied by its size and added; then the sum is divided.
    return Value(
        np.asarray(share * sum(p.value for p in parts)),
        np.asarray(share * sum(p.size for p in parts)),
        np.asarray(share * sum(p.slack for p in parts)),
        max(p.roundings for p in parts) + 3 * examples + 3,
    )


def _reading(report: Mapping[str, Any], chosen: Plan, kind: str, name: str, expected: Any) -> Reading:
    key = reported_as(chosen, kind, name)
    if key not in report:
        return Reading(float("inf"), seen=f"evaluate does not report {key}", allowed="every metric given to compile")
    seen = np.asarray(report[key], np.float64)
    return compare(seen, expected, ROUNDOFF["float32"], f"evaluate reports {key}, which")
