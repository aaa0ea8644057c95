"""Tiny batches, third part: the loss that training is expected to reach on noisy least squares, exactly.

A thousand runs are trained by Keras at once, each on batches of its own. Where the batches are given, every run is
also held to its own path; where ``fit`` shuffles, only the mean over the runs can be foretold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import SEEDS, Case, LeastSquaresCase, seeds
from bscheck.checks import Param, check, loss_pictures
from bscheck.checks.context import TRACED_ANEW, Context, cached_in_process, require
from bscheck.oracles.least_squares import (
    LeastSquares,
    batches,
    correction,
    example_maps,
    expected_loss,
    first_moments,
    moments_after_an_epoch,
    next_moments,
    normal_quantile,
    problem,
    simulate,
    stability_threshold,
)
from bscheck.results.curves import Curve
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array
from bscheck.runtime.parallel_runs import ParallelRuns
from bscheck.tolerance import UNIT_ROUNDOFF

#: Runs trained at once: their mean loss is known to about 4 % of its spread.
RUNS = 1024
EXAMPLES, DIMENSIONS = 16, 3
#: Few enough that every order of an epoch is enumerated (at most 120).
SHUFFLED = 5

#: Chance of a false alarm of one comparison of means; a thorough run makes less than 2,000. Losses are skewed: the
#: spread is the larger of the runs' own, which keeps the upper tail of their mean in check, and that of as many others,
#: which keeps the lower one. `tests/benchmarks/loss_false_alarms.py` simulates both, and what is noticed.
ALPHA = 1e-9
FALSE_ALARMS = (
    "z at 1e-9, so below 1e-5 false alarms in all comparisons of a run, thorough ones too; in 99 % of runs a mean loss "
    "off by a tenth is noticed (tests/benchmarks/loss_false_alarms.py)"
)

#: Learning rate as a share of the stability threshold of the case's own batch size.
SHARES = {"low": 0.1, "half": 0.4, "inside": 0.9, "outside": 1.1}
MOMENTUM = 0.5
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"momentum": MOMENTUM},
    "nesterov": {"momentum": MOMENTUM, "nesterov": True},
}


@dataclass(frozen=True)
class Setting:
    """A case made ready: the problem, the rate, each example's update, and c of the sampling."""

    problem: LeastSquares
    start: Array
    rate: float
    maps: Array
    c: float
    replacement: bool


#: Updates after which a training step that was traced for their batch size is traced no more.
WARM = 4


@cached_in_process
def _runs(method: str, dtype: str) -> ParallelRuns:
    return ParallelRuns(RUNS, DIMENSIONS, OPTIONS[method], dtype)


def setting(case: LeastSquaresCase, examples: int, replacement: bool) -> Setting:
    """Return the setting of a case; every run starts two units from the optimum."""
    given = problem(case.seed, examples, DIMENSIONS)
    c = correction(examples, min(case.batch_size, examples), replacement)
    momentum = 0.0 if case.method == "sgd" else MOMENTUM
    # With momentum a gradient acts 1 / (1 - momentum) times in the end.
    rate = SHARES[case.rate] * stability_threshold(given, c) * (1 - momentum)
    direction = np.random.default_rng((case.seed, 33)).standard_normal(DIMENSIONS)
    start = given.optimum + 2 * direction / np.linalg.norm(direction)
    return Setting(given, start, rate, example_maps(given, rate, momentum, case.method == "nesterov"), c, replacement)


def train(case: LeastSquaresCase, made: Setting, rows: Array, observed: Sequence[int]) -> list[Array]:
    """Return Keras's weights of every run after each of the observed numbers of updates, in float64."""
    runs = _runs(case.method, "float64")
    runs.restart(made.start, made.rate)
    seen = []
    for step, batch in enumerate(rows, start=1):
        x, y = made.problem.x[batch], made.problem.y[batch]
        before = runs.traces
        runs.train_on(np.swapaxes(x, 0, 1), y.T)
        anew = step > WARM and runs.traces > before
        require(not anew, TRACED_ANEW)
        if step in observed:
            seen.append(runs.weights())
    return seen


def path_reading(case: LeastSquaresCase, made: Setting, weights: Array, path: Array, update: int) -> Reading:
    """Hold every run's weights against its own path.

    Each update rounds about ``B + 8`` operations by at most u of the largest term; an error made is then moved by the
    same maps as d itself, whose largest size on the way (`path`) bounds what it grows to: ``64 (B + 8) t u`` of it.
    """
    u = UNIT_ROUNDOFF["float64"]
    size = float(np.abs(path).max()) + float(np.abs(made.problem.optimum).max())
    bound = 64 * (case.batch_size + 8) * update * u * size
    off = np.abs(weights - made.problem.optimum - path[update])
    at = np.unravel_index(int(np.argmax(np.where(np.isfinite(off), off, np.inf))), off.shape)
    return Reading(
        float(off[at] / bound) if np.isfinite(off[at]) else math.inf,
        where=f"weight {int(at[1])} of run {int(at[0])} after update {update}",
        seen=f"after update {update} a run's weight is off its own path by {off[at]:.2g}",
        allowed=f"{bound:.1g}",
        cause="one update is not that of its batch",
    )


