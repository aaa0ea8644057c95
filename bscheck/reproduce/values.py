"""Programs for numbers that Keras reports: metrics, losses, regularizers, class weights and penalties."""

from __future__ import annotations

from typing import Any

import numpy as np

from bscheck.cases import (
    ConstraintCase,
    InferenceCase,
    LossCase,
    MetricCase,
    RegularizerCase,
    ScheduleCase,
)
from bscheck.checks import Check
from bscheck.checks.context import Context, draw_sample_weights, random
from bscheck.reproduce import NoScript
from bscheck.reproduce.text import array, options, program, raised, what
from bscheck.results.verdict import Reading
from bscheck.runtime import current

#: What the expected numbers of these programs are, in a comment.
#: Keras rounds some factors to float32, in float64 too.
_NEAR = 1e-6

_BY_DEFINITION = "# By definition, computed with NumPy in float64 from the numbers above."


# Metrics -----------------------------------------------------------------------------------------------


def metric(check: Check, context: Context, case: MetricCase, reading: Reading) -> str:
    """Updates of a metric, or replicas put together, and the value of its definition."""
    from bscheck.checks.metrics import situation
    from bscheck.runtime.bench import precision

    with precision("float64" if case.dtype == "float64" else "float32"):
        of = situation(context, case)
        expected = of.expected()
        bound = np.where(np.isnan(expected.value), np.inf, expected.bound(of.u) + 1e-37)
    merged = "merge" in check.name
    lines = [_given(of), f"CHUNKS = {list(case.chunks)}", _BY_DEFINITION, f"EXPECTED = {array(expected.value)}", ""]
    if merged:
        lines += ["metrics = []", *_updates(of, case, "metrics[-1]", new=f"    metrics.append({_metric(of)})")]
        # The states of replicas are added up.
        lines += ["for variables in zip(*(m.variables for m in metrics)):"]
        lines += ["    variables[0].assign(sum(keras.ops.convert_to_numpy(v) for v in variables))"]
        lines += ["seen = metrics[0].result()"]
    else:
        lines += [f"metric = {_metric(of)}", *_updates(of, case, "metric"), "seen = metric.result()"]
    if np.isnan(expected.value).any():
        raise NoScript("the definition leaves the value open")
    lines += [f'compare("{of.name}", keras.ops.convert_to_numpy(seen), EXPECTED, {array(bound)})']
    dtype = "float64" if case.dtype == "float64" else "float32"
    return program(what(check, context, case), "\n".join(lines), dtype=dtype, raised=raised(reading))


def reset_metric(check: Check, context: Context, case: MetricCase, reading: Reading) -> str:
    """A metric that was used and reset beside a new one."""
    from bscheck.checks.metrics import situation
    from bscheck.runtime.bench import precision

    with precision("float64" if case.dtype == "float64" else "float32"):
        of = situation(context, case)
    lines = [_given(of), f"CHUNKS = {list(case.chunks)}", "", f"used, new = {_metric(of)}, {_metric(of)}"]
    lines += _updates(of, case, "used")
    lines += ["used.reset_state()", "for variable in used.variables:"]
    lines += ["    left = keras.ops.convert_to_numpy(variable)"]
    lines += ['    compare(f"after a reset {variable.name}", left, np.zeros_like(left), 0)']
    lines += [*_updates(of, case, "used"), *_updates(of, case, "new")]
    lines += ["seen, expected = (keras.ops.convert_to_numpy(m.result()) for m in (used, new))"]
    lines += [f'compare("{of.name} after a reset", seen, expected, 0)']
    dtype = "float64" if case.dtype == "float64" else "float32"
    return program(what(check, context, case), "\n".join(lines), dtype=dtype, raised=raised(reading))


def metric_function(check: Check, context: Context, case: MetricCase, reading: Reading) -> str:
    """A metric function on chunks of the examples, and each example's value by definition."""
    from bscheck.checks.metrics import of_each_example, situation
    from bscheck.runtime.bench import precision

    with precision("float64" if case.dtype == "float64" else "float32"):
        of = situation(context, case)
        expected = of_each_example(of)
    if of.inputs or of.mask is not None or 0 in case.chunks:
        raise NoScript("its predictions are of another dtype, masked, or none: the recorded case makes them")
    more = f", {options(of.options)}" if of.options else ""
    body = f"""
{_given(of)}
parts, start = [], 0
for size in {list(case.chunks)}:
    rows = slice(start, start + size)
    parts.append(keras.ops.convert_to_numpy(keras.metrics.{of.name}(y[rows], p[rows]{more})))
    start += size
{_BY_DEFINITION}
EXPECTED = {array(expected.value)}
compare("{of.name}", np.concatenate(parts), EXPECTED, {array(expected.bound(of.u) + 1e-37)})
"""
    dtype = "float64" if case.dtype == "float64" else "float32"
    return program(what(check, context, case), body, dtype=dtype, raised=raised(reading))


