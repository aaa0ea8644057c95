"""Programs for optimizers: their updates under accumulation, from rows, under loss scaling, beside a recurrence."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from bscheck.cases import (
    AccumulatorCase,
    LossScaleCase,
    MatchingCase,
    MemberCase,
    RecurrenceCase,
    ScheduleCase,
    UpdateCase,
)
from bscheck.checks import Check
from bscheck.checks.context import Context
from bscheck.reproduce import NoScript
from bscheck.reproduce.text import array, keras_object, options, program, raised, tree, what
from bscheck.results.verdict import Reading
from bscheck.runtime.rig import MAX_NORM, SHAPES
from bscheck.surface.optimizers import BASE_OPTIONS, CLIPS, DECAY, EMAS, LEARNING_RATE, variant

_EPS = {"float32": "2.0**-24", "float64": "2.0**-53"}
_CONSTRAINTS = {"max_norm": f"keras.constraints.MaxNorm({MAX_NORM})", "non_negative": "keras.constraints.NonNeg()"}

_STATE = '''
def state(optimizer, variables):
    """Weights, then slots and averages; no counters and accumulators."""
    skipped = ("accumulator", "iteration", "learning_rate", "step_counter", "dynamic_scale")
    kept = [v for v in optimizer.variables if not any(part in v.name for part in skipped)]
    return [(v.name, keras.ops.convert_to_numpy(v).astype("float64")) for v in [*variables, *kept]]
'''

_COMPARED = """
    for (name, new), (_, want), (_, before) in zip(state(*seen), state(*expected), old):
        bound = 8 * EPS * (abs(before) + abs(want) + abs(want - before)) + 1e-37
        compare(f"after update {update + 1}, {name}", new, want, bound)
"""


def _optimizer(name: str, case: Any, **more: Any) -> str:
    """Return the expression of an optimizer; what accumulates is left open."""
    v = variant(name)
    given = {"learning_rate": LEARNING_RATE, **v.options, **more}
    given |= {**CLIPS[getattr(case, "clip", "none")], **EMAS[getattr(case, "ema", "none")]}
    if getattr(case, "decay", "none") != "none":
        given["weight_decay"] = DECAY
    return f"keras.optimizers.{v.class_name}({options(given)}, **more)"


def _ready(name: str, case: Any) -> str:
    """Return the function that makes an optimizer and its variables."""
    lines = [
        "def ready(**more):",
        "    variables = [keras.Variable(w, name=n) for n, w in zip(SHAPES, draw(0))]",
        f"    optimizer = {_optimizer(name, case)}",
    ]
    constraint = getattr(case, "constraint", "none")
    if constraint != "none":
        lines[2:2] = ["    for v in variables:", f"        v.constraint = {_CONSTRAINTS[constraint]}"]
    if getattr(case, "decay", "none") == "exclude_bias":
        lines.append('    optimizer.exclude_from_weight_decay(var_names=["bias"])')
    return "\n".join([*lines, "    optimizer.build(variables)", "    return optimizer, variables"])


def accumulation(check: Check, context: Context, case: UpdateCase, reading: Reading) -> str:
    """Windows of micro-batches, each beside one update of their mean by an optimizer that does not accumulate."""
    first = f" * np.asarray({LEARNING_RATE}, w.dtype)" if case.constraint == "non_negative" else ""
    start = f"[np.abs(w){first} for w in draw(0)]" if first else "draw(0)"
    body = f"""
SHAPES = {dict(SHAPES)}
EPS, K = {_EPS[case.dtype]}, {case.micro_batches}


def draw(salt, scale=1.0):
    rng = np.random.default_rng(({case.seed}, 4, salt))
    return [(scale * rng.standard_normal(shape)).astype("{case.dtype}") for shape in SHAPES.values()]


{_ready(context.param.get("optimizer"), case).replace("draw(0)", start)}

{_STATE}

