"""What the checks of the expected loss show: curves over batch size, rate and updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bscheck.oracles.least_squares import LeastSquares, correction, stability_threshold
from bscheck.results.curves import Curve, Series, point
from bscheck.runtime.bench import Array

#: Half the width of a 95 % interval, in standard errors.
Z = 1.96


def mean_losses(
    batch_size: int, expected: Sequence[float], seen: Mapping[int, float], errors: Mapping[int, float], runs: int
) -> Curve:
    """Return the expected loss after every update, with Keras's means where they were taken."""
    told = tuple(point(t, seen[t], seen[t] - Z * errors[t], seen[t] + Z * errors[t]) for t in sorted(seen))
    return Curve(
        "loss",
        "Mean loss by update",
        "updates",
        "loss",
        (
            Series(f"batch {batch_size}, expected", tuple(point(t, e) for t, e in enumerate(expected))),
            Series(f"batch {batch_size}, Keras", told, "points"),
        ),
        log_y=True,
        note=f"Least squares; lines by the moment recursion, points the mean of {runs} runs of Keras, 95 % interval.",
    )


def stability_map(given: LeastSquares, batch_size: int, rate: float, inside: bool) -> Curve:
    """Return the threshold at every batch size, and where Keras was run."""
    n = len(given.x)
    line = [point(b, stability_threshold(given, correction(n, b, False))) for b in range(1, n + 1)]
    name = "Keras, just inside: stays" if inside else "Keras, just outside: leaves"
    return Curve(
        "loss",
        "Stability threshold by batch size",
        "batch size",
        "learning rate",
        (
            Series("threshold, computed", tuple(line)),
            Series(name, (point(batch_size, rate),), "points"),
        ),
        log_x=True,
        log_y=True,
        note="Below the line the mean squared distance from the optimum stays bounded, above it grows without end. "
        "At every point all runs of Keras were on the paths that say so.",
    )


def growth(batch_size: int, times: Sequence[int], distances: Array, inside: bool) -> Curve:
    """Return the mean squared distance from the optimum of Keras's runs at some updates; distances (times, runs)."""
    points = tuple(point(t, math.sqrt(float(np.mean(d**2)))) for t, d in zip(times, distances, strict=True))
    side = "inside" if inside else "outside"
    return Curve(
        "loss",
        "Distance from the optimum on both sides of the threshold",
        "updates",
        "root mean squared distance over runs",
        (Series(f"batch {batch_size}, {side}", points),),
        log_y=True,
        note="Keras's own runs at 0.9 (inside) and 1.1 (outside) of the threshold of each batch size.",
    )


def settled(given: LeastSquares, batch_size: int, rate: float, excess: float, mean: float, error: float) -> Curve:
    """Return the excess loss against rate / batch size: first order, recursion, and Keras."""
    slope = float(np.mean(given.residuals**2 * np.sum(given.x**2, axis=1)))
    furthest = 0.4 * stability_threshold(given, 1.0)
    x, seen = rate / batch_size, mean - given.least_loss
    return Curve(
        "loss",
        "Excess loss once settled against rate / batch size",
        "learning rate / batch size",
        "mean loss above the least",
        (
            Series("first order: rate / B times E r^2 |x|^2", (point(0, 0), point(furthest, slope * furthest))),
            Series("recursion", (point(x, excess),), "points"),
            Series("Keras", (point(x, seen, seen - Z * error, seen + Z * error),), "points"),
        ),
        note="Least squares, sampling with replacement, at 0.4 of each batch size's threshold, after 150 updates.",
    )


def noise(batch_size: int, rate: float, weights: Array) -> Curve:
    """Return one run's first weight after every update, less the optimum's."""
    points = tuple(point(t, w) for t, w in enumerate(weights))
    return Curve(
        "noise",
        "Weights jump about: one weight, update by update",
        "updates",
        "distance of one weight from its optimum",
        (Series(f"batch {batch_size}", points),),
        note=f"One run of Keras on least squares, the same learning rate ({rate:.3g}) at every batch size.",
    )
