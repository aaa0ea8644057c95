"""The verdict over paired times: what it catches, how often it is wrong, and what it refuses."""

import dataclasses
import math
import re

import numpy as np
import pytest
from scipy import stats

from bscheck.measure.verdict import (
    ALPHA,
    DELTA,
    Comparison,
    PairedTimes,
    compare,
    fixed_and_per_example_cost,
    paired_times,
)

K, ROUNDS = 12, 50  # design.md
# Spread of log ratios between instances; with the noise below, their medians spread by 0.0115. The design's
# "5 % caught 95 %" needs about 0.012 (simulated: 97.8 % caught at 0.0115, 91 % at 0.013).
INSTANCE_SD = 0.009


def simulated(rng, *, slowdown=1.0, canary=1.0, instance_sd=INSTANCE_SD, k=K, rounds=ROUNDS):
    """Paired times of K instances: build ±7 %, drift 26 % over the run, 3 % noise, one interruption in 50."""
    build = np.exp(rng.normal(0, 0.07, (k, 1)))
    drift = np.exp(np.linspace(0, math.log(1.26), k * rounds).reshape(k, rounds))

    def seconds(ratio, sd):
        own = np.exp(rng.normal(0, sd, (k, 1)))
        noise = np.exp(rng.normal(0, 0.03, (k, rounds))) * np.where(rng.random((k, rounds)) < 0.02, 3, 1)
        return 1e-3 * ratio * build * own * drift * noise

    same = seconds(1.0, 0)
    return paired_times(seconds(slowdown, instance_sd), same, seconds(canary, 0), same)


def verdicts(runs, *, seed=0, rule=(), **simulation):
    rng = np.random.default_rng(seed)
    return [compare(simulated(rng, **simulation), "B against A", **dict(rule)).verdict for _ in range(runs)]


def clopper_pearson(hits, runs, confidence=0.95):
    interval = stats.binomtest(hits, runs).proportion_ci(confidence, method="exact")
    return interval.low, interval.high


# What it decides


def test_identical_sizes_hold():
    result = compare(simulated(np.random.default_rng(0)), "16 against 16")
    assert result.verdict == "holds"
    assert result.reason == "the interval stays below the allowed 1.020"
    assert result.low < 1 < result.high < 1.02


def test_a_slowdown_is_caught():
    result = compare(simulated(np.random.default_rng(0), slowdown=1.1), "17 against 16")
    assert (result.label, result.verdict) == ("17 against 16", "slower")
    assert result.low < 1.1 < result.high
    assert result.reason == "above the allowed 1.020 at significance 1.0e-04"


def test_the_test_is_the_one_of_the_design():
    d = np.linspace(0.02, 0.06, K)
    bound = d.mean() - stats.t.ppf(1 - ALPHA / 3, K - 1) * d.std(ddof=1) / math.sqrt(K)
    times = PairedTimes(tuple(d), (0.0,) * K)
    for delta, verdict in ((math.expm1(bound - 1e-9), "slower"), (math.expm1(bound + 1e-9), "inconclusive")):
        assert compare(times, "x", delta=delta, family_size=3).verdict == verdict
    half = stats.t.ppf(0.975, K - 1) * d.std(ddof=1) / math.sqrt(K)
    result = compare(times, "x")
    np.testing.assert_allclose(np.log([result.low, result.ratio, result.high]), d.mean() + np.array([-half, 0, half]))


@pytest.mark.parametrize("slowdown", [1.0, 1.1], ids=["same", "slower"])
@pytest.mark.parametrize("canary", [0.96, 1.04])
def test_two_identical_sizes_that_differ_make_it_inconclusive(slowdown, canary):
    result = compare(simulated(np.random.default_rng(0), slowdown=slowdown, canary=canary), "x")
    assert result.verdict == "inconclusive"
    assert result.reason.startswith(f"two identical sizes differed by {100 * (canary - 1):+.0f}"[:-1])
    assert result.reason.endswith("more than 2.0 %")


def test_a_slowdown_far_beyond_what_identical_sizes_differ_by_is_told():
    result = compare(simulated(np.random.default_rng(0), slowdown=3, canary=1.04), "8+8 against 16")
    assert result.verdict == "slower"
    assert re.search(r"significance 1.0e-04, and by more than two identical sizes differed \(\+[34]\.", result.reason)


def test_a_canary_that_differs_from_instance_to_instance_hides_a_slowdown_of_its_size():
    canary = (-0.3, 0.5) * 6
    assert compare(PairedTimes((1.09, 1.1) * 6, canary), "x").verdict == "inconclusive"
    assert compare(PairedTimes((4.0, 4.1) * 6, canary), "x").verdict == "slower"


