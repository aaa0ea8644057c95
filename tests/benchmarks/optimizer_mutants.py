"""How many small changes of Keras's own update rules are noticed: ``python tests/benchmarks/optimizer_mutants.py``.

Every expression of an optimizer's update (each call of an operation, each sum, product or power, each constant and
hyperparameter) is changed in turn, in Keras's own source as it is installed: *scaled* by 1.005, *dropped* (a term or a
factor left out, a function of one thing replaced by that thing), or *swapped* (operands exchanged, one hyperparameter
for another). Each change acts *always*, in the *first* update, in every *other* update, where an *option* has not its
default, or where the *rate* is not that of the update before. The checks of the update rules run at default settings
on the changed class. What none of them notices is printed with its line and the largest difference that it makes to
any weight or slot in six updates with each option, in float64 where the class can: a change that makes none beyond
rounding is equivalent.

    --factor 1.0005             another size
    --only Adam Muon            these classes alone
    --kinds scale drop swap     these changes alone
    --when always first ...     at these times alone
    --sample 0.1                a tenth of all changes, drawn by --seed
"""

import argparse
import ast
import copy
import inspect
import textwrap
import time
from collections import Counter
from contextlib import ExitStack
from unittest import mock

import keras
import numpy as np
from keras.src.optimizers import base_optimizer

from bscheck.checks import Param, all_checks, get_check
from bscheck.checks import run as runner
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.oracles.optimizers import RECURRENCES
from bscheck.results.known_issues import load_known_issues
from bscheck.results.verdict import Verdict
from bscheck.surface.optimizers import (
    BASE_OPTIONS,
    LEARNING_RATE,
    OTHER_VALUES,
    other_values,
    own_options,
    variant,
    variants,
)

#: Methods that make an update; the base class's are tried with one optimizer.
METHODS = (
    "update_step", "_muon_update_step", "_adamw_update_step", "zeropower_via_newtonschulz5", "lr_adjust", "_rms",
    "_update_model_variables_moving_average", "_backend_apply_gradients", "_clip_by_norm", "_apply_weight_decay",
)  # fmt: skip
NOT_NUMBERS = ("shape", "cast", "convert_to_tensor", "cond", "_get_variable_index", "len", "range", "append")
KINDS = ("scale", "drop", "swap")
WHEN = ("always", "first", "other", "option", "rate")

#: Largest difference, as a part of the largest entry, by which rounding alone tells two runs apart.
ROUNDING = {"float64": 1e-12, "float32": 1e-5}
#: Classes that compute with float32 numbers of their own, and refuse float64 gradients.
FLOAT32_ONLY = ("Muon", "ScheduleFreeAdamW")


class Change(ast.NodeTransformer):
    """Makes the n-th change of a kind; `count` says how many there are."""

    def __init__(self, target, kind, factor, hyper, when):
        self.target, self.kind, self.factor, self.hyper, self.when = target, kind, factor, hyper, when
        self.count, self.line, self.text = 0, 0, ""

    def _maybe(self, node, *forms):
        for form in forms:
            self.count += 1
            if self.count - 1 == self.target:
                self.line, self.text = node.lineno, f"{ast.unparse(node)} -> {ast.unparse(form)}"
                return ast.copy_location(form if self.when == "always" else _chosen(node, form), node)
        return node

    def _scaled(self, node):
        return ast.BinOp(left=node, op=ast.Mult(), right=ast.Constant(self.factor))

    def visit_Call(self, node):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = getattr(getattr(node.func, "value", None), "id", "")
        self.generic_visit(node)
        if owner != "ops" or called in NOT_NUMBERS or not node.args:
            return node
        if self.kind == "scale":
            return self._maybe(node, self._scaled(node))
        if self.kind == "drop":
            return self._maybe(node, *[a for a in node.args if isinstance(a, ast.expr)])
        if len(node.args) == 2 and called in ("subtract", "divide", "power", "matmul"):
            return self._maybe(node, ast.Call(node.func, node.args[::-1], node.keywords))
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, ast.Mod):
            return node
        if self.kind == "scale":
            return self._maybe(node, self._scaled(node))
        if self.kind == "drop":
            return self._maybe(node, node.left, node.right)
        if isinstance(node.op, (ast.Sub, ast.Div, ast.Pow)):
            return self._maybe(node, ast.BinOp(node.right, node.op, node.left))
        return node

    def visit_Constant(self, node):
        scaled = type(node.value) is float and self.kind == "scale"
        return self._maybe(node, self._scaled(node)) if scaled else node

    def visit_Attribute(self, node):
        self.generic_visit(node)
        ours = isinstance(node.value, ast.Name) and node.value.id == "self" and isinstance(node.ctx, ast.Load)
        if not ours or node.attr not in self.hyper:
            return node
        if self.kind == "scale":
            return self._maybe(node, self._scaled(node))
        others = [name for name in self.hyper if name != node.attr] if self.kind == "swap" else []
        return self._maybe(node, *(ast.Attribute(node.value, name, node.ctx) for name in others))


