"""Programs for a whole model, bscheck's own or a team's: accumulated gradients, evaluation, history, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import CompiledCase, EdgeCase, GradientCase, InferenceCase, OrderCase, TrajectoryCase, VarianceCase
from bscheck.checks import Check
from bscheck.checks.context import Context, draw_micro_batches, draw_sample_weights, draw_weights
from bscheck.reproduce import NoScript
from bscheck.reproduce.text import array, assigned, imported, keras_object, program, raised, tree, what
from bscheck.reproduce.values import call_of, mode_of
from bscheck.results.verdict import Reading
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array
from bscheck.subject import Subject, leaves

#: The gate's models that are no plain stack of layers.
FUNCTIONAL = {
    "attention": """
def build():
    inputs = keras.Input((5, 4))
    attended = keras.layers.MultiHeadAttention(num_heads=2, key_dim=2)(inputs, inputs)
    normal = keras.layers.LayerNormalization()(keras.layers.Add()([inputs, attended]))
    pooled = keras.layers.GlobalAveragePooling1D()(normal)
    return keras.Model(inputs, keras.layers.Dense(2)(pooled))
""",
    "two_outputs": """
def build():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, activation="softplus")(inputs)
    outputs = [keras.layers.Dense(2, name="value")(hidden), keras.layers.Dense(3, name="label")(hidden)]
    return keras.Model(inputs, outputs)
""",
}

#: Relative difference that float32 does not explain, in programs that take Keras itself for the expected value.
_BOUND = 2e-5


@dataclass(frozen=True)
class Parts:
    """A subject as source text.

    Attributes
    ----------
    imports : tuple of str
    build : str
        Statements that define ``build``.
    loss : str
    """

    imports: tuple[str, ...]
    build: str
    loss: str


def parts_of(context: Context, dtype: str = "float32") -> Parts:
    """Return a subject as source text: a team's own by importing its functions.

    Raises
    ------
    NoScript
        When one of them cannot be imported by another program.
    """
    subject = context.subject
    if context.given is not None:
        line, name = imported(subject.build, f"the subject's build= of {subject.name!r}")
        loss, more = _own_loss(subject)
        return Parts(tuple(dict.fromkeys([line, *more])), f"build = {name}", loss)
    return Parts((), _source_of(subject.name, context.bench(dtype).model), _loss(subject.loss))


def _source_of(name: str, model: Any) -> str:
    """Return the function that builds one of the gate's models."""
    if name in FUNCTIONAL:
        return FUNCTIONAL[name].strip("\n")
    if type(model).__name__ != "Sequential":
        raise NoScript("its model is no plain stack of layers")
    shape = tuple(model.inputs[0].shape[1:])
    kind = str(model.inputs[0].dtype)
    head = f"keras.Input({shape}{'' if kind.startswith('float') else f', dtype={kind!r}'})"
    rows = [f"        {keras_object(layer)}," for layer in model.layers]
    return "\n".join(["def build():", "    return keras.Sequential([", f"        {head},", *rows, "    ])"])


def _loss(loss: Any) -> str:
    if isinstance(loss, str):
        return repr(loss)
    if isinstance(loss, (list, tuple)):
        return f"[{', '.join(map(_loss, loss))}]"
    if isinstance(loss, dict):
        return "{" + ", ".join(f"{key!r}: {_loss(part)}" for key, part in loss.items()) + "}"
    return keras_object(loss)


def _own_loss(subject: Subject) -> tuple[str, list[str]]:
    try:
        return _loss(subject.loss), []
    except (NoScript, AttributeError):
        line, name = imported(subject.loss, f"the loss= of {subject.name!r}")
        return name, [line]


def written(parts: Parts, batch: Sequence[Any], weights: Sequence[Array]) -> str:
    """Return the statements that define ``build``, the examples ``x``, ``y`` and ``w``, and ``WEIGHTS``."""
    given = "\n".join(f"{name} = {tree(part)}" for name, part in zip("xyw", batch, strict=True))
    return f"{parts.build}\n\n\n{given}\n{assigned('WEIGHTS', weights)}"


