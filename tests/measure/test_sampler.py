"""The sampler on a machine whose clock is ours: what it calls, in which order, and what it leaves behind."""

import dataclasses
import gc
import json
import math

import numpy as np
import pytest

from bscheck.measure.sampler import WARM_CALLS, paired_sample
from bscheck.measure.verdict import compare, fixed_and_per_example_cost

DUMMIES = (3, 5)


class Machine:
    """Simulated: a step advances the clock by its cost, times build, drift with time, and noise."""

    def __init__(self, *, slowdown=None, drift=None, noise=0.02, seed=0):
        self.now = 0.0
        self.calls = []
        self.slowdown = slowdown or {}
        self.drift = drift or (lambda now, rng: 1.0)
        self.noise = noise
        self.rng = np.random.default_rng(seed)

    def clock(self):
        return self.now

    def make_instance(self, k):
        build = math.exp(self.rng.normal(0, 0.07))  # two builds of one model: ±7 % (design.md)
        seen = set()

        def run(size):
            self.calls.append((k, size))
            seconds = 1e-3 * self.slowdown.get(size, 1.0) * build * self.drift(self.now, self.rng)
            seconds *= math.exp(self.rng.normal(0, self.noise))
            seconds += 0.0 if size in seen else 1.0  # the first call of a size traces
            seen.add(size)
            self.now += seconds

        return run

    def sample(self, sizes=(16, 17), **arguments):
        arguments = {"dummy_sizes": DUMMIES, "seed": 0, "clock": self.clock, **arguments}
        return paired_sample(self.make_instance, sizes, **arguments)


def timed_orders(machine, sizes, rounds):
    """The order of each round, by instance: calls after dummies and warm-up, cut into rounds."""
    skip, width = len(DUMMIES) + WARM_CALLS * len(sizes), len(sizes) + 1
    per_instance = {}
    for k, size in machine.calls:
        per_instance.setdefault(k, []).append(size)
    return [
        [tuple(calls[skip + r * width : skip + (r + 1) * width]) for r in range(rounds)]
        for calls in per_instance.values()
    ]


# Verdicts end to end


def test_a_known_slowdown_is_caught():
    samples = Machine(slowdown={17: 1.05}).sample()
    result = compare(samples.paired(17, 16), "17 against 16")
    assert result.verdict == "slower"
    assert result.low < 1.05 < result.high


def test_equal_sizes_hold():
    samples = Machine().sample()
    assert compare(samples.paired(17, 16), "17 against 16").verdict == "holds"


def test_interleaving_cancels_a_drift_that_ruins_blocks():
    def warming_up(now, rng):
        return 1.26 if now % 7 > 3.5 else 1.0  # identical runs in blocks differed by 26 % (design.md)

    samples = Machine(drift=warming_up).sample()
    assert compare(samples.paired(17, 16), "17 against 16").verdict == "holds"


@pytest.mark.parametrize("slowdown", [1.0, 1.05], ids=["same", "slower"])
def test_a_machine_that_drifts_wildly_is_inconclusive(slowdown):
    def throttled(now, rng):
        return math.exp(rng.normal(0, 0.5))  # from one step to the next: nothing cancels

    samples = Machine(drift=throttled, slowdown={17: slowdown}).sample()
    result = compare(samples.paired(17, 16), "17 against 16")
    assert result.verdict == "inconclusive"
    assert result.reason.startswith("two identical sizes")


def test_split_dominance_adds_seconds_of_one_round():
    machine = Machine(slowdown={8: 0.6, 9: 0.65, 17: 1.0})
    samples = machine.sample((8, 9, 17))
    assert compare(samples.paired(17, (8, 9)), "17 against 8 + 9").verdict == "holds"
    assert compare(samples.paired((8, 8), 17), "8 + 8 against 17").ratio == pytest.approx(1.2, rel=0.02)
    with pytest.raises(ValueError, match=r"^sizes \[8, 10\] were not all sampled: choose from \[8, 9, 17\]$"):
        samples.paired(17, (8, 10))
    with pytest.raises(ValueError, match=r"^sizes \[\] were not all sampled: choose from \[8, 9, 17\]$"):
        samples.paired(17, ())


def test_samples_feed_the_fit():
    machine = Machine(slowdown={size: 0.5 + 0.01 * size for size in (8, 16, 32)})
    cost = fixed_and_per_example_cost([8, 16, 32], machine.sample((8, 16, 32)).by_size())
    assert cost.per_example.value == pytest.approx(1e-5, rel=0.1)


# What it calls


def test_dummies_come_first_then_every_size_warm_then_rounds():
    machine = Machine()
    samples = machine.sample((16, 17, 32), instances=2, rounds=4)
    for k in range(2):
        calls = [size for instance, size in machine.calls if instance == k]
        assert calls[:2] == list(DUMMIES)
        assert sorted(calls[2 : 2 + 3 * WARM_CALLS]) == sorted((16, 17, 32) * WARM_CALLS)
        assert len(calls) == 2 + 3 * WARM_CALLS + 4 * 4
    assert samples.labels == ("16", "17", "32", "16 again")
    assert all(set(one) == set(samples.labels) for one in samples.seconds)
    assert all(len(times) == 4 for one in samples.seconds for times in one.values())
    assert max(max(times) for one in samples.seconds for times in one.values()) < 0.1, "tracing was timed"


