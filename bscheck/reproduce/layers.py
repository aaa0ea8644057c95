"""Programs for single layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bscheck.cases import LayerCase, LayerGradientCase, MaskPassingCase, StatefulCase
from bscheck.checks import Check
from bscheck.checks.context import Context
from bscheck.reproduce import NoScript
from bscheck.reproduce.text import array, keras_object, program, raised, tree, what
from bscheck.results.verdict import Reading

_FLAT = """
def flat(outputs):
    return [keras.ops.convert_to_numpy(o) for o in keras.tree.flatten(outputs) if o is not None]
"""


def made(context: Context, case: Any, dtype: str = "") -> str:
    """Return the statements that make the layer of a case, give it its weights, and list what it is called with."""
    from bscheck.checks.layer_bench import bench_of, take

    bench = bench_of(context, case)
    dtype = dtype or bench.dtype(case.dtype)
    rig = bench.rig(dtype)
    examples = sum(case.sizes) if isinstance(case, LayerGradientCase) else case.examples
    arguments = take(bench.arguments(case.seed), slice(0, max(examples, 3)))
    if any(a.dtype.kind in "US" for a in _leaves(arguments)):
        raise NoScript("its inputs are strings")
    args, kwargs = arguments
    lines = [f"layer = {keras_object(rig.layer)}", f"ARGS = {tree(_stored(args, dtype))}"]
    lines += [f"KWARGS = {tree(_stored(kwargs, dtype))}", _FLAT.strip("\n"), "", _ROWS.strip("\n"), ""]
    if rig.variables:
        lines += ["layer(*rows(ARGS, slice(0, 2)), **rows(KWARGS, slice(0, 2)))", "WEIGHTS = ["]
        lines += [f"    {array(v)}," for v in rig.values]
        lines += ["]", "for variable, value in zip(layer.variables, WEIGHTS):", "    variable.assign(value)"]
    else:
        lines += ["WEIGHTS = []"]
    return "\n".join(lines)


_ROWS = """
def rows(tree, pick):
    if isinstance(tree, dict):
        return {key: rows(part, pick) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(rows(part, pick) for part in tree)
    return keras.ops.convert_to_tensor(tree[pick])
"""


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value] if isinstance(value, np.ndarray) else []


def stored(arguments: Any, dtype: str) -> str:
    """Return the arguments of a call, in the dtype that the layer gets them in, as an expression."""
    args, kwargs = arguments
    return f"({tree(_stored(args, dtype))}, {tree(_stored(kwargs, dtype))})"


def _stored(value: Any, dtype: str) -> Any:
    """Return arguments as the layer gets them."""
    if isinstance(value, dict):
        return {key: _stored(part, dtype) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_stored(part, dtype) for part in value)
    if not isinstance(value, np.ndarray):
        raise NoScript("it is called with more than arrays")
    return value.astype("float64" if dtype == "float64" else "float32") if value.dtype.kind == "f" else value


def precision(context: Context, case: LayerCase | MaskPassingCase) -> str:
    """Return the precision that a case runs at."""
    from bscheck.checks.layer_bench import bench_of

    return bench_of(context, case).dtype(case.dtype)


def tiny_batch(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """A batch of 0, 1 or 2 examples: as many rows, finite, and those of a larger batch."""
    n = case.examples
    body = f"""
{made(context, case)}
seen = flat(layer(*rows(ARGS, slice(0, {n})), **rows(KWARGS, slice(0, {n}))))
larger = flat(layer(*rows(ARGS, slice(0, 3)), **rows(KWARGS, slice(0, 3))))
for a, b in zip(seen, larger):
    if len(a) != {n}:
        fail(f"a batch of {n} has outputs of shape {{a.shape}}")
    {_compared_rows(n)}
"""
    return program(what(check, context, case), body, dtype=precision(context, case), raised=raised(reading))


def _compared_rows(n: int) -> str:
    """Return the comparison with a larger batch: an empty batch has nothing to compare but its number of rows."""
    if n == 0:
        return "continue"
    return f'compare("a batch of {n}: output", a, b[:{n}], 1e-4 * (1 + np.abs(b).max(initial=0)))'


def announced_shape(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """The shape of an output beside the one that the layer announces."""
    n = case.examples
    body = f"""
{made(context, case)}


def symbolic(tree):
    if isinstance(tree, dict):
        return {{key: symbolic(part) for key, part in tree.items()}}
    if isinstance(tree, (list, tuple)):
        return type(tree)(symbolic(part) for part in tree)
    return keras.KerasTensor((None, *tree.shape[1:]), dtype=str(tree.dtype))


seen = flat(layer(*rows(ARGS, slice(0, {n})), **rows(KWARGS, slice(0, {n}))))
announced = keras.tree.flatten(layer.compute_output_spec(*symbolic(ARGS), **symbolic(KWARGS)))
for a, spec in zip(seen, [s for s in announced if s is not None]):
    wanted = ({n}, *(c if b is None else b for b, c in zip(spec.shape[1:], a.shape[1:])))
    if a.shape != wanted or a.ndim != len(spec.shape):
        fail(f"a batch of {n}: shape {{a.shape}}; announced: {{tuple(spec.shape)}}")
"""
    return program(what(check, context, case), body, dtype=precision(context, case), raised=raised(reading))


def unknown_lengths(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """Each example's output beside that of a function traced for any number of examples and any length."""
    if context.runtime.name != "tensorflow":
        raise NoScript("only TensorFlow traces functions of unknown lengths")
    n = case.examples
    from bscheck.checks.layer_bench import bench_of

    dtype = bench_of(context, case).exact
    body = f"""
{made(context, case, dtype)}


def any_length(tensor):
    shape = tensor.shape
    return tf.TensorSpec([None, None, *shape[2:]] if len(shape) > 1 else [None], tensor.dtype)


def call(args, kwargs):
    return keras.tree.flatten(layer(*args, **kwargs))


given = rows(ARGS, slice(0, {n})), rows(KWARGS, slice(0, {n}))
specs = keras.tree.map_structure(any_length, given)
seen = flat(tf.function(call, autograph=False, input_signature=list(specs))(*given))
for i in range({n}):
    alone = flat(call(rows(ARGS, slice(i, i + 1)), rows(KWARGS, slice(i, i + 1))))
    for a, b in zip(seen, alone):
        bound = {2e-5 if dtype == "float32" else 1e-9} * (1e-3 + np.abs(b).max())
        compare(f"the output of unknown length of example {{i}}", a[i : i + 1], b, bound)
"""
    imports = ["import tensorflow as tf"]
    return program(what(check, context, case), body, imports=imports, dtype=dtype, raised=raised(reading))


def passed_mask(check: Check, context: Context, case: MaskPassingCase, reading: Reading) -> str:
    """The mask of a layer's output beside the mask of its first input."""
    from bscheck.checks.layer_bench import bench_of
    from bscheck.checks.mask_passing import masked_rows

    if context.runtime.name == "jax" or case.way == "model" or reading.where.startswith("output"):
        raise NoScript(
            "masks in a model, those of JAX's arrays and what a mask does to the output take the recorded case"
        )
    bench = bench_of(context, case)
    rows, masks = masked_rows(bench, case)
    first = masks[0][:, ::-1] if bench.construction.steps == "reversed" else masks[0]
    if case.way == "attached":
        rows = rows[0], {k: v for k, v in rows[1].items() if k not in bench.construction.masks}
    given = dict(masks) if case.way == "attached" else {}
    body = f"""
{made(context, case)}
GIVEN = {stored(rows, case.dtype)}
# The masks that are attached to the inputs of these numbers, as the layer before attaches them.
ATTACHED = {tree(given)}
args, kwargs = rows(GIVEN, slice(None))
for number, tensor in enumerate(keras.tree.flatten(args)):
    if number in ATTACHED:
        tensor._keras_mask = keras.ops.convert_to_tensor(ATTACHED[number])
found = getattr(keras.tree.flatten(layer(*args, **kwargs))[0], "_keras_mask", None)
if found is None:
    fail("the output has no mask")
compare("the mask of the output", keras.ops.convert_to_numpy(found), {array(first)}, 0)
"""
    return program(what(check, context, case), body, dtype=precision(context, case), raised=raised(reading))


def own_output(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """Each example's output in a batch beside its output alone."""
    from bscheck.checks.layer_bench import bench_of, take
    from bscheck.checks.layers import mixed_batch

    bench = bench_of(context, case)
    kept, places, batch = mixed_batch(bench, case)
    dtype = bench.dtype(case.dtype)
    alone = take(bench.arguments(case.seed), np.asarray(kept))
    body = f"""
{made(context, case)}
# The same examples in a batch, and each alone.
PLACES = {places}
BATCH = {stored(batch, dtype)}
ALONE = {stored(alone, dtype)}
seen = flat(layer(*rows(BATCH[0], slice(None)), **rows(BATCH[1], slice(None))))
for i, place in enumerate(PLACES):
    one = flat(layer(*rows(ALONE[0], slice(i, i + 1)), **rows(ALONE[1], slice(i, i + 1))))
    for a, b in zip(seen, one):
        bound = {1e-4 if dtype == "float32" else 1e-9} * (1e-3 + np.abs(b).max())
        compare(f"the output of example {{place}}", a[place], b[0], bound)
"""
    return program(what(check, context, case), body, dtype=dtype, raised=raised(reading))


def near_float64(check: Check, context: Context, case: LayerCase, reading: Reading) -> str:
    """What a layer computes in a precision beside what it computes in float64, one example at a time."""
    from bscheck.checks.layer_bench import bench_of

    bench, n = bench_of(context, case), case.examples
    if " is off by " not in reading.seen:
        raise NoScript("it is about the dtype that weights are kept in")
    expected = bench.alone(bench.exact, case.seed, range(n))
    body = f"""
{made(context, case)}
seen = flat(layer(*rows(ARGS, slice(0, {n})), **rows(KWARGS, slice(0, {n}))))
# The same layer in float64, one example at a time, and four times what rounding explains.
EXPECTED = {tree(list(expected))}
for a, b in zip(seen, EXPECTED):
    compare("the output", a, b, {4 * float(reading.allowed)!r})
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))


def gradient(check: Check, context: Context, case: LayerGradientCase, reading: Reading) -> str:
    """The gradient of a random projection of a layer's outputs, over a batch and over its parts."""
    from bscheck.checks.layer_bench import ROWS, bench_of, coupled
    from bscheck.checks.layer_gradients import projections

    if context.runtime.name != "tensorflow":
        raise NoScript("a gradient by this backend's own means takes the recorded case")
    bench, n = bench_of(context, case), sum(case.sizes)
    rig = bench.rig(bench.exact)
    training = f", training={not coupled(bench.name) and not bench.stochastic()}" if rig.takes_training else ""
    body = f"""
{made(context, case, bench.exact)}
PROJECTIONS = {tree(projections(bench, case, n))}


def gradient(start, stop):
    for variable, value in zip(layer.variables, WEIGHTS):
        variable.assign(value)
    pick = [i % {ROWS} for i in range(start, stop)]  # larger batches repeat the examples
    given = rows((ARGS, KWARGS), pick)
    inputs = [x for x in keras.tree.flatten(given) if x.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = [o for o in keras.tree.flatten(layer(*given[0], **given[1]{training})) if o is not None]
        floats = [o for o in outputs if o.dtype.is_floating]
        loss = sum(tf.reduce_sum(tf.cast(o, p.dtype) * p[start:stop]) for o, p in zip(floats, PROJECTIONS))
    weights = [v.value for v in layer.trainable_variables]
    found = tape.gradient(loss, [*weights, *inputs], unconnected_gradients="zero")
    found = [tf.convert_to_tensor(g).numpy().astype("float64") for g in found]
    return found[: len(weights)], found[len(weights) :]


EDGES = {np.cumsum([0, *case.sizes]).tolist()}
parts = [gradient(a, b) for a, b in zip(EDGES, EDGES[1:])]
whole = gradient(0, {n})
for i, expected in enumerate(whole[0]):
    bound = {_NEAR[bench.exact]} * (1e-3 + sum(np.abs(p[0][i]) for p in parts).max(initial=0))
    compare(f"the gradient of {{layer.trainable_variables[i].name}}", sum(p[0][i] for p in parts), expected, bound)
for i, expected in enumerate(whole[1]):
    bound = {_NEAR[bench.exact]} * (1e-3 + np.abs(expected).max(initial=0))
    compare(f"the gradient of input {{i}}", np.concatenate([p[1][i] for p in parts]), expected, bound)
"""
    imports = ["import tensorflow as tf"]
    return program(what(check, context, case), body, imports=imports, dtype=bench.exact, raised=raised(reading))


#: Relative difference that rounding does not explain.
_NEAR = {"float64": 1e-9, "float32": 1e-4}


def other_batch_size(check: Check, context: Context, case: StatefulCase, reading: Reading) -> str:
    """A stateful layer that takes a batch of another size without a word."""
    from bscheck.checks.layer_state import recurrent_rig, sequences

    name = context.param.get("layer")
    first = sequences(name, case.seed, case.examples, case.chunks[0])
    other = sequences(name, case.seed + 1, case.other, case.chunks[1])
    stateful, stateless = recurrent_rig(name, True, case.examples).layer, recurrent_rig(name, False, 0).layer
    body = f"""
first = {array(first)}
other = {array(other)}
stateful = {keras_object(stateful)}
stateful(first)
try:
    seen = keras.ops.convert_to_numpy(stateful(other))
except Exception:
    print("holds: refused")
    sys.exit(0)
# It was taken: then the state must have begun anew, as without one.
stateless = {keras_object(stateless)}
stateless(other)
stateless.set_weights([keras.ops.convert_to_numpy(v) for v in stateful.trainable_variables])
expected = keras.ops.convert_to_numpy(stateless(other))
compare("after a batch of {case.examples}, a batch of {case.other} is taken, and its output", seen, expected, 1e-9)
"""
    return program(what(check, context, case), body, dtype="float64", raised=raised(reading))


def definition(check: Check, context: Context, case: Any, reading: Reading) -> str:
    """What a layer computes beside its definition."""
    from bscheck.checks.layer_values import _made, _situation
    from bscheck.surface.constructions import arguments

    made = _made(context.param.get("layer"), case.construction, case.dtype)
    if made.construction.computes_mask or any(i.kind == "adapt" for i in made.construction.inputs):
        raise NoScript("the layer computes a mask or is adapted first")
    situation = _situation(context, case)
    expected = situation.defined(situation.call.outputs(situation.passed, situation.masks)).outputs
    training = f", training={case.training}" if len(made.construction.training) > 1 else ""
    layer = situation.call.layer
    inputs = [np.asarray(x, case.dtype) if x.dtype.kind == "f" else x for x in situation.passed]
    args, kwargs = arguments(made.construction, inputs)
    kwargs = {**kwargs, **situation.masks}
    training = f"{training}{''.join(f', {k}={v!r}' for k, v in made.construction.options.items())}"
    body = f"""
layer = {keras_object(layer)}
ARGS, KWARGS = {tree(tuple(args))}, {tree(dict(kwargs))}


def call():
    return layer(*ARGS, **KWARGS{training})


call()
WEIGHTS = {tree([np.asarray(situation.weights[v.path]) for v in layer.variables if v.path in situation.weights])}
for variable, value in zip(layer.weights, WEIGHTS):
    variable.assign(value)
# By the layer's definition, in NumPy.
{chr(10).join(f"EXPECTED_{i} = {array(e.value)}" for i, e in enumerate(expected))}
for seen, expected in zip(keras.tree.flatten(call()), [{", ".join(f"EXPECTED_{i}" for i in range(len(expected)))}]):
    bound = {1e-4 if case.dtype == "float32" else 1e-5} * (1e-3 + np.abs(expected).max())
    compare("the output", keras.ops.convert_to_numpy(seen), expected, bound)
"""
    return program(what(check, context, case), body, dtype=case.dtype, raised=raised(reading))