# One accumulates K micro-batches, the other is given their mean.
seen, expected = ready(gradient_accumulation_steps=K), ready()
for update in range({case.updates + ("accumulator" in reading.where)}):
    old = state(*expected)
    window = [draw(1 + update * K + j, 4.0 ** ((j + update) % 3 - 1) * 2) for j in range(K)]
    for gradients in window:
        seen[0].apply([keras.ops.convert_to_tensor(g) for g in gradients])
    mean = [sum(g[i] for g in window) / np.asarray(K, "{case.dtype}") for i in range(len(SHAPES))]
    expected[0].apply([keras.ops.convert_to_tensor(g) for g in mean])
{_COMPARED}
"""
    if "iterations" in reading.where:
        body += '    compare("optimizer.iterations", int(seen[0].iterations), update + 1, 0)\n'
    return program(what(check, context, case), body, dtype=case.dtype)


def recurrence(check: Check, context: Context, case: RecurrenceCase, reading: Reading) -> str:
    """Updates by an optimizer, and what its published recurrence gives for the weight or slot that was wrong."""
    from bscheck.checks.recurrence import followed

    found = re.fullmatch(r"(?:(\w+) of )?(\w+)\[.*\] after update (\d+)", reading.where)
    if case.gradient != "dense" or case.dtype == "bfloat16" or found is None or found[1] == "average":
        raise NoScript("rows, averages, final values and bfloat16 take the recorded case")
    part, name, last = found[1] or "weight", found[2], int(found[3])
    run, steps = followed(context, case)
    index = list(SHAPES).index(name)
    step = next(s for s in steps if s.part == part and s.variable == index)
    lines = [f"SHAPES = {list(SHAPES)}", f"START = {tree([w.astype(case.dtype) for w in run.states[0].weights])}"]
    lines += ["# The gradients of each update's micro-batches.", "WINDOWS = ["]
    lines += [f"    {tree([list(gradients) for gradients in window])}," for window in run.windows[:last]]
    lines += ["]", "variables = [keras.Variable(w, name=n) for n, w in zip(SHAPES, START)]"]
    lines += [f"optimizer = {keras_object(run.optimizer)}"]
    if case.decay == "exclude_listed":
        lines += ["optimizer.exclude_from_weight_decay(var_list=[variables[1]])"]
    elif case.decay == "exclude_bias":
        lines += ['optimizer.exclude_from_weight_decay(var_names=["bias"])']
    lines += ["optimizer.build(variables)"]
    if case.earlier:
        lines += ['counter = getattr(optimizer, "_iterations", optimizer.iterations)']
        lines += [f"counter.assign({case.earlier * case.micro_batches})  # as if so many steps had been made"]
    rates = run.rates if case.rate == "changing" else [None] * last
    lines += [f"for window, rate in zip(WINDOWS, {rates[:last]}):", "    if rate is not None:"]
    lines += ["        optimizer.learning_rate = rate", "    for gradients in window:"]
    lines += ["        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients])"]
    lines += [_part(part, index), "# By one step of the published recurrence from the optimizer's own state, in NumPy."]
    lines += [f"EXPECTED = {array(step.oracle[last - 1])}", f"BOUND = {array(step.bound[last - 1])}"]
    lines += [f'compare("{part} of {name} after update {last}", keras.ops.convert_to_numpy(seen), EXPECTED, BOUND)']
    return program(what(check, context, case), "\n".join(lines), dtype=case.dtype, raised=raised(reading))


def _part(part: str, index: int) -> str:
    """Return the statement that reads a weight, or a slot where releases of Keras keep it."""
    from bscheck.oracles.optimizers.held import SLOT_ATTRIBUTES

    if part == "weight":
        return f"seen = variables[{index}]"
    names = SLOT_ATTRIBUTES[part]
    found = f"held = next(v for v in (getattr(optimizer, n, None) for n in {names}) if v is not None)"
    return f"{found}\nseen = held[{index}] if isinstance(held, list) else held"


def accumulator(check: Check, context: Context, case: AccumulatorCase, reading: Reading) -> str:
    """The mean of gradients that an optimizer applies, beside the mean in float64 and the roundings of the dtype."""
    from bscheck.checks.accumulators import ELEMENTS, ROUNDING

    u, least = ROUNDING[case.dtype]
    wide = "float64" if case.dtype == "float64" else "float32"
    body = f"""
K, U, LEAST = {case.micro_batches}, {u!r}, {least!r}  # unit roundoff, and half the smallest positive number
rng = np.random.default_rng(({case.seed}, 11))
given = rng.standard_normal((K, {ELEMENTS})) * 2.0 ** rng.integers(-8, 8, {ELEMENTS})
{"given[-1] -= given.sum(axis=0)" if case.cancelling else ""}
tensors = [keras.ops.cast(keras.ops.convert_to_tensor(g.astype("{wide}")), "{case.dtype}") for g in given]
weight = keras.Variable(keras.ops.zeros({ELEMENTS}, dtype="{case.dtype}"), dtype="{case.dtype}")
# From 0, SGD with a rate of 1 moves the weight by the gradient it applies, without rounding.
optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=K)
optimizer.build([weight])
for gradient in tensors:
    optimizer.apply([gradient])