def other_paths(case: LeastSquaresCase, made: Setting) -> Array:
    """Return d of as many runs on other batches, after every update: for the spread of a run's loss."""
    rows = batches(case.seed + SEEDS, RUNS, case.updates, EXAMPLES, case.batch_size, made.replacement)
    return simulate(made.problem, made.maps, made.start, rows)


def mean_reading(losses: Array, spread: float, expected: float, when: str) -> Reading:
    """Hold the mean loss over the runs against its expectation; `spread` is the standard deviation of one run's."""
    error = spread / math.sqrt(len(losses))
    # Full batches leave no spread but rounding: (B + 8) t operations of some 1e-16 each.
    bound = normal_quantile(ALPHA) * error + 1e-10 * abs(expected)
    mean = float(np.mean(losses))
    return Reading(
        abs(mean - expected) / bound if math.isfinite(mean) else math.inf,
        where=when,
        seen=f"{when} the mean loss of {len(losses)} runs is {mean:.5g}; it is expected to be {expected:.5g}",
        allowed=f"{bound:.1g} either way, {ALPHA:.0e} of false alarms",
        cause="no update is wrong by itself: the sampling is"
        if "epoch" in when
        else "the mean over the runs is not that of independent batches",
        figures={"mean_loss": mean, "expected_loss": expected, "bound": bound, "standard_error": error},
    )


# Given batches ------------------------------------------------------------------------------------------


def sampling_params() -> list[Param]:
    """Return the two ways to draw batches that are independent of each other."""
    return [Param.of(sampling="with_replacement"), Param.of(sampling="without_replacement")]


def few(context: Context, sizes: Sequence[int]) -> list[int]:
    """Return the batch sizes drawn; few where every shape is compiled."""
    return list(sizes)[:3] if context.runtime.compiles_per_shape else list(sizes)


def least_squares_cases(sizes: Sequence[int], updates: int, methods: Sequence[str] = ("sgd",)) -> Callable[..., Any]:
    """Return the strategy of cases at these batch sizes."""

    def cases(context: Context) -> Any:
        from hypothesis import strategies as st

        return st.builds(
            LeastSquaresCase,
            seed=seeds(),
            batch_size=st.sampled_from(few(context, sizes)),
            updates=st.integers(1, updates),
            method=st.sampled_from(list(methods)),
            rate=st.sampled_from(["low", "half"]),
        )

    return cases


def moment_corners(context: Context) -> Sequence[Case]:
    """Return batches of 1, 2, 3, an odd one and the full set, plain and with momentum."""
    sizes = few(context, (1, 3, EXAMPLES, 2, 7))
    plain = [LeastSquaresCase(batch_size=b, rate="half" if i % 2 else "low") for i, b in enumerate(sizes)]
    return (
        *plain,
        LeastSquaresCase(batch_size=3, method="momentum"),
        LeastSquaresCase(batch_size=3, method="nesterov"),
    )