def _chosen(node, form):
    """Return the expression that takes the changed form where the condition holds."""
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    thunks = [ast.Lambda(nothing, copy.deepcopy(part)) for part in (node, form)]
    return ast.Call(ast.Name("__chosen__", ast.Load()), [ast.Name("self", ast.Load()), *thunks], [])


def chooser(when, rates):
    """Return what `_chosen` calls."""

    def holds(self):
        iterations = keras.ops.convert_to_tensor(self.iterations)
        if when == "first":
            return keras.ops.equal(iterations, 0)
        if when == "other":
            return keras.ops.equal(keras.ops.mod(iterations, 2), 1)
        if when == "rate":
            now = keras.ops.cast(self.learning_rate, "float64")
            return keras.ops.logical_and(keras.ops.greater(iterations, 0), keras.ops.not_equal(now, rates(self)))
        plain, own = type(self)().get_config(), self.get_config()
        return any(own[k] != v for k, v in plain.items() if k not in ("name", "learning_rate"))

    def chosen(self, sound, changed):
        condition = holds(self)
        if isinstance(condition, bool):
            return changed() if condition else sound()
        return keras.ops.where(condition, changed(), sound())

    return chosen


class Rates:
    """The rate of each optimizer's latest update, also within a graph."""

    def __init__(self):
        self._seen = {}

    def __call__(self, optimizer):
        import tensorflow as tf

        if id(optimizer) not in self._seen:
            with tf.init_scope():
                self._seen[id(optimizer)] = (tf.Variable(-1.0, dtype="float64", trainable=False), optimizer)
        return self._seen[id(optimizer)][0]

    def plant(self):
        """Return the patch that notes the rate after every update."""
        sound, seen = base_optimizer.BaseOptimizer.apply, self

        def apply(self, *args, **kwargs):
            done = sound(self, *args, **kwargs)
            seen(self).assign(keras.ops.cast(self.learning_rate, "float64"))
            return done

        return mock.patch.object(base_optimizer.BaseOptimizer, "apply", apply)


def hyperparameters(owner):
    """Return the names of a class's own numbers."""
    try:
        made = owner()
    except TypeError:
        return ()
    names = set(inspect.signature(owner.__init__).parameters) - {"learning_rate", "weight_decay", "ema_momentum"}
    return tuple(sorted(n for n in names if type(getattr(made, n, None)) is float))


def mutants(owner, name, kind, when, factor, rates):
    """Yield ``(text, function)`` for each changed form of a method of its own."""
    original = vars(owner).get(name)
    if original is None or not inspect.isfunction(original):
        return
    tree, hyper = ast.parse(textwrap.dedent(inspect.getsource(original))), hyperparameters(owner)
    tree.body[0].decorator_list = []
    counter = Change(-1, kind, factor, hyper, when)
    counter.visit(copy.deepcopy(tree))
    for target in range(counter.count):
        change = Change(target, kind, factor, hyper, when)
        changed = ast.fix_missing_locations(change.visit(copy.deepcopy(tree)))
        scope = {**original.__globals__, "__chosen__": chooser(when, rates)}
        exec(compile(changed, f"<{name}>", "exec"), scope)
        yield f"line {change.line}: {change.text}", scope[name]


def checks_of(name, when):
    """Return the checks that follow an optimizer, with their parameters; the likeliest first."""
    found = [("optimizer_follows_its_published_recurrence", name)]
    if name in RECURRENCES:
        found.append(("training_follows_the_published_recurrence", name))
    return found[::-1] if when == "rate" else found