micro = np.stack([keras.ops.convert_to_numpy(keras.ops.cast(t, "{wide}")).astype("float64") for t in tensors])
applied = -keras.ops.convert_to_numpy(keras.ops.cast(weight.value, "{wide}"))
bound = (K + 1) * U / (1 - (K + 1) * U) * np.abs(micro).mean(axis=0) + (K + 1) * LEAST
compare("the accumulated mean", applied, micro.mean(axis=0), bound)
"""
    return program(what(check, context, case), body, dtype=wide, raised=raised(reading))


def matching(check: Check, context: Context, case: MatchingCase, reading: Reading) -> str:
    """Gradients in an order of the caller's, or without one of them, beside the others alone in the built order."""
    k = f"gradient_accumulation_steps={case.micro_batches}" if case.micro_batches > 1 else ""
    inside = {
        "none": "optimizer",
        "LossScaleOptimizer": "keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)",
        "MultiOptimizer": "keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(optimizer, {}))",
    }[case.inside]
    names = list(SHAPES)
    given = names[::-1] if case.order == "reversed" else names
    left_out = {"none": "", "first": names[0], "last": names[-1]}[case.missing]
    body = f"""
SHAPES = {dict(SHAPES)}
EPS, K = {_EPS[case.dtype]}, {case.micro_batches}
GIVEN, LEFT_OUT = {given}, {left_out!r}


def draw(salt, scale=1.0):
    rng = np.random.default_rng(({case.seed}, 4, salt))
    return {{n: (scale * rng.standard_normal(shape)).astype("{case.dtype}") for n, shape in SHAPES.items()}}


def ready(names, inside, **more):
    variables = [keras.Variable(draw(0)[n], name=n) for n in names]
    optimizer = {_optimizer(context.param.get("optimizer"), case)}
    optimizer = inside(optimizer)
    optimizer.build(variables)
    return optimizer, {{v.name: v for v in variables}}


def weights(pair):
    return {{n: keras.ops.convert_to_numpy(v).astype("float64") for n, v in pair[1].items()}}


# One is given its gradients in the order GIVEN, and none for LEFT_OUT; the other knows the rest alone.
seen = ready(SHAPES, lambda optimizer: {inside}, {k})
expected = ready([n for n in SHAPES if n != LEFT_OUT], lambda optimizer: optimizer)
start = weights(seen)
for update in range({case.updates}):
    old = weights(expected)
    window = [draw(1 + update * K + j, 4.0 ** ((j + update) % 3 - 1) * 2) for j in range(K)]
    for gradients in window:
        tensors = [None if n == LEFT_OUT else keras.ops.convert_to_tensor(gradients[n]) for n in GIVEN]
        seen[0].apply(tensors, [seen[1][n] for n in GIVEN])
    mean = {{n: sum(g[n] for g in window) / np.asarray(K, "{case.dtype}") for n in expected[1]}}
    expected[0].apply([keras.ops.convert_to_tensor(g) for g in mean.values()])
    for name, want in weights(expected).items():
        bound = 8 * EPS * (abs(old[name]) + abs(want) + abs(want - old[name])) + 1e-37
        compare(f"after update {{update + 1}}, {{name}}", weights(seen)[name], want, bound)
    if LEFT_OUT:
        compare(f"after update {{update + 1}}, {{LEFT_OUT}}", weights(seen)[LEFT_OUT], start[LEFT_OUT], 0)
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def rows(check: Check, context: Context, case: UpdateCase, reading: Reading) -> str:
    """Sparse gradients beside the dense ones that they stand for."""
    from bscheck.checks.context import random
    from bscheck.checks.updates import _exact_rows

    if context.runtime.name != "tensorflow":
        raise NoScript("only TensorFlow has sparse gradients")
    table, steps = SHAPES["embeddings"][0], []
    for update in range(case.updates):
        rng = random(case.seed, 5, update)
        unique = case.gradient == "sparse_unique"
        places = rng.permutation(table)[:3] if unique else rng.integers(0, table, 3 * case.micro_batches)
        steps.append(f"    ({array(places)}, {array(_exact_rows(rng, places).astype(case.dtype))}),")
    body = f"""
SHAPES = {{"embeddings": {SHAPES["embeddings"]}}}
EPS = {_EPS[case.dtype]}
# Rows of the table, some of them more than once, and a gradient for each.
STEPS = [
{chr(10).join(steps)}
]