def small(batch: Any) -> bool:
    """Whether a batch is small enough to be written down."""
    from bscheck.reproduce.text import MOST_NUMBERS

    return sum(np.asarray(leaf).size for leaf in leaves(batch)) <= MOST_NUMBERS


# Gradients ---------------------------------------------------------------------------------------------


def large_batch(check: Check, context: Context, case: GradientCase, reading: Reading) -> str:
    """Accumulated micro-batches beside the large batch, by what SGD with a rate of 1 does to the weights."""
    return _window(check, context, case, reading, "large")


def mean_of_micro_batches(check: Check, context: Context, case: GradientCase, reading: Reading) -> str:
    """Accumulated micro-batches beside the mean of the updates that each makes alone."""
    return _window(check, context, case, reading, "mean")


def averaged(check: Check, context: Context, case: GradientCase, reading: Reading) -> str:
    """Micro-batches, each for itself, beside the large batch: no accumulation takes part."""
    return _window(check, context, case, reading, "apart")


def _window(check: Check, context: Context, case: GradientCase, reading: Reading, expected: str) -> str:
    if case.dtype.startswith("mixed"):
        raise NoScript("mixed precision needs the case's own bound")
    dtype = "float64" if expected == "apart" and context.traits.double else case.dtype
    bench = context.bench(dtype)
    batches = [bench.cast(batch) for batch in draw_micro_batches(context, case)]
    if not small(batches):
        raise NoScript("its examples are too large to be written down")
    weights = bench.split(
        draw_weights(context.bench("float64") if expected == "apart" else bench, case.seed, case.scale)
    )
    parts, step = parts_of(context, dtype), context.subject.step
    imports, own = list(parts.imports), ""
    if step is not None and expected != "apart":
        line, own = imported(step, f"the step= of {context.subject.name!r}")
        imports.append(line)
    shares = (
        [n / sum(case.sizes) for n in case.sizes] if context.traits.reduction == "mean" else [1.0] * len(case.sizes)
    )
    body = f"""
{parts.build}


{assigned("WEIGHTS", [np.asarray(w, dtype) for w in weights])}
BATCHES = [  # x, y, sample_weight
{chr(10).join(f"    {tree(tuple(b))}," for b in batches)}
]


def joined(parts):
    if parts[0] is None:
        return None
    if isinstance(parts[0], dict):
        return {{key: joined([p[key] for p in parts]) for key in parts[0]}}
    if isinstance(parts[0], (list, tuple)):
        return [joined(list(p)) for p in zip(*parts)]
    return np.concatenate(parts)


def gradient(batches, k=None, step=None):
    model = build()
    for variable, value in zip(model.trainable_variables, WEIGHTS):
        variable.assign(value)
    # With SGD and a learning rate of 1, what the weights lose is the gradient.
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=k)
    model.compile(optimizer, loss={parts.loss})
    if step is not None:
        optimizer.build(model.trainable_variables)
        step(model, optimizer, batches)
    else:
        for x, y, w in batches:
            model.train_on_batch(x, y, sample_weight=w)
    return [w - keras.ops.convert_to_numpy(v) for w, v in zip(WEIGHTS, model.trainable_variables)]


large = [tuple(joined([b[i] for b in BATCHES]) for i in range(3))]
{_seen_and_expected(expected, own, shares, context)}
largest = max(float(np.abs(e).max()) for e in expected)
for i, (a, b) in enumerate(zip(seen, expected)):
    compare(f"the gradient of weight {{i}}, ", a, b, {_BOUND} * (np.abs(b).max() + 0.1 * largest))
"""
    return program(what(check, context, case), body, imports=imports, dtype=dtype, raised=raised(reading))