def test_every_label_gets_the_seconds_of_its_own_size():
    samples = Machine(slowdown={16: 1.0, 17: 2.0, 32: 3.0}, noise=0.0).sample((32, 16, 17), instances=1)
    (one,) = samples.seconds
    assert samples.canary_label == "32 again"
    per_label = {label: np.median(one[label]) / np.median(one["16"]) for label in samples.labels}
    assert per_label == pytest.approx({"32": 3.0, "16": 1.0, "17": 2.0, "32 again": 3.0})


def test_the_order_is_random_and_follows_from_the_seed():
    sizes, rounds = (16, 17, 32), 200

    def orders(seed):
        machine = Machine()
        machine.sample(sizes, seed=seed, instances=2, rounds=rounds)
        return timed_orders(machine, sizes, rounds)

    first, second = orders(1)
    assert all(sorted(order) == [16, 16, 17, 32] for order in first)
    assert len(set(first)) == 12  # all orders of 4 entries of which two look alike
    assert first != second  # a fresh order in every instance
    assert orders(1) == [first, second]
    assert orders(2) != [first, second]
    # Each place in the round is 17's a quarter of the time: 50 ± 6 of 200.
    places = np.bincount([order.index(17) for order in first], minlength=4)
    assert (abs(places - rounds / 4) < 5 * math.sqrt(rounds * 3 / 16)).all(), places


def test_the_garbage_collector_is_off_while_timing_only():
    states = []

    def make_instance(k):
        states.append(gc.isenabled())
        return lambda size: states.append(gc.isenabled())

    paired_sample(make_instance, (16, 17), dummy_sizes=DUMMIES, seed=0, instances=2, rounds=3)
    untimed = 1 + 2 + 2 * WARM_CALLS
    assert states == 2 * ([True] * untimed + [False] * 9)
    assert gc.isenabled()


def test_the_garbage_collector_comes_back_after_an_exception():
    calls = []

    def run(size):
        calls.append(gc.isenabled())
        if not gc.isenabled():
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        paired_sample(lambda k: run, (16,), dummy_sizes=DUMMIES, seed=0)
    assert calls[-1] is False
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off():
    gc.disable()
    try:
        Machine().sample(instances=1, rounds=2)
        assert not gc.isenabled()
    finally:
        gc.enable()


# The budget


@pytest.mark.parametrize(("budget", "completed"), [(0.5, 0), (4.6, 1), (9.0, 2), (1000.0, 12)])
def test_a_budget_keeps_whole_instances_only(budget, completed):
    # An instance takes about 4.2 s: four first calls of 1 s and 150 timed steps of 1 ms.
    machine = Machine()
    samples = machine.sample(budget_seconds=budget)
    assert (samples.completed, samples.requested) == (completed, 12)
    assert all(len(times) == 50 for one in samples.seconds for times in one.values())


def test_no_budget_left_is_inconclusive():
    samples = Machine().sample(budget_seconds=0.5)
    result = compare(samples.paired(17, 16), "17 against 16")
    assert (result.verdict, result.reason) == (
        "inconclusive",
        "measured 0 whole instance(s), a verdict needs at least 2",
    )


def test_an_instance_that_cannot_fit_is_not_begun():
    machine = Machine()
    machine.sample(budget_seconds=7.0)
    assert {k for k, _ in machine.calls} == {0}


# What it returns and refuses


def test_samples_are_frozen_and_go_into_a_record():
    samples = Machine().sample(instances=2, rounds=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        samples.sizes = ()
    with pytest.raises(TypeError):
        samples.seconds[0]["16"] = ()
    record = json.loads(json.dumps(samples.as_dict()))
    assert record["seconds"][1]["16 again"] == list(samples.seconds[1]["16 again"])
    assert {key: record[key] for key in ("sizes", "canary", "requested", "completed")} == {
        "sizes": [16, 17],
        "canary": "16 again",
        "requested": 2,
        "completed": 2,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": ()}, "sizes must be distinct positive integers, at least one, got []"),
        ({"sizes": (16, 16)}, "sizes must be distinct positive integers, at least one, got [16, 16]"),
        ({"sizes": (0,)}, "sizes must be distinct positive integers, at least one, got [0]"),
        ({"sizes": (True,)}, "sizes must be distinct positive integers, at least one, got [True]"),
        (
            {"dummy_sizes": (3, 3)},
            "dummy_sizes must be distinct positive integers, at least one, got [3, 3]",
        ),
        ({"dummy_sizes": (3,)}, "dummy_sizes must be two sizes not in [16, 17], got [3]"),
        ({"dummy_sizes": (3, 17)}, "dummy_sizes must be two sizes not in [16, 17], got [3, 17]"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"instances": 0}, "instances must be an integer of at least 1, got 0"),
        ({"rounds": 2.5}, "rounds must be an integer of at least 1, got 2.5"),
        ({"budget_seconds": 0}, "budget_seconds must be positive or None, got 0"),
        ({"budget_seconds": math.nan}, "budget_seconds must be positive or None, got nan"),
    ],
)
def test_bad_plans_are_refused_before_anything_runs(arguments, message):
    machine = Machine()
    with pytest.raises(ValueError) as failure:
        machine.sample(**arguments)
    assert str(failure.value) == message
    assert machine.calls == []


def test_a_maker_that_returns_no_callable_is_refused():
    with pytest.raises(ValueError) as failure:
        paired_sample(lambda k: None, (16,), dummy_sizes=DUMMIES, seed=0)
    assert str(failure.value) == "make_instance must return a callable of a batch size, got NoneType"
