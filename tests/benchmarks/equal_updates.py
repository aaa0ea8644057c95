#!/usr/bin/env python3
"""How often the equivalence test of equal updates is wrong, and what it notices.

    python tests/benchmarks/equal_updates.py --pairs 24

Pairs of runs are trained for every optimizer of the table. From their mean and spread follows how often a sound Keras
is refused (noncentral t, and resampled pairs); pairs moved to the margin tell how often a difference that large passes,
pairs moved further the smallest difference that is noticed in 99 % of runs.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from bscheck.checks.context import forget
from bscheck.checks.equal_updates import ALPHA, EQUAL, LARGE, OPTIMIZERS, PART, RATIO, RUNS, THREAD, pair
from bscheck.measure.equivalence import chance_of_refusal, equivalence

DRAWS = 4000


def resampled(rng: np.random.Generator, differences: np.ndarray, margins: np.ndarray, moved: float) -> float:
    """Return how often `RUNS` of the pairs, drawn with replacement and moved, count as equivalent."""
    drawn = rng.integers(0, len(differences), (DRAWS, RUNS))
    return float(np.mean([equivalence(differences[i] + moved, margins[i], ALPHA).share <= 1 for i in drawn]))


def noticed(rng: np.random.Generator, differences: np.ndarray, margins: np.ndarray, side: int) -> float:
    """Return the smallest difference, to a tenth of the margin, that is refused in 99 % of runs."""
    step = float(margins.mean()) / 10
    for n in range(60):
        if resampled(rng, differences, margins, side * n * step) <= 0.01:
            return side * n * step
    return side * math.inf


def report(name: str, count: int, linear: bool) -> float:
    """Train, print one optimizer's figures and return its chance of a false alarm."""
    pairs = [pair(name, seed) for seed in range(count)]
    gaps, differences = (np.array([p.gap(row) for p in pairs]) for row in (LARGE, EQUAL))
    thread = np.array([p.gap(THREAD) for p in pairs])
    margins = np.full(count, math.log(RATIO)) if linear else PART * gaps
    rng = np.random.default_rng(0)
    print(f"{name}: {count} pairs; logarithm of the losses' ratio, mean and standard deviation")
    for what, values in (("equal epochs", gaps), ("equal updates", differences), ("150 epochs", thread)):
        print(f"  {what:<14} {values.mean():+.4f} {values.std(ddof=1):.4f}")
    tests = {"below": margins - differences, "above": margins + differences, "epochs": np.log(gaps / math.log(RATIO))}
    chances = {k: chance_of_refusal(v.mean(), v.std(ddof=1), RUNS, ALPHA) for k, v in tests.items()}
    total = sum(chances.values())
    print(
        f"  margin {margins.mean():.4f}; a sound Keras refused: {total:.1e} (normal), "
        f"{1 - resampled(rng, differences, margins, 0.0):.1e} of {DRAWS} resampled runs"
    )
    for side, end in ((1, "higher"), (-1, "lower")):
        to_margin = side * float(margins.mean()) - float(differences.mean())
        passes = resampled(rng, differences, margins, to_margin)
        found = math.expm1(noticed(rng, differences, margins, side))
        print(f"  a loss at batch 160 {end} by the margin passes {passes:.2%} of runs; noticed in 99 %: {found:+.1%}")
    left = float(np.max(np.abs(thread) / gaps))
    print(f"  every pair: smallest gap {gaps.min():.3f}, at most {left:.2f} of it left at 150 epochs", flush=True)
    forget()
    return total


def main() -> None:
    """Train, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--only", nargs="*", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    asked = parser.parse_args()
    total = sum(report(name, asked.pairs, OPTIMIZERS[name][2]) for name in asked.only)
    print(f"false alarms of all {len(asked.only)} equivalence tests together: {total:.1e} a run")


if __name__ == "__main__":
    main()
