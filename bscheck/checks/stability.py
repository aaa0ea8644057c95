"""Tiny batches, third part, continued: where training stays, where it leaves, and where it settles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, LeastSquaresCase, seeds
from bscheck.checks import Param, check, loss_pictures
from bscheck.checks.context import Context
from bscheck.checks.expected_loss import (
    EXAMPLES,
    FALSE_ALARMS,
    RUNS,
    SHARES,
    Setting,
    few,
    mean_reading,
    other_paths,
    path_reading,
    setting,
    shown,
    train,
)
from bscheck.oracles.least_squares import (
    batches,
    expected_loss,
    first_moments,
    next_moments,
    simulate,
    spectral_radius,
    stability_threshold,
    stationary_loss,
)
from bscheck.results.curves import Curve
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array

# Stability ----------------------------------------------------------------------------------------------


def stability_corners(context: Context) -> Sequence[Case]:
    """Return both sides of the threshold at batches of 1, 2, 3 and the full set."""
    return tuple(
        LeastSquaresCase(batch_size=b, rate=rate, updates=30)
        for b in few(context, (1, EXAMPLES, 3, 2))
        for rate in ("inside", "outside")
    )


def stability_cases(context: Context) -> Any:
    """Draw batch sizes and sides."""
    from hypothesis import strategies as st

    return st.builds(
        LeastSquaresCase,
        seed=seeds(),
        batch_size=st.sampled_from(few(context, (1, 3, EXAMPLES, 2, 5, 8))),
        updates=st.just(30),
        rate=st.sampled_from(["inside", "outside"]),
    )


@check(
    family="tiny batches",
    claims=("C3",),
    case=LeastSquaresCase,
    cases=stability_cases,
    corners=stability_corners,
    params=lambda: [Param.of(sampling="without_replacement")],
    examples=(0, 1, 100),
    per_subject=False,
    catches="training that leaves below the threshold or is held back above it: a hidden clip, a damped or doubled "
    "rate",
    formula="eta*(B): the spectral radius of (1-c) A x A + c E_i A_i x A_i reaches 1, A_i = I - 2 eta x_i x_i^T; "
    "at 0.9 and 1.1 eta* every run within 64 (B+8) t u of its own path; the full batch's distance from the optimum "
    "falls at 0.9 and grows at 1.1 by the radius. Given batches and weights: no false alarms",
    source="the recursion of mean_loss_follows_the_moment_recursion; full batch: eta* = 1 / lambda_max(H)",
    example="at 1.1 of the threshold the full batch's distance from the optimum falls",
)
def training_leaves_the_optimum_beyond_the_stability_threshold(context: Context, case: LeastSquaresCase) -> Reading:
    """Just below the stability threshold training converges, just beyond it leaves, each run on its path."""
    made = setting(case, EXAMPLES, False)
    rows = batches(case.seed, RUNS, case.updates, EXAMPLES, case.batch_size, False)
    middle, last = train(case, made, rows, (case.updates // 2, case.updates))
    path = simulate(made.problem, made.maps, made.start, rows)
    radius = spectral_radius(made.problem, made.rate, made.c)
    readings = [path_reading(case, made, last, path, case.updates)]
    if (radius < 1) != (case.rate == "inside"):
        raise ValueError(f"the oracle contradicts itself: radius {radius} at {case.rate}")
    if case.batch_size == EXAMPLES:
        readings.append(_deterministic(made, middle, last, case.rate))
    away = float(np.mean(np.linalg.norm(last - made.problem.optimum, axis=1) > 2))
    found = worst(readings)
    figures = {"radius": radius, "threshold": made.rate / SHARES[case.rate], "runs_further_away": away}
    curves = _stability_curves(case, made, (rows, middle, last)) if shown(case) else ()
    return replace(found, figures={**found.figures, **figures}, curves=curves)


def _stability_curves(case: LeastSquaresCase, made: Setting, seen: tuple[Array, Array, Array]) -> tuple[Curve, ...]:
    rows, middle, last = seen
    inside = case.rate == "inside"
    first = np.broadcast_to(made.start, last.shape)
    distances = np.stack([np.linalg.norm(w - made.problem.optimum, axis=1) for w in (first, middle, last)])
    times = (0, len(rows) // 2, len(rows))
    return (
        loss_pictures.stability_map(made.problem, case.batch_size, made.rate, inside),
        loss_pictures.growth(case.batch_size, times, distances, inside),
    )


def _deterministic(made: Setting, middle: Array, last: Array, rate: str) -> Reading:
    """The full batch has one path: along H's first eigenvector it shrinks or grows by a factor each update."""
    values, vectors = np.linalg.eigh(made.problem.hessian)
    before, after = (abs(float(vectors[:, -1] @ (w[0] - made.problem.optimum))) for w in (middle, last))
    factor = abs(1 - 2 * made.rate * float(values[-1]))
    broken = (after < before) != (rate == "inside")
    return Reading(
        math.inf if broken else 0.0,
        where="the full batch",
        seen=f"at {SHARES[rate]} of the threshold the distance from the optimum went from {before:.3g} to {after:.3g}",
        allowed=f"a factor of {factor:.3g} each update",
    )