def noticed(names, when, settings):
    """Return whether a check fails for any of these optimizers."""
    for name in names:
        for check, optimizer in checks_of(name, when):
            forget()
            context = Context(Param.of(optimizer=optimizer))
            if run_check(get_check(check), context, settings).verdict == Verdict.FAILED:
                return True
    return False


def precision_of(owner):
    """Return the widest dtype that a class computes in."""
    return "float32" if owner.__name__ in FLOAT32_ONLY else "float64"


def trajectories(names, dtype):
    """Return what optimizers hold after each of six updates, for every option of their own and of the base.

    Updates are made eagerly, from standard normal gradients of a matrix and a vector; after the third the rate
    falls from 1, where what bounds it is seen.
    """
    found = []
    for name in names:
        chosen = variant(name)
        own = [option for option in own_options(chosen) if option in OTHER_VALUES]
        options = [other_values(chosen, option) for option in ("none", *own, "all")]
        options += [{**chosen.options, **more} for more in BASE_OPTIONS.values()]
        for more in options:
            rng = np.random.default_rng(0)
            optimizer = getattr(keras.optimizers, chosen.class_name)(learning_rate=1.0, **more)
            weights = [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in ((4, 3), (3,))]
            optimizer.build(weights)
            for update in range(6):
                if update == 3:
                    optimizer.learning_rate = LEARNING_RATE
                optimizer.apply([keras.ops.convert_to_tensor(rng.normal(size=w.shape), dtype) for w in weights])
                found += [keras.ops.convert_to_numpy(v) for v in (*weights, *optimizer.variables)]
    return found


def difference(sound, changed):
    """Return the largest difference of two lists of arrays, as a part of the largest entry of its array."""
    largest = 0.0
    for a, b in zip(sound, changed, strict=True):
        if not np.array_equal(a, b, equal_nan=True):
            largest = max(largest, float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-300)))
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", type=float, default=1.005)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--when", nargs="*", default=WHEN, choices=WHEN)
    parser.add_argument("--sample", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    settings = RunSettings(known_issues=load_known_issues(all_checks()))
    classes = {}
    for known in variants().values():
        classes.setdefault(known.class_name, []).append(known.name)
    owners = [(getattr(keras.optimizers, c), names) for c, names in classes.items()]
    owners += [(base_optimizer.BaseOptimizer, ["adam"]), (keras.optimizers.Optimizer.__mro__[1], ["adam"])]
    rng, counts = np.random.default_rng(asked.seed), Counter()
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(runner, "SHRINK_SECONDS", 0.0))
        patches.enter_context(mock.patch.object(runner, "ablate", return_value=()))
        for owner, names in owners:
            if asked.only and owner.__name__ not in asked.only:
                continue
            started = time.monotonic()
            for kind in asked.kinds:
                for when in asked.when:
                    try_all(owner, names, kind, when, asked, rng, settings, counts)
            told = ", ".join(f"{n} {what}" for what, n in counts.items())
            print(f"{owner.__name__}: {told} so far ({time.monotonic() - started:.0f} s)", flush=True)
    forget()
    total = sum(counts.values())
    print(
        f"{counts['noticed']} of {total} changes noticed, {counts['equivalent']} equivalent, {counts['missed']} missed"
    )


def try_all(owner, names, kind, when, asked, rng, settings, counts):
    """Make every change of one kind and time, drawn by the sample; count and print."""
    dtype = precision_of(owner)
    for method in METHODS:
        rates = Rates()
        for text, function in mutants(owner, method, kind, when, asked.factor, rates):
            if rng.random() > asked.sample:
                continue
            with rates.plant():
                with mock.patch.object(owner, method, function):
                    seen = noticed(names, when, settings)
                    changed = [] if seen else trajectories(names, dtype)
                apart = 0.0 if seen else difference(trajectories(names, dtype), changed)
            told = "noticed" if seen else "equivalent" if apart <= ROUNDING[dtype] else "missed"
            counts[told] += 1
            if not seen:
                size = f"{apart:.1e}" if apart else "no difference"
                print(f"{told} ({size}): {owner.__name__}.{method}, {kind}, {when}, {text}", flush=True)


if __name__ == "__main__":
    main()
