#!/usr/bin/env python3
"""How often the statistical bounds of the expected loss raise a false alarm, and what they notice.

    python tests/benchmarks/loss_false_alarms.py --settings 200

Means of as many runs as the check trains are simulated by the oracle alone, for drawn settings. Printed are the largest
deviation in standard errors beside the bound, the frequency of deviations beyond smaller bounds beside the normal one
(the tail that skewed losses make heavier), and the smallest change of the mean loss that is noticed in 99 % of runs.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from bscheck.cases import LeastSquaresCase
from bscheck.checks.expected_loss import ALPHA, EXAMPLES, RUNS, setting
from bscheck.oracles.least_squares import (
    batches,
    expected_loss,
    first_moments,
    next_moments,
    normal_quantile,
    simulate,
)

MEANS = 32
UPDATES = 20


def deviations(seed: int) -> tuple[np.ndarray, float]:
    """Return deviations of simulated means in standard errors, and a standard error as a share of the mean loss."""
    rng = np.random.default_rng(seed)
    case = LeastSquaresCase(
        seed=seed, batch_size=int(rng.integers(1, EXAMPLES)), rate=str(rng.choice(["low", "half"])), updates=UPDATES
    )
    made = setting(case, EXAMPLES, bool(rng.integers(2)))
    moments = first_moments(made.problem, made.start)
    for _ in range(UPDATES):
        moments = next_moments(moments, made.maps, made.c)
    expected = expected_loss(made.problem, moments)
    rows = batches(seed, RUNS * MEANS, UPDATES, EXAMPLES, case.batch_size, made.replacement)
    last = simulate(made.problem, made.maps, made.start, rows)[-1]
    losses = made.problem.loss(last + made.problem.optimum).reshape(MEANS, RUNS)
    errors = losses.std(axis=1) / np.sqrt(RUNS)
    return (losses.mean(axis=1) - expected) / errors, float(errors.mean() / expected)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=200)
    options = parser.parse_args()
    seen = [deviations(seed) for seed in range(options.settings)]
    z = np.abs(np.concatenate([d for d, _ in seen]))
    bound = normal_quantile(ALPHA)
    print(
        f"{z.size} means of {RUNS} runs: the largest deviation is {z.max():.2f} standard errors, the bound {bound:.2f}"
    )
    for limit in (2.0, 3.0, 4.0, 5.0):
        normal = 2 * stats.norm.sf(limit)
        print(f"beyond {limit:.0f} standard errors: {np.mean(z > limit):.2e}, a normal variable {normal:.2e}")
    share = float(np.median([s for _, s in seen]))
    print(f"noticed in 99 % of runs: a mean loss off by {(bound + stats.norm.isf(0.01)) * share:.1%} (median setting)")


if __name__ == "__main__":
    main()
