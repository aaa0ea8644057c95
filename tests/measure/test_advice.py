"""Advice from figures: what is tried next, what is chosen, what is said. No clock, no backend."""

import json

import numpy as np
import pytest

from bscheck.measure.advice import Advice, Trial, chosen_target, next_size, plans, sweet_spot, timed_sizes
from bscheck.measure.sampler import Samples, Window
from bscheck.measure.verdict import Estimate
from bscheck.results.advice import document, lines

ENVIRONMENT = {"keras": "3.15.1", "backend": "tensorflow", "backend_version": "2.21.0", "device": "cpu",
               "threads": "2", "dtype": "float32", "tf32": "off"}  # fmt: skip


def search(most_that_fits, most):
    """Return the sizes that a search tries on a machine where so many examples fit."""
    tried, fitting, failing = [], 0, None
    while (size := next_size(fitting, failing, most)) is not None:
        tried.append(size)
        if size <= most_that_fits:
            fitting = size
        else:
            failing = size
    return tried, fitting, failing


@pytest.mark.parametrize("most_that_fits", [0, 1, 2, 3, 7, 37, 100, 255, 256, 700])
def test_the_search_ends_beside_the_largest_that_fits(most_that_fits):
    tried, fitting, failing = search(most_that_fits, 100_000)
    assert fitting <= most_that_fits < failing
    assert failing - fitting <= max(1, fitting / 16)
    assert len(tried) == len(set(tried)) <= 16


def test_the_search_stops_at_the_most_it_may_try():
    assert search(10_000, 48) == ([1, 2, 4, 8, 16, 32, 48], 48, None)
    assert search(10_000, 1) == ([1], 1, None)


def samples(seconds, windows=None, instances=6, noise=0.001):
    """What a machine would have given: seconds by batch size."""
    rng = np.random.default_rng(0)
    loads = {**seconds, **(windows or {})}
    first = next(iter(loads))

    def times(value):
        return tuple(value * np.exp(rng.normal(0, noise, 9)))

    rows = tuple(
        {**{str(n): times(t) for n, t in loads.items()}, f"{first} again": times(loads[first])}
        for _ in range(instances)
    )
    return Samples(tuple(loads), rows, instances)


def advice(fitting=(8, 16, 32), failing=64, **options):
    made = Advice("articles", "float32", 1024, environment=ENVIRONMENT, process=500_000_000, limit=10**9, **options)
    made.trials = [
        Trial(n, figures={"memory": 10_000_000 + 1_000_000 * n, "seconds": 1e-3 + 1e-4 * n}) for n in fitting
    ]
    if failing:
        made.trials.append(Trial(failing, reason="stopped at 1 GB, the limit is 1 GB"))
    return made


def test_the_sweet_spot_is_the_smallest_batch_near_the_best():
    times = {n: Estimate(v, v, v) for n, v in ((8, 3.0), (16, 1.09), (32, 1.0), (64, 1.05))}
    assert sweet_spot(times) == 16
    assert sweet_spot({}) is None


def test_sizes_of_the_bisection_are_not_timed_but_for_the_last():
    made = advice(fitting=(1, 2, 4, 8, 16, 32, 48, 40, 44), failing=52)
    assert timed_sizes(made) == [1, 2, 4, 8, 16, 17, 32, 48]
    assert timed_sizes(advice(fitting=(1, 2), failing=3)) == [1, 2]


@pytest.mark.parametrize(
    ("made", "target"),
    [
        (advice(), 64),
        (advice(target=48), 48),
        (advice(fitting=(1, 2, 4, 8, 16, 20), failing=21), 32),
        (advice(fitting=(), failing=1), None),
        (advice(failing=None), None),
    ],
)
def test_the_target_is_the_first_power_of_two_that_does_not_fit(made, target):
    assert chosen_target(made) == target


def test_plans_are_equal_micro_batches_that_fit():
    assert plans(64, 32) == [Window(32, 2), Window(16, 4)]
    assert plans(64, 20) == [Window(16, 4)]
    assert plans(7, 32) == []
    assert plans(None, 32) == []


def test_a_plan_for_what_does_not_fit_is_told_beside_its_parts():
    made = advice()
    made.samples = samples({8: 1.8e-3, 16: 2.6e-3, 17: 2.7e-3, 32: 4.2e-3})
    made.plan_samples = samples({32: 4.2e-3, 16: 2.6e-3}, {Window(32, 2): 8.736e-3, Window(16, 4): 10.4e-3})
    made.windows = [Trial(32, 2, {"memory": 43_000_000}), Trial(16, 4, {"memory": 27_000_000})]
    made.equality = {"window": "32 x 2", "share": 0.03, "seen": ""}
    made.noise = {"draws": 24, "whole": 64, "part": 16, "value": 183.0, "low": 120.0, "high": 390.0}
    text = "\n".join(lines(made))
    assert "    64                           -           -  does not fit: stopped at 1 GB, the limit is 1 GB" in text
    assert "largest that fits: 32; 64 does not" in text
    assert "32 x 2 accumulated = 64: takes 4 % more time [4, 4] than 2 times 32 alone, saves 42 % memory (extra" in text
    assert "32 x 2 makes the same update as 64 (share of the bound 3 %)" in text
    assert "about 180 [120, 390]: larger batches than that buy little" in text
    assert "17  " in text
    assert "-2 % [-2, -2] per example against 16" in text


def test_a_plan_for_what_fits_is_told_beside_it():
    made = advice(failing=None)
    made.samples = samples({8: 1.8e-3, 16: 2.6e-3, 32: 4.2e-3})
    made.target = 32
    made.plan_samples = samples({32: 4.2e-3}, {Window(16, 2): 5.2e-3})
    made.windows = [Trial(16, 2, {"memory": 25_200_000})]
    text = "\n".join(lines(made))
    assert "16 x 2 accumulated = 32: takes 24 % more time [24, 24] than 32 at once, saves 40 % memory" in text
    assert "sweet spot: 32" in text
    assert "largest that fits: at least 32" in text


def test_another_update_is_not_called_the_same():
    made = advice()
    made.equality = {"window": "32 x 2", "share": 500.0, "seen": "the gradient of dense/kernel[0,1] is off by 0.4"}
    assert "32 x 2 does NOT make the same update (500 times the bound): the gradient of" in "\n".join(lines(made))
    made.equality = {"window": "32 x 2", "reason": "batch statistics couple the examples"}
    assert "need not make the same update: batch statistics couple the examples" in "\n".join(lines(made))


def test_an_unsteady_machine_is_told():
    made = advice()
    made.samples = samples({8: 1.8e-3, 16: 2.6e-3}, noise=0.3)
    assert "unsteady machine: two identical batches differed by" in "\n".join(lines(made))


@pytest.mark.parametrize("made", [advice(fitting=(), failing=1), Advice("articles", "float32", 64), advice()])
def test_little_is_told_in_words_and_in_json(made):
    text = list(lines(made, interrupted=True))
    assert text[-1] == "interrupted: this is what had been measured by then"
    told = document(made, options={}, started="a", finished="b", interrupted=True)
    assert json.loads(json.dumps(told, allow_nan=False))["interrupted"] is True
    assert told["text"] == text