def draw(salt):
    rng = np.random.default_rng(({case.seed}, salt))
    return [rng.standard_normal(shape).astype("{case.dtype}") for shape in SHAPES.values()]


{_ready(context.param.get("optimizer"), case)}

{_STATE}

seen, expected = ready(), ready()
for update, (rows, values) in enumerate(STEPS):
    old = state(*expected)
    dense = np.zeros(SHAPES["embeddings"], "{case.dtype}")
    np.add.at(dense, rows, values)
    seen[0].apply([tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant(dense.shape))])
    expected[0].apply([tf.constant(dense)])
{_COMPARED}
"""
    return program(what(check, context, case), body, imports=["import tensorflow as tf"], dtype=case.dtype)


def schedule(check: Check, context: Context, case: ScheduleCase, reading: Reading) -> str:
    """Windows under a learning-rate schedule, each beside an update at the rate of its last micro-batch."""
    from bscheck.surface.schedules import settings

    name = context.param.get("schedule")
    chosen = settings(name)[case.setting % len(settings(name))]
    made = _ready(context.param.get("optimizer"), case).replace(f"learning_rate={LEARNING_RATE!r}, ", "")
    body = f"""
SHAPES = {dict(SHAPES)}
EPS, K = {_EPS[case.dtype]}, {case.micro_batches}
SCHEDULE = keras.optimizers.schedules.{name}({options(chosen)})


def draw(salt):
    rng = np.random.default_rng(({case.seed}, 7, salt))
    return [rng.standard_normal(shape).astype("{case.dtype}") for shape in SHAPES.values()]


{made}

{_STATE}

# One accumulates K micro-batches under the schedule; the other is given their mean, and the rate of the last one.
seen = ready(learning_rate=SCHEDULE, gradient_accumulation_steps=K)
expected = ready(learning_rate={LEARNING_RATE!r})
for update in range({case.updates}):
    old = state(*expected)
    window = [draw(1 + update * K + j) for j in range(K)]
    for gradients in window:
        seen[0].apply([keras.ops.convert_to_tensor(g) for g in gradients])
    mean = [sum(g[i] for g in window) / np.asarray(K, "{case.dtype}") for i in range(len(SHAPES))]
    expected[0].learning_rate = float(SCHEDULE(keras.ops.convert_to_tensor(update * K + K - 1, "int32")))
    expected[0].apply([keras.ops.convert_to_tensor(g) for g in mean])
{_COMPARED}
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def called_rate(check: Check, context: Context, case: ScheduleCase, reading: Reading) -> str:
    """Updates at a rate that a function gives, beside updates at the same rate assigned."""
    if case.mode != "eager":
        raise NoScript("where updates are compiled a function is asked once, so that there is nothing to see")
    made = _ready(context.param.get("optimizer"), case).replace(f"learning_rate={LEARNING_RATE!r}, ", "")
    k = f", gradient_accumulation_steps={case.micro_batches}" if case.micro_batches > 1 else ""
    body = f"""
SHAPES = {dict(SHAPES)}
EPS, K = {_EPS[case.dtype]}, {case.micro_batches}


def draw(salt):
    rng = np.random.default_rng(({case.seed}, 7, salt))
    return [rng.standard_normal(shape).astype("{case.dtype}") for shape in SHAPES.values()]


{made}

{_STATE}

RATE = {LEARNING_RATE!r}
# One asks for its rate; to the other the rate is assigned before each update.
seen = ready(learning_rate=lambda: RATE{k})
expected = ready(learning_rate=RATE)
for update in range({case.updates}):
    RATE = {LEARNING_RATE!r} * (1 + update)
    expected[0].learning_rate = RATE
    old = state(*expected)
    window = [draw(1 + update * K + j) for j in range(K)]
    for gradients in window:
        seen[0].apply([keras.ops.convert_to_tensor(g) for g in gradients])
    mean = [sum(g[i] for g in window) / np.asarray(K, "{case.dtype}") for i in range(len(SHAPES))]
    expected[0].apply([keras.ops.convert_to_tensor(g) for g in mean])
{_COMPARED}
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def members(check: Check, context: Context, case: MemberCase, reading: Reading) -> str:
    """Two optimizers behind one, each beside itself alone."""
    from bscheck.checks.members import OTHERS

    k = f"gradient_accumulation_steps={case.micro_batches}" if case.micro_batches > 1 else ""
    j = f"gradient_accumulation_steps={case.other}" if case.other > 1 else ""
    own, second = (_optimizer(name, c).replace("**more", more) for name, c, more in (
        (context.param.get("optimizer"), case, k), ("momentum", replace(case, ema="none"), j)
    ))  # fmt: skip
    factor = f", loss_scale_factor={2.0**case.exponent}" if case.exponent else ""
    given = "keras.optimizers.OptimizerMap(own, {OTHER: second})"
    given = given if case.given == "map" else "lambda variable: second if variable.path == OTHER else own"
    body = f"""
