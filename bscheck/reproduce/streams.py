"""Programs for what ``fit`` takes from its sources: which examples, with which targets and weights, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bscheck.cases import StreamCase, WindowCase
from bscheck.checks import Check
from bscheck.checks.context import Context
from bscheck.reproduce import NoScript
from bscheck.reproduce.text import array, program, raised, what
from bscheck.reproduce.values import mode_of
from bscheck.results.verdict import Reading

if TYPE_CHECKING:
    from bscheck.oracles.ledger import Ledger

#: Writes down what every training step is given: the model hands its inputs on.
_RECORDED = """
class Recorder(keras.metrics.Metric):
    seen = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        given = [y_pred, y_true, keras.ops.ones_like(y_true) if sample_weight is None else sample_weight]
        parts = [keras.ops.convert_to_numpy(part).ravel() for part in given]
        if model.training_now:
            self.seen.append(parts)

    def result(self):
        return 0.0


class Training(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        model.training_now = True

    def on_test_begin(self, logs=None):
        model.training_now = False


model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
model.training_now = True
model.compile(keras.optimizers.SGD(0.0), loss="mse", weighted_metrics=[Recorder()], run_eagerly=True)
"""

_SOURCES = {
    "generator": "(b for b in BATCHES)",
    "endless generator": "(BATCHES[i % len(BATCHES)] for i in range(1000))",
    "dataset": "tf.data.Dataset.from_tensor_slices(PARTS).batch({b}{static})",
    "dataset_dynamic": "tf.data.Dataset.from_tensor_slices(PARTS).batch({b})",
    "pydataset": "Batches()",
    "pydataset_threads": "Batches(workers=2)",
}

_PYDATASET = """
class Batches(keras.utils.PyDataset):
    def __len__(self):
        return len(BATCHES)

    def __getitem__(self, index):
        return BATCHES[index]


"""


def trained(check: Check, context: Context, case: StreamCase, reading: Reading) -> str:
    """What every training step is given beside the batches that were due."""
    from bscheck.checks.coverage import ENOUGH_TO_SHUFFLE, passes

    body, imports = _fitted(context, case)
    ordered = case.shuffle == "no"
    more = [] if ordered else ["found, wanted = (a[np.lexsort(a.T[::-1])] for a in (found, wanted))"]
    if case.shuffle == "yes" and case.batch_size == 1 and case.examples >= ENOUGH_TO_SHUFFLE:
        more = ["if (found == wanted).all():", '    fail(f"pass {i + 1}: the examples came in their own order")', *more]
    body += f"""
# The examples of each batch, in each pass over them{"" if ordered else "; shuffled, each of them once in a pass"}.
DUE = {passes(case)}
seen = iter(Recorder.seen)
for i, batches in enumerate(DUE):
    due = [e for batch in batches for e in batch]
    steps = [next(seen, None) for _ in batches]
    if None in steps:
        fail(f"pass {{i + 1}}: {{sum(s is not None for s in steps)}} steps; {{len(batches)}} were due")
    found = np.concatenate([np.stack(s, axis=1) for s in steps])
    wanted = np.stack([X[due], Y[due], W[due]], axis=1).astype("float32")
{"".join(f"    {line}{chr(10)}" for line in more)}    what = f"pass {{i + 1}}: inputs, targets and weights"
    compare(what, found, wanted, 1e-6)
if next(seen, None) is not None:
    fail("more steps than were due")
"""
    return program(what(check, context, case), body, imports=imports, raised=raised(reading))


def shuffled(check: Check, context: Context, case: StreamCase, reading: Reading) -> str:
    """The order of the examples in each epoch, after a seed was set."""
    body, imports = _fitted(context, case)
    body += f"""
orders = np.concatenate([s[0] for s in Recorder.seen]).reshape({case.epochs}, -1)
for i in range(len(orders)):
    for j in range(i):
        if (orders[i] == orders[j]).all():
            fail(f"epochs {{j + 1}} and {{i + 1}} took the examples in the same order, {{orders[i].tolist()}}")
"""
    return program(what(check, context, case), body, imports=imports, raised=raised(reading))


# Updates -------------------------------------------------------------------------------------------------

#: A model whose training NumPy foretells to the last bit, see `bscheck.oracles.ledger`.
_LEDGER = """
class Slope(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.squeeze({factor} * (y_true - {centre}) * y_pred, -1)


inputs = keras.Input(({columns},))
hidden = keras.layers.Dense(1, use_bias=False)(inputs)
model = keras.Model(inputs, keras.layers.LeakyReLU(negative_slope={slope})(hidden))
optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps={k})
optimizer.build(model.trainable_variables)
model.compile(optimizer, loss=Slope(reduction="sum"){mode}{steps})
model.set_weights([START[:, None]])
"""

_COMPARED = """
# What gradient descent on these batches comes to, by NumPy.
EXPECTED, LEFT = {after}, {left}
compare("the weights", keras.ops.convert_to_numpy(model.weights[0])[:, 0], EXPECTED, BOUND)
for variable in optimizer.variables:
    if "accumulator" in variable.name:
        compare("what is left to accumulate", keras.ops.convert_to_numpy(variable)[:, 0], LEFT, BOUND)
compare("the count of updates", int(optimizer.iterations), {updates}, 0)
counted = int(getattr(optimizer, "_iterations", optimizer.iterations))
compare("the count of steps", counted if hasattr(optimizer, "_iterations") else {counted}, {counted}, 0)
"""


def windows(check: Check, context: Context, case: WindowCase, reading: Reading) -> str:
    """Calls of ``fit`` and ``train_on_batch`` one after the other, and where gradient descent must be in the end."""
    from bscheck.checks.windows import batches_of
    from bscheck.oracles.ledger import draw

    if context.param.get("loop", ""):
        raise NoScript("the step is written by hand: the recorded case has it")
    ledger = draw(case.seed, max(case.calls), weighted=True)
    lines = [_ledger(ledger, case)]
    for i, examples in enumerate(case.calls):
        if case.mixed and i % 2:
            lines += [f"for i in range(0, {examples}, {case.batch_size}):"]
            lines += [f"    rows = slice(i, min(i + {case.batch_size}, {examples}))"]
            lines += ["    model.train_on_batch(X[rows], Y[rows], sample_weight=W[rows])"]
        else:
            given = f"X[:{examples}], Y[:{examples}], sample_weight=W[:{examples}]"
            more = f"batch_size={case.batch_size}, epochs={case.epochs}, shuffle=False, verbose=0"
            lines += [f"model.fit({given}, {more})"]
    steps = [rows for batches in batches_of(case) for rows in batches]
    body = "\n".join([*lines, _due(ledger, steps, case.micro_batches)])
    return program(what(check, context, case), body, raised=raised(reading))


def executions(check: Check, context: Context, case: StreamCase, reading: Reading) -> str:
    """Training on a source, several steps in one execution or not, and where gradient descent must be in the end."""
    from bscheck.checks.coverage import options_of, passes, weighed
    from bscheck.oracles.ledger import draw

    source = context.param.get("source")
    if case.shuffle != "no":
        raise NoScript("shuffled batches are not foretold")
    ledger = weighed(draw(case.seed, case.examples, case.weights != "none"), case)
    options = options_of(ledger, case, source)
    parts = "(X, Y, W)" if case.weights == "sample" else "(X, Y)"
    call, imports = _call(case, source, options, "")
    steps = [rows for batches in passes(case) for rows in batches]
    lines = [_ledger(ledger, case), f"PARTS = {parts}", call, _due(ledger, steps, case.micro_batches)]
    return program(what(check, context, case), "\n".join(lines), imports=imports, raised=raised(reading))


def _ledger(ledger: Ledger, case: Any) -> str:
    """Return the statements that make the ledger's examples and model."""
    from bscheck.oracles.ledger import CENTRE, COLUMNS, FACTOR, SLOPE

    mode = mode_of(case)
    joined = f", steps_per_execution={case.steps_per_execution}" if case.steps_per_execution > 1 else ""
    k = case.micro_batches if case.micro_batches > 1 else None
    model = _LEDGER.format(
        factor=FACTOR, centre=CENTRE, columns=COLUMNS, slope=SLOPE, k=k, mode=mode, steps=joined
    )  # fmt: skip
    parts = {"X": ledger.x, "Y": ledger.y, "W": ledger.w, "START": ledger.start}
    return "\n".join([*(f"{name} = {array(a.astype('float32'))}" for name, a in parts.items()), "", model])


def _due(ledger: Ledger, steps: Sequence[Sequence[int]], k: int) -> str:
    """Return the comparison with gradient descent on these batches."""
    from bscheck.checks.coverage import rounding
    from bscheck.oracles.ledger import follow

    due = follow(ledger, steps, k)
    size = float(np.abs(due.gradients).max(initial=0)) + float(np.abs(due.before).max(initial=0))
    left = "0" if due.accumulator is None else array(due.accumulator)
    told = _COMPARED.format(after=array(due.after), left=left, updates=due.updates, counted=due.counted)
    return f"BOUND = {4 * rounding(k) * max(1, len(steps)) * size!r}\n{told.strip()}"


# Sources -------------------------------------------------------------------------------------------------


def _fitted(context: Context, case: StreamCase) -> tuple[str, list[str]]:
    """Return the statements that train a recording model on a case's source, and their imports."""
    from bscheck.checks.coverage import options_of, weighed
    from bscheck.oracles.ledger import draw

    source = context.param.get("source")
    if case.steps_per_execution > 1 or case.micro_batches > 1:
        raise NoScript("what is recorded step by step needs steps that are executed one by one")
    ledger = weighed(draw(case.seed, case.examples, case.weights != "none"), case)
    options = options_of(ledger, case, source)
    x, y, w = (a.astype("float32") for a in (np.arange(1, case.examples + 1), ledger.y[:, 0], ledger.w))
    call, imports = _call(case, source, options, ", callbacks=[Training()]")
    parts = "(X[:, None], Y[:, None], W)" if case.weights == "sample" else "(X[:, None], Y[:, None])"
    body = f"""
X, Y, W = {array(x)}, {array(y)}, {array(w)}
PARTS = {parts}

{_RECORDED.strip()}
keras.utils.set_random_seed({case.seed})
{call}
"""
    return body, imports


def _call(case: StreamCase, source: str, options: dict[str, Any], more: str) -> tuple[str, list[str]]:
    """Return the statements that train on ``PARTS`` as a source gives them, and their imports."""
    kind = "endless generator" if source == "generator" and "steps_per_epoch" in options else source
    given, needed = _given(case, kind, options)
    told = ", ".join(f"{key}={value!r}" for key, value in options.items())
    static = ", drop_remainder=True" if case.examples % case.batch_size == 0 else ""
    b, n = case.batch_size, case.examples
    lines = [f"BATCHES = [tuple(p[i : i + {b}] for p in PARTS) for i in range(0, {n}, {b})]", "", needed]
    lines += [f"model.fit({given.format(b=b, static=static)}, {told}{more}, verbose=0)"]
    return "\n".join(lines), ["import tensorflow as tf"] if source.startswith("dataset") else []


def _given(case: StreamCase, kind: str, options: dict[str, Any]) -> tuple[str, str]:
    """Return the first arguments of ``fit``, and what they need."""
    if kind == "arrays":
        return "*PARTS[:2], batch_size={b}" + (", sample_weight=W" if case.weights == "sample" else ""), ""
    if kind not in _SOURCES:
        raise NoScript("a source of its own, which the recorded case makes")
    given = _SOURCES[kind] + (".repeat()" if kind.startswith("dataset") and "steps_per_epoch" in options else "")
    return given, _PYDATASET.strip("\n") if kind.startswith("pydataset") else ""
