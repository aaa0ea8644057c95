"""The pytest plugin, seen from outside: pytest run on a project with cheap checks (see conftest.py)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bscheck.results.record import read_record

Extend = Callable[[str], None]

#: What an unrelated pytest run must never import.
HEAVY = ("keras", "tensorflow", "jax", "torch", "numpy", "scipy", "hypothesis")


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a fresh process."""
    return project.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_unrelated_run_imports_nothing_heavy_and_shows_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        f"""
        import sys
        def pytest_unconfigure(config):
            print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
        """
    )
    pytester.makepyfile("def test_somebody_elses(): pass")
    # Hypothesis's own plugin imports Hypothesis when it prints its summary; that is none of ours.
    result = run(pytester, "-p", "no:hypothesispytest")
    result.stdout.fnmatch_lines(["HEAVY []"])
    assert [line for line in result.outlines if "bscheck" in line and "plugins:" not in line] == []


@pytest.mark.parametrize("code", ["import bscheck", "import bscheck.plugin", "import bscheck, pytest; bscheck.Subject"])
def test_import_is_light(code: str) -> None:
    script = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_help_and_markers_show_the_plugin_without_importing_keras(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        f"""
        import atexit, sys
        atexit.register(lambda: print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules]))
        """
    )
    result = run(pytester, "--help")
    result.stdout.fnmatch_lines(["bscheck: does *", "*--bscheck-profile=NAME*", "HEAVY []"])
    run(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.bscheck_tiny_batches: *"])


def test_header_and_summary(project: pytest.Pytester) -> None:
    result = run(project)
    result.assert_outcomes(passed=2, skipped=1)
    lines = result.outlines
    assert (
        "bscheck 0.1.0 · keras 3.15.1 · tensorflow 2.21.0 · cpu, 2 threads · float32, TF32 off "
        "· profile default · seed 0"
    ) in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("---") and " bscheck " in line)
    assert lines[start + 1].split() == [
        "promise",
        "family",
        "cases",
        "worst",
        "share",
        "of",
        "the",
        "bound",
        "verdict",
    ]
    assert lines[start + 2].startswith("accumulation         ")
    assert lines[start + 2].endswith("  holds")
    assert "25 % (dense, seed " in lines[start + 2]
    assert " ".join(lines[start + 3].split()) == "not applicable 1 bscheck list --why"
    assert lines[start + 4].split(maxsplit=1) == ["1", "batch statistics couple the examples"]
    assert lines[start + 5].startswith("total")


