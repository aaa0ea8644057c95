"""Examples a second of the gradient check, beside the obvious way, for each reference subject in one run.

The obvious way does the same comparison for the same cases: a fresh model, ``compile`` and ``train_on_batch``
for the large batch; another fresh model, ``compile`` and ``train_on_batch`` for each micro-batch with
``gradient_accumulation_steps``. It has neither the float64 reference nor the rounding bounds of the check.

    python tests/benchmarks/gradient_throughput.py --subject dense --subject lstm
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bscheck.cases import GradientCase
from bscheck.checks import Check, Param, get_check
from bscheck.checks.context import Context, draw_micro_batches, draw_weights
from bscheck.checks.run import RunSettings, run_check
from bscheck.reference_subjects import REFERENCE_SUBJECTS
from bscheck.runtime import keras_module
from bscheck.runtime.bench import build_model, concatenate

CHECK = "micro_batch_gradients_average_to_the_large_batch"


def recorded(check: Check, cases: list[GradientCase]) -> Check:
    """Return the check, which also notes the cases it is given."""

    def function(context: Context, case: GradientCase) -> Any:
        cases.append(case)
        return check.function(context, case)

    return dataclasses.replace(check, function=function)


def ours(check: Check, context: Context, examples: int) -> tuple[float, float, list[GradientCase]]:
    """Return seconds to set up, examples a second when warm, and the cases that were drawn when warm."""
    start = time.perf_counter()
    run_check(check, context, RunSettings(max_examples=4, seed=1))
    setup = time.perf_counter() - start
    cases: list[GradientCase] = []
    start = time.perf_counter()
    result = run_check(recorded(check, cases), context, RunSettings(max_examples=examples))
    seconds = time.perf_counter() - start
    if not result.worst.holds:
        raise SystemExit(f"{context.param.id}: the promise is broken, {result.worst.seen}")
    return setup, len(cases) / seconds, cases


def obvious(context: Context, cases: Sequence[GradientCase], seconds: float) -> tuple[float, int]:
    """Return examples a second of the obvious way and how many were run within the given seconds."""
    start = time.perf_counter()
    done = 0
    for case in cases:
        _compare_obviously(context, case)
        done += 1
        if time.perf_counter() - start > seconds:
            break
    return done / (time.perf_counter() - start), done


def _compare_obviously(context: Context, case: GradientCase) -> bool:
    batches = [context.bench("float32").cast(batch) for batch in draw_micro_batches(context, case)]
    large = _moved(context, case, [concatenate(batches)])
    accumulated = _moved(context, case, batches)
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(large, accumulated, strict=True))


def _moved(context: Context, case: GradientCase, batches: Sequence[Any]) -> list[Any]:
    """Return a fresh model's weights after one update made from these batches."""
    keras = keras_module()
    model = build_model(context.subject, "float32")
    bench = context.bench("float32")
    values = bench.split(draw_weights(bench, case.seed, case.scale))
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value.astype("float32"))
    steps = len(batches) if len(batches) > 1 else None
    optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=steps)
    model.compile(optimizer=optimizer, loss=context.subject.loss, run_eagerly=case.mode == "eager")
    for x, y, w in batches:
        model.train_on_batch(x, y, sample_weight=w)
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", action="append", choices=list(REFERENCE_SUBJECTS))
    parser.add_argument("--examples", type=int, default=150, help="cases drawn, for each subject")
    parser.add_argument("--seconds", type=float, default=8.0, help="for the obvious way, for each subject")
    options = parser.parse_args()
    check = get_check(CHECK)
    columns = ("subject", "set-up s", "check /s", "obvious /s", "ratio", "cases")
    print("{:<14}{:>10}{:>12}{:>12}{:>8}{:>12}".format(*columns))
    for name in options.subject or REFERENCE_SUBJECTS:
        context = Context(Param.of(subject=name))
        reason = check.applies(context)
        if reason:
            print(f"{name:<14}not applicable: {reason}")
            continue
        setup, fast, cases = ours(check, context, options.examples)
        slow, done = obvious(context, cases, options.seconds)
        count = f"{len(cases)}, {done}"
        print(f"{name:<14}{setup:>10.1f}{fast:>12.1f}{slow:>12.2f}{fast / slow:>8.0f}{count:>12}", flush=True)


if __name__ == "__main__":
    main()
