"""A size beside what it cost in an earlier record: when it is dearer, and which records can be used."""

import math

import numpy as np
import pytest

from bscheck.cases import TimingCase
from bscheck.checks import Param, cliffs, get_check, timing
from bscheck.checks.cliffs import REFERENCE, judge, key_of, sizes_compared
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.checks.sweep import cliffs as cliffs_of
from bscheck.checks.sweep import of_powers
from bscheck.checks.timing import SIZES, measured_from
from bscheck.measure.sampler import Samples
from bscheck.measure.verdict import Estimate
from bscheck.results.record import write_record
from bscheck.results.verdict import Verdict

NAME = "no_batch_size_got_dearer_than_in_the_previous_record"


def samples(slower=None, noise=0.001, sizes=SIZES):
    rng = np.random.default_rng(3)
    labels = [*((str(n), n) for n in sizes), (f"{sizes[0]} again", sizes[0])]

    def times(n):
        return tuple((1e-3 + 1e-4 * n) * (slower or {}).get(n, 1.0) * np.exp(rng.normal(0, noise, 9)))

    return Samples(tuple(sizes), tuple({label: times(n) for label, n in labels} for _ in range(12)), 12)


def run(monkeypatch, measured, **options):
    """Run the check on samples made up here; the machine is this one."""
    monkeypatch.setattr(cliffs, "measure", lambda context, case, sizes: measured)
    context = Context(Param.of(subject="dense"), options={"timing": "gate", **options})
    return run_check(get_check(NAME), context, RunSettings(timing="gate")), context


def record(path, result, environment):
    write_record(
        path, environment=environment, options={}, started="", finished="", interrupted=False,
        results=[result.to_json()], known_issues=[],
    )  # fmt: skip
    return str(path)


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    result, context = run(monkeypatch, measured_from(samples()))
    assert result.verdict == Verdict.REPORTED
    assert {key_of(case) for case in sizes_compared(context)} <= set(result.worst.figures)
    return record(tmp_path / "before.json", result, context.environment)


def test_a_size_that_got_dearer_fails_and_is_named(baseline, monkeypatch):
    result, _ = run(monkeypatch, measured_from(samples({33: 1.1})), timing_baseline=baseline)
    assert result.verdict == Verdict.FAILED
    assert result.failure.reading.seen.startswith("33 to 16 now vs before: +")
    assert result.failure.reading.figures["ratio"] == pytest.approx(1.1, rel=0.01)


def test_the_same_times_hold(baseline, monkeypatch):
    result, _ = run(monkeypatch, measured_from(samples()), timing_baseline=baseline)
    assert result.verdict == Verdict.PASSED


def test_all_sizes_slower_alike_is_the_machine(baseline, monkeypatch):
    result, _ = run(monkeypatch, measured_from(samples(dict.fromkeys(SIZES, 2.0))), timing_baseline=baseline)
    assert result.verdict == Verdict.PASSED


def test_noise_makes_no_verdict(baseline, monkeypatch):
    result, _ = run(monkeypatch, measured_from(samples({33: 1.1}, noise=0.5)), timing_baseline=baseline)
    assert result.verdict == Verdict.INCONCLUSIVE


def test_a_record_of_another_machine_says_nothing(tmp_path, monkeypatch):
    result, context = run(monkeypatch, measured_from(samples()))
    path = record(tmp_path / "other.json", result, {**context.environment, "device_name": "another GPU"})
    told, _ = run(monkeypatch, measured_from(samples({33: 2.0})), timing_baseline=path)
    assert told.verdict == Verdict.NOT_APPLICABLE
    assert "was taken elsewhere: device_name another GPU there" in told.reason


def test_without_a_record_a_report_compares_nothing():
    reason = get_check(NAME).applies(Context(Param.of(subject="dense"), options={"timing": "report"}))
    assert reason == "no previous record to compare with: --bscheck-timing-baseline FILE"


def test_the_interval_of_both_runs_counts():
    sure, unsure = Estimate(0.1, 0.099, 0.101), Estimate(0.0, -0.5, 0.5)
    assert judge(sure, Estimate(0.0, -0.001, 0.001), 12, "33 to 16").verdict == "slower"
    found = judge(sure, unsure, 12, "33 to 16")
    assert found.verdict == "inconclusive"
    assert found.ratio == pytest.approx(math.exp(0.1))


def test_no_memory_for_a_size_is_inconclusive_and_named(monkeypatch):
    def no_memory(*arguments, **options):
        raise timing.StepOutOfMemoryError(64)

    forget()
    monkeypatch.setattr(timing, "sample_training_steps", no_memory)
    check = get_check("batch_is_not_dearer_than_the_parts_it_could_be_split_into")
    context = Context(Param.of(subject="dense", work="inference"), options={"timing": "gate"})
    result = run_check(check, context, RunSettings(timing="gate", profile="quick"))
    forget()
    assert (result.verdict, result.worst.cause) == (Verdict.INCONCLUSIVE, "out of memory at batch size 64")


def test_cliffs_are_sizes_above_the_line_through_the_powers():
    taken = samples({17: 1.2, 33: 1.03}, sizes=(16, 8, 17, 32, 33, 64))
    assert set(cliffs_of(taken, of_powers(taken))) == {17}


def test_the_reference_is_compared_with_every_other_size():
    cases = sizes_compared(Context(Param.of(subject="dense")))
    assert {case.second for case in cases} == set(SIZES) - {REFERENCE}
    assert all(isinstance(case, TimingCase) for case in cases)