def test_a_canary_too_noisy_to_tell_never_holds_but_hides_no_slowdown():
    canary = (-0.05, 0.05) * 6
    same = compare(PairedTimes((0.0, 0.001) * 6, canary), "x")
    assert same.verdict == "inconclusive"
    assert same.reason == "two identical sizes are not known equal within 2.0 %: +0.0 % [-3.3, 3.4]"
    assert compare(PairedTimes((0.1, 0.11) * 6, canary), "x").verdict == "slower"


def test_what_may_be_slower_than_allowed_never_holds():
    result = compare(PairedTimes((-0.03, 0.06) * 6, (0.0, 0.001) * 6), "x")
    assert result.verdict == "inconclusive"
    assert result.reason == "shown neither above the allowed 1.020 nor below it"


def test_the_allowed_ratio_is_allowed():
    times = simulated(np.random.default_rng(0), slowdown=17 / 16)
    assert compare(times, "17 against 16").verdict == "slower"
    assert compare(times, "17 against 16", allowed_ratio=17 / 16).verdict == "holds"


@pytest.mark.parametrize("k", [0, 1])
def test_less_than_two_instances_are_inconclusive(k):
    result = compare(PairedTimes((0.5,) * k, (0.0,) * k), "x")
    assert (result.verdict, result.low, result.high) == ("inconclusive", 0.0, math.inf)
    assert result.reason == f"measured {k} whole instance(s), a verdict needs at least 2"
    assert math.isnan(result.ratio) if k == 0 else result.ratio == pytest.approx(math.exp(0.5))


def test_two_instances_that_happen_to_agree_are_no_proof():
    assert compare(PairedTimes((0.0, 0.01), (0.0, 0.01)), "x").verdict == "inconclusive"


# How often it is wrong


def test_no_false_alarm_on_identical_sizes():
    runs = 4000
    found = verdicts(runs)
    low, high = clopper_pearson(found.count("slower"), runs)
    assert high <= 1e-3, f"false alarms {found.count('slower')} of {runs}, 95 % [{low:.1e}, {high:.1e}]"
    low, high = clopper_pearson(found.count("inconclusive"), runs)
    assert high <= 0.01, f"inconclusive {found.count('inconclusive')} of {runs}, 95 % [{low:.1e}, {high:.1e}]"


@pytest.mark.parametrize("family_size", [1, 5])
def test_at_the_boundary_false_alarms_have_their_stated_rate(family_size):
    # The worst case of the null: exactly delta slower. At alpha = 1e-4 there would be none to count.
    runs, alpha = 4000, 0.25
    rule = {"alpha": alpha, "family_size": family_size}
    alarms = verdicts(runs, slowdown=1 + DELTA, rule=rule).count("slower")
    low, high = clopper_pearson(alarms, runs, confidence=0.999)
    assert low <= alpha / family_size <= high, f"{alarms} of {runs}, 99.9 % interval [{low:.4f}, {high:.4f}]"


@pytest.mark.parametrize(
    ("slowdown", "instance_sd", "power"), [(1.10, 0.014, 0.99), (1.05, INSTANCE_SD, 0.95)], ids=["10%", "5%"]
)
def test_slowdowns_are_caught_and_never_pass(slowdown, instance_sd, power):
    runs = 2000
    found = verdicts(runs, slowdown=slowdown, instance_sd=instance_sd)
    low, high = clopper_pearson(found.count("slower"), runs)
    assert low >= power, f"caught {found.count('slower')} of {runs}, 95 % interval [{low:.4f}, {high:.4f}]"
    assert "holds" not in found


# The fit


def test_the_fit_finds_fixed_and_per_example_cost():
    rng = np.random.default_rng(0)
    sizes = [1, 8, 16, 17, 32]
    line = 2e-3 + 1e-4 * np.array(sizes)
    build, noise = rng.normal(0, 0.07, (K, 1, 1)), rng.normal(0, 0.02, (K, 5, 50))
    seconds = line[:, None] * np.exp(build + noise)
    cost = fixed_and_per_example_cost(sizes, seconds)
    assert cost.fixed.low < 2e-3 < cost.fixed.high
    assert cost.per_example.low < 1e-4 < cost.per_example.high
    assert cost.fixed.value == pytest.approx(2e-3, rel=0.1)
    assert cost.ratio(17, 16) == pytest.approx(3.7 / 3.6, rel=0.01)
    assert cost.seconds(257) == cost.fixed.value + 257 * cost.per_example.value