def flat_metric(check: Check, context: Context, case: MetricCase, reading: Reading) -> str:
    """Updates of a metric with predictions (N,), and the mean of the updates' values."""
    from bscheck.checks.metrics import flattened
    from bscheck.runtime.bench import precision

    with precision("float64" if case.dtype == "float64" else "float32"):
        of, parts, expected = flattened(context, case)
    lines = [_given(of), f"CHUNKS = {[len(part.p) for part in parts]}"]
    lines += ["# The mean of the updates' own values, in NumPy.", f"EXPECTED = {array(expected.value)}"]
    lines += [f"metric = {_metric(of)}", *_updates(of, case, "metric")]
    lines += ["seen = keras.ops.convert_to_numpy(metric.result())"]
    lines += [f'compare("{of.name}", seen, EXPECTED, {array(expected.bound(of.u) + 1e-37)})']
    dtype = "float64" if case.dtype == "float64" else "float32"
    return program(what(check, context, case), "\n".join(lines), dtype=dtype, raised=raised(reading))


def _metric(of: Any) -> str:
    given = {**of.options, **({} if of.dtype is None else {"dtype": of.dtype})}
    return f"keras.metrics.{of.name}({options(given)})"


def _given(of: Any) -> str:
    names = {"y": of.y, "p": of.p, "w": of.w, "mask": of.mask}
    return "\n".join(f"{name} = {array(value)}" for name, value in names.items() if value is not None)


def _updates(of: Any, case: MetricCase, target: str, new: str = "") -> list[str]:
    """Return the loop that gives a metric its chunks."""
    lines = ["start = 0", "for size in CHUNKS:", "    rows = slice(start, start + size)"]
    lines += [new] if new else []
    p = "p[rows]"
    if of.inputs or of.mask is not None:
        lines += [f"    given = keras.ops.convert_to_tensor(p[rows]{f', dtype={of.inputs!r}' if of.inputs else ''})"]
        p = "given"
    if of.mask is not None:
        lines += ["    given._keras_mask = keras.ops.convert_to_tensor(mask[rows])"]
    parts = [*(["y[rows]"] if of.y is not None else []), p, *(["sample_weight=w[rows]"] if of.w is not None else [])]
    return [*lines, f"    {target}.update_state({', '.join(parts)})", "    start += size"]


# Losses ------------------------------------------------------------------------------------------------


def loss(check: Check, context: Context, case: LossCase, reading: Reading) -> str:
    """A loss over a batch, by its class or as a function, and the value of its formula."""
    from bscheck.checks.loss_truth import loss_truth, weigh
    from bscheck.surface.losses import CONSTRUCTIONS, construction

    if case.dtype == "bfloat16":
        raise NoScript("NumPy alone does not know the dtype bfloat16")
    name = context.param.get("loss")
    variant = construction(name).variants[case.variant].options
    lines = []
    tiny = check.name == "loss_of_a_tiny_batch_is_finite"
    if tiny and not case.examples:
        raise NoScript("an empty batch's promise is about shapes and slopes, which the recorded case runs")
    truth = loss_truth(context, case)
    single = check.name == "loss_equals_its_formula"
    names = {"y": truth.y, "p": truth.p} | ({} if single else {"w": truth.w, "mask": truth.mask})
    lines += [f"{n} = {array(v)}" for n, v in names.items() if v is not None]
    lines += ["p = keras.ops.convert_to_tensor(p)"]
    if not single and truth.mask is not None:
        lines += ["p._keras_mask = keras.ops.convert_to_tensor(mask)"]
    more = {"dtype": "float64"} if case.dtype == "float64" and name in CONSTRUCTIONS else {}
    if name in CONSTRUCTIONS:
        reduction = "none" if single else case.reduction
        lines += [f"loss = keras.losses.{name}({options({**variant, 'reduction': reduction, **more})})"]
        w = ", w" if not single and truth.w is not None else ""
        lines += [f"seen = loss(y, p{w})"]
    else:
        lines += [f"seen = keras.losses.{name}(y, p{', ' if variant else ''}{options(variant)})"]
    if tiny:
        lines += ["if not np.isfinite(keras.ops.convert_to_numpy(seen)).all():", '    fail(f"the loss is {seen}")']
        return program(what(check, context, case), "\n".join(lines), dtype=case.dtype, raised=raised(reading))
    if single:
        expected, bound = truth.values, truth.bounds
    else:
        c = weigh(truth, case)
        each = c * truth.values * np.ones(c.shape)
        slack = np.abs(c) * truth.bounds + (c.size + 8) * truth.u * np.abs(each)
        whole = case.reduction != "none"
        expected, bound = (each.sum(), slack.sum()) if whole else (each, slack)
    lines += [_BY_DEFINITION, f"EXPECTED = {array(expected)}"]
    lines += ["seen = keras.ops.convert_to_numpy(seen)"]
    lines += ["seen = seen.reshape(EXPECTED.shape) if seen.size == EXPECTED.size else seen"]
    lines += [f'compare("{name}", seen, EXPECTED, {array(bound + 1e-37)})']
    return program(what(check, context, case), "\n".join(lines), dtype=case.dtype, raised=raised(reading))