def test_header_names_every_setting(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSCHECK_SEED", "7")
    monkeypatch.setenv("BSCHECK_PROFILE", "quick")
    result = run(project, "--bscheck-profile", "thorough")
    result.stdout.fnmatch_lines(["* profile thorough · seed 7", "BSCHECK_PROFILE=quick · BSCHECK_SEED=7"])


@pytest.mark.parametrize("arguments", [["-q"], ["-n", "2"]])
def test_header_is_in_the_summary_where_it_could_not_be_told_before(
    project: pytest.Pytester, arguments: list[str]
) -> None:
    result = run(project, *arguments)
    assert sum(line.startswith("bscheck 0.1.0 · keras") for line in result.outlines) == 1


def test_broken_promise_is_told_without_a_traceback(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "decay")
    result = run(project)
    result.assert_outcomes(failed=2, skipped=1)
    start = next(i for i, line in enumerate(result.outlines) if "__ sums_agree[dense] __" in line)
    assert result.outlines[start + 1 : start + 7] == [
        "Promise     The parts add up to the whole",
        "Seen        off by 3.1e-4 (allowed: 1e-5; 3.5 times the bound)",
        "Smallest    dense, seed 0, size=7, decay=on",
        "Where       kernel[7]",
        "Ablation    decay=none: passes",
        "Environment keras 3.15.1 · tensorflow 2.21.0 · cpu, 2 threads · float32, TF32 off",
    ]
    assert "Traceback" not in result.stdout.str()
    assert ".py:" not in "\n".join(result.outlines[start : start + 7])
    result.stdout.fnmatch_lines(["accumulation * BROKEN: 2 of 2"])


def test_items_can_be_chosen_by_id_keyword_marker_and_check(project: pytest.Pytester, extend: Extend) -> None:
    extend(
        """
        @check(family="timing", case=SumCase, cases=drawn, params=params, per_subject=False)
        def odd_sizes_are_fast(context, case):
            "Odd sizes are fast"
            return Reading(0.5)
        """
    )
    project.makepyfile(test_timing="from bscheck.gate import promise\nodd = promise('odd_sizes_are_fast')\n")
    run(project, "test_gate.py::sums_agree[dense]").assert_outcomes(passed=1)
    run(project, "test_gate.py::sums_agree").assert_outcomes(passed=2, skipped=1)
    run(project, "-k", "sums_agree and lstm").assert_outcomes(passed=1, deselected=5)
    run(project, "-m", "bscheck_timing", "--strict-markers").assert_outcomes(passed=3, deselected=3)
    run(project, "--bscheck-check", "odd_sizes_are_fast").assert_outcomes(passed=3)


def test_not_applicable_is_a_skip_with_its_reason(project: pytest.Pytester) -> None:
    result = run(project, "-rs", "-k", "odd")
    result.stdout.fnmatch_lines(["SKIPPED * not applicable: batch statistics couple the examples"])


def test_junit_carries_the_figures(project: pytest.Pytester) -> None:
    run(project, "--junitxml=junit.xml", "-k", "dense").assert_outcomes(passed=1, deselected=2)
    (case,) = ET.parse(project.path / "junit.xml").getroot().iter("testcase")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["bscheck_verdict"] == "passed"
    assert int(properties["bscheck_cases"]) > 10
    assert float(properties["bscheck_worst_share"]) == 0.25


def test_record_is_the_same_under_xdist(project: pytest.Pytester) -> None:
    run(project, "--bscheck-record=one.json").stdout.fnmatch_lines(["record: *one.json (3 results)"])
    run(project, "--bscheck-record=two.json", "-n", "2").stdout.fnmatch_lines(["record: * (3 results)"])
    one, two = (read_record(project.path / name) for name in ("one.json", "two.json"))
    assert one["environment"] == two["environment"] != {}
    assert one["options"]["seed"] == 0

    def told(record: dict[str, Any]) -> list[Any]:
        return sorted((r["nodeid"], r["verdict"], r["cases"], r["worst_case"]) for r in record["results"])

    assert told(one) == told(two)


SLOW = """
    import time
    @check(family="accumulation", case=SumCase, cases=drawn, params=params, per_subject=False)
    def takes_for_ever(context, case):
        "Takes for ever"
        open("started", "w").close()
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_record_is_written_when_the_run_is_interrupted(
    project: pytest.Pytester, extend: Extend, number: signal.Signals
) -> None:
    extend(SLOW)
    project.makepyfile(test_slow="from bscheck.gate import promise\nslow = promise('takes_for_ever')\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--bscheck-record=run.json"]
    process = subprocess.Popen(
        command,
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that starts this suite in the background has it ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (project.path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    record = read_record(project.path / "run.json")
    assert record["interrupted"] is True
    assert {r["check"] for r in record["results"]} == {"sums_agree"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--bscheck-profile=fast"],
            "--bscheck-profile: unknown profile 'fast'; valid: *",
        ),
        (["--bscheck-seed=-1"], "--bscheck-seed: the seed must be an integer >= 0, not '-1'"),
        (["--bscheck-timing=on"], "--bscheck-timing: unknown timing mode 'on'; valid: gate, off, report"),
        (
            ["--bscheck-check=sums_agre"],
            "unknown check 'sums_agre'; did you mean 'sums_agree'? *",
        ),
        (["--bscheck-known-issues=none.toml"], "--bscheck-known-issues: there is no file *none.toml"),
        (
            ["--bscheck-record=no/folder/r.json"],
            "record *r.json: there is no folder *folder; make it first",
        ),
        (["--bscheck-record=."], "record *: is a folder; give the name of a file"),
        (["--bscheck-require-gpu"], "--bscheck-require-gpu: tensorflow sees no GPU here"),
    ],
)
@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_bad_option_is_one_line_and_exit_code_4(
    project: pytest.Pytester, arguments: list[str], line: str, workers: list[str]
) -> None:
    result = run(project, *arguments, *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: bscheck: {line}"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str()


def test_last_failures_are_run_again_alone(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "decay")
    assert project.runpytest_subprocess("-k", "lstm").ret == pytest.ExitCode.TESTS_FAILED
    result = project.runpytest_subprocess("--lf", "-v")
    result.stdout.fnmatch_lines(["run-last-failure: rerun previous 1 failure", "*sums_agree[[]lstm] FAILED*"])
    result.assert_outcomes(failed=1)


def test_record_outside_that_hides_the_projects_settings_is_refused(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makepyprojecttoml('[tool.pytest.ini_options]\ntestpaths = ["."]\n')
    record = tmp_path / "elsewhere" / "r.json"
    record.parent.mkdir()
    run(project, "--bscheck-record", str(record)).stdout.fnmatch_lines(["record: *r.json (3 results)"])
    result = run(project, "--bscheck-record", str(record))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = "ERROR: bscheck: pytest takes the file after --bscheck-record for a test's place *: write --bscheck-record=*"
    result.stderr.fnmatch_lines([line])
    run(project, f"--bscheck-record={record}").stdout.fnmatch_lines(["record: *r.json (3 results)"])


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "BSCHECK_PROFIL",
            "quick",
            "unknown environment variable 'BSCHECK_PROFIL'; did you mean *",
        ),
        ("BSCHECK_PROFILE", "fast", "BSCHECK_PROFILE: unknown profile 'fast'; *"),
        ("BSCHECK_SEED", "one", "BSCHECK_SEED: the seed must be an integer >= 0, not 'one'"),
        ("BSCHECK_REQUIRE_GPU", "1", "--bscheck-require-gpu: tensorflow sees no GPU here"),
        ("BSCHECK_REQUIRE_GPU", "maybe", "BSCHECK_REQUIRE_GPU: must be 1 or 0, not 'maybe'"),
        ("BSCHECK_CHECK", "nothing", "unknown check 'nothing'; *"),
    ],
)
def test_bad_variable_stops_bschecks_runs_and_no_others(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: bscheck: {line}"])
    project.makepyfile(test_gate="def test_unrelated(): pass")
    run(project).assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_missing_keras_is_one_line(project: pytest.Pytester, extend: Extend, workers: list[str]) -> None:
    extend(
        """
        from bscheck.errors import MissingEnvironmentError
        def missing():
            raise MissingEnvironmentError("Keras is not installed here")
        bscheck.plugin.describe_environment = missing
        """
    )
    result = run(project, *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: bscheck: Keras is not installed here"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_bug_of_bscheck_keeps_its_traceback(project: pytest.Pytester, extend: Extend) -> None:
    extend(
        """
        @check(family="accumulation", case=SumCase, cases=drawn, params=lambda: params()[:1])
        def stumbles(context, case):
            "Stumbles"
            return bscheck.subject.examples(())
        import bscheck.subject
        """
    )
    project.makepyfile(test_gate="from bscheck.gate import promise\nbug = promise('stumbles')\n")
    result = run(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*IndexError: *"])


def test_unknown_promise_in_a_gate_is_one_line(project: pytest.Pytester) -> None:
    project.makepyfile(test_gate="from bscheck.gate import promise\nsums = promise('sums_agre')\n")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: bscheck: unknown check 'sums_agre'; did you mean 'sums_agree'? *"])


ISSUE = """
[[issue]]
id = "decay-breaks"
check = "sums_agree"
reason = "decay breaks the sum"
link = "https://example.org/1"
[issue.when]
keras = "{keras}"
decay = "on"
size = {{min = 7}}
[issue.param]
model = "lstm"
[issue.case]
decay = "on"
size = 9
"""


@pytest.fixture
def with_issue(project: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Return a function that runs the gate with one known issue in force."""
    gate = "from bscheck.gate import *\nsums = promise('sums_agree')\nissues = known_issues()\n"
    project.makepyfile(test_gate=gate)

    def go(keras: str, *arguments: str) -> pytest.RunResult:
        (project.path / "known.toml").write_text(ISSUE.format(keras=keras))
        return run(project, "--bscheck-known-issues=known.toml", *arguments)

    return go


def test_known_issue_is_held_and_its_share_told(
    with_issue: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch, project: pytest.Pytester
) -> None:
    monkeypatch.setenv("PLANTED", "decay")
    result = with_issue(">=3.15,<3.16", "--bscheck-record=r.json")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "accumulation * holds, but for known issues",
            "known issues * 1   still fails on its pinned case * held",
            "  decay-breaks: held * of * cases (* %) of sums_agree",
        ]
    )
    assert read_record(project.path / "r.json")["known_issues"][0]["id"] == "decay-breaks"