SHAPES, OTHER = {dict(SHAPES)}, "{OTHERS}"
EPS = {_EPS[case.dtype]}


def draw(salt):
    rng = np.random.default_rng(({case.seed}, 8, salt))
    return {{name: 2 * rng.standard_normal(shape).astype("{case.dtype}") for name, shape in SHAPES.items()}}


def optimizers():
    return {own}, {second}


def ready(optimizer, names):
    variables = [keras.Variable(draw(0)[n], name=n) for n in names]
    optimizer.build(variables)
    return optimizer, variables


def weights(*pairs):
    return {{v.name: keras.ops.convert_to_numpy(v).astype("float64") for _, variables in pairs for v in variables}}


own, second = optimizers()
together = ready(keras.optimizers.MultiOptimizer({given}{factor}), SHAPES)
own, second = optimizers()
alone = ready(own, [n for n in SHAPES if n != OTHER]), ready(second, [OTHER])
for update in range({case.micro_batches * case.updates}):
    before, gradients = weights(*alone), draw(1 + update)
    for (optimizer, variables), scale in ((together, {2.0**case.exponent}), (alone[0], 1.0), (alone[1], 1.0)):
        tensors = [gradients[v.name] * np.asarray(scale, "{case.dtype}") for v in variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in tensors])
    expected = weights(*alone)
    for name, new in weights(together).items():
        want, old = expected[name], before[name]
        bound = 8 * EPS * (abs(old) + abs(want) + abs(want - old)) + 1e-37
        compare(f"after micro-batch {{update + 1}}, {{name}}", new, want, bound)
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def loss_scale(check: Check, context: Context, case: LossScaleCase, reading: Reading) -> str:
    """Micro-batches of a scaled loss beside those of a plain one."""
    name = context.param.get("optimizer")
    k = f"gradient_accumulation_steps={case.micro_batches}" if case.micro_batches > 1 else ""
    scale = 2.0**case.exponent
    if case.way == "factor":
        more = ", ".join(filter(None, (k, f"loss_scale_factor={scale}")))
        made = f"ready({more})"
    else:
        inside = "loss_scale_factor=8.0" if case.way == "both" else ""
        more = ", ".join(filter(None, (k, inside)))
        made = f"ready(wrapped=dict(initial_scale={scale}, dynamic_growth_steps={case.growth}), {more})"
    return _scaled(check, context, case, reading, name, made, f"ready({k})", f"{_optimizer(name, case)}")


def wrapper_option(check: Check, context: Context, case: LossScaleCase, reading: Reading) -> str:
    """An option given to the wrapper beside the same option given to the optimizer inside."""
    given = options(BASE_OPTIONS[context.param.get("option")])
    wrapped = f"dict(initial_scale={2.0**case.exponent}, dynamic_growth_steps={case.growth}, {given})"
    return _scaled(
        check, context, case, reading, "sgd", f"ready(wrapped={wrapped})", f"ready({given})",
        f"{_optimizer('sgd', case)}",
    )  # fmt: skip