def slope(check: Check, context: Context, case: LossCase, reading: Reading) -> str:
    """What SGD with a rate of 1 takes from the predictions beside the slope of the loss's formula."""
    from bscheck.checks.loss_truth import loss_truth, weigh
    from bscheck.checks.losses import batch_slopes, slopes, weigh_batch
    from bscheck.surface.losses import construction

    if case.mask != "none" or "the loss of" in reading.seen:
        return loss(check, context, case, reading)
    if "of the part" in reading.seen:
        raise NoScript("it is about a part of the batch, times its share: the recorded case runs it")
    name, truth = context.param.get("loss"), loss_truth(context, case)
    variant = construction(name).variants[case.variant]
    if variant.coupled:
        expected, bound = batch_slopes(truth, weigh_batch(truth, case))
    else:
        expected, bound = slopes(truth, weigh(truth, case))
    given = {**variant.options, "reduction": case.reduction}
    given |= {"dtype": "float64"} if case.dtype == "float64" else {}
    weighed = "" if truth.w is None else ", sample_weight=w"
    arrays = {"y": truth.y, "p": truth.p, "w": truth.w}
    body = f"""
{chr(10).join(f"{n} = {array(v)}" for n, v in arrays.items() if v is not None)}
{_BY_DEFINITION}
EXPECTED = {array(expected.reshape(truth.p.shape))}
BOUND = {array(np.broadcast_to(bound, expected.shape).reshape(truth.p.shape))}


class Predictions(keras.layers.Layer):
    def build(self, shape):
        self.p = self.add_weight(shape=p.shape, initializer="zeros", name="p")

    def call(self, inputs):
        return self.p


model = keras.Sequential([keras.Input((1,)), Predictions()])
model.layers[0].p.assign(p)
# With SGD and a learning rate of 1, what the predictions lose is the slope.
model.compile(keras.optimizers.SGD(1.0), loss=keras.losses.{name}({options(given)}))
model.train_on_batch(np.zeros((len(p), 1)), y{weighed})
seen = p - keras.ops.convert_to_numpy(model.layers[0].p)
compare("the slope", seen, EXPECTED, BOUND + {_EPS[case.dtype]} * np.abs(p))
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


#: What a subtraction from the predictions rounds to, relative to them.
_EPS = {"float64": 2.0**-52, "float32": 2.0**-23}


def schedule(check: Check, context: Context, case: ScheduleCase, reading: Reading) -> str:
    """A learning-rate schedule at the step where it left its formula."""
    from bscheck.oracles.schedules import rate, rounding
    from bscheck.surface.schedules import SETTINGS, settings
    from bscheck.tolerance import UNIT_ROUNDOFF

    name = context.param.get("schedule")
    given = settings(name)[case.setting % len(settings(name))]
    if case.dtype == "float64":
        raise NoScript("its options are NumPy's numbers, which decide the precision: the recorded case makes them")
    step = int(reading.where.removeprefix("step "))
    bound = rounding(name, given, UNIT_ROUNDOFF[case.dtype])
    if name not in SETTINGS:
        raise NoScript(f"no formula is written for {name}")
    body = f"""