def test_known_issue_that_is_fixed_fails_the_run(with_issue: Callable[..., pytest.RunResult]) -> None:
    result = with_issue(">=3.15,<3.16")
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    text = " ".join(result.stdout.str().split())
    assert "the pinned case passes; known issue 'decay-breaks' is fixed here: delete its entry in /" in text
    assert "known.toml: issue 'decay-breaks' (allowed: it must still fail)" in text
    result.stdout.fnmatch_lines(["known issues * pinned case passes: delete the entry * FIXED"])


def test_known_issue_of_another_release_is_reported(with_issue: Callable[..., pytest.RunResult]) -> None:
    result = with_issue("<3.15")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["  decay-breaks: fixed, outside its range"])


TEAM = """
    import bscheck
    import numpy as np
    churn = bscheck.Subject("churn", build=lambda: None, data=(np.ones((2, 1)), np.ones(2)), loss="mse")

    @bscheck.parametrize_with_checks([churn])
    def test_batch_size(subject, check):
        check(subject)
"""


@pytest.fixture
def team(team_project: pytest.Pytester, extend: Extend) -> pytest.Pytester:
    """Return a project with a team's own subject in place of the gate."""
    extend(
        """
        @check(family="accumulation", case=SumCase, cases=drawn)
        def own_sums_agree(context, case):
            "A team's parts add up"
            return Reading(3.5 if os.environ.get("PLANTED") else 0.25, seen="off by 2")

        @check(family="accumulation", case=SumCase, cases=drawn, applies=lambda context: "it has BatchNorm")
        def own_rows_agree(context, case):
            "A team's rows agree"
        """
    )
    team_project.makepyfile(test_team=TEAM)
    return team_project


