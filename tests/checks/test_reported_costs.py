"""What is only reported: sweeps over batch sizes, and peaks of memory weighed in other processes."""

import numpy as np
import pytest

from bscheck.checks import Param, get_check, peak_memory, sweep
from bscheck.checks.context import Context
from bscheck.checks.run import RunSettings, run_check
from bscheck.measure.process import ChildFailedError, OutOfMemoryError
from bscheck.measure.sampler import Samples, Window
from bscheck.results.verdict import Verdict

SWEEP, PEAK = "time_by_batch_size_is_reported", "peak_memory_by_batch_size_is_reported"


def run(name, **settings):
    settings = {"profile": "thorough", "timing": "report", **settings}
    context = Context(Param.of(subject="dense"), options={"timing": settings["timing"]})
    return run_check(get_check(name), context, RunSettings(**settings))


def samples(loads, seconds, instances=3):
    rng = np.random.default_rng(0)
    labels = [(str(load), load) for load in loads] + [(f"{loads[0]} again", loads[0])]
    rows = [{x: tuple(seconds(n) * np.exp(rng.normal(0, 0.001, 5))) for x, n in labels} for _ in range(instances)]
    return Samples(tuple(loads), tuple(rows), instances)


def seconds(load):
    if isinstance(load, Window):
        return 1.1 * seconds(load.size * load.micro_batches)
    return (1e-3 + 6e-5 * load) * (1.3 if load == 65 else 1.0)


@pytest.fixture
def timed(monkeypatch):
    monkeypatch.setattr(sweep, "sample_training_steps", lambda subject, loads, **options: samples(loads, seconds))
    monkeypatch.setattr(sweep, "sample_epochs", lambda subject, sizes, *a, **options: samples(sizes, seconds))


def test_a_sweep_tells_the_line_its_cliffs_and_what_accumulating_costs(timed):
    result = run(SWEEP)
    assert result.verdict == Verdict.REPORTED
    assert result.cases == 4
    assert "t = 1 ms + 60 us B; cliffs: 65 (+30 % [30, 30])" in result.worst.seen
    exhibits = result.to_json()
    assert {curve["title"] for curve in exhibits["curves"]} == {
        "Step time by batch size", "Time per example by batch size",
    }  # fmt: skip
    titles = {table["title"]: table for table in exhibits["tables"]}
    assert [row[:3] for row in titles["Accumulated against one batch"]["rows"]][:1] == [["float32", "16 x 2", 32]]
    assert "Seconds of an epoch of 512 examples in fit" in titles


def test_a_sweep_that_had_no_time_says_so(monkeypatch):
    empty = Samples((16,), (), 6)
    monkeypatch.setattr(sweep, "sample_training_steps", lambda *a, **options: empty)
    monkeypatch.setattr(sweep, "sample_epochs", lambda *a, **options: empty)
    assert "fewer than two instances in 150 s" in run(SWEEP).worst.seen


@pytest.mark.parametrize(("name", "reason"), [
    (SWEEP, "sweeps take minutes: --bscheck-profile=thorough"),
    (PEAK, "peaks are weighed in processes of their own: --bscheck-profile=thorough, or bscheck advise"),
])  # fmt: skip
def test_neither_is_part_of_a_short_run(name, reason):
    result = run(name, profile="default")
    assert (result.verdict, result.reason) == (Verdict.NOT_APPLICABLE, reason)


class Scales:
    """A child that weighs what it is told to: 1 MB an example, until something happens."""

    closed = 0

    def __init__(self, at=None, error=None):
        self.at, self.error = at, error

    def __call__(self, limit=None):
        return self

    def ask(self, call, *, seconds, subject, size, **options):
        if size == self.at:
            raise self.error
        return {"compiled": None, "memory": 1_000_000 * size}

    def close(self):
        Scales.closed += 1


def test_peaks_are_told_by_batch_size(monkeypatch):
    monkeypatch.setattr(peak_memory, "Child", Scales())
    result = run(PEAK)
    assert (result.verdict, result.cases) == (Verdict.REPORTED, 6)
    assert result.worst.seen == (
        "float32, inference: 1: 1 MB, 8: 8 MB, 16: 16 MB, 17: 17 MB, 32: 32 MB, 64: 64 MB, 128: 128 MB"
    )
    assert result.worst.figures["peak_17"] == 17e6
    (curve,) = result.to_json()["curves"]
    assert len(curve["series"]) == 6


@pytest.mark.parametrize(("error", "words"), [
    (OutOfMemoryError("stopped at 1 GB"), "32 MB, 64: out of memory (stopped at 1 GB)"),
    (ChildFailedError("ValueError: broken"), "32 MB, 64: ValueError: broken"),
])  # fmt: skip
def test_out_of_memory_is_told_with_the_size_and_the_run_goes_on(monkeypatch, error, words):
    monkeypatch.setattr(peak_memory, "Child", Scales(64, error))
    before = Scales.closed
    result = run(PEAK)
    assert result.cases == 6
    assert Scales.closed - before == 6
    assert result.worst.seen.endswith(words)


def test_a_real_process_weighs_a_real_step(monkeypatch):
    monkeypatch.setattr(peak_memory, "SIZES", (8, 64))
    reading = peak_memory.peak_memory_by_batch_size_is_reported(
        Context(Param.of(subject="dense")), get_check(PEAK).case(work="accumulated")
    )
    # Variables of 66,049 numbers, their accumulators and 64 x 15 x 256 inputs take more than a megabyte.
    assert reading.figures["peak_64"] > 1e6
    assert "out_of_memory_at" not in reading.figures
