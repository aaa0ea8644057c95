#!/usr/bin/env python3
"""Change the installed Keras's source, one place at a time, and print which check of the gate notices.

    python tests/benchmarks/source_mutants.py --log FILE [--only WORD ...] [--generated FILE::FUNCTION ...]

A copy of the package, its files linked, is put first on the path of a process of its own; in it one file is changed,
and the gate runs at default settings up to its first failure: first the checks that could see the place, then, with
--wide, all those of Keras's loops. Two kinds of mutants:

- written by hand, as a hostile planter would (`nasty_mutants.MUTANTS`), the default;
- generated (--generated, with --checks): compare operators, + and -, * and /, constants, a keyword argument left out, a
  condition negated, a statement left out. --sample 0.1 --seed 3 draws a tenth of them.

Each outcome is a line of the log (JSON); what the log has is left out when the script runs again. Exit code 1 if a
mutant survived that is not known to be equivalent.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.util
import io
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasty_mutants import EQUIVALENT, LOOPS, MUTANTS, Mutant

REPOSITORY = Path(__file__).parents[2]
GATE = REPOSITORY / "bscheck" / "gate"
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--bscheck-profile", "default", "--bscheck-timing", "off",
           "--bscheck-explain", "0")  # fmt: skip


#: Pairs of operators that stand for one another.
SWAPS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
         ast.Div: ast.Mult}  # fmt: skip


class Generated(ast.NodeTransformer):
    """Makes the n-th change of a function; `count` says how many there are, `text` what was done."""

    def __init__(self, target: int) -> None:
        self.target, self.count, self.text = target, 0, ""

    def _due(self, node: Any, what: str) -> bool:
        self.count += 1
        if self.count - 1 == self.target:
            self.text = f"line {node.lineno}: {what}"
            return True
        return False

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = SWAPS.get(type(node.ops[0]))
        if other and self._due(node, f"{ast.unparse(node)} with {other.__name__}"):
            node.ops[0] = other()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = SWAPS.get(type(node.op))
        if other and self._due(node, f"{ast.unparse(node)} with {other.__name__}"):
            node.op = other()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) in (int, float) and self._due(node, f"{node.value} + 1"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        for keyword in list(node.keywords):
            if keyword.arg and self._due(node, f"{ast.unparse(node.func)} without {keyword.arg}="):
                node.keywords.remove(keyword)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._due(node, f"not ({ast.unparse(node.test)})"):
            node.test = ast.UnaryOp(ast.Not(), node.test)
        return node

    def visit(self, node: ast.AST) -> Any:
        """Leave a statement out, or look inside it."""
        if not isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)):
            return super().visit(node)
        self.generic_visit(node)
        return ast.copy_location(ast.Pass(), node) if self._due(node, f"without {ast.unparse(node)}") else node


def generated(place: str, checks: str, words: str, sample: float, seed: int) -> Iterator[tuple[Mutant, str]]:
    """Yield mutants of one function, each with the changed file."""
    file, _, path = place.partition("::")
    tree = ast.parse((_keras() / "src" / file).read_text())
    counter = Generated(-1)
    counter.visit(copy.deepcopy(_find(tree, path)))
    rng = random.Random(f"{seed}:{place}")
    for n in range(counter.count):
        if rng.random() > sample:
            continue
        changed, change = copy.deepcopy(tree), Generated(n)
        function = _find(changed, path)
        function.body = [part for s in function.body for part in _listed(change.visit(s))]
        yield (
            Mutant(f"{place} {change.text}", file, "", "", checks, words),
            ast.unparse(ast.fix_missing_locations(changed)),
        )


def _listed(visited: Any) -> list[Any]:
    return visited if isinstance(visited, list) else [visited]


def _find(tree: ast.AST, path: str) -> Any:
    found: Any = tree
    for name in path.split("."):
        found = next(n for n in found.body if getattr(n, "name", None) == name)
    if isinstance(found.body[0], ast.Expr):
        found.body = found.body[1:]
    return found


def changed_file(mutant: Mutant) -> str:
    """Return the file of a mutant written by hand, changed."""
    parts = (_keras() / "src" / mutant.file).read_text().split(mutant.old)
    if len(parts) < mutant.nth + 2:
        raise LookupError(f"{mutant.name}: {mutant.file} has no {mutant.old!r}")
    at = mutant.nth + 1
    text = mutant.old.join(parts[:at]) + mutant.new + mutant.old.join(parts[at:])
    compile(text, mutant.file, "exec")
    return text


def _keras() -> Path:
    spec = importlib.util.find_spec("keras")
    if spec is None or spec.origin is None:
        raise SystemExit("no Keras is installed here")
    return Path(spec.origin).parent


@contextlib.contextmanager
def planted(mutant: Mutant, text: str) -> Iterator[Path]:
    """Yield a folder with a copy of the package in which one file is changed."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(_keras(), Path(folder) / "keras", copy_function=os.symlink)
        file = Path(folder) / "keras" / "src" / mutant.file
        file.unlink()
        file.write_text(text)
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            compiled.unlink()
        yield Path(folder)


