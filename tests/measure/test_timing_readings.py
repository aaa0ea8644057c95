"""From samples to a reading: what fails, what is inconclusive, what is only told. No clock."""

import dataclasses
import math

import numpy as np
import pytest

from bscheck.checks import Param
from bscheck.checks.context import Context
from bscheck.checks.timing import (
    FAMILY_SIZE,
    SIZES,
    compute_share,
    measured_from,
    plan_of,
    reading_of,
    refused,
    timed_params,
)
from bscheck.measure.sampler import INSTANCES, ROUNDS, Samples
from bscheck.measure.verdict import compare


def samples(*, fixed=1e-3, per_example=1e-4, slower=None, noise=0.01, instances=12, rounds=20):
    """What a machine with this line and these slowdowns would have given."""
    rng = np.random.default_rng(0)
    slower = slower or {}

    def seconds(size):
        exact = (fixed + per_example * size) * slower.get(size, 1.0)
        return tuple(exact * np.exp(rng.normal(0, noise, rounds)))

    labels = [*((str(size), size) for size in SIZES), (f"{SIZES[0]} again", SIZES[0])]
    rows = tuple({label: seconds(size) for label, size in labels} for _ in range(instances))
    return Samples(SIZES, rows, instances)


def read(measured, first=16, second=17, *, gate=True, by_fit=True):
    allowed = measured.cost.ratio(second, first) if by_fit and measured.cost else 1.0
    comparison = compare(
        measured.samples.paired(second, first), f"{first} vs {second}", allowed_ratio=allowed,
        family_size=FAMILY_SIZE,
    )  # fmt: skip
    return reading_of(comparison, measured, allowed, min(first, second), gate)


def test_one_more_example_at_its_own_cost_holds():
    reading = read(measured_from(samples()))
    assert reading.holds
    assert reading.figures["holds"] == 1
    assert "inconclusive" not in reading.figures
    assert "reported" not in reading.figures
    assert reading.figures["compute_share"] == pytest.approx(1 - 1 / 2.6, abs=0.02)


def test_a_slow_odd_size_fails_and_does_not_raise_its_own_allowance():
    reading = read(measured_from(samples(slower={17: 1.1, 33: 1.1})))
    assert reading.share > 1
    assert reading.figures["allowed"] == pytest.approx(1.02 * (1 + 17 / 10) / (1 + 16 / 10), rel=0.01)
    assert reading.seen.startswith("16 vs 17: +1")
    assert reading.allowed.startswith("+5.")


def test_a_slow_odd_size_is_only_told_in_a_report():
    reading = read(measured_from(samples(slower={17: 1.5})), gate=False)
    assert reading.holds
    assert reading.figures["reported"] == 1
    assert reading.figures["slower"] == 1
    assert "slower" in reading.cause


def test_no_verdict_about_batch_size_where_the_fixed_cost_outweighs_it():
    reading = read(measured_from(samples(fixed=1e-2)), 32, 17, by_fit=False)
    assert reading.holds
    assert reading.figures["inconclusive"] == 1
    assert "below one half" in reading.cause


def test_a_slow_size_fails_even_where_the_fixed_cost_outweighs_the_batch():
    reading = read(measured_from(samples(fixed=1e-2, slower={17: 1.5})), 32, 17, by_fit=False)
    assert reading.share > 1


def test_time_that_does_not_grow_is_no_time():
    reading = read(measured_from(samples(per_example=0.0, slower={17: 1.5})))
    assert reading.holds
    assert reading.figures["inconclusive"] == 1
    assert "synchronisation" in reading.cause


def test_noise_is_inconclusive_and_does_not_fail():
    reading = read(measured_from(samples(noise=0.8, slower={17: 1.1})))
    assert reading.holds
    assert reading.figures["inconclusive"] == 1


@pytest.mark.parametrize("instances", [0, 1])
@pytest.mark.parametrize("gate", [True, False])
def test_too_few_instances_are_inconclusive(instances, gate):
    reading = read(measured_from(samples(instances=instances)), gate=gate)
    assert reading.holds
    assert not math.isnan(reading.share)
    assert reading.seen == "16 vs 17: no verdict"
    assert f"measured {instances} whole instance" in reading.cause
    assert reading.figures["reported" if not gate else "inconclusive"] == 1


def test_compute_share_stays_a_share():
    cost = measured_from(samples()).cost
    below = dataclasses.replace(cost, fixed=dataclasses.replace(cost.fixed, value=-1e-4))
    assert compute_share(below, 16) == 1
    assert compute_share(None, 16) == 0


@pytest.mark.parametrize(("variable", "timing", "words"), [
    (None, "off", "switched off"), ("gw0", "gate", "run without -n"),
    (None, "report", None), (None, "gate", None),
])  # fmt: skip
def test_where_nothing_is_timed(monkeypatch, variable, timing, words):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if variable:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", variable)
    reason = refused(Context(Param.of(subject="dense"), options={"timing": timing}))
    assert (reason is None) if words is None else words in reason


def test_the_gate_has_the_full_design_and_a_report_a_short_one():
    gate = plan_of("gate", "default")
    assert (gate.instances, gate.rounds) == (INSTANCES, ROUNDS)
    told = [p for p in timed_params() if refused(Context(p, options={"timing": "report"})) is None]
    assert {p.id for p in told} == {"dense", "lstm"}
    assert len(told) * plan_of("report", "default").seconds < 12
    assert plan_of("gate", "thorough") == gate


def test_the_chance_of_a_false_alarm_is_divided_over_every_pair():
    from bscheck.checks import all_checks

    timed = [check for check in all_checks().values() if check.family == "timing" and check.params is timed_params]
    pairs = [case for check in timed for case in check.corners(Context(timed_params()[0]))]
    assert len(timed_params()) * len(pairs) == FAMILY_SIZE
