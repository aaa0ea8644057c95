"""``[tool.bscheck]`` of the host's pyproject.toml: what it sets, what goes before it, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bscheck.errors import BscheckError
from bscheck.options import read
from bscheck.project import Project, read_project
from bscheck.subject import Subject

TABLE = """
[tool.bscheck]
profile = "quick"
seed = 7
timing = "off"
require_gpu = false
known_issues = ["ours.toml"]
batch_sizes = [1, 16]
accumulation = [4]
time_budget = 30
memory_budget = 1_000_000
"""


def project_of(folder: Path, text: str) -> Project:
    (folder / "pyproject.toml").write_text(text)
    return read_project(folder)


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").touch()
    project = project_of(tmp_path, TABLE)
    assert project.options == {
        "profile": "quick", "seed": 7, "timing": "off", "require_gpu": False, "known_issues": (tmp_path / "ours.toml",),
    }  # fmt: skip
    assert project.promises == {
        "batch_sizes": (1, 16), "accumulation": (4,), "time_budget": 30.0, "memory_budget": 1_000_000,
    }  # fmt: skip


def test_the_nearest_file_above_counts(tmp_path: Path) -> None:
    project_of(tmp_path, "[tool.bscheck]\nseed = 1\n")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert read_project(tmp_path / "deep" / "er").options == {"seed": 1}
    assert project_of(tmp_path / "deep", "[project]\nname = 'x'\n") == Project()


def test_command_line_then_environment_then_project() -> None:
    project = {"profile": "quick", "seed": 7, "timing": "off"}
    options = read({"profile": "thorough"}, {"BSCHECK_SEED": "8", "BSCHECK_PROFILE": "default"}, project)
    assert (options.profile, options.seed, options.timing) == ("thorough", 8, "off")


def test_what_a_subject_says_goes_before_what_its_project_says() -> None:
    options: dict[str, Any] = {"build": lambda: None, "data": lambda seed, size: None, "loss": "mse"}
    elsewhere = {"batch_sizes": (4,), "time_budget": 9.0}
    subject = Subject("churn", batch_sizes=(1, 2), **options)
    assert subject.promised("batch_sizes", elsewhere) == (1, 2)
    assert subject.promised("time_budget", elsewhere) == 9.0
    assert subject.promised("accumulation", elsewhere) == (2, 3, 4)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[tool.bscheck\n", "is not valid TOML: "),
        ("[tool]\nbscheck = 3\n", "[tool.bscheck] must be a table, not 3"),
        (
            "[tool.bscheck]\nbatch_size = [1]\n",
            "unknown key of [tool.bscheck] 'batch_size'; did you mean 'batch_sizes'? valid: accumulation, ",
        ),
        ("[tool.bscheck]\nprofile = 'fast'\n", "[tool.bscheck] profile: unknown profile 'fast'; valid: default, "),
        ("[tool.bscheck]\nseed = '3'\n", "[tool.bscheck] seed: must be an integer, not '3'"),
        ("[tool.bscheck]\nseed = -3\n", "[tool.bscheck] seed: the seed must be an integer >= 0, not '-3'"),
        ("[tool.bscheck]\nrequire_gpu = 'yes'\n", "[tool.bscheck] require_gpu: must be true or false, not 'yes'"),
        ("[tool.bscheck]\nknown_issues = 'a'\n", "[tool.bscheck] known_issues: must be a list of strings, not 'a'"),
        ("[tool.bscheck]\nknown_issues = ['no']\n", "[tool.bscheck] known_issues: there is no file "),
        ("[tool.bscheck]\nbatch_sizes = []\n", "[tool.bscheck] batch_sizes must be a non-empty tuple of integers >= 1"),
        ("[tool.bscheck]\naccumulation = [1]\n", "accumulation must be a non-empty tuple of integers >= 2"),
        ("[tool.bscheck]\ntime_budget = 0\n", "[tool.bscheck] time_budget must be a number of seconds > 0; got 0"),
        ("[tool.bscheck]\ntime_budget = nan\n", "[tool.bscheck] time_budget must be a number of seconds > 0; got nan"),
        ("[tool.bscheck]\nmemory_budget = 1.5\n", "memory_budget must be a number of bytes > 0 (an integer); got 1.5"),
        ("[tool.bscheck]\nrecord = 'r.json'\n", "unknown key of [tool.bscheck] 'record'; "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_the_file(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(BscheckError) as raised:
        project_of(tmp_path, text)
    said = str(raised.value)
    assert said.startswith(f"{tmp_path / 'pyproject.toml'}: ")
    assert line in said
    assert "\n" not in said


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe[tool]")
    with pytest.raises(BscheckError, match="is not valid TOML"):
        read_project(tmp_path)


def test_the_gate_stops_with_the_line_and_unrelated_runs_go_on(project: pytest.Pytester) -> None:
    (project.path / "pyproject.toml").write_text("[tool.bscheck]\nsede = 3\n")
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: bscheck: *pyproject.toml: unknown key of *'sede'; did you mean 'seed'? *"])
    (project.path / "test_gate.py").unlink()
    project.makepyfile("def test_unrelated(): pass")
    project.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_header_tells_what_the_project_sets(project: pytest.Pytester) -> None:
    (project.path / "pyproject.toml").write_text("[tool.bscheck]\nprofile = 'quick'\nbatch_sizes = [1, 16]\n")
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(
        ["* profile quick *", "pyproject.toml [[]tool.bscheck[]]: profile=quick · batch_sizes=[[]1, 16[]]"]
    )
