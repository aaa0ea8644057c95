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
from datetime import date

import numpy as np

from bscheck.checks.context import forget
from bscheck.checks.equal_updates import ALPHA, LARGE, OPTIMIZERS, RATIO, RUNS, THREAD, compared, pair
from bscheck.measure.equivalence import chance_of_refusal, equivalence
from bscheck.runtime.environment import describe

DRAWS = 4000


def resampled(rng: np.random.Generator, differences: np.ndarray, margin: float, moved: float) -> float:
    """Return how often `RUNS` of the pairs, drawn with replacement and moved, count as equivalent."""
    drawn = rng.integers(0, len(differences), (DRAWS, RUNS))
    return float(np.mean([equivalence(differences[i] + moved, margin, ALPHA).share <= 1 for i in drawn]))


def noticed(rng: np.random.Generator, differences: np.ndarray, margin: float, side: int) -> float:
    """Return the smallest shift, to a twentieth of the margin, that is refused in 99 % of runs."""
    for n in range(60):
        if resampled(rng, differences, margin, side * n * margin / 20) <= 0.01:
            return side * n * margin / 20
    return side * math.inf


def report(name: str, count: int, linear: bool) -> float:
    """Train, print one optimizer's figures and return its chance of a false alarm."""
    pairs = [pair(name, seed) for seed in range(count)]
    gaps, thread = (np.array([p.gap(row) for p in pairs]) for row in (LARGE, THREAD))
    differences, margin = compared(pairs, linear)
    values = np.array(differences)
    rng = np.random.default_rng(0)
    unit = "logarithm of the losses' ratio" if linear else "as a share of the gap at equal epochs"
    print(f"{name}: {count} pairs, {unit}: {values.mean():+.4f}, standard deviation {values.std(ddof=1):.4f}")
    tests = {"below": margin - values, "above": margin + values, "epochs": np.log(gaps / math.log(RATIO))}
    total = sum(chance_of_refusal(v.mean(), v.std(ddof=1), RUNS, ALPHA) for v in tests.values())
    refused = 1 - resampled(rng, values, margin, 0.0)
    print(
        f"  margin {margin:.4f}; a sound Keras refused: {total:.1e} (normal), {refused:.1e} of {DRAWS} resampled runs"
    )
    for side, end in ((1, "higher"), (-1, "lower")):
        passes = resampled(rng, values, margin, side * margin - float(values.mean()))
        found = noticed(rng, values, margin, side)
        print(f"  a mean {end} by the margin passes {passes:.2%} of runs; a shift by {found:+.3f} is noticed in 99 %")
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
    told = " · ".join(
        f"{key} {value}"
        for key, value in describe().items()
        if key in ("keras", "backend", "backend_version", "device")
    )
    print(f"{told} · {date.today()} · python tests/benchmarks/equal_updates.py --pairs {asked.pairs}")
    total = sum(report(name, asked.pairs, OPTIMIZERS[name][2]) for name in asked.only)
    print(f"false alarms of all {len(asked.only)} equivalence tests together: {total:.1e} a run")


if __name__ == "__main__":
    main()
