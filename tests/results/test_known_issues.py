"""Known issues: what an entry may say, what it covers, and the line that refuses a bad one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from bscheck.cases import Case
from bscheck.errors import KnownIssueError
from bscheck.results import known_issues
from bscheck.results.known_issues import PACKAGED, KnownIssue, load_known_issues, read_known_issues


@dataclass(frozen=True, kw_only=True)
class FakeCase(Case):
    """A field of each kind."""

    sizes: tuple[int, ...] = (2, 1)
    decay: str = "none"
    updates: int = 2
    outlier: bool = False

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"decay": ("none", "on")}


CHECKS: Any = {"parts_add_up": SimpleNamespace(name="parts_add_up", case=FakeCase)}
HERE = {"keras": "3.15.1", "backend": "tensorflow", "backend_version": "2.21.0+cpu", "device": "cpu"}

HEAD = """
[[issue]]
id = "decay-breaks"
check = "parts_add_up"
reason = "decay acts twice"
link = "https://example.org/1"
"""
ENTRY = (
    HEAD
    + """
[issue.when]
keras = ">=3.15,<3.16"
backend = ["tensorflow", "jax"]
decay = "on"
optimizer = ["adam", "adamw"]
updates = {min = 2, max = 8}
[issue.param]
optimizer = "adam"
[issue.case]
decay = "on"
updates = 3
"""
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the place of a file of known issues."""
    return tmp_path / "known.toml"


def read(file: Path, text: str) -> tuple[KnownIssue, ...]:
    """Return the entries of a text."""
    file.write_text(text)
    return read_known_issues(file, CHECKS)


def issue(file: Path, when: str, case: str = "decay = 'on'", param: str = "optimizer = 'adam'") -> KnownIssue:
    """Return one entry with this condition."""
    text = f"{HEAD}\n[issue.when]\n{when}\n[issue.param]\n{param}\n[issue.case]\n{case}\n"
    return read(file, text)[0]


def situation(**fields: Any) -> dict[str, Any]:
    """Return a situation as the runner makes it: members of the parameter and fields of the case."""
    return {"optimizer": "adam", **FakeCase(**fields).to_json()}


def test_packaged_file_is_valid() -> None:
    from bscheck.checks import all_checks

    assert all(found.source.startswith(str(PACKAGED)) for found in read_known_issues(PACKAGED, all_checks()))


def test_entry_is_read_whole(file: Path) -> None:
    (found,) = read(file, ENTRY)
    assert (found.id, found.check, found.link) == ("decay-breaks", "parts_add_up", "https://example.org/1")
    assert found.case == {"decay": "on", "updates": 3}
    assert found.source == f"{file}: issue 'decay-breaks'"


def test_entry_covers_its_condition_and_nothing_beside_it(file: Path) -> None:
    (found,) = read(file, ENTRY)
    inside = situation(decay="on", updates=8)
    assert found.covers("parts_add_up", inside, HERE)
    assert not found.covers("another_check", inside, HERE)
    assert not found.covers("parts_add_up", situation(decay="none", updates=8), HERE)
    assert not found.covers("parts_add_up", situation(decay="on", updates=9), HERE)
    assert not found.covers("parts_add_up", inside | {"optimizer": "lion"}, HERE)
    assert not found.covers("parts_add_up", inside, HERE | {"backend": "torch"})
    assert not found.covers("parts_add_up", inside, HERE | {"keras": "3.16.0"})


@pytest.mark.parametrize(
    ("condition", "version", "fits"),
    [
        (">=3.15,<3.16", "3.15.1", True),
        (">=3.15,<3.16", "3.16.0", False),
        (">=3.15", "3.16.0.dev2026010103", True),
        ("<3.16", "3.15.0rc1", True),
        ("==3.15.*", "3.15.2", True),
        (">=3.15", "unknown", False),
    ],
)
def test_versions_are_compared_with_nightly_builds(file: Path, condition: str, version: str, fits: bool) -> None:
    assert issue(file, f"keras = '{condition}'").in_range({"keras": version}) is fits


@pytest.mark.parametrize(
    ("when", "sizes", "fits"),
    [
        ("sizes = [2, 1]", (2, 1), True),
        ("sizes = [2, 1]", (1, 2), False),
        ("sizes = [[2, 1], [1, 2]]", (1, 2), True),
        ("sizes = {min = 2, max = 3}", (9, 9, 9), True),
        ("sizes = {min = 2, max = 3}", (1, 1, 1, 1), False),
        ("sizes = {max = 3}", (1,), True),
    ],
)
def test_field_that_is_a_list_is_compared_whole_or_by_its_length(
    file: Path, when: str, sizes: tuple[int, ...], fits: bool
) -> None:
    assert issue(file, when, "sizes = [2, 1]").matches(situation(sizes=sizes)) is fits


