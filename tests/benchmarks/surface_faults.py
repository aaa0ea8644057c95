#!/usr/bin/env python3
"""Perturb every exported metric in turn and print which perturbations the checks notice at default settings.

    python tests/benchmarks/surface_faults.py [--metric NAME ...] [--check NAME ...] [--all-checks]

Two faults for each class, planted in Keras's own update: one row's contribution grows by 1e-4 (its share of every
state variable, found by difference), or one row is counted once more. For each function: one row's value grows by
1e-4. A continuous metric must notice the first, a counting one the second. Exit code 1 if anything went unnoticed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

#: Checks that any fault must be seen by; the others ask for more.
OWNERS = ("metrics_equal_their_definition", "sample_weights_count_examples")


@contextlib.contextmanager
def one_row_more(cls: Any, share: float) -> Iterator[None]:
    """Count the last row of every update of several examples `share` times more."""
    sound = cls.update_state

    def faulty(self: Any, *arguments: Any, sample_weight: Any = None) -> None:
        sound(self, *arguments, sample_weight=sample_weight)
        if len(arguments[-1]) < 2 or getattr(self, "_perturbed", False):
            return
        before = [numbers(v) for v in self.variables]
        self._perturbed = True
        try:
            last = None if sample_weight is None else sample_weight[-1:]
            type(self).update_state(self, *(a[-1:] for a in arguments), sample_weight=last)
        finally:
            self._perturbed = False
        for variable, old in zip(self.variables, before, strict=True):
            grown = old + (numbers(variable) - old) * share
            variable.assign(grown.astype(old.dtype))

    with mock.patch.object(cls, "update_state", faulty):
        yield


@contextlib.contextmanager
def one_value_larger(name: str, share: float) -> Iterator[None]:
    """Make the last value of every call of a function larger by `share`."""
    import keras
    import numpy as np

    sound = getattr(keras.metrics, name)

    @functools.wraps(sound)
    def faulty(*arguments: Any, **options: Any) -> Any:
        values = sound(*arguments, **options)
        factor = np.ones(tuple(values.shape))
        factor[-1:] += share
        return values * keras.ops.cast(factor, values.dtype)

    with mock.patch.object(keras.metrics, name, faulty):
        yield


def numbers(variable: Any) -> Any:
    """Return a variable's value."""
    from bscheck.surface import metrics as surface

    return surface.numbers(variable)


def verdicts(checks: list[str], metric: str) -> list[str]:
    """Return the checks that a planted fault breaks."""
    from bscheck.checks import Param, all_checks, get_check
    from bscheck.checks.context import Context, forget
    from bscheck.checks.run import RunSettings, run_check
    from bscheck.results.known_issues import load_known_issues
    from bscheck.results.verdict import Verdict

    settings = RunSettings(known_issues=load_known_issues(all_checks()))
    seen = []
    for name in checks:
        check, param = get_check(name), Param.of(metric=metric)
        if param not in check.params():
            continue
        forget()
        result = run_check(check, Context(param), settings)
        told = result.failure.reading.seen if result.failure else ""
        # A fault that raises would be noticed by anyone: these two must be noticed by their numbers.
        if result.verdict == Verdict.FAILED and "raised" not in told:
            seen.append(name)
    forget()
    return seen


def faults(names: list[str]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield the metric, the fault in words and its planting."""
    from bscheck.surface import metrics as surface

    def planted(maker: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return lambda: maker(*arguments)

    for name, member in surface.exported().items():
        if names and name not in names:
            continue
        if surface.is_class(member):
            if surface.make(name, surface.variants(name)[0]).variables[:1] and not whole_state(name):
                yield name, "one row grows by 1e-4", planted(one_row_more, member, 1e-4)
            yield name, "one row counts twice", planted(one_row_more, member, 1.0)
        else:
            yield name, "one value grows by 1e-4", planted(one_value_larger, name, 1e-4)


def whole_state(name: str) -> bool:
    """Whether the metric keeps whole numbers, which cannot grow by a ten-thousandth."""
    from bscheck.surface import metrics as surface

    made = surface.make(name, surface.variants(name)[0])
    return "int" in str(made.variables[0].dtype)


def main() -> int:
    """Plant every fault and print what is noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metric", action="append", default=[], help="only this metric (repeatable)")
    parser.add_argument("--check", action="append", default=[], help="only these checks (repeatable)")
    parser.add_argument("--all-checks", action="store_true", help="ask every metric check, not the first to notice")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    checks = options.check or [*OWNERS, "metric_functions_give_each_example_its_own_value"]
    noticed = planted = 0
    start = time.perf_counter()
    for name, words, plant in faults(options.metric):
        with plant():
            seen: list[str] = []
            for check in checks:
                seen += verdicts([check], name)
                if seen and not options.all_checks:
                    break
        planted += 1
        noticed += bool(seen)
        print(f"{name:36} {words:24} {', '.join(seen) or 'UNNOTICED'}", flush=True)
    print(f"{noticed} of {planted} faults noticed in {time.perf_counter() - start:.0f} s")
    return int(noticed < planted)


if __name__ == "__main__":
    sys.exit(main())
