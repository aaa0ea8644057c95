#!/usr/bin/env python3
"""Perturb every exported loss in turn and print which perturbations the checks notice at default settings.

    python tests/benchmarks/loss_faults.py [--loss NAME ...]

Planted in Keras's own losses. Classes: the last example's value grows by 1e-4; the first one's does, in batches of
odd size; a single example's does. Functions: the last value grows by 1e-4. A loss defined over the batch has one
value, which grows. Exit code 1 if anything went unnoticed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

SHARE = 1e-4

CHECKS = (
    "loss_equals_its_formula",
    "loss_of_a_batch_is_the_combination_of_its_parts",
    "loss_over_a_batch_follows_its_formula",
    "loss_gradient_is_the_slope_of_its_formula",
)

#: Which example of so many grows, or None.
WHICH: dict[str, Callable[[int], int | None]] = {
    "the last of several examples": lambda n: n - 1 if n > 1 else None,
    "the first example of an odd batch": lambda n: 0 if n % 2 and n > 1 else None,
    "a single example": lambda n: 0 if n == 1 else None,
}

#: Faults that change nothing, and why.
EQUIVALENT = {("Circle", "a single example"): "a single example has no pairs: its loss is 0"}


def grown(call: Callable[..., Any], which: Callable[[int], int | None]) -> Callable[..., Any]:
    """Return the call with one example's value larger by `SHARE`."""
    import keras
    import numpy as np

    @functools.wraps(call)
    def faulty(*arguments: Any, **options: Any) -> Any:
        values = call(*arguments, **options)
        examples = keras.ops.convert_to_tensor(arguments[-1] if arguments else options["y_pred"]).shape[0]
        row = None if examples is None else which(examples)
        if row is None:
            return values
        factor = np.ones(tuple(values.shape))
        factor[row if factor.ndim else ...] += SHARE
        return values * keras.ops.cast(factor, values.dtype)

    return faulty


def noticed_by(loss: str) -> str:
    """Return the first check that a planted fault breaks, or nothing."""
    from bscheck.checks import Param, all_checks, get_check
    from bscheck.checks.context import Context, forget
    from bscheck.checks.run import RunSettings, run_check
    from bscheck.results.known_issues import load_known_issues
    from bscheck.results.verdict import Verdict

    settings = RunSettings(known_issues=load_known_issues(all_checks()))
    for name in CHECKS:
        check, param = get_check(name), Param.of(loss=loss)
        if param not in check.params():
            continue
        forget()
        result = run_check(check, Context(param), settings)
        told = result.failure.reading.seen if result.failure else ""
        # A fault that raises would be noticed by anyone: these must be noticed by their numbers.
        if result.verdict == Verdict.FAILED and "raised" not in told:
            return name
    return ""


def faults() -> Iterator[tuple[str, str, Any]]:
    """Yield the loss, the fault in words and its patch."""
    import keras

    from bscheck.surface.losses import loss_classes, loss_functions

    for name in loss_classes():
        cls = getattr(keras.losses, name)
        for words, which in WHICH.items():
            yield name, words, functools.partial(mock.patch.object, cls, "call", grown(cls.call, which))
    for name in loss_functions():
        function = grown(getattr(keras.losses, name), WHICH["the last of several examples"])
        yield name, "the last of several examples", functools.partial(mock.patch.object, keras.losses, name, function)


def main() -> int:
    """Plant every fault and print what is noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", action="append", default=[], help="only this loss, class or function (repeatable)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    noticed = planted = 0
    start = time.perf_counter()
    for name, words, plant in faults():
        if options.loss and name not in options.loss:
            continue
        with plant():
            seen = noticed_by(name)
        nothing = EQUIVALENT.get((name, words), "")
        planted += not nothing
        noticed += bool(seen)
        print(f"{name:38} {words:34} {seen or nothing or 'UNNOTICED'}", flush=True)
    print(f"{noticed} of {planted} faults noticed in {time.perf_counter() - start:.0f} s")
    return int(noticed < planted)


if __name__ == "__main__":
    sys.exit(main())
