"""Programs for what a compiled model reports of its examples: losses of two outputs, of masked steps, and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import CompiledMetricCase, GradientCase, InferenceCase
from bscheck.checks import Check
from bscheck.checks.context import Context
from bscheck.reproduce import NoScript
from bscheck.reproduce.text import array, options, program, raised, tree, what
from bscheck.reproduce.values import call_of, mode_of, penalized
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array
from bscheck.subject import take

#: How near a program's number must come to NumPy's, relative to it and 1: what the text of a failure rounds away.
_NEAR = 1e-6

_LOSSES = {
    "strings": '["mean_squared_error", "mean_absolute_error"], loss_weights=[0.5, 4.0]',
    "functions": "[keras.losses.mean_squared_error, keras.losses.mean_absolute_error], loss_weights=[0.5, 4.0]",
    "objects": "[keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError()], loss_weights=[0.5, 4.0]",
    "dict": '{"first": "mean_squared_error", "second": "mean_absolute_error"}, '
    'loss_weights={"first": 0.5, "second": 4.0}',
    "unweighted": '["mean_squared_error", "mean_absolute_error"]',
}
_LOSSES["weighed_apart"] = _LOSSES["strings"]


def heads(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """A model of two outputs and its total loss."""
    from bscheck.checks.penalties import headed
    from bscheck.surface.penalties import FEATURES, HEADS, OUTPUTS

    weights, x, targets, w = headed(case, context.param.get("form"))
    build = [
        f"inputs = keras.Input(({FEATURES},))",
        f"outputs = [keras.layers.Dense({OUTPUTS}, name=name)(inputs) for name in {HEADS}]",
        "model = keras.Model(inputs, outputs)",
    ]
    compiled = f"loss={_LOSSES[context.param.get('form')]}{mode_of(case)}"
    return _reported(check, context, case, reading, build, compiled, (weights, x, targets, w))


def masked(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """A model of masked sequences, and its loss or its weighted metric."""
    from bscheck.checks.penalties import sequences
    from bscheck.surface.penalties import FEATURES, OUTPUTS

    layers = f"keras.Input((None, {FEATURES})), keras.layers.Masking(0.0), keras.layers.Dense({OUTPUTS})"
    compiled = f'loss="mean_squared_error", weighted_metrics=["mean_squared_error"]{mode_of(case)}'
    data = sequences(case, case.examples)
    return _reported(check, context, case, reading, [f"model = keras.Sequential([{layers}])"], compiled, data)


def _reported(
    check: Check,
    context: Context,
    case: InferenceCase,
    reading: Reading,
    build: Sequence[str],
    compiled: str,
    data: tuple[list[Array], Array, Any, Array | None],
) -> str:
    """Return a program that compares one reported number, the one that was wrong, with NumPy's."""
    weights, x, y, w = data
    if "expected" not in reading.figures and not raised(reading):
        raise NoScript("the promise is not about one number here")
    expected, name = reading.figures.get("expected", 0.0), reading.where.partition(" of ")[0] or "loss"
    imports: list[str] = []
    if case.path in ("train_on_batch", "test_on_batch"):
        first = int(reading.figures.get("first", 0))
        rows = slice(first, min(first + case.batch_size, case.examples))
        x, w = x[rows], None if w is None else take(w, rows)
        y = [t[rows] for t in y] if isinstance(y, list) else y[rows]
        call = f"seen = model.{case.path}(x, y{', sample_weight=w' if w is not None else ''}, return_dict=True)"
    else:
        call, imports = call_of(case, w is not None)
    given = [f"x = {array(x)}", f"y = {tree(y)}", *([f"w = {tree(w)}"] if w is not None else [])]
    lines = [*given, *build, f"model.set_weights({tree(list(weights))})"]
    lines += [f"model.compile(keras.optimizers.SGD(0.0), {compiled})", call]
    lines += [f"compare({name!r}, seen[{name!r}], {expected!r}, {_NEAR * (abs(expected) + 1)!r})  # by NumPy"]
    body = "\n".join(lines)
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))


def gradients(check: Check, context: Context, case: GradientCase, reading: Reading) -> str:
    """The gradient that micro-batches of penalized or masked examples accumulate beside the formula's."""
    from bscheck.checks.penalties import accumulated_slopes
    from bscheck.surface.penalties import FEATURES, OUTPUTS

    kind, k, size = context.param.as_dict().get("penalty", ""), len(case.sizes), case.sizes[0]
    weights, x, y, w, expected, bounds = accumulated_slopes(kind, case)
    if kind:
        build = penalized(kind)
    else:
        layers = f"keras.Input((None, {FEATURES})), keras.layers.Masking(0.0), keras.layers.Dense({OUTPUTS})"
        build = [f"model = keras.Sequential([{layers}])"]
    given = [f"x = {array(x)}", f"y = {array(y)}", *([f"w = {tree(w)}"] if w is not None else [])]
    body = "\n".join([
        *given, *build, f"WEIGHTS = {tree(list(weights))}", "model.set_weights(WEIGHTS)",
        "# With SGD and a learning rate of 1, what the weights lose is the gradient.",
        f"optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps={k})",
        f'model.compile(optimizer, loss="mean_squared_error"{mode_of(case)})',
        f"for i in range(0, len(x), {size}):",
        f"    rows = slice(i, i + {size})",
        f"    model.train_on_batch(x[rows], y[rows]{', sample_weight=w[rows]' if w is not None else ''})",
        "# By the chain rule, in NumPy.",
        f"EXPECTED = {tree(list(expected))}",
        f"for i, (old, new, expected, bound) in enumerate(zip(WEIGHTS, model.get_weights(), EXPECTED, {bounds})):",
        '    compare(f"the gradient of weight {i}, ", old - new, expected, bound + 1e-15 * np.abs(old))',
    ])  # fmt: skip
    return program(what(check, context, case), body, dtype="float64", raised=raised(reading))


