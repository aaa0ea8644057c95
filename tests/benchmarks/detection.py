#!/usr/bin/env python3
"""The smallest relative error of one micro-batch's gradient that the gate notices, beside fixed tolerances.

    python tests/benchmarks/detection.py --cases 60

In every drawn case the gradient of one micro-batch is made larger by a factor ``1 + error`` where it enters the
update (float32: in the step's accumulation; float64: where Keras returns the gradient). Bisection finds the smallest
error that breaks the bound in that case. A gate at ``default`` settings draws several cases of each check and a fault
lasts through all of them: *a run* takes the least of as many cases as the profile draws (resampled).

``np.allclose`` and ``torch.testing.assert_close`` compare the accumulated gradient with the large batch's, at their
documented default tolerances, on the same draws; their alarms on sound gradients are printed beside the check's.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

from bscheck.cases import GradientCase
from bscheck.checks import PROFILES, Param, get_check
from bscheck.checks.context import Context, draw_micro_batches, draw_weights
from bscheck.reference_subjects import REFERENCE_SUBJECTS
from bscheck.runtime.bench import Array, Bench, concatenate

#: The checks that own the promise, by the precision in which the fault is planted.
CHECKS = {
    "float32": "accumulated_gradient_matches_large_batch",
    "float64": "micro_batch_gradients_average_to_the_large_batch",
}
#: Default tolerances (relative, absolute) as documented: numpy.allclose; torch.testing.assert_close by dtype.
TOLERANCES = {
    "np.allclose": {"float32": (1e-5, 1e-8), "float64": (1e-5, 1e-8)},
    "assert_close": {"float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)},
}
LEAST, MOST, HALVINGS = 1e-10, 1.0, 12
CERTAINTY = 0.99


@dataclass(frozen=True)
class Situation:
    """A drawn case and the micro-batch that is wrong in it."""

    context: Context
    case: GradientCase
    position: int


@contextlib.contextmanager
def wrong(situation: Situation, dtype: str, error: float) -> Iterator[None]:
    """Make one micro-batch's gradient wrong by a factor ``1 + error``."""
    if dtype == "float32":
        sound = Bench.accumulate

        def accumulate(bench: Bench, batches: Sequence[Any], path: str, mode: str) -> Any:
            window = sound(bench, batches, path, mode)
            share = error * window.micro[situation.position] / len(batches)
            return replace(window, applied=window.applied + share)

        patch: Any = mock.patch.object(Bench, "accumulate", accumulate)
    else:
        exact, calls = Bench.gradient, iter(range(10**6))

        def gradient(bench: Bench, batch: Sequence[Any], mode: str) -> tuple[float, Array]:
            loss, flat = exact(bench, batch, mode)
            # The check asks for the large batch first, then for one micro-batch after the other.
            at = bench.dtype == "float64" and next(calls) == situation.position + 1
            return loss, flat * (1 + error) if at else flat

        patch = mock.patch.object(Bench, "gradient", gradient)
    with patch:
        yield


def holds(situation: Situation, dtype: str, error: float) -> bool:
    """Whether the check holds with an error of this size."""
    with wrong(situation, dtype, error):
        return get_check(CHECKS[dtype]).function(situation.context, situation.case).holds