#: Updates of the run that is shown jumping about.
SHOWN = 60

# Where training settles ---------------------------------------------------------------------------------


def stationary_corners(context: Context) -> Sequence[Case]:
    """Return batches whose rate per example differs by four."""
    sizes = few(context, (1, 2, 4, EXAMPLES))
    return tuple(LeastSquaresCase(batch_size=b, updates=150, rate="half") for b in sizes)


def stationary_cases(context: Context) -> Any:
    """Draw seeds for the corners' batch sizes."""
    from hypothesis import strategies as st

    return st.builds(
        LeastSquaresCase,
        seed=seeds(),
        batch_size=st.sampled_from(few(context, (1, 2, 4, 8))),
        updates=st.just(150),
        rate=st.just("half"),
    )


@check(
    family="tiny batches",
    claims=("C3",),
    case=LeastSquaresCase,
    cases=stationary_cases,
    corners=stationary_corners,
    params=lambda: [Param.of(sampling="with_replacement")],
    examples=(0, 0, 50),
    per_subject=False,
    catches="noise of small batches that is damped or added to, so that training settles lower or higher than it can",
    formula="excess loss tr(H M) at the fixed point of the recursion, to first order eta c E r^2 |x|^2 and so as "
    "eta / B; |mean L - E L| <= z sd / sqrt(runs), E L by the recursion with what is left of the start. "
    + FALSE_ALARMS,
    source="the recursion of mean_loss_follows_the_moment_recursion",
    example="once settled the mean loss of 1024 runs is 0.31; it is expected to be 0.27",
)
def training_settles_at_the_stationary_loss(context: Context, case: LeastSquaresCase) -> Reading:
    """At a constant rate training settles at the excess loss that rate and batch size leave."""
    made = setting(case, EXAMPLES, True)
    rows = batches(case.seed, RUNS, case.updates, EXAMPLES, case.batch_size, True)
    last = train(case, made, rows, (case.updates,))[0]
    paths = simulate(made.problem, made.maps, made.start, rows)[-1], other_paths(case, made)[-1]
    spread = max(float(np.std(made.problem.loss(path + made.problem.optimum))) for path in paths)
    losses = made.problem.loss(last)
    settled = made.problem.least_loss + stationary_loss(made.problem, made.rate, made.c)
    moments = first_moments(made.problem, made.start)
    for _ in range(case.updates):
        moments = next_moments(moments, made.maps, made.c)
    # What is left of the start, by the recursion: the slowest direction takes its time.
    expected = expected_loss(made.problem, moments)
    found = mean_reading(losses, spread, expected, "once settled")
    figures = {"stationary_loss": settled, "rate": made.rate, "left_of_the_start": expected - settled}
    curves = _stationary_curves(case, made, found, settled) if shown(case) else ()
    return replace(found, figures={**found.figures, **figures}, curves=curves)


def _stationary_curves(case: LeastSquaresCase, made: Setting, found: Reading, settled: float) -> tuple[Curve, ...]:
    """Return where training settles, and one run on its way at a rate that suits every batch size."""
    excess, told = settled - made.problem.least_loss, (found.figures["mean_loss"], found.figures["standard_error"])
    slow = replace(made, rate=SHARES["half"] * stability_threshold(made.problem, 1.0))
    rows = batches(case.seed, RUNS, SHOWN, EXAMPLES, case.batch_size, True)
    weights = [w[0, 0] - made.problem.optimum[0] for w in train(case, slow, rows, range(1, SHOWN + 1))]
    return (
        loss_pictures.settled(made.problem, case.batch_size, made.rate, excess, *told),
        loss_pictures.noise(case.batch_size, slow.rate, np.array(weights)),
    )