def test_team_subject_is_told_and_recorded_like_the_gate(team: pytest.Pytester) -> None:
    result = run(team, "-v", "-rs", "--bscheck-record=r.json")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "bscheck 0.1.0 · keras 3.15.1 *",
            "test_team.py::test_batch_size[[]churn-own_sums_agree[]] PASSED*",
            "accumulation * holds",
            "*1  it has BatchNorm",
            "SKIPPED * not applicable: it has BatchNorm",
        ]
    )
    results = read_record(team.path / "r.json")["results"]
    assert [(r["check"], r["param"], r["verdict"]) for r in results] == [
        ("own_sums_agree", {"subject": "churn"}, "passed"),
        ("own_rows_agree", {"subject": "churn"}, "not applicable"),
    ]


def test_team_failure_shows_the_teams_own_line_only(team: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "1")
    result = run(team, "-n", "1")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            ">       check(subject)",
            "E       *FAILED own_sums_agree[[]churn[]]",
            "E         Promise     A team's parts add up",
            "test_team.py:*: PromiseBroken",
        ]
    )
    assert "bscheck/" not in result.stdout.str().replace("bscheck/0", "")


def test_check_option_chooses_among_a_teams_tests(team: pytest.Pytester) -> None:
    run(team, "--bscheck-check=own_sums_agree").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("[]", "parametrize_with_checks was given no subjects, so nothing would be tested"),
        ("churn", "parametrize_with_checks takes a list of subjects; write [[]subject[]]"),
        ("[churn, churn]", "two subjects are named 'churn'; names must differ"),
        ("[len]", "a check takes a bscheck.Subject, not builtin_function_or_method"),
        (
            "[churn], checks=['own_sum_agree']",
            "unknown check 'own_sum_agree'; did you mean 'own_sums_agree'? *",
        ),
        ("[churn], checks=['sums_agree']", "unknown check 'sums_agree'; *"),
        ("[churn], checks='own_sums_agree'", "checks= takes a list of names; write [[]'own_sums_agree'[]]"),
        ("[churn], family='accumulatoin'", "unknown family 'accumulatoin'; did you mean 'accumulation'? *"),
        ("[churn], family='timing'", "parametrize_with_checks leaves no check, so nothing would be tested"),
    ],
)
def test_bad_call_of_parametrize_is_one_line(team: pytest.Pytester, call: str, line: str) -> None:
    team.makepyfile(test_team=TEAM.replace("([churn])", f"({call})"))
    result = run(team)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"bscheck: {line}"])
    assert "Traceback" not in result.stdout.str()


def test_results_are_json(project: pytest.Pytester) -> None:
    run(project, "--bscheck-record=r.json")
    text = (project.path / "r.json").read_text()
    assert json.loads(text)["results"][0]["worst"]["share"] == 0.25


def test_record_that_cannot_be_written_at_the_end_is_told_and_fails_the_run(
    project: pytest.Pytester, extend: Extend
) -> None:
    extend(
        """
        import shutil
        def pytest_runtest_teardown():
            shutil.rmtree("folder", ignore_errors=True)
        """
    )
    project.mkdir("folder")
    result = run(project, "--bscheck-record=folder/r.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["bscheck: record *r.json: cannot be written: No such file or directory"])


def test_contract_exception_has_its_own_row(project: pytest.Pytester, extend: Extend) -> None:
    extend(
        """
        @check(family="accumulation", case=SumCase, cases=drawn, params=params, exception="as documented")
        def schedules_count_micro_steps(context, case):
            "Schedules count micro-steps"
            return Reading(0.5)
        """
    )
    project.makepyfile(test_gate="from bscheck.gate import *\np = promise('schedules_count_micro_steps')\n")
    result = run(project)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["exceptions * 3   each as documented, worst 50 % * hold"])
