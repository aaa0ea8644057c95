"""bscheck waive: a recorded failure becomes a known issue with a date."""

from __future__ import annotations

import tomllib
from datetime import date, timedelta
from pathlib import Path

import pytest
from conftest_failures import failure

from bscheck.checks import Param, all_checks, get_check
from bscheck.checks.run import RunSettings, run_check, run_pinned
from bscheck.cli import main
from bscheck.results.failure import render
from bscheck.results.known_issues import read_known_issues
from bscheck.results.summary import summary
from bscheck.results.verdict import Verdict

DAY = date.today() + timedelta(days=30)


def waive(capsys, path: Path, *more: str, reason: str = "we wait for 3.16", expires: str = "") -> tuple[int, str]:
    code = main(["waive", str(path), "--reason", reason, "--expires", expires or str(DAY), *more])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the entry goes unless told otherwise: the present folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "known_issues.toml"


def test_entry_is_as_narrow_as_the_case(record, capsys, file: Path) -> None:
    code, text = waive(capsys, f"{record()}#1")
    assert code == 0
    assert text.splitlines() == [
        f"known_issues.toml: added known issue 'weight-decay-acts-once-per-update-sgd', until {DAY}",
        "    keras: ==3.15.1, backend: tensorflow, optimizer: sgd, decay: on",
        "the gate holds it with --bscheck-known-issues known_issues.toml",
    ]
    (issue,) = read_known_issues(file, all_checks())
    assert issue.when == {"keras": "==3.15.1", "backend": "tensorflow", "optimizer": "sgd", "decay": "on"}
    assert issue.param == {"optimizer": "sgd"}
    assert issue.case["decay"] == "on"
    assert (issue.reason, issue.link) == ("we wait for 3.16", "recorded as run.json#1")
    assert (issue.expires, issue.expired) == (str(DAY), False)


def test_what_is_there_stays_to_the_byte_and_ids_do_not_clash(record, capsys, file: Path) -> None:
    before = "# ours\r\n"
    file.write_bytes(before.encode())
    path = record(failure(), failure(failure={**failure()["failure"], "case": {"decay": "exclude_bias"}}))
    assert waive(capsys, f"{path}#0")[0] == 0
    first = file.read_bytes()
    assert first.startswith(before.encode())
    assert waive(capsys, f"{path}#1")[0] == 0
    assert file.read_bytes().startswith(first)
    ids = [issue.id for issue in read_known_issues(file, all_checks())]
    assert ids == ["weight-decay-acts-once-per-update-sgd", "weight-decay-acts-once-per-update-sgd-2"]


def test_case_is_waived_once(record, capsys, file: Path) -> None:
    path = record()
    waive(capsys, f"{path}#1")
    before = file.read_bytes()
    code, text = waive(capsys, f"{path}#1")
    assert code == 4
    assert f"issue 'weight-decay-acts-once-per-update-sgd' holds this case already, until {DAY}" in text
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"expires": "tomorrow"}, "--expires: must be a date such as 2027-01-31, not 'tomorrow'"),
        ({"expires": "2020-01-01"}, "--expires: 2020-01-01 has passed; give a day to come"),
        ({"reason": "  "}, "--reason: say in one sentence why the failure is accepted"),
    ],
)
def test_bad_argument_is_one_line_and_nothing_is_written(record, capsys, file: Path, given, line: str) -> None:
    code, text = waive(capsys, f"{record()}#1", **given)
    assert (code, text) == (4, f"bscheck: {line}\n")
    assert not file.exists()


def test_failure_must_be_named(record, capsys, file: Path) -> None:
    code, text = waive(capsys, record())
    assert code == 4
    assert "say which failure is waived, for example" in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"family": "known issues"}, "is the pinned case of a known issue: change that entry instead"),
        ({"check": "nosuch"}, "unknown check 'nosuch'"),
        ({"failure": {**failure()["failure"], "case": {}}}, "failed while setting up, before any case"),
        ({"param": {"a b": "sgd"}}, "a parameter is called 'a b'; the file is damaged"),
        ({"failure": {**failure()["failure"], "case": {"decay": "often"}}}, "unknown decay in a case 'often'"),
    ],
)
def test_failure_that_no_entry_can_hold_is_one_line(record, capsys, file: Path, changes, line: str) -> None:
    code, text = waive(capsys, f"{record(failure(**changes))}#0")
    assert code == 4
    assert line in text
    assert not file.exists()


def test_file_that_is_none_of_known_issues_is_left_alone(record, capsys, file: Path) -> None:
    for text in ("[tool]\nx = 1\n", "not toml", "\x00"):
        file.write_text(text)
        code, told = waive(capsys, f"{record()}#1")
        assert code == 4
        assert len(told.splitlines()) == 1
        assert file.read_text() == text


