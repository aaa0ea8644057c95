"""A run split over processes and read together is the whole run, verdict for verdict; a missing shard is seen."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bscheck.cli import main
from bscheck.results.compare import compare_runs, read_run
from bscheck.results.record import read_record

#: One promise that breaks, and one that is asked of five parameters.
MORE = """
os.environ["PLANTED"] = "decay"

@check(family="timing", case=SumCase, cases=drawn, params=lambda: [Param.of(n=str(n)) for n in range(5)],
       applies=lambda context: "it is four" if context.param.get("n") == "4" else None, per_subject=False)
def more_sums_agree(context, case):
    '''They do.'''
    return Reading(0.1 * (1 + int(context.param.get("n"))))
"""


@dataclass(frozen=True)
class Project:
    """A gate of eight items, with a record of them all in ``whole.json``."""

    path: Path

    def run(self, record: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the gate with a record."""
        given = ["-q", "-p", "no:cacheprovider", "--bscheck-timing", "gate", "--bscheck-record", record, *arguments]
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("BSCHECK_", "PYTEST_"))}
        command = [sys.executable, "-m", "pytest", *given]
        return subprocess.run(command, cwd=self.path, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, fake_checks: str) -> Project:
    """Return the project, its whole gate run once."""
    path = tmp_path_factory.mktemp("whole")
    (path / "conftest.py").write_text(fake_checks + MORE)
    lines = ["from bscheck.gate import promise", "sums = promise('sums_agree')", "more = promise('more_sums_agree')"]
    (path / "test_gate.py").write_text("\n".join(lines))
    (path / "pytest.ini").write_text("[pytest]\n")
    made = Project(path)
    ran = made.run("whole.json")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert len(read_record(path / "whole.json")["results"]) == 8
    return made


def verdicts(*paths: Path) -> dict[str, tuple[object, ...]]:
    """Return what the records say of each item."""
    told = {}
    for path in paths:
        for result in read_record(path)["results"]:
            told[result["nodeid"]] = tuple(result[key] for key in ("verdict", "cases", "worst", "failure", "reason"))
    return told


def assert_whole(project: Project, shards: list[str]) -> None:
    """Assert that the shards are the whole, and that each is needed."""
    paths = [project.path / name for name in shards]
    full = project.path / "whole.json"
    assert verdicts(*paths) == verdicts(full)
    together = read_run(",".join(map(str, paths)))
    assert (together.missing, together.collected) == (0, 8)
    compared = compare_runs(read_run(str(full)), together)
    assert (compared.rows, compared.same, compared.exit_code) == ((), 8, 0)
    for left_out in paths:
        rest = ",".join(str(path) for path in paths if path != left_out)
        lost = len(read_record(left_out)["results"])
        assert read_run(rest).missing == lost > 0
        assert compare_runs(read_run(str(full)), read_run(rest)).exit_code == 3


def test_run_split_in_four_by_pytest_split_is_the_whole_run(whole: Project, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("pytest_split") is None:
        pytest.skip("pytest-split is not installed (pip install 'bscheck[test]')")
    shards = [f"shard{n}.json" for n in range(1, 5)]
    for n, name in enumerate(shards, 1):
        whole.run(name, "--splits", "4", "--group", str(n))
    assert_whole(whole, shards)
    assert [read_record(whole.path / name)["selection"]["shard"] for name in shards] == [[n, 4] for n in range(1, 5)]
    assert main(["report", "--markdown", *(str(whole.path / name) for name in shards)]) == 1
    capsys.readouterr()
    assert main(["report", "--markdown", *(str(whole.path / name) for name in shards[1:])]) in (1, 3)
    assert "- **no record of shard 1 of 4**" in capsys.readouterr().out


def test_run_split_by_family_and_by_name_is_the_whole_run(whole: Project) -> None:
    whole.run("one.json", "-m", "bscheck_timing", "-n", "2")  # workers collect, the controller records
    whole.run("two.json", "-m", "bscheck_accumulation", "-k", "dense or odd")
    whole.run("three.json", "-k", "lstm")
    selections = [read_record(whole.path / f"{name}.json")["selection"] for name in ("whole", "one", "two")]
    assert [selection.pop("selected") for selection in selections] == [8, 5, 2]
    assert selections[0] == selections[1] == selections[2]
    checks = [read_record(whole.path / f"{name}.json")["checks"] for name in ("one", "two")]
    assert checks[1] == {"sums_agree": {"promise": "The parts add up to the whole", "exception": ""}}
    assert checks[0].keys().isdisjoint(checks[1])
    assert verdicts(whole.path / "two.json").keys() | verdicts(whole.path / "three.json").keys() == {
        f"test_gate.py::sums_agree[{name}]" for name in ("dense", "lstm", "odd")
    }
    together = read_run(",".join(str(whole.path / f"{name}.json") for name in ("one", "two", "three")))
    assert (together.missing, together.collected) == (0, 8)


def test_lost_shard_is_told_by_the_command(whole: Project, capsys: pytest.CaptureFixture[str]) -> None:
    whole.run("half.json", "-m", "bscheck_timing")
    old, new = whole.path / "half.json", whole.path / "half.json"
    assert main(["compare", str(whole.path / "whole.json"), str(new)]) == 3
    assert "INCOMPLETE: 3 coverage lost" in capsys.readouterr().out
    assert main(["compare", str(old), str(new)]) == 0
    assert "not run on both" in capsys.readouterr().out.lower()


def test_checks_that_were_not_asked_for_are_not_missing(whole: Project) -> None:
    whole.run("one.json", "--bscheck-check", "more_sums_agree")
    assert json.loads((whole.path / "one.json").read_text())["selection"]["collected"] == 5
    assert read_run(str(whole.path / "one.json")).missing == 0


def test_interrupted_run_misses_what_it_did_not_come_to(whole: Project) -> None:
    whole.run("cut.json", "-x")
    record = read_record(whole.path / "cut.json")
    assert read_run(str(whole.path / "cut.json")).missing == 8 - len(record["results"]) > 0
