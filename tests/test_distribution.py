"""Under pytest-xdist, what shares a model runs on one worker; other tests run as they would without bscheck."""

from __future__ import annotations

import pytest

from bscheck.distribution import group, scheduler


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("bscheck/gate/test_accumulation.py::accumulated_gradient_matches_large_batch[dense]", "dense"),
        ("../venv/lib/bscheck/gate/test_independence.py::predictions_do_not_depend_on_batch_size[dense]", "dense"),
        ("bscheck/gate/test_accumulation.py::accumulated_training[dense-adam-fit]", "dense-adam-fit"),
        ("bscheck/gate/test_accumulation.py::replicas_report_the_history[MirroredStrategy]", "devices"),
        ("bscheck/gate/test_known_issues.py::known_issue[smoothing-counts-the-last-axis]", "devices"),
        ("tests/test_model.py::known_issue[mine]", "tests/test_model.py::known_issue[mine]"),
        ("tests/test_model.py::test_invariants[dense]", "tests/test_model.py::test_invariants[dense]"),
        ("tests/gate/test_model.py::test_it", "tests/gate/test_model.py::test_it"),
    ],
)
def test_what_shares_a_model_is_one_group(nodeid: str, expected: str) -> None:
    assert group(nodeid) == expected


class Config:
    def __init__(self, *args: str, dist: str = "load") -> None:
        self.args, self.dist = args, dist
        self.option = type("Option", (), {"tx": ["popen"], "rsyncdir": [], "numprocesses": 1})()

    def getoption(self, name: str, default: object = None) -> object:
        return self.dist if name == "dist" else default

    def getvalue(self, name: str) -> object:
        return ["popen", "popen"]


@pytest.mark.parametrize("arguments", [["bscheck/gate"], ["bscheck.gate"], ["/a/bscheck/gate/test_memory.py::leaks"]])
def test_runs_of_the_gate_are_grouped(arguments: list[str]) -> None:
    made = scheduler(Config(*arguments), None)
    assert made._split_scope("bscheck/gate/test_accumulation.py::some_promise[lstm]") == "lstm"


@pytest.mark.parametrize("config", [Config("tests"), Config("bscheck/gate", dist="loadfile"), Config("tests/gate")])
def test_other_runs_are_left_to_xdist(config: Config) -> None:
    assert scheduler(config, None) is None
