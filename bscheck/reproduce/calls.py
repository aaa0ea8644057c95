"""Programs for what whole calls report, print and leave behind."""

from __future__ import annotations

from typing import Any

from bscheck.cases import AverageCase, OwnMetricCase, PrintedCase, SwapCase
from bscheck.checks import Check
from bscheck.checks.context import Context, draw_weights, random
from bscheck.reproduce import NoScript
from bscheck.reproduce.models import ROWS, parts_of, small, written
from bscheck.reproduce.text import array, program, raised, what
from bscheck.reproduce.values import mode_of
from bscheck.results.verdict import Reading
from bscheck.runtime.averages import KEPT
from bscheck.runtime.learner import MOMENTUM, RATE


def ended(check: Check, context: Context, case: AverageCase, reading: Reading) -> str:
    """A training by ``fit`` beside ``train_on_batch`` and ``finalize_variable_values``, by all that they leave."""
    head, imports, _ = _averaging(context, case, case.every)
    body = f"""
{head}
model = ready()
for _ in range({case.calls}):
    model.fit(x, y, sample_weight=w, batch_size={case.batch_size}, epochs={case.epochs}, shuffle=False, verbose=0)
alike = ready()
for _ in range({case.calls}):
    for batch in batches() * {case.epochs}:
        alike.train_on_batch(*batch)
    alike.optimizer.finalize_variable_values(alike.trainable_variables)
for a, b in zip([*model.variables, *model.optimizer.variables], [*alike.variables, *alike.optimizer.variables]):
    seen, expected = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
    if expected.dtype.kind == "f":
        compare(f"after fit {{b.name}}", seen, expected, 1e-9 * (1 + np.abs(expected).max(initial=0)))
"""
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))


def swapped(check: Check, context: Context, case: SwapCase, reading: Reading) -> str:
    """``SwapEMAWeights`` in a call of ``evaluate`` or ``predict``, or of ``fit`` with validation."""
    head, imports, weighed = _averaging(context, case, 0)
    body = f"""
{head}

def numbers():
    return np.concatenate([keras.ops.convert_to_numpy(v).ravel() for v in model.trainable_variables])


def give(flat):
    for variable in model.trainable_variables:
        size = int(np.prod(variable.shape))
        variable.assign(flat[:size].reshape(variable.shape))
        flat = flat[size:]


def close(what, seen, expected):
    compare(what, seen, expected, 1e-9 * (1 + np.abs(expected).max(initial=0)))


# The weights and their moving average, made here, at the end of each epoch.
model, average, ends = ready(), None, []
for _ in range({case.epochs}):
    for batch in batches():
        model.train_on_batch(*batch)
        average = numbers() if average is None else {KEPT} * average + {1 - KEPT} * numbers()
    ends.append((numbers(), average))
weights, average = ends[-1]
{_asked(case) if case.path in ("evaluate", "predict") else _validated(case, weighed)}"""
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))


def _asked(case: SwapCase) -> str:
    call = f"x, y, sample_weight=w, batch_size={case.batch_size}, verbose=0"
    ask = (
        f"model.evaluate({call}"
        if case.path == "evaluate"
        else f"model.predict(x, batch_size={case.batch_size}, verbose=0"
    )
    return f"""
seen = {ask}, callbacks=[keras.callbacks.SwapEMAWeights()])
close("after {case.path} the weights", numbers(), weights)
model.optimizer.finalize_variable_values(model.trainable_variables)
close("after {case.path} the averages", numbers(), average)
close("what {case.path} returns", seen, {ask}))
"""


def _validated(case: SwapCase, weighed: bool) -> str:
    held, on_epoch = "(x, y, w)" if weighed else "(x, y)", case.path == "epoch"
    b = case.batch_size
    return f"""
model, found = ready(), []


class Later(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.trainable_variables
        found.append(numbers())


swap = keras.callbacks.SwapEMAWeights(swap_on_epoch={on_epoch})
history = model.fit(
    x, y, sample_weight=w, batch_size={b}, epochs={case.epochs}, shuffle=False, verbose=0,
    validation_data={held}, validation_batch_size={b}, callbacks=[swap, Later()],
).history
close("after fit the weights", numbers(), average)
for epoch, (weights, average) in enumerate(ends):
    close(f"at the end of epoch {{epoch + 1}} the weights", found[epoch], {"average" if on_epoch else "weights"})
    give(average)
    told = model.evaluate(x, y, sample_weight=w, batch_size={b}, verbose=0, return_dict=True)["loss"]
    close(f"the validation loss of epoch {{epoch + 1}}", history["val_loss"][epoch], told)
"""