def test_file_that_cannot_be_written_is_one_line(record, capsys, file: Path) -> None:
    code, text = waive(capsys, f"{record()}#1", "--file", "nowhere/known.toml")
    assert code == 4
    assert "nowhere/known.toml: cannot be written: No such file or directory" in text


@pytest.mark.parametrize(
    "reason", ['quote " and \\ back', "new\nline", "tab\tand \x7f and \x1b", "ünïcode 🙂", "'''", "[[issue]]"]
)
def test_any_reason_reads_back(record, capsys, file: Path, reason: str) -> None:
    assert waive(capsys, f"{record()}#1", reason=reason)[0] == 0
    assert tomllib.loads(file.read_text())["issue"][0]["reason"] == " ".join(reason.split())


def test_reason_that_is_no_text_is_one_line(record, capsys, file: Path) -> None:
    code, text = waive(capsys, f"{record()}#1", reason="\udcff")
    assert code == 4
    assert "nothing was written" in text
    assert not file.exists()


# Expiry ------------------------------------------------------------------------------------------------


class FakeContext:
    """As much of a context as the runner uses."""

    param = Param.of(optimizer="sgd")
    environment = {"keras": "3.15.1", "backend": "tensorflow", "device": "cpu"}  # noqa: RUF012
    facts = {}  # noqa: RUF012

    def relieve(self) -> None:
        """Compile nothing."""


def waived(record, capsys, file: Path, today: date):
    waive(capsys, f"{record()}#1")
    return read_known_issues(file, all_checks(), today)


def broken_check():
    from dataclasses import replace

    from bscheck.cases import UpdateCase
    from bscheck.results.verdict import Reading

    return replace(
        get_check("weight_decay_acts_once_per_update"),
        applies=lambda context: None,
        function=lambda context, case: Reading(3.0 if case.decay == "on" else 0.0, seen="off by 2"),
        corners=lambda context: (UpdateCase(decay="on"),),
    )


def test_entry_holds_until_its_day_and_that_day_too(record, capsys, file: Path) -> None:
    issues = waived(record, capsys, file, DAY)
    settings = RunSettings(max_examples=0, known_issues=issues)
    assert run_check(broken_check(), FakeContext(), settings).verdict == Verdict.KNOWN_ISSUE
    assert run_pinned(issues[0], broken_check(), FakeContext()).verdict == Verdict.KNOWN_ISSUE


def test_expired_entry_fails_the_gate_and_is_named(record, capsys, file: Path) -> None:
    issues = waived(record, capsys, file, DAY + timedelta(days=1))
    name = f"known issue 'weight-decay-acts-once-per-update-sgd' expired on {DAY} ("
    result = run_check(broken_check(), FakeContext(), RunSettings(max_examples=0, known_issues=issues))
    assert result.verdict == Verdict.FAILED
    assert f"Expired {name}" in " ".join(render(result, "promise").split())
    pinned = run_pinned(issues[0], broken_check(), FakeContext())
    assert pinned.verdict == Verdict.FAILED
    assert pinned.reason.startswith(name)
    text = "\n".join(summary([pinned.to_json()], ["accumulation"]))
    assert "EXPIRED" in text
    assert name in text
    assert "FIXED" not in text


def test_expired_entry_of_a_defect_that_is_gone_asks_to_be_deleted(record, capsys, file: Path) -> None:
    from dataclasses import replace

    from bscheck.results.verdict import Reading

    (issue,) = waived(record, capsys, file, DAY + timedelta(days=1))
    sound = replace(broken_check(), function=lambda context, case: Reading(0.0))
    assert "is fixed here: delete its entry" in run_pinned(issue, sound, FakeContext()).reason


@pytest.mark.parametrize("value", ["'soon'", "3", "2027-13-01", "2027-01-31T00:00:00", "true", "[]"])
def test_expiry_that_is_no_date_is_one_line(tmp_path: Path, value: str) -> None:
    from bscheck.errors import KnownIssueError

    path = tmp_path / "known.toml"
    path.write_text(
        "[[issue]]\nid = 'a'\ncheck = 'weight_decay_acts_once_per_update'\nreason = 'r'\nlink = 'l'\n"
        f"expires = {value}\n[issue.param]\noptimizer = 'sgd'\n"
    )
    with pytest.raises(KnownIssueError, match=r"expires must be a date|is not valid TOML") as error:
        read_known_issues(path, all_checks())
    assert "\n" not in str(error.value)