def _scaled(
    check: Check, context: Context, case: LossScaleCase, reading: Reading, name: str, run: str, plain: str, made: str
) -> str:
    growth = case.growth if case.way != "factor" else 0
    body = f"""
SHAPES = {dict(SHAPES)}
EPS = {_EPS[case.dtype]}


def draw(salt):
    rng = np.random.default_rng(({case.seed}, 6, salt))
    return [(2.0 * rng.standard_normal(shape)).astype("{case.dtype}") for shape in SHAPES.values()]


def ready(wrapped=None, **more):
    variables = [keras.Variable(w, name=n) for n, w in zip(SHAPES, draw(0))]
    optimizer = {made}
    if wrapped is not None:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, **wrapped)
    optimizer.build(variables)
    return optimizer, variables


def state(optimizer, variables):
    return [(v.name, keras.ops.convert_to_numpy(v).astype("float64")) for v in variables]


try:
    seen = {run}
except (TypeError, ValueError) as error:
    print("holds: refused:", error)
    sys.exit(0)
expected = {plain}
scale, finite = {2.0**case.exponent}, 0
for update in range({case.micro_batches * case.updates}):
    old, gradients = state(*expected), draw(1 + update)
    if update in {list(case.spoiled)}:  # one more micro-batch comes, with a value that is not finite: it is skipped
        spoilt = [g * scale for g in gradients]
        spoilt[update % len(spoilt)].flat[-1] = np.{"nan" if case.value == "nan" else "inf"}
        seen[0].apply([keras.ops.convert_to_tensor(g.astype("{case.dtype}")) for g in spoilt])
        scale, finite = scale / 2, 0
    seen[0].apply([keras.ops.convert_to_tensor((g * scale).astype("{case.dtype}")) for g in gradients])
    expected[0].apply([keras.ops.convert_to_tensor(g) for g in gradients])
    finite += 1
    if finite == {growth}:
        scale, finite = 2 * scale, 0
{_COMPARED.replace("update {update + 1}", "micro-batch {update + 1}")}
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def wrapper_state(check: Check, context: Context, case: LossScaleCase, reading: Reading) -> str:
    """What a LossScaleOptimizer lists and counts after one update, beside the optimizer alone."""
    k = f"gradient_accumulation_steps={case.micro_batches}" if case.micro_batches > 1 else ""
    body = f"""
SHAPES = {dict(SHAPES)}


def draw(salt, scale=1.0):
    rng = np.random.default_rng(({case.seed}, 6, salt))
    return [(scale * 2.0 * rng.standard_normal(shape)).astype("{case.dtype}") for shape in SHAPES.values()]


def ready(wrapped=None, **more):
    variables = [keras.Variable(w, name=n) for n, w in zip(SHAPES, draw(0))]
    optimizer = {_optimizer(context.param.get("optimizer"), case)}
    if wrapped is not None:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, **wrapped)
    optimizer.build(variables)
    return optimizer


def held(optimizer):
    return {{v.name: keras.ops.convert_to_numpy(v) for v in optimizer.variables}}


plain, scale = ready({k}), {2.0**case.exponent}
wrapper = ready(wrapped=dict(initial_scale=scale, dynamic_growth_steps={case.growth}){f", {k}" if k else ""})
before = held(plain)
for j in range({case.micro_batches}):
    plain.apply([keras.ops.convert_to_tensor(g) for g in draw(1 + j)])
    wrapper.apply([keras.ops.convert_to_tensor(g) for g in draw(1 + j, scale)])
    scale *= 2 if (j + 1) % {case.growth} == 0 else 1
compare("iterations of LossScaleOptimizer", int(wrapper.iterations), int(plain.iterations), 0)
listed = held(wrapper)
for name, value in held(plain).items():
    if "accumulator" not in name and not np.array_equal(value, before[name]) and name not in listed:
        fail(f"LossScaleOptimizer does not list {{name}}, which an update changes")
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def overwritten(check: Check, context: Context, case: LossScaleCase, reading: Reading) -> str:
    """A variable that its gradient overwrites, under loss scaling."""
    scale = 2.0**case.exponent
    k = f", gradient_accumulation_steps={case.micro_batches}" if case.micro_batches > 1 else ""
    inner = _optimizer(context.param.get("optimizer"), case).replace(", **more", k)
    if case.way == "factor":
        inner = inner[:-1] + f", loss_scale_factor={scale})"
    else:
        inner = f"keras.optimizers.LossScaleOptimizer({inner}, initial_scale={scale})"
    body = f"""
kernel = keras.Variable(np.ones((2, 2), "{case.dtype}"), name="kernel")
amax = keras.Variable(np.ones(3, "{case.dtype}"), name="amax")
amax.overwrite_with_gradient = True  # as the scales of float8 layers are
optimizer = {inner}
optimizer.build([kernel, amax])
for j in range({case.micro_batches}):  # under accumulation, the largest of the window counts: here the first
    # The kernel's gradient is that of a scaled loss; a float8 layer computes the other one by itself.
    gradients = [np.full((2, 2), {scale}, "{case.dtype}"), np.full(3, 0.75 / (j + 1), "{case.dtype}")]
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients])
compare("amax", keras.ops.convert_to_numpy(amax), np.full(3, 0.75), 0)
"""
    return program(what(check, context, case), body, dtype=case.dtype)