def smallest(noticed: Callable[[float], bool]) -> float:
    """Return the smallest error that is noticed, by bisection of its logarithm; inf if even `MOST` is not."""
    if not noticed(MOST):
        return float("inf")
    low, high = np.log(LEAST), np.log(MOST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if noticed(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def situations(name: str, dtype: str, cases: int, seed: int) -> Iterator[Situation]:
    """Yield drawn cases of a subject, each with a micro-batch whose gradient is not zero."""
    from false_alarms import drawn

    check, context, rng = get_check(CHECKS[dtype]), Context(Param.of(subject=name)), np.random.default_rng(seed)
    given = [c for number in range(1 + cases // 200) for c in drawn(check.cases(context), seed + number)]
    for case in given[:cases]:
        bench = context.bench("float64")
        bench.set_weights(draw_weights(bench, case.seed, case.scale))
        sizes = [float(np.abs(bench.gradient(b, "graph")[1]).max()) for b in draw_micro_batches(context, case)]
        some = [j for j, size in enumerate(sizes) if size > 1e-3 * max(sizes)]
        if some:
            yield Situation(context, case, int(rng.choice(some)))


def pair(situation: Situation, dtype: str) -> tuple[list[Array], list[Array], list[Array]]:
    """Return accumulated and large-batch gradient of a case, and the wrong micro-batch's share, tensor by tensor."""
    context, case = situation.context, situation.case
    bench = context.bench(dtype)
    batches = draw_micro_batches(context, case)
    bench.set_weights(draw_weights(bench, case.seed, case.scale))
    large = bench.gradient(concatenate(batches), case.mode)[1]
    micro = [bench.gradient(batch, case.mode)[1] for batch in batches]
    shares = np.asarray(case.sizes) / sum(case.sizes)
    parts = (shares @ np.stack(micro), large, shares[situation.position] * micro[situation.position])
    accumulated, whole, share = (bench.split(part.astype(dtype)) for part in parts)
    return accumulated, whole, share


def outside(tensors: tuple[list[Array], list[Array], list[Array]], error: float, rtol: float, atol: float) -> bool:
    """Whether a fixed tolerance tells the wrong gradient from the large batch's."""
    return not all(
        np.allclose(a + error * share, f, rtol=rtol, atol=atol) for a, f, share in zip(*tensors, strict=True)
    )


def percentile(thresholds: Sequence[float]) -> float:
    """Return the error that is noticed in 99 % of the cases."""
    return float(np.quantile(thresholds, CERTAINTY, method="higher"))


def in_a_run(thresholds: Sequence[float], cases: int) -> float:
    """Return the error that 99 % of runs notice, a run having this many cases, resampled."""
    rng = np.random.default_rng(0)
    least = rng.choice(np.asarray(thresholds), (10_000, cases)).min(axis=1)
    return percentile(list(least))


def judged(situation: Situation, dtype: str) -> dict[str, tuple[bool, float]]:
    """Return each judge's alarm on the sound gradient, and the smallest error that it notices."""
    tensors = pair(situation, dtype)

    def by_bscheck(error: float) -> bool:
        return not holds(situation, dtype, error)

    def by_tolerance(judge: str) -> Callable[[float], bool]:
        return lambda error: outside(tensors, error, *TOLERANCES[judge][dtype])

    judges = {"bscheck": by_bscheck, **{judge: by_tolerance(judge) for judge in TOLERANCES}}
    return {name: (noticed(0.0), smallest(noticed)) for name, noticed in judges.items()}


def print_subject(subject: str, dtype: str, cases: int, seed: int) -> None:
    """Measure one subject at one precision and print a line for each judge."""
    check = get_check(CHECKS[dtype])
    if check.applies(Context(Param.of(subject=subject))):
        return
    seen = [judged(situation, dtype) for situation in situations(subject, dtype, cases, seed)]
    # A corner is a case like any other; the drawn ones alone are counted here.
    a_run = check.examples[PROFILES.index("default")]
    for judge in ("bscheck", *TOLERANCES):
        thresholds = [each[judge][1] for each in seen]
        alarms = sum(each[judge][0] for each in seen) / len(seen)
        print(
            f"{subject:12} {dtype:8} {judge:13} {len(seen):5d} {alarms:7.1%} {percentile(thresholds):9.1e} "
            f"{in_a_run(thresholds, a_run):10.1e}",
            flush=True,
        )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", action="append", choices=list(REFERENCE_SUBJECTS))
    parser.add_argument("--cases", type=int, default=60, help="cases drawn, for each subject and precision")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("the smallest relative error of one micro-batch noticed with 99 % probability; alarms on sound gradients")
    print(f"{'subject':12} {'dtype':8} {'judge':13} {'cases':>5} {'alarms':>7} {'one case':>9} {'a gate run':>10}")
    for dtype in CHECKS:
        for subject in options.subject or REFERENCE_SUBJECTS:
            print_subject(subject, dtype, options.cases, options.seed)


if __name__ == "__main__":
    main()
