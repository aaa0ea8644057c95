"""A team's code is a guest: what it changes is put back, and what hangs, swallows memory or dies gets a verdict."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from bscheck.results.record import read_record

Extend = Callable[[str], None]

GATE = """
    import bscheck, numpy as np
    subjects = [
        bscheck.Subject(name, build=lambda: None, data=(np.ones((2, 1)), np.ones(2)), loss="mse", **options)
        for name, options in OPTIONS
    ]

    @bscheck.parametrize_with_checks(subjects, family="own")
    def test_batch_size(subject, check):
        check(subject)
"""

#: A check that asks a harmless subject nothing, and lets the one named ``bad`` do its worst.
CHECKS = """
    import contextlib, os, signal, threading, time, numpy as np

    def misbehave():
        {misbehave}

    @bscheck.check(family="own")
    def first(context, case):
        "The first promise"
        if context.subject.name == "bad":
            misbehave()
        return Reading(0.25)

    @bscheck.check(family="own")
    def second(context, case):
        "The second promise"
        {second}
        return Reading(0.25)
"""


@pytest.fixture
def gate(team_project: pytest.Pytester, extend: Extend) -> Callable[..., pytest.Pytester]:
    """Return a function that makes the gate of a subject named ``bad``, then one named ``good``."""

    def make(misbehave: str, second: str = "pass", **options: object) -> pytest.Pytester:
        indented = textwrap.indent(textwrap.dedent(misbehave).strip(), " " * 8).strip()
        extend(CHECKS.format(misbehave=indented, second=second))
        listed = [("bad", options), ("good", {})]
        team_project.makepyfile(test_team=GATE.replace("OPTIONS", repr(listed)))
        return team_project

    return make


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest in a fresh process."""
    return project.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_what_a_subject_changes_is_put_back_and_told(gate: Callable[..., pytest.Pytester]) -> None:
    project = gate(
        """
        print("noise of the subject")
        os.environ["LEFT_BEHIND"] = "1"
        os.chdir("/")
        np.seterr(all="raise")
        np.random.seed(3)
        """,
        second="assert 'LEFT_BEHIND' not in os.environ and os.getcwd() != '/' and np.geterr()['over'] == 'warn'",
    )
    result = run(project)
    result.assert_outcomes(passed=4, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*Subject 'bad' changed the process: environment variables (put back); working directory (put back); *",
        ]
    )
    assert "noise of the subject" not in result.stdout.str()


def test_a_thread_left_behind_is_named(gate: Callable[..., pytest.Pytester]) -> None:
    project = gate("threading.Thread(target=time.sleep, args=(1.5,), name='loader').start()", time_budget=60)
    result = run(project, "-k", "bad-first")
    result.stdout.fnmatch_lines(["*Subject 'bad' changed the process: * left running (loader*"])


@pytest.mark.parametrize("swallow", ["time.sleep(60)", "while True: pass"])
def test_a_subject_that_hangs_fails_within_its_budget(gate: Callable[..., pytest.Pytester], swallow: str) -> None:
    result = run(gate(swallow, time_budget=1))
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*FAILED first[[]bad[]]",
            "*Seen        it did not end within its time budget of 1 s (time_budget=), before its first case ended*",
        ]
    )


def test_a_bare_except_does_not_keep_a_subject_alive(gate: Callable[..., pytest.Pytester]) -> None:
    project = gate(
        """
        for _ in range(2):
            try:
                time.sleep(60)
            except:
                pass
        """,
        time_budget=1,
    )
    result = run(project, "-k", "bad-first")
    result.assert_outcomes(passed=1, deselected=3)  # it came back at last, interrupted twice
    assert result.duration < 50


def test_the_command_line_shortens_the_time_budget(gate: Callable[..., pytest.Pytester]) -> None:
    result = run(gate("time.sleep(60)", time_budget=300), "--bscheck-time-budget=0.5")
    result.stdout.fnmatch_lines(["*within its time budget of 0.5 s*"])


def test_a_subject_that_swallows_memory_fails(gate: Callable[..., pytest.Pytester]) -> None:
    project = gate(
        """
        kept = []
        while True:
            kept.append(np.ones(2**19))
            time.sleep(0.01)
        """,
        memory_budget=100 * 2**20,
        time_budget=60,
    )
    result = run(project)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*Seen  *it took more than 100 MiB of memory: its memory budget (memory_budget=)*"])


#: Holds the interpreter below Python, where no exception can reach it.
STUCK = """
    import ctypes
    ctypes.CDLL(None).sleep.argtypes = [ctypes.c_uint]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    ctypes.CDLL(None).sleep(100)
"""


def test_what_is_stuck_below_python_ends_the_process_and_keeps_the_record(
    gate: Callable[..., pytest.Pytester],
) -> None:
    project = gate(STUCK, time_budget=1)
    result = run(project, "--bscheck-record=r.json")
    assert result.ret == 1
    result.stderr.fnmatch_lines(["bscheck: FAILED *bad-first*did not come back to Python to be stopped*"])
    record = read_record(project.path / "r.json")
    assert record["interrupted"] is True
    assert [(r["check"], r["verdict"]) for r in record["results"]] == [("first", "failed")]


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def test_killing_the_interpreter_costs_one_verdict_under_xdist(gate: Callable[..., pytest.Pytester]) -> None:
    project = gate(KILL)
    result = run(project, "-n", "1", "--bscheck-record=r.json")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running 'test_team.py::test_batch_size[[]bad-first[]]'"])
    told = [(r["check"], r["verdict"], r["worst"]["seen"]) for r in read_record(project.path / "r.json")["results"]]
    assert ("first", "failed", "the interpreter ended while the check ran") in told
    assert len(told) == 4


def test_killing_the_interpreter_serially_leaves_the_record_of_what_was_done(
    gate: Callable[..., pytest.Pytester],
) -> None:
    project = gate("pass", second=f"if context.subject.name == 'bad': {KILL}")
    result = run(project, "--bscheck-record=r.json")
    assert result.ret == -9
    record = read_record(project.path / "r.json")
    assert record["interrupted"] is True
    assert [(r["check"], r["param"]["subject"]) for r in record["results"]] == [("first", "bad")]


def test_two_runs_at_once_do_not_disturb_each_other(gate: Callable[..., pytest.Pytester]) -> None:
    project = gate("pass")
    names = ("one.json", "two.json")
    command = [sys.executable, "-m", "pytest", "-q"]
    runs = [
        subprocess.Popen([*command, f"--bscheck-record={name}"], cwd=project.path, stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    told = [ran.communicate()[0] for ran in runs]
    assert [ran.returncode for ran in runs] == [0, 0], told
    one, two = ([(r["check"], r["param"], r["cases"]) for r in read_record(project.path / n)["results"]] for n in names)
    assert one == two
    assert len(one) == 4