def _averaging(context: Context, case: AverageCase | SwapCase, every: int) -> tuple[str, list[str], bool]:
    """Return the examples, a function that makes the averaging model, and one that cuts batches; whether weighed."""
    bench, n, b = context.bench("float64"), case.batch_size * case.batches, case.batch_size
    x, y, w = bench.cast(context.subject.draw(case.seed, n))
    if not small((x, y)):
        raise NoScript("its examples are too large to be written down")
    parts = parts_of(context, "float64")
    weights = bench.split(draw_weights(bench, case.seed, "usual"))
    more = "" if w is None else f", w[i : i + {b}]"
    head = f"""
{written(parts, (x, y, w), weights)}
{ROWS}
def batches():
    return [(rows(x, i, i + {b}), rows(y, i, i + {b}){more}) for i in range(0, {n}, {b})]


def ready():
    model = build()
    for variable, value in zip(model.trainable_variables, WEIGHTS):
        variable.assign(value)
    averages = {{"use_ema": True, "ema_momentum": {KEPT}, "ema_overwrite_frequency": {every or None}}}
    optimizer = keras.optimizers.SGD({RATE}, momentum={MOMENTUM}, **averages)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss={parts.loss}{mode_of(case)})
    return model

"""
    return head.strip("\n"), list(parts.imports), w is not None


def own_metrics(check: Check, context: Context, case: OwnMetricCase, reading: Reading) -> str:
    """What every epoch and call reports of a metric that is an attribute, beside the mean over its examples."""
    owner: Any = context.param.get("owner")
    rng = random(case.seed, 16)
    x, held = ((3.0 * rng.standard_normal((n, 1))).astype("float32") for n in (case.examples, case.held_out))
    counted = "self.kept.update_state(keras.ops.square(y_pred))" if owner == "model" else ""
    body = f"""
class Watched(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        {"self.kept = keras.metrics.Mean(name='kept')" if owner == "layer" else "pass"}

    def call(self, inputs):
        {"self.kept.update_state(keras.ops.square(inputs))" if owner == "layer" else "pass"}
        return inputs


class Tracking(keras.Model):
    def __init__(self):
        super().__init__()
        self.watched = Watched()
        self.dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        {"self.kept = keras.metrics.Mean(name='kept')" if owner == "model" else "pass"}

    def call(self, inputs):
        return self.dense(self.watched(inputs))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        {counted or "pass"}
        return keras.ops.mean(keras.ops.square(keras.ops.subtract(y_pred, y)))


x = {array(x)}
held = {array(held)}
# The model gives its inputs back and learns nothing: the metric is the mean of the squares of what it was given.
model, b = Tracking(), {case.batch_size}
model.compile(keras.optimizers.SGD(0.0), metrics=["mae"]{mode_of(case)})
told = model.fit(
    x, 0 * x, batch_size=b, epochs=2, validation_data=(held, 0 * held), verbose=0, shuffle=False
).history
reports = []
for epoch in range(2):
    reports.append((f"epoch {{epoch + 1}}", x, {{name: values[epoch] for name, values in told.items()}}))
    of_held = {{name[4:]: values[epoch] for name, values in told.items() if name.startswith("val_")}}
    reports.append((f"the validation of epoch {{epoch + 1}}", held, of_held))
for number in ("first", "second"):
    report = model.evaluate(x, 0 * x, batch_size=b, verbose=0, return_dict=True)
    reports.append((f"the {{number}} evaluate", x, report))
for call in (model.train_on_batch, model.test_on_batch):
    for rows in (x[:b], held):
        reports.append((call.__name__, rows, call(rows, 0 * rows, return_dict=True)))
for what, rows, report in reports:
    if "kept" not in report:
        fail(f"{{what}} does not report the metric of the {owner}")
    expected = float(np.mean(rows.astype("float64") ** 2))
    compare(f"what {{what}} reports", float(report["kept"]), expected, 1e-5 * expected)
"""
    return program(what(check, context, case), body, raised=raised(reading))


def printed(check: Check, context: Context, case: PrintedCase, reading: Reading) -> str:
    """The figures that ``fit`` or ``evaluate`` prints beside each batch, and the means over the examples so far."""
    call = context.param.get("call")
    x = (3.0 * random(case.seed, 15).standard_normal((case.examples, 1))).astype("float32")
    options = f"batch_size={case.batch_size}, verbose={case.verbose}{', shuffle=False' if call == 'fit' else ''}"
    body = f"""
class Pause(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(0.06)  # the bar is drawn again after 0.05 s

    on_test_batch_begin = on_train_batch_begin


x = {array(x)}
# The model gives its inputs back and learns nothing.
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
model.compile(keras.optimizers.SGD(0.0), loss="mse", metrics=["mae"]{mode_of(case)})
text = io.StringIO()
with contextlib.redirect_stdout(text):
    model.{call}(x, 0 * x, {options}, callbacks=[Pause()])
last, steps = 0, {-(-case.examples // case.batch_size)}
for line in re.split(r"[\\r\\n]", text.getvalue().replace("\\b", "")):
    step = re.search(r"(\\d+)/\\d+\\D", line)
    figures = re.findall(r"- (\\w+): (-?\\d+\\.\\d+(?:e[+-]?\\d+)?)", line)
    if not step or not figures:
        continue
    last = int(step[1])
    so_far = x[: last * {case.batch_size}].astype("float64")
    means = {{"loss": (so_far**2).mean(), "mae": np.abs(so_far).mean()}}
    for name, figure in figures:
        compare(f"the {{name}} printed beside batch {{last}}", float(figure), means[name], 1e-4 + 1e-5 * means[name])
if last != steps:
    fail(f"figures are last printed beside batch {{last}} of {{steps}}")
"""
    imports = ["import contextlib", "import io", "import re", "import time"]
    return program(what(check, context, case), body, imports=imports, raised=raised(reading))