schedule = keras.optimizers.schedules.{name}({options(given)})
seen = keras.ops.convert_to_numpy(schedule(keras.ops.convert_to_tensor({step}, "int32")))
compare("the rate at step {step}", seen, {rate(name, given, step)!r}, {bound!r})  # by the documented formula
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def regularizer(check: Check, context: Context, case: RegularizerCase, reading: Reading) -> str:
    """A regularizer called on a matrix."""
    from bscheck.oracles.penalties import REGULARIZERS
    from bscheck.surface.penalties import REGULARIZER_OPTIONS
    from bscheck.tolerance import UNIT_ROUNDOFF

    name = context.param.get("regularizer")
    given = REGULARIZER_OPTIONS[name][case.option]
    w = random(case.seed, 10).standard_normal((case.rows, case.columns)).astype(case.dtype)
    value = float(REGULARIZERS[name](w.astype(np.float64), **given))
    bound = 4 * (w.size + 16) * UNIT_ROUNDOFF[case.dtype] * (abs(value) + 1)
    body = f"""
w = {array(w)}
{_BY_DEFINITION}
EXPECTED = {value!r}
seen = keras.regularizers.{name}({options(given)})(keras.ops.convert_to_tensor(w))
compare("{name}", keras.ops.convert_to_numpy(seen), EXPECTED, {bound!r})
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def constraint(check: Check, context: Context, case: ConstraintCase, reading: Reading) -> str:
    """A constraint called on weights."""
    from bscheck.checks.constraints import allowed, weights_of
    from bscheck.oracles.constraints import CONSTRAINTS
    from bscheck.surface.penalties import CONSTRAINT_OPTIONS

    name = context.param.get("constraint")
    given = CONSTRAINT_OPTIONS[name][case.option]
    w = weights_of(case)
    exact = w.astype(np.float64)
    expected = CONSTRAINTS[name](exact, **given)
    bound = float(np.max(np.abs(expected) * allowed(exact, given, case.dtype)))
    body = f"""
w = {array(w)}
{_BY_DEFINITION}
EXPECTED = {array(expected)}
seen = keras.constraints.{name}({options(given)})(keras.ops.convert_to_tensor(w))
compare("{name}", keras.ops.convert_to_numpy(seen), EXPECTED, {bound!r})
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


# Whole models ------------------------------------------------------------------------------------------

_SOURCES = {
    "arrays": "x, y{w}, batch_size={b}",
    "pydataset": "x, y{w}, batch_size={b}",
    "generator": "((rows(x, i), rows(y, i){wi}) for i in range(0, {n}, {b}))",
    "dataset": "tf.data.Dataset.from_tensor_slices((rows(x), rows(y){wd})).batch({b})",
}


def mode_of(case: Any) -> str:
    """Return the options of ``compile`` for the case's execution mode."""
    options = current().compile_options(case.mode)
    return ", run_eagerly=True" if options["run_eagerly"] else f", jit_compile={options['jit_compile']}"


def call_of(case: InferenceCase, weighed: bool, more: str = "") -> tuple[str, list[str]]:
    """Return the statement that sets ``seen`` to what a loop reports, and its imports."""
    weights = {"w": ", sample_weight=w", "wi": f", w[i : i + {case.batch_size}]", "wd": ", w"}
    filled = {k: v if weighed else "" for k, v in weights.items()}
    if case.path in ("train_on_batch", "test_on_batch"):
        raise NoScript("batch by batch is another program")
    given = _SOURCES.get(case.source, _SOURCES["arrays"]).format(b=case.batch_size, n=case.examples, **filled)
    imports = ["import tensorflow as tf"] if case.source == "dataset" else []
    tool = f"""
def rows(tree, i=None):
    if isinstance(tree, (list, tuple)):
        return tuple(rows(part, i) for part in tree)
    if isinstance(tree, dict):
        return {{key: rows(part, i) for key, part in tree.items()}}
    return tree if i is None else tree[i : i + {case.batch_size}]


"""
    tool = tool if "rows(" in given else ""
    if case.path == "fit":
        history = f"model.fit({given}{more}, shuffle=False, verbose=0).history"
        return f"{tool}seen = {{name: values[-1] for name, values in {history}.items()}}", imports
    return f"{tool}seen = model.evaluate({given}{more}, verbose=0, return_dict=True)", imports