def test_true_is_not_one(file: Path) -> None:
    found = issue(file, "outlier = true", "outlier = true")
    assert found.matches(situation(outlier=True))
    assert not found.matches(situation(outlier=True) | {"outlier": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("issue = 3", "'issue' must be a list of tables, each headed [[issue]]"),
        ("[[isue]]", "unknown key 'isue'; did you mean 'issue'? valid: issue"),
        ("[[issue]\n", "is not valid TOML: "),
        ("[[issue]]\n", "issue number 1: id is missing; give it as a string"),
        (HEAD + "intermittent = 'often'", "issue 'decay-breaks': intermittent must be true or false, not 'often'"),
        (
            HEAD + "until = 3",
            "issue 'decay-breaks': unknown key 'until'; valid: case, check, expires, id, ",
        ),
        (HEAD.replace("link", "# link"), "issue 'decay-breaks': link is missing; give it as a string"),
        (HEAD + "when = 'always'", "issue 'decay-breaks': when must be a table, headed [issue.when]"),
        (
            HEAD.replace("parts_add_up", "parts_ad_up"),
            "issue 'decay-breaks': unknown check 'parts_ad_up'; did you mean 'parts_add_up'? valid: parts_",
        ),
        (
            HEAD + "[issue.case]\ndecai = 'on'",
            "issue 'decay-breaks': unknown case field 'decai'; did you mean",
        ),
        (
            HEAD + "[issue.case]\nupdates = 'two'",
            "issue 'decay-breaks': case field 'updates' must be int, not 'two'",
        ),
        (
            HEAD + "[issue.case]\ndecay = 'off'",
            "issue 'decay-breaks': unknown decay in a case 'off'; valid: ",
        ),
        (
            HEAD + "[issue.param]\noptimizer = 3",
            "issue 'decay-breaks': param 'optimizer' must be a string, not 3",
        ),
        (HEAD + "[issue.when]\nepochs = 3", "issue 'decay-breaks': unknown field in when 'epochs'; valid: "),
        (
            HEAD + "[issue.when]\nkeras = '3.15'",
            "issue 'decay-breaks': when.keras must be a version specifier",
        ),
        (HEAD + "[issue.when]\nkeras = ''", "issue 'decay-breaks': when.keras must be a version specifier"),
        (HEAD + "[issue.when]\nkeras = 3.15", "issue 'decay-breaks': when.keras must be a version specifier"),
        (
            HEAD + "[issue.when]\ndevice = 3",
            "issue 'decay-breaks': when.device must be a name or a list of names",
        ),
        (
            HEAD + "[issue.when]\ndecay = 'off'",
            "issue 'decay-breaks': unknown decay in a case 'off'; valid: ",
        ),
        (
            HEAD + "[issue.when]\ndecay = {min = 1}",
            "issue 'decay-breaks': when.decay must be a value, a list or, ",
        ),
        (
            HEAD + "[issue.when]\nupdates = {least = 1}",
            "issue 'decay-breaks': when.updates must be a value, a list",
        ),
        (
            HEAD + "[issue.when]\ndecay = 'on'",
            "issue 'decay-breaks': the pinned case does not satisfy when.decay: it has 'none'",
        ),
        (
            HEAD + "[issue.when]\nupdates = {min = 3}",
            "issue 'decay-breaks': the pinned case does not satisfy when.updates: it has 2",
        ),
    ],
)
def test_bad_entry_is_one_line_naming_file_and_entry(file: Path, text: str, message: str) -> None:
    with pytest.raises(KnownIssueError) as error:
        read(file, text)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


def test_missing_file_is_one_line(file: Path) -> None:
    with pytest.raises(KnownIssueError, match="cannot be read: No such file or directory"):
        read_known_issues(file, CHECKS)


def test_id_may_be_used_once_over_all_files(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_issues, "PACKAGED", file)
    file.write_text(ENTRY)
    other = file.with_name("other.toml")
    other.write_text(ENTRY)
    with pytest.raises(KnownIssueError, match=r"other.toml: issue 'decay-breaks': the id is taken already, by .*known"):
        load_known_issues(CHECKS, other)
