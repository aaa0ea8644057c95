"""How many small changes of Keras's own update rules are noticed: ``python tests/benchmarks/optimizer_mutants.py``.

Every expression of an optimizer's update (each call of an operation, each sum or product, each constant) is scaled by
1.005 in turn, and ``optimizer_follows_its_published_recurrence`` runs at default settings on the changed class. What
is not noticed is printed with its line; some changes cannot be: a factor on something that is zero or decides nothing.

    --factor 1.0005      another size
    --only Adam Muon     these classes alone
"""

import argparse
import ast
import copy
import inspect
import textwrap
from unittest import mock

import keras
from keras.src.optimizers import base_optimizer

from bscheck.checks import Param, all_checks, get_check
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.known_issues import load_known_issues
from bscheck.results.verdict import Verdict
from bscheck.surface.optimizers import variants

CHECK = "optimizer_follows_its_published_recurrence"

#: Methods that make an update; the base class's are tried with one optimizer.
METHODS = (
    "update_step", "_muon_update_step", "_adamw_update_step", "zeropower_via_newtonschulz5", "lr_adjust", "_rms",
    "_update_model_variables_moving_average", "_backend_apply_gradients", "_clip_by_norm", "_apply_weight_decay",
)  # fmt: skip
NOT_NUMBERS = ("shape", "cast", "convert_to_tensor", "cond", "_get_variable_index", "len", "range", "append")


class Scaled(ast.NodeTransformer):
    """Scales the n-th expression; `count` says how many there are."""

    def __init__(self, target, factor):
        self.target, self.factor, self.count, self.line = target, factor, 0, 0

    def _maybe(self, node):
        self.count += 1
        if self.count - 1 != self.target:
            return node
        self.line = node.lineno
        product = ast.BinOp(left=node, op=ast.Mult(), right=ast.Constant(self.factor))
        return ast.copy_location(product, node)

    def visit_Call(self, node):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = getattr(getattr(node.func, "value", None), "id", "")
        self.generic_visit(node)
        return self._maybe(node) if owner == "ops" and called not in NOT_NUMBERS else node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        return self._maybe(node) if not isinstance(node.op, ast.Mod) else node

    def visit_Constant(self, node):
        return self._maybe(node) if type(node.value) is float else node


def mutants(owner, name, factor):
    """Yield ``(line, function)`` for each changed form of a method of its own."""
    original = vars(owner).get(name)
    if original is None or not inspect.isfunction(original):
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(original)))
    counter = Scaled(-1, factor)
    counter.visit(copy.deepcopy(tree))
    for target in range(counter.count):
        change = Scaled(target, factor)
        changed = ast.fix_missing_locations(change.visit(copy.deepcopy(tree)))
        scope = dict(original.__globals__)
        exec(compile(changed, f"<{name}>", "exec"), scope)
        yield change.line, scope[name]


def noticed(names, settings):
    """Return whether the check fails for any of these optimizers."""
    for name in names:
        forget()
        result = run_check(get_check(CHECK), Context(Param.of(optimizer=name)), settings)
        if result.verdict == Verdict.FAILED:
            return True
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--factor", type=float, default=1.005)
    parser.add_argument("--only", nargs="*", default=[])
    asked = parser.parse_args()
    settings = RunSettings(known_issues=load_known_issues(all_checks()))
    classes = {}
    for variant in variants().values():
        classes.setdefault(variant.class_name, []).append(variant.name)
    owners = [(getattr(keras.optimizers, c), names) for c, names in classes.items()]
    owners += [(base_optimizer.BaseOptimizer, ["adam"]), (keras.optimizers.Optimizer.__mro__[1], ["adam"])]
    caught = total = 0
    for owner, names in owners:
        if asked.only and owner.__name__ not in asked.only:
            continue
        for method in METHODS:
            for line, function in mutants(owner, method, asked.factor):
                total += 1
                with mock.patch.object(owner, method, function):
                    seen = noticed(names, settings)
                caught += seen
                if not seen:
                    text = inspect.getsource(vars(owner)[method]).splitlines()[line - 1].strip()
                    print(f"not noticed: {owner.__name__}.{method}, line {line}: {text}", flush=True)
        print(f"{owner.__name__}: {caught} of {total} so far", flush=True)
    forget()
    print(f"{caught} of {total} changes by a factor of {asked.factor} are noticed")


if __name__ == "__main__":
    main()