def class_weight(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """Training with class weights, and the mean of the weighed losses."""
    from bscheck.checks.penalties import CLASS_WEIGHTS, STRENGTH, _examples
    from bscheck.oracles.losses import ROWS
    from bscheck.surface.penalties import FEATURES, OUTPUTS

    labels, omitted = context.param.get("labels"), context.param.get("omitted")
    if case.weights != "none" or not (raised(reading) or "is" in reading.seen) or case.path == "train_on_batch":
        raise NoScript("it is about what fit refuses, or about one batch")
    rng = random(case.seed, 14)
    kernel, bias = rng.standard_normal((FEATURES, OUTPUTS)), rng.standard_normal(OUTPUTS)
    x, _ = _examples(case.seed, case.examples)
    y = rng.permutation(np.arange(case.examples) % OUTPUTS)
    rows = ROWS["SparseCategoricalCrossentropy"](y, x @ kernel + bias, from_logits=True)
    weighing = {int(label): weight for label, weight in CLASS_WEIGHTS[omitted].items()}
    expected = STRENGTH * float(np.mean([weighing.get(int(c), 1.0) * r for c, r in zip(y, rows, strict=True)]))
    given = {"sparse": y, "column": y[:, None], "one_hot": np.eye(OUTPUTS)[y]}[labels]
    kind = "CategoricalCrossentropy" if labels == "one_hot" else "SparseCategoricalCrossentropy"
    call, imports = call_of(case, False, ", class_weight=CLASS_WEIGHT")
    body = f"""
x = {array(x)}
y = {array(given)}
CLASS_WEIGHT = {CLASS_WEIGHTS[omitted]!r}  # a class that is not there weighs 1
{_BY_DEFINITION}
EXPECTED = {expected!r}

model = keras.Sequential([keras.Input(({FEATURES},)), keras.layers.Dense({OUTPUTS})])
model.set_weights([{array(kernel)}, {array(bias)}])
loss = keras.losses.{kind}(from_logits=True)
model.compile(keras.optimizers.SGD(0.0), loss=loss, loss_weights={STRENGTH}{mode_of(case)})
{call}
compare("the loss", seen["loss"], EXPECTED, {_NEAR * (abs(expected) + 1)!r})
"""
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))


def penalized(kind: str) -> list[str]:
    """Return the statements that make a model with penalties of a kind.

    Raises
    ------
    NoScript
        When the model has another one inside.
    """
    from bscheck.surface import penalties as known

    if kind == "shared":
        raise NoScript("a model that is called twice inside another: the recorded case makes it")

    many = kind == "all"
    options_of = []
    if many or kind == "weights":
        options_of += [
            f"kernel_regularizer=keras.regularizers.L1L2(l1={known.WEIGHT_L1}, l2={known.WEIGHT_L2})",
            f"bias_regularizer=keras.regularizers.L2({known.WEIGHT_L2})",
        ]
    if many or kind == "activity":
        options_of += [f"activity_regularizer=keras.regularizers.L2({known.ACTIVITY})"]
    layer = f"""
class MeanSquare(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss({known.ADDED} * keras.ops.mean(keras.ops.square(inputs)))
        return inputs
"""
    added = many or kind == "add_loss"
    return [
        layer if added else "", "model = keras.Sequential([", f"    keras.Input(({known.FEATURES},)),",
        f"    keras.layers.Dense({', '.join([str(known.HIDDEN), *options_of])}),",
        *(["    MeanSquare(),"] if added else []),
        f"    keras.layers.Dense({known.OUTPUTS}),", "])",
    ]  # fmt: skip


def penalty(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """A model with penalties, and the loss that it must report."""
    from bscheck.checks.penalties import _cut, _examples, _penalized_weights
    from bscheck.oracles.linear import penalized_loss

    kind = context.param.get("penalty")
    weights = _penalized_weights(case.seed)
    x, y = _examples(case.seed, case.examples)
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    cuts = [slice(a, b) for a, b in case.edges]
    parts = [penalized_loss(kind, weights, x[c], y[c], _cut(w, c))[0] for c in cuts]
    given = [f"x = {array(x)}", f"y = {array(y)}", *([f"w = {array(w)}"] if w is not None else [])]
    body = "\n".join([
        *given, *penalized(kind), f"model.set_weights([{', '.join(map(array, weights))}])",
        f'model.compile(keras.optimizers.SGD(0.0), loss="mean_squared_error"{mode_of(case)})', "",
    ])  # fmt: skip
    imports: list[str] = []
    if case.path in ("train_on_batch", "test_on_batch"):
        weighed = ", sample_weight=w[a:b]" if w is not None else ""
        body += f"""
for (a, b), expected in zip({case.edges}, {parts}):  # by NumPy
    seen = model.{case.path}(x[a:b], y[a:b]{weighed}, return_dict=True)
    compare(f"the loss of examples {{a}} to {{b - 1}}", seen["loss"], expected, {_NEAR} * (abs(expected) + 1))
"""
    else:
        call, imports = call_of(case, w is not None)
        total = float(sum(p * (c.stop - c.start) for p, c in zip(parts, cuts, strict=True)) / case.examples)
        body += f'{call}\ncompare("the loss", seen["loss"], {total!r}, {_NEAR * (abs(total) + 1)!r})  # by NumPy\n'
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))
