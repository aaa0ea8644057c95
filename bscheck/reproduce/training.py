"""Programs for training end to end: accumulated micro-batches beside large batches, by the weights they leave."""

from __future__ import annotations

import numpy as np

from bscheck.cases import UpdateCase
from bscheck.checks import Check
from bscheck.checks.context import Context, draw_weights
from bscheck.reproduce import NoScript
from bscheck.reproduce.models import parts_of, small
from bscheck.reproduce.text import assigned, imported, keras_object, program, raised, tree, what
from bscheck.results.verdict import Reading
from bscheck.traits import NO_TWIN


def accumulated(check: Check, context: Context, case: UpdateCase, reading: Reading) -> str:
    """Train on accumulated micro-batches, and on large batches, in float64: the weights at the end are the same."""
    from bscheck.checks.training_updates import OptimizerFactory

    if not context.traits.double:
        raise NoScript(NO_TWIN)
    bench, k = context.bench("float64"), case.micro_batches
    x, y, w = bench.cast(context.subject.draw(case.seed, case.size * k * case.updates))
    if not small((x, y)):
        raise NoScript("its examples are too large to be written down")
    parts, step = parts_of(context, "float64"), context.subject.step
    imports, runs = list(parts.imports), f"trained({case.size}, {k}), trained({case.size * k}, None)"
    if step is not None:
        line, own = imported(step, f"the step= of {context.subject.name!r}")
        imports.append(line)
        runs = f"trained({case.size}, {k}, {own}), trained({case.size * k}, None)"
    factory = OptimizerFactory(context.subject, context.param.get("optimizer"), case.decay, case.clip)
    made = keras_object(factory())
    made = f"{made[:-1]}{'' if made.endswith('()') else ', '}gradient_accumulation_steps=None if step else k)"
    through_fit = context.param.get("path", "fit") == "fit"
    body = f"""
{parts.build}


x = {tree(x)}
y = {tree(y)}
w = {tree(w)}
{assigned("WEIGHTS", [np.asarray(v, "float64") for v in bench.split(draw_weights(bench, case.seed))])}


def rows(tree, start, stop):
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {{name: rows(part, start, stop) for name, part in tree.items()}}
    if isinstance(tree, (list, tuple)):
        return [rows(part, start, stop) for part in tree]
    return tree[start:stop]


def trained(size, k, step=None):
    model = build()
    for variable, value in zip(model.trainable_variables, WEIGHTS):
        variable.assign(value)
    optimizer = {made}
    model.compile(optimizer, loss={parts.loss})
    optimizer.build(model.trainable_variables)
    batches = [tuple(rows(t, i, i + size) for t in (x, y, w)) for i in range(0, {number_of_examples(case)}, size)]
    if step is not None:
        for i in range(0, len(batches), k):
            step(model, optimizer, batches[i : i + k])
    elif {through_fit}:
        model.fit(x, y, sample_weight=w, batch_size=size, shuffle=False, verbose=0)
    else:
        for batch in batches:
            model.train_on_batch(batch[0], batch[1], sample_weight=batch[2])
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


for i, (seen, expected, start) in enumerate(zip({runs}, WEIGHTS)):
    bound = 1e-9 * (np.abs(start) + np.abs(expected) + np.abs(expected - start).max())
    compare(f"after training on accumulated micro-batches, weight {{i}}", seen, expected, bound)
"""
    return program(what(check, context, case), body, imports=imports, dtype="float64", raised=raised(reading))


def number_of_examples(case: UpdateCase) -> int:
    """Return the number of examples of a case."""
    return case.size * case.micro_batches * case.updates