class Noted:
    """A pytest plugin that keeps the first failure."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failed report."""
        if report.failed and not self.first:
            lines = [line.strip() for line in str(report.longrepr).splitlines() if line.strip()]
            self.first = f"{report.nodeid.split('::')[-1]}: {' | '.join(lines[:3])[:400]}"


def _gate(folder: str, checks: list[str], words: str, answer: Any) -> None:
    """Run the gate on the copy, in a process of its own."""
    sys.path[:0] = [folder, str(REPOSITORY)]
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(REPOSITORY)])
    os.chdir(REPOSITORY)
    import keras
    import pytest

    assert keras.__file__.startswith(folder), keras.__file__
    noted, said = Noted(), io.StringIO()
    chosen = [part for check in checks for part in ("--bscheck-check", check)]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main([str(GATE), *OPTIONS, *chosen, *(["-k", words] if words else [])], plugins=[noted])
    answer.send((int(status), noted.first, said.getvalue()[-600:]))


def gate(folder: Path, checks: list[str], words: str, limit: float) -> tuple[str, str]:
    """Return the outcome (killed, survived, nothing ran, timed out) and what was seen first."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_gate, args=(str(folder), checks, words, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return "timed out", f"no answer in {limit:.0f} s"
        status, first, said = receiver.recv()
    except EOFError:
        return "killed", "the process died"
    finally:
        process.kill()
        process.join()
    if first:
        return "killed", first
    return ("survived", "") if status == 0 else (f"nothing ran ({status})", said)


def tried(mutant: Mutant, text: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plant one mutant, run the gate and return the line of the log."""
    started = time.monotonic()
    outcome, by = "survived", ""
    with planted(mutant, text) as folder:
        stages = [(mutant.checks.split(), mutant.words)]
        if arguments.wide:
            stages.append((LOOPS.split(), ""))
        for checks, words in stages:
            outcome, by = gate(folder, checks, words, arguments.limit)
            if outcome != "survived":
                break
    if outcome == "survived" and mutant.name in EQUIVALENT:
        outcome, by = "equivalent", EQUIVALENT[mutant.name]
    seconds = round(time.monotonic() - started)
    return {"mutant": mutant.name, "file": mutant.file, "outcome": outcome, "by": by, "seconds": seconds}


def main() -> int:
    """Try every mutant that the log has not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="JSON lines: what was tried")
    parser.add_argument("--only", nargs="*", default=[], help="words in the names or files of the mutants")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    parser.add_argument("--wide", action="store_true", help="then run every check of Keras's loops")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds for one run of the gate")
    parser.add_argument("--generated", nargs="*", default=[], metavar="FILE::FUNCTION", help="in place of the table")
    parser.add_argument("--checks", default=LOOPS, help="that generated mutants run")
    parser.add_argument("--words", default="", help="for pytest's -k, with --checks")
    parser.add_argument("--sample", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="only see whether each change finds its place")
    arguments = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(["pytest", "hypothesis", "scipy.stats"])
    done = {}
    if arguments.log.exists():
        lines = map(json.loads, arguments.log.read_text().splitlines())
        done = {line["mutant"]: line["outcome"] for line in lines}
    counts = Counter[str]()
    for mutant, text in _mutants(arguments):
        if mutant.name in done and not (arguments.again and done[mutant.name] == "survived"):
            continue
        if arguments.list:
            print(mutant.name)
            continue
        line = tried(mutant, text, arguments)
        counts[line["outcome"]] += 1
        print(f"{line['outcome']}: {mutant.name} ({line['seconds']} s) {line['by']}", flush=True)
        with arguments.log.open("a") as log:
            log.write(json.dumps(line) + "\n")
    print(", ".join(f"{n} {what}" for what, n in counts.items()))
    return 1 if counts["survived"] else 0


def _mutants(arguments: argparse.Namespace) -> Iterator[tuple[Mutant, str]]:
    if arguments.generated:
        for place in arguments.generated:
            yield from generated(place, arguments.checks, arguments.words, arguments.sample, arguments.seed)
        return
    for mutant in MUTANTS:
        if not arguments.only or any(word in mutant.name or word in mutant.file for word in arguments.only):
            try:
                yield mutant, changed_file(mutant)
            except LookupError as error:
                print(f"left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
