#!/usr/bin/env python3
"""How often the statistical bounds of the expected loss raise a false alarm, and what they notice.

    python tests/benchmarks/loss_false_alarms.py --settings 200

Means of as many runs as the checks train are simulated by the oracle alone, for drawn settings: batches given to plain
descent, momentum and Nesterov, epochs in random order, and training that has settled. Printed are the largest deviation
in standard errors beside the bound (the larger spread of the runs' own and that of the next as many, as the checks
take it), the frequency of deviations beyond smaller bounds beside the normal one, which must not be lower, and the
smallest change of the mean loss that is noticed in 99 % of runs.
"""

from __future__ import annotations

import argparse
from datetime import date

import numpy as np
from scipy import stats

from bscheck.cases import LeastSquaresCase
from bscheck.checks.expected_loss import ALPHA, EXAMPLES, MOMENTUM, RUNS, SHUFFLED, Setting, setting
from bscheck.oracles.least_squares import (
    batches,
    expected_loss,
    first_moments,
    moments_after_an_epoch,
    next_moments,
    normal_quantile,
    simulate,
)

MEANS = 16
#: Comparisons of means in a run, by kind: default, and thorough.
COMPARISONS = {"given": (70, 1250), "epochs": (8, 90), "settled": (4, 55)}


def drawn(kind: str, seed: int) -> tuple[np.ndarray, float]:
    """Return losses of simulated runs, shape (MEANS, RUNS), and the expected loss."""
    rng = np.random.default_rng((seed, 91))
    method = str(rng.choice(["sgd", "momentum", "nesterov"])) if kind == "given" else "sgd"
    size = int(rng.integers(1, SHUFFLED + 1 if kind == "epochs" else EXAMPLES))
    rate = "half" if kind == "settled" else str(rng.choice(["low", "half"]))
    updates = {"given": 20, "epochs": int(rng.integers(1, 5)), "settled": 150}[kind]
    case = LeastSquaresCase(seed=seed, batch_size=size, rate=rate, updates=updates, method=method)
    replacement = kind == "settled" or kind == "epochs" or bool(rng.integers(2))
    made = setting(case, SHUFFLED if kind == "epochs" else EXAMPLES, replacement)
    if kind == "epochs":
        return _epochs(case, made, rng)
    moments = first_moments(made.problem, made.start, 0.0 if method == "sgd" else MOMENTUM)
    for _ in range(updates):
        moments = next_moments(moments, made.maps, made.c)
    last = []
    for part in range(MEANS):
        rows = batches(seed * MEANS + part, RUNS, updates, EXAMPLES, size, replacement)
        last.append(simulate(made.problem, made.maps, made.start, rows)[-1])
    return made.problem.loss(np.stack(last) + made.problem.optimum), expected_loss(made.problem, moments)


def _epochs(case: LeastSquaresCase, made: Setting, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    moments = first_moments(made.problem, made.start)
    state = np.broadcast_to(moments[0], (MEANS * RUNS, len(moments)))
    for _ in range(case.updates):
        moments = moments_after_an_epoch(moments, made.maps, case.batch_size)
        order = np.argsort(rng.random((MEANS * RUNS, SHUFFLED)), axis=1)
        for first in range(0, SHUFFLED, case.batch_size):
            maps = made.maps[order[:, first : first + case.batch_size]].mean(axis=1)
            state = np.einsum("rij,rj->ri", maps, state)
    losses = made.problem.loss(state[:, 1:] + made.problem.optimum).reshape(MEANS, RUNS)
    return losses, expected_loss(made.problem, moments)


def report(kind: str, settings: int) -> tuple[float, float]:
    """Print one kind's figures and return the chance of a false alarm in a default and a thorough run."""
    z, errors, bound = [], [], normal_quantile(ALPHA)
    for seed in range(settings):
        losses, expected = drawn(kind, seed)
        own = losses.std(axis=1)
        error = np.maximum(own, np.roll(own, 1)) / np.sqrt(RUNS)
        if error.min() < 1e-9 * expected:  # full batches: no spread, no statistics
            continue
        z += list((losses.mean(axis=1) - expected) / error)
        errors.append(error.mean() / expected)
    sizes = np.abs(z)
    print(
        f"{kind}: {sizes.size} means of {RUNS} runs, largest deviation {sizes.max():.2f} standard errors ({bound:.2f})"
    )
    for limit in (2.0, 2.5, 3.0, 3.5, 4.0):
        told = f"{np.mean(sizes > limit):.2e}, a normal variable {2 * stats.norm.sf(limit):.2e}"
        print(f"  beyond {limit:.1f} standard errors: {told}")
    noticed = (bound + stats.norm.isf(0.01)) * np.quantile(errors, [0.5, 0.9])
    print(
        f"  noticed in 99 % of runs: a mean loss off by {noticed[0]:.1%} (median setting), {noticed[1]:.1%} (9 in 10)"
    )
    alarms = (ALPHA * COMPARISONS[kind][0], ALPHA * COMPARISONS[kind][1])
    print(f"  false alarms: {alarms[0]:.1e} a default run, {alarms[1]:.1e} a thorough one", flush=True)
    return alarms


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=200)
    options = parser.parse_args()
    print(f"{date.today()} · python tests/benchmarks/loss_false_alarms.py --settings {options.settings}")
    alarms = np.sum([report(kind, options.settings) for kind in COMPARISONS], axis=0)
    print(f"false alarms in all: {alarms[0]:.1e} a default run, {alarms[1]:.1e} a thorough one")


if __name__ == "__main__":
    main()