def test_the_fit_is_exact_on_a_line_and_deaf_to_interruptions():
    seconds = np.repeat((0.5 + 0.25 * np.array([2, 4, 8]))[None, :, None], 5, axis=2).repeat(3, axis=0)
    seconds[:, 1, 2] *= 100
    cost = fixed_and_per_example_cost([2, 4, 8], seconds)
    assert cost.fixed.value == pytest.approx(0.5)
    assert (cost.per_example.low, cost.per_example.high) == pytest.approx((0.25, 0.25))


def test_time_that_does_not_grow_with_work_shows_in_the_fit():
    rng = np.random.default_rng(0)
    cost = fixed_and_per_example_cost([8, 16, 32, 64], np.exp(rng.normal(-7, 0.05, (K, 4, 50))))
    assert cost.per_example.low < 0 < cost.per_example.high


# What it refuses


def test_results_are_frozen():
    result = compare(PairedTimes((0.0, 0.0), (0.0, 0.0)), "x")
    assert isinstance(result, Comparison)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.verdict = "holds"


def refuses(call, message):
    with pytest.raises(ValueError) as failure:
        call()
    assert str(failure.value) == message


@pytest.mark.parametrize(
    ("log_ratios", "canary", "message"),
    [
        (
            (0.0, 0.0),
            (0.0,),
            "log_ratios has 2 instances and canary 1: both need one value for each instance",
        ),
        ((0.0, math.nan), (0.0, 0.0), "log_ratios must be finite, got (0.0, nan)"),
        ((0.0,), (math.inf,), "canary must be finite, got (inf,)"),
    ],
)
def test_bad_ratios_are_refused(log_ratios, canary, message):
    refuses(lambda: PairedTimes(log_ratios, canary), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": ""}, "label must say what is compared, got an empty string"),
        ({"allowed_ratio": 0}, "allowed_ratio must be positive and finite, got 0"),
        ({"allowed_ratio": math.inf}, "allowed_ratio must be positive and finite, got inf"),
        ({"delta": 0.0}, "delta must be positive and finite (0.02 is 2 %), got 0.0"),
        ({"delta": math.nan}, "delta must be positive and finite (0.02 is 2 %), got nan"),
        ({"alpha": 0.5}, "alpha must lie between 0 and 0.5, got 0.5"),
        ({"alpha": 0}, "alpha must lie between 0 and 0.5, got 0"),
        ({"family_size": 0}, "family_size must be an integer of at least 1, got 0"),
        ({"family_size": True}, "family_size must be an integer of at least 1, got True"),
        ({"family_size": 1.5}, "family_size must be an integer of at least 1, got 1.5"),
    ],
)
def test_bad_rules_are_refused(arguments, message):
    refuses(lambda: compare(PairedTimes((0.0,), (0.0,)), **{"label": "x", **arguments}), message)


@pytest.mark.parametrize(
    ("numerator", "message"),
    [
        (
            [[1.0, 2.0], [1.0]],
            "numerator must be numbers in shape (instances, rounds), all rows of one length",
        ),
        ([1.0], "numerator must have shape (instances, rounds), none of them 0, got (1,)"),
        ([[]], "numerator must have shape (instances, rounds), none of them 0, got (1, 0)"),
        (
            [[1.0, 0.0]],
            "numerator holds 0.0 s: times must be positive and finite (clock too coarse?)",
        ),
        (
            [[1.0, 1.0, 1.0]],
            ("numerator has shape (1, 3) and denominator (1, 2): paired times need the same instances and rounds"),
        ),
    ],
)
def test_bad_seconds_are_refused(numerator, message):
    good = [[1.0, 1.0]]
    refuses(lambda: paired_times(numerator, good, good, good), message)


@pytest.mark.parametrize(
    ("sizes", "shape", "message"),
    [
        ([16, 16], (2, 2, 1), "batch_sizes must hold positive integers, at least two distinct, got [16, 16]"),
        ([0, 16], (2, 2, 1), "batch_sizes must hold positive integers, at least two distinct, got [0, 16]"),
        (
            [1.5, 16],
            (2, 2, 1),
            "batch_sizes must hold positive integers, at least two distinct, got [1.5, 16]",
        ),
        ([8, 16], (2, 3, 1), "seconds has 3 batch sizes (second axis), expected 2"),
        ([8, 16], (1, 2, 1), "seconds has 1 instance: an interval needs at least 2"),
        (
            [8, 16],
            (2, 2),
            "seconds must have shape (instances, batch sizes, rounds), none of them 0, got (2, 2)",
        ),
    ],
)
def test_bad_fits_are_refused(sizes, shape, message):
    refuses(lambda: fixed_and_per_example_cost(sizes, np.ones(shape)), message)