def metrics(check: Check, context: Context, case: CompiledMetricCase, reading: Reading) -> str:
    """A model whose outputs are its inputs, all its metrics, and the definition of the one that was wrong."""
    from bscheck.checks.compiled_metrics import drawn, plan, weights_of

    name = context.param.get("model")
    chosen = plan(name)
    if chosen.losses and not chosen.outputs:
        raise NoScript("a compiled model becomes a part of another one: the recorded case does that")
    data, w = drawn(case, name)
    weights = weights_of(chosen, w)
    key, value = _wrong_metric(chosen, data, weights, reading)
    if np.isnan(value.value).any():
        raise NoScript("the definition leaves the value open")
    bound = array(np.broadcast_to(4 * value.bound(2.0**-24) + 1e-37, np.shape(value.value)))
    keyed, one = chosen.outputs == "dict", len(chosen.kinds) == 1
    dicts = "y, w" if keyed else "y" if chosen.outputs else ""
    body = f"""
KINDS = {list(chosen.kinds)}
p = {tree([data[kind][1] for kind in chosen.kinds])}
y = {tree([data[kind][0] for kind in chosen.kinds])}
w = {tree([weights[kind] for kind in chosen.kinds])}
# By definition, computed with NumPy in float64 from the numbers above.
EXPECTED, BOUND = {array(value.value)}, {bound}


def squared_difference(y_true, y_pred):
    return keras.ops.square(keras.ops.subtract(keras.ops.cast(y_true, y_pred.dtype), y_pred))


WEIGHTED = {{{_listed(chosen, _made(chosen))}}}
PLAIN = {{{_listed(chosen, _plain(chosen))}}}
inputs = [keras.Input(a.shape[1:]) for a in p]
named = [keras.layers.Activation("linear", name={'"out_" + ' if keyed else ""}k)(x) for k, x in zip(KINDS, inputs)]
model = keras.Model(inputs, {"dict(zip(KINDS, named))" if keyed else "named[0]" if one else "named"})
METRICS = {{"metrics": PLAIN, "weighted_metrics": WEIGHTED}}
{"METRICS = {key: value[KINDS[0]] for key, value in METRICS.items()}" if one else ""}
model.compile(loss={_losses(chosen)}, jit_compile=False, **METRICS)
{f"{dicts} = " + ", ".join(f"dict(zip(KINDS, {part}))" for part in dicts.split(", ")) if dicts else ""}
given = dict(x=p, y=y{"" if chosen.outputs == "list" else ", sample_weight=w"})
{"given = {key: value[0] for key, value in given.items()}" if one else ""}
seen = model.evaluate(**given, batch_size={case.batch_size}, verbose=0, return_dict=True)
compare("{key}", seen["{key}"], EXPECTED, BOUND)
"""
    return program(what(check, context, case), body, raised=raised(reading))


def _wrong_metric(chosen: Any, data: Any, w: dict[str, Array], reading: Reading) -> tuple[str, Any]:
    """Return the name under which the wrong metric is reported, and its value by definition."""
    from bscheck.checks.compiled_metrics import expected_loss, reported_as
    from bscheck.oracles.metrics import definition
    from bscheck.surface.metrics import variants

    def meant(key: str) -> bool:
        return f"evaluate reports {key}, which" in reading.seen or raised(reading)

    for kind, name, variant in chosen.weighted:
        given = {k: v for k, v in variants(name)[variant].items() if k != "dtype"}
        if meant(key := reported_as(chosen, kind, f"{name}_{variant}")):
            return key, definition(name, data[kind][0], data[kind][1], w[kind], given)
    for kind, name, formula in chosen.plain:
        if meant(key := reported_as(chosen, kind, name)):
            return key, definition(formula, data[kind][0], data[kind][1], None, {})
    if chosen.losses and meant("loss"):
        return "loss", expected_loss(chosen.losses, data, w)
    raise NoScript("it is not about a number that is reported")


def _made(chosen: Any) -> list[tuple[str, str]]:
    """Return each weighted metric's output, and the expression that makes it."""
    from bscheck.surface.metrics import variants

    found = []
    for kind, name, variant in chosen.weighted:
        given = {**variants(name)[variant], "name": f"{name}_{variant}"}
        function = "squared_difference, " if name == "MeanMetricWrapper" else ""
        found.append((kind, f"keras.metrics.{name}({function}{options(given)})"))
    return found


def _plain(chosen: Any) -> list[tuple[str, str]]:
    """Return each plain metric's output, and its name or function."""
    functions = {"squared_difference": "squared_difference", "huber": "keras.metrics.huber"}
    return [(kind, functions.get(name, repr(name))) for kind, name, _ in chosen.plain]


def _listed(chosen: Any, made: Sequence[tuple[str, str]]) -> str:
    """Return the items of a dict of lists, one line for each metric."""
    lists = {kind: [text for k, text in made if k == kind] for kind in chosen.kinds}
    return "".join(f"\n    {kind!r}: [{', '.join(texts)}]," for kind, texts in lists.items()) + "\n"


def _losses(chosen: Any) -> str:
    if chosen.outputs:
        return repr(dict(chosen.losses))
    if len(chosen.kinds) == 1:
        return '"mse"'
    return repr({kind: "mse" if i == 0 else None for i, kind in enumerate(chosen.kinds)})