def mini_batches(check: Check, context: Context, case: VarianceCase, reading: Reading) -> str:
    """Every mini-batch's gradient: their mean beside the full one, or their variance beside the law's."""
    from bscheck.checks.variance import _examples, law_factor

    double, n, b = context.bench("float64"), case.examples, case.batch_size
    x, y, w = double.cast(_examples(context, case))
    if not small((x, y)):
        raise NoScript("its examples are too large to be written down")
    parts = parts_of(context, "float64")
    weights = double.split(draw_weights(double, case.seed, case.scale))
    summed = context.traits.reduction == "sum"
    law = check.name == "minibatch_gradient_variance_follows_the_law"
    body = f"""
{written(parts, (x, y, w), weights)}
{ROWS.replace("a, b", "chosen").replace("a:b", "chosen")}
def gradients(batch_size):
    # Of every mini-batch of that size, by variable.
    found = []
    for chosen in map(list, itertools.combinations(range({n}), batch_size)):
        model = build()
        for variable, value in zip(model.trainable_variables, WEIGHTS):
            variable.assign(value)
        # With SGD and a learning rate of 1, what the weights lose is the gradient.
        model.compile(keras.optimizers.SGD({"1.0 / batch_size" if summed else "1.0"}), loss={parts.loss}{mode_of(case)})
        model.train_on_batch(rows(x, chosen), rows(y, chosen){"" if w is None else ", w[chosen]"})
        found.append([w - keras.ops.convert_to_numpy(v) for w, v in zip(WEIGHTS, model.trainable_variables)])
    return [np.stack(part) for part in zip(*found)]


{_law(law_factor(n, b)) if law else _UNBIASED}""".replace("SIZE", str(b)).replace("ALL", str(n))
    imports = ["import itertools", *parts.imports]
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))


#: Cochran 1977, theorem 2.1.
_UNBIASED = """
full, drawn = gradients(ALL), gradients(SIZE)
largest = max(float(np.abs(f).max()) for f in full)
for i, (a, b) in enumerate(zip(drawn, full)):
    compare(f"the mean gradient of weight {i} over all mini-batches, ", a.mean(0), b[0], 1e-9 * largest)
"""


def _law(factor: float) -> str:
    return f"""
# Cochran 1977, theorem 2.2: (N - B) / (B (N - 1)) times the variance of the examples' own gradients.
full, single, drawn = gradients(ALL), gradients(1), gradients(SIZE)
largest = max(float(np.abs(s).max()) for s in single) ** 2
for i, (f, s, d) in enumerate(zip(full, single, drawn)):
    spread, expected = ((d - f) ** 2).mean(0).sum(), {factor!r} * ((s - f) ** 2).mean(0).sum()
    compare(f"the variance of the mini-batch gradients of weight {{i}}", spread, expected, 1e-7 * (expected + largest))
"""


def _seen_and_expected(expected: str, own: str, shares: Sequence[float], context: Context) -> str:
    k = len(shares)
    each = "[gradient([batch]) for batch in BATCHES]"
    sums = context.traits.reduction == "sum"
    if expected == "apart":
        return (
            f"each = {each}\nSHARES = {list(shares)}\n"
            "seen = [sum(p * g[i] for p, g in zip(SHARES, each)) for i in range(len(WEIGHTS))]\n"
            "expected = gradient(large)"
        )
    seen = f"seen = gradient(BATCHES, step={own})" if own else f"seen = gradient(BATCHES, k={k})"
    if expected == "mean":
        return f"{seen}\neach = {each}\nexpected = [sum(g[i] for g in each) / {k} for i in range(len(WEIGHTS))]"
    if sums and not own:
        return f"{seen}\nexpected = [g / {k} for g in gradient(large)]  # a loss that sums is not averaged"
    return f"{seen}\nexpected = gradient(large)"


