"""Failures as pytest tells them: their number in the record, what to run, and the folder of programs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

REPLAY = "*Run it      bscheck replay run.json#{}"


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the fault of the fake checks."""
    monkeypatch.setenv("PLANTED", "decay")


def number_of(project: pytest.Pytester, check: str, model: str) -> int:
    results = json.loads((project.path / "run.json").read_text())["results"]
    return next(n for n, r in enumerate(results) if (r["check"], r["param"]["model"]) == (check, model))


@pytest.mark.parametrize("more", [(), ("-n", "2")], ids=["serial", "xdist"])
def test_failure_tells_its_number_in_the_record(project: pytest.Pytester, planted: None, more: tuple[str, ...]) -> None:
    result = run(project, "--bscheck-record", "run.json", *more)
    for model in ("dense", "lstm"):
        number = number_of(project, "sums_agree", model)
        result.stdout.fnmatch_lines([REPLAY.format(number)])
        result.stdout.fnmatch_lines(
            [f'Intended?   bscheck waive run.json#{number} --reason "..." --expires YYYY-MM-DD']
        )
    result.stdout.fnmatch_lines(["*no stand-alone program: this promise takes more than a short program to show"])


OWN = """
import bscheck
from conftest import SumCase, drawn, params
from bscheck.checks import check
from bscheck.gate import promise
from bscheck.results.verdict import Reading

@check(family="accumulation", case=SumCase, cases=drawn, params=params, per_subject=False)
def only_here(context, case):
    \"\"\"A promise that a test module makes.\"\"\"
    return Reading(3.5, seen="off by 2")

only = promise("only_here")
"""


def test_check_of_a_test_module_is_told_by_a_controller_that_does_not_know_it(project: pytest.Pytester) -> None:
    project.makepyfile(test_gate=OWN.replace('\\"', '"'))
    result = run(project, "--bscheck-record", "run.json", "-n", "1", "-k", "dense")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["Promise     A promise that a test module makes", "Run it      bscheck replay run.json#0"]
    )


def test_without_a_record_there_is_nothing_to_replay_and_nothing_is_written(
    project: pytest.Pytester, planted: None
) -> None:
    result = run(project)
    result.stdout.no_fnmatch_line("*bscheck replay*")
    assert not (project.path / "repro").exists()


WITH_PROGRAM = """
import bscheck.reproduce.templates as templates
templates.TEMPLATES = {**templates.TEMPLATES, "sums_agree":
    lambda check, context, case, reading: 'import sys\\nprint("FAILS: planted")\\nsys.exit(1)\\n'}
import types
FakeContext.runtime = types.SimpleNamespace(name="tensorflow")
"""


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (("--bscheck-record", "run.json"), "repro"),
        (("--bscheck-record", "run.json", "--bscheck-repro", "else/where"), "else/where"),
        (("--bscheck-repro", "only"), "only"),
    ],
)
def test_programs_lie_beside_the_record_or_where_they_are_asked_for(
    project: pytest.Pytester, extend: Callable[[str], None], planted: None, arguments: tuple[str, ...], folder: str
) -> None:
    extend(WITH_PROGRAM)
    result = run(project, *arguments)
    result.stdout.fnmatch_lines([f"*python {folder}/sums_agree-dense.py   (Keras and NumPy only)"])
    assert sorted(path.name for path in (project.path / folder).iterdir()) == [
        "sums_agree-dense.py",
        "sums_agree-lstm.py",
    ]


def test_folder_of_programs_that_is_a_file_stops_the_run_with_one_line(project: pytest.Pytester) -> None:
    (project.path / "taken").touch()
    result = run(project, "--bscheck-repro", "taken")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--bscheck-repro: give the name of a folder; *taken is a file"])


def test_record_says_where_its_programs_lie(project: pytest.Pytester) -> None:
    run(project, "--bscheck-record", "run.json")
    assert json.loads((project.path / "run.json").read_text())["options"]["repro"] == "repro"
    run(project, "--bscheck-record", "run.json", "--bscheck-repro", "deep/er")
    assert json.loads((project.path / "run.json").read_text())["options"]["repro"] == "deep/er"


def test_record_of_a_failure_reads_back_as_it_was_told(project: pytest.Pytester, planted: None) -> None:
    from bscheck.results.reference import find

    run(project, "--bscheck-record", "run.json")
    found = find(str(project.path / "run.json"))
    assert [one.result.param["model"] for one in found] == ["dense", "lstm"]
    assert found[0].result.failure.situation == "dense, seed 0, size=7, decay=on"
    assert found[0].result.failure.ablation == ("decay=none: passes",)