@check(
    family="tiny batches",
    claims=("C2", "C3", "C8", "C9"),
    case=LeastSquaresCase,
    params=sampling_params,
    cases=least_squares_cases((1, 3, EXAMPLES, 2, 5, 7, 8), 20, ("sgd", "momentum", "nesterov")),
    corners=moment_corners,
    examples=(1, 2, 200),
    per_subject=False,
    catches="an update that is not its batch's: noise added to it, a sum for a mean, a special case at one batch size; "
    "and a mean loss that independent batches cannot have",
    formula="E s s^T <- (1-c) T P T^T + c E_i T_i P T_i^T, E L = L* + tr(H M); c = 1/B with replacement, "
    "(N-B)/(B(N-1)) without; each run within 64 (B+8) t u of its own path, |mean L - E L| <= z sd / sqrt(runs). "
    + FALSE_ALARMS,
    source="Bach & Moulines 2013; Cochran 1977, theorem 2.2; Sutskever et al. 2013 for momentum",
    example="after update 3 a run's weight is off its own path by 0.0021",
)
def mean_loss_follows_the_moment_recursion(context: Context, case: LeastSquaresCase) -> Reading:
    """On noisy least squares the mean loss is the exactly expected one, at every batch size."""
    made = setting(case, EXAMPLES, context.param.get("sampling") == "with_replacement")
    rows = batches(case.seed, RUNS, case.updates, EXAMPLES, case.batch_size, made.replacement)
    observed = sorted({1, -(-case.updates // 2), case.updates})
    seen = train(case, made, rows, observed)
    path = simulate(made.problem, made.maps, made.start, rows)
    others = other_paths(case, made)
    moments = first_moments(made.problem, made.start, 0.0 if case.method == "sgd" else MOMENTUM)
    readings, means, expected = [], [], [expected_loss(made.problem, moments)]
    for update in range(1, case.updates + 1):
        moments = next_moments(moments, made.maps, made.c)
        expected.append(expected_loss(made.problem, moments))
        if update in observed:
            weights = seen[observed.index(update)]
            spread = max(float(np.std(made.problem.loss(p[update] + made.problem.optimum))) for p in (path, others))
            losses = made.problem.loss(weights)
            readings.append(path_reading(case, made, weights, path, update))
            means.append(mean_reading(losses, spread, expected[-1], f"after update {update}"))
    found = worst([*readings, *means])
    return replace(found, curves=_mean_losses(case, expected, dict(zip(observed, means, strict=True))))


def _mean_losses(case: LeastSquaresCase, expected: Sequence[float], means: Mapping[int, Reading]) -> tuple[Curve, ...]:
    """Return the picture of the corners: one problem, plain descent at one rate."""
    if not shown(case) or case.method != "sgd" or case.rate != "low":
        return ()
    seen = {update: found.figures["mean_loss"] for update, found in means.items()}
    errors = {update: found.figures["standard_error"] for update, found in means.items()}
    return (loss_pictures.mean_losses(case.batch_size, expected, seen, errors, RUNS),)


def shown(case: LeastSquaresCase) -> bool:
    """Whether a case is of the corners' problem: other seeds have other optima, and no place in one picture."""
    return case.seed == 0


# Batches drawn by fit -----------------------------------------------------------------------------------


def epoch_corners(context: Context) -> Sequence[Case]:
    """Return batches that divide the set, leave a tail of one, and hold all of it."""
    return tuple(
        LeastSquaresCase(batch_size=b, updates=n, rate="half") for b, n in ((1, 1), (2, 4), (SHUFFLED, 2), (3, 1))
    )


@check(
    family="tiny batches",
    claims=("C2", "C8"),
    case=LeastSquaresCase,
    cases=least_squares_cases((1, 2, 3, 4, SHUFFLED), 4),
    corners=epoch_corners,
    params=lambda: [Param.of(sampling="fit")],
    examples=(1, 2, 80),
    per_subject=False,
    catches="fit that draws an example twice or never within an epoch, drops a tail, or weighs it as a full batch",
    formula="E s s^T after an epoch = mean over all orders of (T_k ... T_1) P (T_k ... T_1)^T, by enumeration; "
    "|mean L - E L| <= z sd / sqrt(runs). " + FALSE_ALARMS,
    source="keras.io/api/models/model_training_apis: shuffle 'whether to shuffle the training data before each epoch'",
    example="after epoch 4 the mean loss of 1024 runs is 1.31; it is expected to be 1.27",
)
def mean_loss_of_shuffled_epochs_is_the_expected_one(context: Context, case: LeastSquaresCase) -> Reading:
    """Epochs of fit in random order reach the exactly expected mean loss."""
    made = setting(case, SHUFFLED, True)
    rng = np.random.default_rng((case.seed, 34))
    runs = _runs(case.method, "float64")
    runs.restart(made.start, made.rate)
    moments = first_moments(made.problem, made.start)
    for epoch in range(case.updates):
        # Keras shuffles all runs alike. Given to it in a new order of its own before each epoch, every run passes over
        # its examples in an order that depends neither on the other runs' nor on the epoch before.
        order = np.argsort(rng.random((SHUFFLED, RUNS)), axis=0)
        runs.fit_an_epoch(made.problem.x[order], made.problem.y[order], case.batch_size, case.seed + epoch)
        moments = moments_after_an_epoch(moments, made.maps, case.batch_size)
    losses = made.problem.loss(runs.weights())
    spread = max(float(np.std(losses)), _spread_after_epochs(case, made, case.updates))
    return mean_reading(losses, spread, expected_loss(made.problem, moments), f"after epoch {case.updates}")


def _spread_after_epochs(case: LeastSquaresCase, made: Setting, epochs: int) -> float:
    """Return the standard deviation of one run's loss, simulated with orders of its own."""
    rng = np.random.default_rng((case.seed, 35))
    state = np.broadcast_to(first_moments(made.problem, made.start)[0], (RUNS, DIMENSIONS + 1))
    for _ in range(epochs):
        order = np.argsort(rng.random((RUNS, SHUFFLED)), axis=1)
        for first in range(0, SHUFFLED, case.batch_size):
            maps = made.maps[order[:, first : first + case.batch_size]].mean(axis=1)
            state = np.einsum("rij,rj->ri", maps, state)
    return float(np.std(made.problem.loss(state[:, 1:] + made.problem.optimum)))