def state(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """One epoch of ``fit`` beside ``train_on_batch`` on the same batches, by all that they leave behind."""
    batch = _epoch(context, case)
    call, imports = call_of(replace(case, path="fit"), batch[2] is not None)
    body = f"""
model = ready()
{call}
alike = ready()
epoch(alike)
alike_to(alike, "after fit", [model])
"""
    return _learned(check, context, case, reading, batch, body, imports)


def compiled(check: Check, context: Context, case: CompiledCase, reading: Reading) -> str:
    """An epoch of ``train_on_batch`` in compiled steps beside one in steps that run op by op."""
    body = f"""
alike = ready(run_eagerly=True)
epoch(alike)
# Equal models: how a graph is put in order may differ from one to the next.
models = [ready() for _ in range({max(case.models, 20)})]
for model in models:
    epoch(model)
alike_to(alike, "after compiled steps", models)
"""
    return _learned(check, context, case, reading, _epoch(context, case), body, [])


def _epoch(context: Context, case: InferenceCase) -> tuple[Any, Any, Any]:
    """Return the examples of an epoch, their targets, and their weights or None."""
    from bscheck.checks.context import weighed

    x, y, own = context.subject.draw(case.seed, case.examples)
    w = weighed(context, own, draw_sample_weights(case.seed, case.examples, case.weights))
    x, y, w = context.bench(case.dtype).cast((x, y, w))
    return x, y, w


def _learned(
    check: Check,
    context: Context,
    case: InferenceCase,
    reading: Reading,
    batch: tuple[Any, Any, Any],
    rest: str,
    imports: Sequence[str],
) -> str:
    """Return a program about all that an epoch leaves behind in equal models."""
    from bscheck.checks.context import draw_weights
    from bscheck.runtime.learner import MOMENTUM, RATE

    (x, y, w), b = batch, case.batch_size
    bench = context.bench(case.dtype)
    if not small((x, y)):
        raise NoScript("its examples are too large to be written down")
    parts = parts_of(context, case.dtype)
    weights = bench.split(draw_weights(bench, case.seed, case.scale))
    weights_of_batch = "" if w is None else f", sample_weight=w[i : i + {b}]"
    body = f"""
{written(parts, (x, y, w), [np.asarray(v, case.dtype) for v in weights])}
{ROWS.replace("rows(", "batch(")}

def ready(**options):
    model = build()
    for variable, value in zip(model.trainable_variables, WEIGHTS):
        variable.assign(value)
    optimizer = keras.optimizers.SGD({RATE}, momentum={MOMENTUM})
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss={parts.loss}, **(options or dict({mode_of(case).removeprefix(", ")})))
    return model


def epoch(model):
    for i in range(0, {case.examples}, {b}):
        model.train_on_batch(batch(x, i, i + {b}), batch(y, i, i + {b}){weights_of_batch})


def alike_to(alike, when, models):
    for model in models:
        pairs = zip([*model.variables, *model.optimizer.variables], [*alike.variables, *alike.optimizer.variables])
        for a, b in pairs:
            seen, expected = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
            if expected.dtype.kind == "f":
                compare(f"{{when}} {{b.name}}", seen, expected, 1e-9 * (1 + np.abs(expected).max(initial=0)))

{rest}
"""
    imports = [*parts.imports, *imports]
    return program(what(check, context, case), body, imports=imports, dtype=case.dtype, raised=raised(reading))


def integers(check: Check, context: Context, case: GradientCase, reading: Reading) -> str:
    """Micro-batches of integers beside the large batch: nothing is rounded, so nothing may differ."""
    from bscheck.checks.gradients import integer_window
    from bscheck.reference_subjects import integers as subject
    from bscheck.runtime.bench import Bench

    bench = Bench(subject(), "float32")
    weights, batches = integer_window(bench, case)
    k = len(batches)
    body = f"""
class SumOfProducts(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.sum(y_true * y_pred, axis=-1)


{_source_of(bench.subject.name, bench.model)}


{assigned("WEIGHTS", [np.asarray(w, "float32") for w in bench.split(weights)])}
BATCHES = {tree([(x, y) for x, y, _ in batches])}


def gradient(batches, k=None):
    model = build()
    for variable, value in zip(model.trainable_variables, WEIGHTS):
        variable.assign(value)
    # With SGD and a learning rate of 1, what the weights lose is the gradient. The large batch runs op by op: a step
    # of TensorFlow that is compiled may update a weight before the backward pass reads it, where the loss is linear.
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=k)
    model.compile(optimizer, loss=SumOfProducts(reduction="sum"), run_eagerly=k is None)
    for x, y in batches:
        model.train_on_batch(x, y)
    return [w - keras.ops.convert_to_numpy(v) for w, v in zip(WEIGHTS, model.trainable_variables)]


large = [tuple(np.concatenate(parts) for parts in zip(*BATCHES))]
for i, (a, b) in enumerate(zip(gradient(BATCHES, {k}), gradient(large))):
    compare(f"the gradient of weight {{i}}, ", a, b / np.float32({k}), 0)
"""
    return program(what(check, context, case), body, raised=raised(reading))


def order(check: Check, context: Context, case: OrderCase, reading: Reading) -> str:
    """Show steps from the same integer weights beside the gradients that the chain rule gives at these weights."""
    from bscheck.checks.order import chain_gradients, drawn_step

    loss: Any = context.param.get("loss")
    weights, x, y = drawn_step(case)
    of_predictions = {
        "product": "keras.ops.sum(y_true * y_pred)",
        "prediction": "keras.ops.sum(y_pred)",
        "square": "keras.ops.sum(keras.ops.square(y_pred - y_true))",
    }
    hidden = f"keras.layers.Dense({case.HIDDEN}, activation={case.activation!r}, use_bias={case.bias == 'on'})"
    last = f"keras.layers.Dense({case.HIDDEN}, use_bias={case.bias == 'on'})"
    call = "fit(x, y, batch_size=len(x), verbose=0)" if case.path == "fit" else "train_on_batch(x, y)"
    body = f"""
{assigned("WEIGHTS", weights)}
# The chain rule at these weights, in float64: integers, which float32 represents exactly.
{assigned("GRADIENTS", [g.astype("float32") for g in chain_gradients(case, loss, weights, x, y)])}
x, y = {array(x)}, {array(y)}
# Equal models: in which of them a graph that is put in order differently takes another value is chance.
for _ in range({max(case.models, 20)}):
    layers = [{hidden} for _ in range({case.layers - 1})]
    model = keras.Sequential([keras.Input(({case.HIDDEN},)), *layers, {last}])
    loss = lambda y_true, y_pred: {of_predictions[loss]}
    model.compile(keras.optimizers.SGD(1.0), loss=loss{mode_of(case)})
    for _ in range(3):
        model.set_weights(WEIGHTS)
        model.{call}
        for i, (before, after, gradient) in enumerate(zip(WEIGHTS, model.get_weights(), GRADIENTS)):
            compare(f"what weight {{i}} loses in a step, ", before - after, gradient, 0)
"""
    return program(what(check, context, case), body, raised=raised(reading))


def edge(check: Check, context: Context, case: EdgeCase, reading: Reading) -> str:
    """Train one epoch at the edge of what a batch may be: all stays finite, and what does not count moves nothing."""
    from bscheck.checks.edges import SIZES
    from bscheck.checks.edges import edge as made

    learner, (x, y, w) = made(context, case)
    learner.begin(case.seed)
    start = [np.asarray(keras_module().ops.convert_to_numpy(v)) for v in learner.model.variables]
    b = SIZES[case.edge][1]
    weighed, part = ("", "") if w is None else (", sample_weight=w", f", sample_weight=w[i : i + {b}]")
    if case.path == "fit":
        call = f'losses = model.fit(x, y{weighed}, batch_size={b}, shuffle=False, verbose=0).history["loss"]'
    else:
        step = f"model.train_on_batch(x[i : i + {b}], y[i : i + {b}]{part}, return_dict=True)"
        call = f'losses = [{step}["loss"] for i in range(0, len(x), {b})]'
    body = f"""
{_source_of("edge", learner.model)}


{assigned("START", start)}
x = {array(x)}
y = {array(y)}
{"" if w is None else f"w = {array(w)}"}
model = build()
model.compile(keras.optimizers.SGD({learner.RATE}), loss={_loss(learner.model.loss)}{mode_of(case)})
for variable, value in zip(model.variables, START):
    variable.assign(value)
{call}
if not np.isfinite(np.array([float(value) for value in losses])).all():
    fail(f"the reported loss is {{losses}}")
for variable in model.variables:
    value = keras.ops.convert_to_numpy(variable)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        fail(f"{{variable.path}} is not finite: {{value.tolist()}}")
"""
    if case.edge in ("masked", "weightless"):
        body += """
# No example counts: no trainable weight may move.
trainable = {v.path for v in model.trainable_variables}
for variable, value in zip(model.variables, START):
    if variable.path in trainable:
        compare(f"{variable.path}", keras.ops.convert_to_numpy(variable), value, 0)
"""
    return program(what(check, context, case), body, raised=raised(reading))


# Numbers that are reported -----------------------------------------------------------------------------


def evaluation(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """What ``evaluate`` reports beside the mean over the examples."""
    if "expected" not in reading.figures and not raised(reading):
        raise NoScript("the promise is not about one number")
    if case.path not in ("whole", "fit"):
        return history(check, context, case, reading)
    head, part = ready(context, case)
    if case.path == "fit":
        raise NoScript("the history of several steps in one execution takes the recorded case")
    call, imports = call_of(case, part.w is not None)
    name = reading.where or "loss"
    bound = 2 * abs(reading.figures.get("seen", 0.0) - reading.figures.get("expected", 0.0)) / max(reading.share, 2.0)
    lines = [head.body, call, "# The mean over the examples, by NumPy in float64 from each example's own prediction."]
    lines += [f"compare({name!r}, seen[{name!r}], {reading.figures.get('expected', 0.0)!r}, {bound!r})"]
    return program(
        what(check, context, case), "\n".join(lines), imports=[*head.imports, *imports], dtype=case.dtype,
        raised=raised(reading),
    )  # fmt: skip


def epochs(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """What each epoch of ``fit`` reports of the examples trained on and of those held out, at a learning rate of 0."""
    from bscheck.checks.history import EPOCHS, both_parts, reported, slice_of

    if case.source != "arrays" or case.steps_per_execution > 1:
        raise NoScript("its held-out examples come from a stream: the recorded case makes it")
    name = reading.where or "loss"
    parts = parts_of(context, case.dtype)
    whole, n = both_parts(context, case), case.examples
    if not small((whole.x, whole.y)) or case.dtype.startswith("mixed"):
        raise NoScript("its examples are too large to be written down, or its precision needs the case's own bound")
    expected = [reported(context, slice_of(whole, a, a + n, False), {name: 0.0}) for a in (0, n)]
    if any(name not in e for e in expected):
        raise NoScript("no formula is known for what is reported")
    plain = _plain(context.subject.metrics)
    more = f", metrics={plain}, weighted_metrics={plain}" if context.subject.metrics else ""
    weights = [np.asarray(v, case.dtype) for v in context.bench(case.dtype).split(whole.weights)]
    body = f"""
{written(parts, (whole.x, whole.y, whole.w), weights)}
{ROWS}
model = build()
for variable, value in zip(model.trainable_variables, WEIGHTS):
    variable.assign(value)
model.compile(keras.optimizers.SGD(0.0), loss={parts.loss}{more}{mode_of(case)})
first, held_out = (tuple(rows(part, a, a + {n}) for part in (x, y, w) if part is not None) for a in (0, {n}))
history = model.fit(
    *first[:2], sample_weight={"first[2]" if whole.w is not None else "None"}, batch_size={case.batch_size},
    validation_data=held_out, validation_batch_size={case.batch_size + 1}, epochs={EPOCHS}, shuffle=False, verbose=0,
).history
# Nothing is learnt, so every epoch reports the same: by NumPy from each example's own prediction.
for key, expected, bound in (({name!r}, {expected[0][name].value!r}, {2 * expected[0][name].bound!r}),
                             ("val_" + {name!r}, {expected[1][name].value!r}, {2 * expected[1][name].bound!r})):
    compare(f"{{key}} of each epoch", history[key], np.full({EPOCHS}, expected), bound)
"""
    imports = parts.imports
    return program(what(check, context, case), body, imports=imports, dtype=case.dtype, raised=raised(reading))


def history(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """What ``fit``, ``train_on_batch`` or ``test_on_batch`` report beside the mean over each one's examples."""
    from bscheck.checks.history import reported, slice_of

    if context.traits.batch_statistics and case.path != "test_on_batch":
        raise NoScript("batch statistics couple the examples: the recorded case measures its own bound")
    name = reading.where or "loss"
    head, part = ready(context, case)
    pieces = [slice_of(part, a, b, False) for a, b in case.edges]
    if case.path == "fit":
        expected = [reported(context, part, {name: 0.0})]
    else:
        expected = [reported(context, piece, {name: 0.0}) for piece in pieces]
    if any(name not in e for e in expected):
        raise NoScript("no formula is known for what is reported")
    wanted, bounds = [e[name].value for e in expected], [2 * e[name].bound for e in expected]
    imports: list[str] = []
    if case.path == "fit":
        call, imports = call_of(case, part.w is not None)
        lines = [call, f"compare({name!r}, seen[{name!r}], {wanted[0]!r}, {bounds[0]!r})"]
    else:
        weighed = "" if part.w is None else ", sample_weight=w[a:b]"
        lines = [
            ROWS,
            f"EXPECTED = {wanted}",
            f"for (a, b), expected, bound in zip({case.edges}, EXPECTED, {bounds}):",
        ]
        lines += [f"    seen = model.{case.path}(rows(x, a, b), rows(y, a, b){weighed}, return_dict=True)"]
        lines += [
            f'    compare(f"{case.path} of examples {{a}} to {{b - 1}}: {name}", seen[{name!r}], expected, bound)'
        ]
    return program(
        what(check, context, case), "\n".join([head.body, *lines]), imports=[*head.imports, *imports],
        dtype=case.dtype, raised=raised(reading),
    )  # fmt: skip


ROWS = """
def rows(tree, a, b):
    if isinstance(tree, (list, tuple)):
        return [rows(part, a, b) for part in tree]
    if isinstance(tree, dict):
        return {key: rows(part, a, b) for key, part in tree.items()}
    return tree[a:b]

"""


@dataclass(frozen=True)
class Head:
    """The beginning of a program: imports, and statements up to a compiled model with its weights."""

    imports: list[str]
    body: str


def ready(context: Context, case: InferenceCase) -> tuple[Head, Any]:
    """Return the beginning of a program about a subject's loops, and what is known of the case."""
    from bscheck.checks.truth import truth

    if case.dtype.startswith("mixed"):
        raise NoScript("mixed precision needs the case's own bound")
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    part = truth(context, case, sample_weight=w)
    if not small((part.x, part.y)):
        raise NoScript("its examples are too large to be written down")
    parts, bench = parts_of(context, case.dtype), context.bench(case.dtype)
    plain = _plain(context.subject.metrics)
    metrics = f", metrics={plain}, weighted_metrics={plain}" if context.subject.metrics else ""
    steps = f", steps_per_execution={case.steps_per_execution}" if case.steps_per_execution > 1 else ""
    lines = [parts.build, "", f"x = {tree(part.x)}", f"y = {tree(part.y)}"]
    lines += [] if part.w is None else [f"w = {array(part.w)}"]
    lines += [assigned("WEIGHTS", [np.asarray(v, case.dtype) for v in bench.split(part.weights)]), "model = build()"]
    lines += ["for variable, value in zip(model.trainable_variables, WEIGHTS):", "    variable.assign(value)"]
    lines += [f"model.compile(keras.optimizers.SGD(0.0), loss={parts.loss}{metrics}{mode_of(case)}{steps})"]
    if case.earlier != "nothing":
        batch = bench.cast(context.subject.draw(case.seed + 1, 3))
        before = f"{tree(batch[0])}, {tree(batch[1])}"
        quiet = ", batch_size=2, verbose=0" if case.earlier in ("evaluate", "fit") else ""
        lines += ["# What was called before must not count.", f"model.{case.earlier}({before}{quiet})"]
    return Head(list(parts.imports), "\n".join(lines)), part


def _plain(metrics: Any) -> str:
    """Return metrics given by name."""
    if isinstance(metrics, str):
        return repr(metrics)
    if isinstance(metrics, (list, tuple)):
        return f"[{', '.join(map(_plain, metrics))}]"
    raise NoScript("its metrics are objects, which carry a state")


def predictions(check: Check, context: Context, case: InferenceCase, reading: Reading) -> str:
    """Predictions in batches beside the predictions of each example alone."""
    head, _ = ready(context, case)
    b, other = case.batch_size, "1" if case.batch_size > 1 else str(case.examples)
    seen = f"model.predict(x, batch_size={b}, verbose=0)"
    if case.source == "generator":
        seen = f"model.predict(((x[i : i + {b}],) for i in range(0, {case.examples}, {b})), verbose=0)"
    if case.source == "on_batch":
        seen = f"[model.predict_on_batch(x[i : i + {b}]) for i in range(0, {case.examples}, {b})]"
        seen = f"np.concatenate({seen})"
    body = f"""{head.body}
seen = {seen}
expected = model.predict(x, batch_size={other}, verbose=0)
for a, b in zip(seen if isinstance(seen, list) else [seen], expected if isinstance(expected, list) else [expected]):
    compare("the prediction", a, b, {_BOUND if case.dtype == "float32" else 1e-9} * np.abs(b).max())
"""
    return program(what(check, context, case), body, imports=head.imports, dtype=case.dtype, raised=raised(reading))


# Trajectories ------------------------------------------------------------------------------------------


def trajectory(check: Check, context: Context, case: TrajectoryCase, reading: Reading) -> str:
    """Training up to the first bad update, and where the published recurrence ends from the weights before it."""
    from bscheck.checks import trajectory as checks
    from bscheck.checks.trajectory import _batches, _gradients, _rates, _read, _training, steps
    from bscheck.oracles.optimizers import RECURRENCES, hyperparameters

    recurrence = RECURRENCES[context.param.get("optimizer")]
    training = _training(recurrence.name, case.model, case.dtype, case.mode)
    bench, batches, rates = training.bench, _batches(training.bench, case), _rates(case)
    start = draw_weights(bench, case.seed)
    states = training.follow(start, batches, rates, case.path, lambda: _read(training, recurrence))
    if len(states) != len(rates) + 1:
        raise NoScript("some batches make no update of their own")
    hyper = hyperparameters(training.optimizer, recurrence, case.dtype)
    with np.errstate(all="ignore"):
        found = steps(recurrence, states, _gradients(case, states[:-1], batches, bench), rates, hyper, case.dtype)
    weights = [s for s in found if s.part == "weight"]
    shares = np.array([[float(s.shares()[t].max()) for t in range(case.updates)] for s in weights])
    bad = np.flatnonzero((~(shares <= 1)).any(axis=0))
    if not bad.size:
        raise NoScript("what differs is a slot of the optimizer, not a weight")
    t = int(bad[0])
    given = [bench.cast(batches[i % len(batches)]) for i in range(t + 1)]
    options = ", ".join(f"{k}={v!r}" for k, v in checks._options(recurrence).items())
    body = f"""
{_source_of(case.model, bench.model)}


{assigned("WEIGHTS", [np.asarray(v, case.dtype) for v in bench.split(start)])}
BATCHES = [
{chr(10).join(f"    {tree((b[0], b[1]))}," for b in given)}
]
RATES = {rates[: t + 1]}
# After the last of these updates, by the published recurrence in float64 from Keras's own state before it.
{assigned("EXPECTED", [s.oracle[t] for s in weights])}
{assigned("BOUND", [s.bound[t] for s in weights])}

model = build()
for variable, value in zip(model.trainable_variables, WEIGHTS):
    variable.assign(value)
model.compile(keras.optimizers.{recurrence.keras_class}({options}), loss={_loss(bench.subject.loss)})
for (x, y), rate in zip(BATCHES, RATES):
    model.optimizer.learning_rate = rate
    model.train_on_batch(x, y)
for i, (v, expected, bound) in enumerate(zip(model.trainable_variables, EXPECTED, BOUND)):
    compare(f"after update {t + 1}, weight {{i}}", keras.ops.convert_to_numpy(v), expected, bound)
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))
