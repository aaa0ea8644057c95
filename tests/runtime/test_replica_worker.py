"""The process with two devices: it is bounded in time, and its end is told."""

import time

import pytest

from bscheck.cases import ReplicaCase
from bscheck.checks import all_checks
from bscheck.checks import replicas as checks
from bscheck.checks.replicas import updates_reading
from bscheck.runtime.replicas import Worker, WorkerError

REQUEST = {"seed": 0, "examples": 2, "batch_size": 2, "epochs": 1, "weighted": False, "penalty": False, "k": 1,
           "optimizer": "momentum", "path": "fit", "steps_per_execution": 1}  # fmt: skip


def test_a_process_that_does_not_answer_is_ended_and_not_waited_for_again():
    worker = Worker()
    worker._seconds = 0.01
    with pytest.raises(WorkerError, match=r"no answer within 0.01 seconds"):
        worker.ask(**REQUEST)
    assert worker._process.poll() is not None
    started = time.monotonic()
    with pytest.raises(WorkerError, match="no answer within"):
        worker.ask(**REQUEST)
    assert time.monotonic() - started < 1


def test_a_process_that_ends_is_told():
    worker = Worker()
    worker._process.kill()
    with pytest.raises(WorkerError, match="the process with 2 devices ended"):
        worker.ask(**REQUEST)


def test_what_was_expected_is_answered_in_any_order_and_made_once():
    worker = Worker()
    longer = {**REQUEST, "epochs": 2}
    for request in (REQUEST, longer, REQUEST):
        worker.expect(**request)
    assert len(worker._sent) == 2
    last, first = worker.ask(**longer), worker.ask(**REQUEST)
    assert (len(first["history"]["loss"]), len(last["history"]["loss"])) == (1, 2)
    assert worker.ask(**REQUEST) == first


def test_what_a_process_was_expected_to_answer_before_it_ended_is_told():
    worker = Worker()
    worker.expect(**REQUEST)
    worker._process.kill()
    worker._process.wait()
    worker.expect(**{**REQUEST, "epochs": 2})
    with pytest.raises(WorkerError, match="the process with 2 devices ended"):
        worker.ask(**REQUEST)


def test_every_check_of_two_devices_has_its_corners_begun_early():
    of_devices = [check for check in all_checks().values() if check.case is ReplicaCase]
    assert len(of_devices) == 5
    assert all(check.begin for check in of_devices)


def test_no_answer_is_a_broken_promise(monkeypatch):
    def silent(case):
        raise WorkerError("no answer within 1 seconds: training on 2 devices hangs")

    monkeypatch.setattr(checks, "_trained", silent)
    reading = updates_reading(ReplicaCase(), 1)
    assert not reading.holds
    assert "hangs" in reading.seen


def test_a_worker_goes_with_its_owner():
    worker = Worker()
    process = worker._process
    del worker
    assert process.wait(10) is not None
