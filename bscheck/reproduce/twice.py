"""Programs that do one thing twice: what came before, or stood beside it, must not show."""

from __future__ import annotations

from bscheck.cases import InferenceCase, InfluenceCase, LayerCase, LayerMaskCase, StatefulCase
from bscheck.checks import Check
from bscheck.checks.context import Context
from bscheck.reproduce import NoScript, layers, models
from bscheck.reproduce.text import array, keras_object, program, raised, tree, what
from bscheck.results.verdict import Reading

_NEAR = {"float32": 1e-4, "float64": 1e-9}


def inference(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """A layer called on one batch, on another, and on the first again."""
    n = case.examples
    body = f"""
{layers.made(context, case)}
def call(tree):
    return flat(layer(*rows(tree[0], slice(0, {n})), **rows(tree[1], slice(0, {n}))))


GIVEN = (ARGS, KWARGS)
# The same examples backwards, the numbers three times as large.
OTHER = keras.tree.map_structure(lambda a: a[::-1] * np.asarray(3 if a.dtype.kind == "f" else 1, a.dtype), GIVEN)
kept = [keras.ops.convert_to_numpy(v) for v in layer.variables]
first = call(GIVEN)
call(OTHER)
for a, b in zip(call(GIVEN), first):
    compare("after a call on another batch, the output", a, b, 0)
for variable, before in zip(layer.variables, kept):
    if "seed" not in variable.path:
        compare(f"after inference {{variable.path}}", keras.ops.convert_to_numpy(variable), before, 0)
"""
    return program(what(check, context, case), body, dtype=layers.precision(context, case), raised=raised(reading))


def training(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """A training call on a batch, and on the batch with one example replaced, from the same state."""
    from bscheck.checks.layer_bench import bench_of, take
    from bscheck.checks.layers import mixed_batch

    bench = bench_of(context, case)
    dtype = bench.exact
    _, kept, batch = mixed_batch(bench, case)
    plain = take(bench.arguments(case.seed), slice(0, case.examples))
    option = ", training=True" if bench.rig(dtype).takes_training else ""
    body = f"""
{layers.made(context, case, dtype)}
def call(args, kwargs):
    keras.utils.set_random_seed(0)
    for variable, value in zip(layer.variables, WEIGHTS):
        variable.assign(value)
    return flat(layer(*rows(args, slice(None)), **rows(kwargs, slice(None)){option}))


# Two batches that differ in one example; the outputs of the others must not.
KEPT = {kept}
PLAIN = {layers.stored(plain, dtype)}
CHANGED = {layers.stored(batch, dtype)}
for a, b in zip(call(*CHANGED), call(*PLAIN)):
    bound = {_NEAR[dtype]} * (1e-3 + np.abs(b).max())
    compare("the training output of the kept examples", a[KEPT], b[KEPT], bound)
"""
    return program(what(check, context, case), body, dtype=dtype, raised=raised(reading))


def masked_steps(check: Check, context: Context, case: LayerMaskCase, reading: Reading) -> str:
    """A layer called on masked sequences twice: zeros in the masked steps, then other values and more steps."""
    from bscheck.checks.layer_bench import bench_of
    from bscheck.checks.layer_masks import kept_steps, masked_pair

    if case.traced or "gradient" in reading.seen:
        raise NoScript("it is about gradients, or a graph for any batch size: the recorded case runs it")
    bench = bench_of(context, case)
    zeros, garbage, mask = masked_pair(bench, case)
    dtype = bench.exact
    rig = bench.rig(dtype)
    places = []
    for given, length in ((garbage, mask.shape[1] + case.padding), (zeros, mask.shape[1])):
        kept = [kept_steps(o.shape, mask, bench.construction.steps, length) for o in rig.call(given)]
        places.append(["..." if k is None else array(k) for k in kept])
    compared = [
        f"compare('output {i}, where it is not masked', seen[{i}][{a}], expected[{i}][{b}], bound({i}))"
        for i, (a, b) in enumerate(zip(*places, strict=True))
    ]
    body = f"""
{layers.made(context, case, dtype)}
# The same sequences: zeros in the masked steps, then other values there and {case.padding} masked steps more.
ZEROS = {layers.stored(zeros, dtype)}
OTHER = {layers.stored(garbage, dtype)}
expected, seen = (flat(layer(*rows(a, slice(None)), **rows(k, slice(None)))) for a, k in (ZEROS, OTHER))


def bound(i):
    return {_NEAR[dtype]} * (1e-3 + np.abs(expected[i]).max())


{chr(10).join(compared)}
"""
    return program(what(check, context, case), body, dtype=dtype, raised=raised(reading))


# Recurrent layers ----------------------------------------------------------------------------------------


def forgetting(check: Check, context: Context, case: StatefulCase, reading: Reading) -> str:
    """A stateless layer called on one batch, on others, and on the first again."""
    from bscheck.checks.layer_state import recurrent_rig, sequences

    name, steps = context.param.get("layer"), sum(case.chunks)
    made = recurrent_rig(name, False, 0)
    body = f"""
x = {array(sequences(name, case.seed, case.examples, steps))}
alike = {array(sequences(name, case.seed + 1, case.examples, steps))}
other = {array(sequences(name, case.seed + 1, case.other, steps))}
layer = {keras_object(made.layer)}
layer(x)
for variable, value in zip(layer.variables, {tree(list(made.values))}):
    variable.assign(value)
first = keras.ops.convert_to_numpy(layer(x))
layer(alike, training=True)
layer(other)
compare("after other batches, the output", keras.ops.convert_to_numpy(layer(x)), first, 0)
"""
    return program(what(check, context, case), body, dtype="float64", raised=raised(reading))


def continued(check: Check, context: Context, case: StatefulCase, reading: Reading) -> str:
    """A stateful layer fed a sequence in chunks, twice, beside a stateless one that is given the whole."""
    from bscheck.checks.layer_state import recurrent_rig, sequences

    name = context.param.get("layer")
    stateful, stateless = recurrent_rig(name, True, case.examples), recurrent_rig(name, False, 0)
    trainable = [id(v) for v in stateless.layer.trainable_variables]
    weights = [v for i, v in zip(map(id, stateless.variables), stateless.values, strict=True) if i in trainable]
    half = "[..., : o.shape[-1] // 2]" if name == "Bidirectional" else ""
    body = f"""
x = {array(sequences(name, case.seed, case.examples, sum(case.chunks)))}
CHUNKS = {list(case.chunks)}
WEIGHTS = {tree(weights)}
stateful = {keras_object(stateful.layer)}
stateless = {keras_object(stateless.layer)}
for layer in (stateful, stateless):
    layer(x)
    for variable, value in zip(layer.trainable_variables, WEIGHTS):
        variable.assign(value)


def outputs(given, layer):
    o = keras.ops.convert_to_numpy(layer(given))
    return o{half}


whole = outputs(x, stateless)
for time in ("first", "second"):
    (getattr(stateful, "reset_state", None) or stateful.reset_states)()
    start = 0
    for size in CHUNKS:
        seen, expected = outputs(x[:, start : start + size], stateful), whole[:, start : start + size]
        compare(f"after the {{time}} reset, steps from {{start}}: the output", seen, expected, {_NEAR["float64"]})
        start += size
"""
    return program(what(check, context, case), body, dtype="float64", raised=raised(reading))


# Models --------------------------------------------------------------------------------------------------


def influence(check: Check, context: Context, case: InfluenceCase, reading: Reading) -> str:
    """A model called on examples among others, and on each of them alone."""
    from bscheck.checks.independence import mixed

    alike = InferenceCase(
        batch_size=case.examples, batches=1, seed=case.seed, scale=case.scale, dtype=case.dtype, mode=case.mode
    )
    head, part = models.ready(context, alike)
    chosen, batch = mixed(context, case, part.x)
    if case.mode != "eager":
        head = models.Head(head.imports, f"{head.body}\n# Compiled or not, the answer must be the same.")
    body = f"""{head.body}
{models.ROWS}
# The examples kept, and the batch that they are in now.
PLACES, BATCH = {[int(i) for i in chosen]}, {tree(batch)}


def outputs(given):
    return [keras.ops.convert_to_numpy(o) for o in keras.tree.flatten(model(given, training={case.training}))]


seen = outputs(BATCH)
for i, place in enumerate(PLACES):
    for a, b in zip(seen, outputs(rows(x, i, i + 1))):
        bound = {2e-5 if case.dtype == "float32" else 1e-9} * np.abs(b).max()
        compare(f"the output of example {{i}}", a[place], b[0], bound)
"""
    imports = head.imports
    return program(what(check, context, case), body, imports=imports, dtype=case.dtype, raised=raised(reading))
