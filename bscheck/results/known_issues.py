"""Known issues: recorded defects of current releases, each with a condition and one pinned case.

The file format is documented at the head of ``bscheck/data/known_issues.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from bscheck.errors import BscheckError, KnownIssueError, one_line, unknown

if TYPE_CHECKING:
    from bscheck.checks import Check

#: The entries that travel with bscheck.
PACKAGED = Path(__file__).resolve().parent.parent / "data" / "known_issues.toml"

#: Conditions on the environment: version specifiers, and names.
VERSIONS = ("keras", "backend_version", "numpy", "python")
PLACES = ("backend", "device", "platform")

_REQUIRED = ("id", "check", "reason", "link")
_OPTIONAL = ("expires", "intermittent")
_TABLES = ("when", "param", "case")
_RANGE = frozenset({"min", "max"})


@dataclass(frozen=True)
class KnownIssue:
    """A recorded defect.

    Attributes
    ----------
    id, check, reason, link : str
        Its name, the check it breaks, what is wrong, and where that is reported.
    when : mapping
        The condition: fields of the situation and of the environment, each a value, a list of values, a
        ``{min, max}`` range, or for versions a specifier.
    param, case : mapping
        The pinned situation, which must still fail wherever the condition holds.
    source : str
        File and entry, for messages.
    expires : str
        The last day on which the entry holds anything, as ISO 8601 has it; "" for no end.
    expired : bool
        Whether that day has passed.
    intermittent : bool
        Whether the defect shows in some runs only, so that a run in which the pinned case passes proves nothing.
    """

    id: str
    check: str
    reason: str
    link: str
    when: Mapping[str, Any] = field(default_factory=dict)
    param: Mapping[str, str] = field(default_factory=dict)
    case: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    expires: str = ""
    expired: bool = False
    intermittent: bool = False

    def since(self) -> str:
        """Return what is said of an entry whose day has passed."""
        return f"known issue {self.id!r} expired on {self.expires} ({self.source})"

    def covers(self, check: str, situation: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
        """Whether a failure of `check` in this situation (param members and case fields) is this defect."""
        return check == self.check and self.in_range(environment) and self.matches(situation)

    def matches(self, situation: Mapping[str, Any]) -> bool:
        """Whether the situation's part of the condition holds."""
        return matches(self.when, situation)

    def in_range(self, environment: Mapping[str, str]) -> bool:
        """Whether the environment's part of the condition holds: versions, backend, device, platform."""
        for key, value in self.when.items():
            if key in VERSIONS and not _version_fits(value, environment.get(key, "")):
                return False
            if key in PLACES and not _fits(value, environment.get(key, "")):
                return False
        return True


def matches(when: Mapping[str, Any], situation: Mapping[str, Any]) -> bool:
    """Whether the part of a condition that is about parameter and case holds."""
    wanted = {key: value for key, value in when.items() if key not in (*VERSIONS, *PLACES)}
    return all(key in situation and _fits(value, situation[key]) for key, value in wanted.items())


def load_known_issues(checks: Mapping[str, Check], *files: Path, today: date | None = None) -> tuple[KnownIssue, ...]:
    """Return the packaged entries and those of the files, validated.

    Parameters
    ----------
    checks : mapping of str to Check
        The registered checks.
    *files : Path
        The user's own files.
    today : date, optional
        The day on which entries may have expired; the clock's by default.

    Raises
    ------
    KnownIssueError
        With one line naming the file and the entry.
    """
    issues: dict[str, KnownIssue] = {}
    for path in (PACKAGED, *files):
        for issue in read_known_issues(path, checks, today):
            if issue.id in issues:
                taken = issues[issue.id].source
                raise KnownIssueError(f"{issue.source}: the id is taken already, by {taken}")
            issues[issue.id] = issue
    return tuple(issues.values())


def read_known_issues(path: Path, checks: Mapping[str, Check], today: date | None = None) -> tuple[KnownIssue, ...]:
    """Return one file's entries, validated.

    Raises
    ------
    KnownIssueError
        With one line naming the file and the entry.
    """
    document = read_toml(path)
    for key in document:
        if key != "issue":
            raise KnownIssueError(f"{path}: {unknown('key', key, ['issue'])}")
    entries = document.get("issue", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise KnownIssueError(f"{path}: 'issue' must be a list of tables, each headed [[issue]]")
    day = today or date.today()
    return tuple(_issue(path, number, entry, checks, day) for number, entry in enumerate(entries, 1))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises
    ------
    KnownIssueError
        With one line: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KnownIssueError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested beyond reason
        raise KnownIssueError(f"{path}: is not valid TOML: {' '.join(str(error).split())}") from None


def _issue(path: Path, number: int, entry: Mapping[str, Any], checks: Mapping[str, Check], today: date) -> KnownIssue:
    """Return one entry, or raise with its place."""
    name = entry.get("id")
    source = f"{path}: issue {name!r}" if isinstance(name, str) else f"{path}: issue number {number}"
    try:
        for key in entry:
            if key not in (*_REQUIRED, *_OPTIONAL, *_TABLES):
                raise KnownIssueError(unknown("key", key, (*_REQUIRED, *_OPTIONAL, *_TABLES)))
        for key in _REQUIRED:
            if not isinstance(entry.get(key), str) or not entry[key].strip():
                raise KnownIssueError(f"{key} is missing; give it as a string")
        for key in _TABLES:
            if not isinstance(entry.get(key, {}), dict):
                raise KnownIssueError(f"{key} must be a table, headed [issue.{key}]")
        if entry["check"] not in checks:
            raise KnownIssueError(unknown("check", entry["check"], checks))
        if type(entry.get("intermittent", False)) is not bool:
            raise KnownIssueError(f"intermittent must be true or false, not {entry['intermittent']!r}")
        last = _last_day(entry.get("expires"))
        dated = {"expires": "" if last is None else last.isoformat(), "expired": last is not None and last < today}
        issue = KnownIssue(**{**entry, **dated}, source=source)
        _validate(issue, checks[issue.check])
        return issue
    except BscheckError as error:
        raise KnownIssueError(f"{source}: {error}") from None


def _last_day(value: Any) -> date | None:
    """Return the day an entry ends on: a TOML date, or a string that says one."""
    if value is None:
        return None
    try:
        return value if type(value) is date else date.fromisoformat(value)
    except (TypeError, ValueError):
        raise KnownIssueError(f"expires must be a date such as 2027-01-31, not {str(value)!r}") from None


def _validate(issue: KnownIssue, check: Check) -> None:
    """Raise if the condition or the pinned case cannot be what was meant."""
    for kind, value in issue.param.items():
        if not isinstance(value, str):
            raise KnownIssueError(f"param {kind!r} must be a string, not {value!r}")
    pinned = {**issue.param, **check.case.from_json(dict(issue.case)).to_json()}
    for key, value in issue.when.items():
        if key in VERSIONS:
            _check_specifier(key, value)
        elif key in PLACES:
            _check_value(key, value, "", None)
        elif key not in pinned:
            raise KnownIssueError(unknown("field in when", key, (*pinned, *VERSIONS, *PLACES)))
        else:
            _check_value(key, value, pinned[key], None if key in issue.param else check)
            if not _fits(value, pinned[key]):
                raise KnownIssueError(f"the pinned case does not satisfy when.{key}: it has {pinned[key]!r}")


def _check_specifier(key: str, value: Any) -> None:
    """Raise unless the value is a version specifier."""
    try:
        if not isinstance(value, str) or not str(SpecifierSet(value)):
            raise InvalidSpecifier
    except InvalidSpecifier:
        raise KnownIssueError(f"when.{key} must be a version specifier such as '>=3.15,<3.16', not {value!r}") from None


def _check_value(key: str, value: Any, pinned: Any, check: Check | None) -> None:
    """Raise unless the value is comparable with the field: a value, a list of values, or a range."""
    if isinstance(value, dict):
        amounts = isinstance(pinned, list) or type(pinned) is int
        if not amounts or not value or set(value) - _RANGE or any(type(v) is not int for v in value.values()):
            raise KnownIssueError(f"when.{key} must be a value, a list or, for numbers, {{min = , max = }}")
        return
    for one in _alternatives(value, pinned):
        if check is not None:
            check.case.from_json({key: one})  # raises for another type or an unknown name
        elif not isinstance(one, str):
            raise KnownIssueError(f"when.{key} must be a name or a list of names, not {one!r}")


def _alternatives(value: Any, actual: Any) -> list[Any]:
    """Return the values that the condition allows; for a field that is a list, a plain list is one value."""
    if not isinstance(value, list):
        return [value]
    nested = any(isinstance(part, list) for part in value)
    return [value] if isinstance(actual, list) and not nested else value


def _fits(wanted: Any, actual: Any) -> bool:
    """Whether a field of the situation satisfies its condition; a range on a list is about its length."""
    if isinstance(wanted, Mapping):
        amount = len(actual) if isinstance(actual, list) else actual
        return bool(wanted.get("min", amount) <= amount <= wanted.get("max", amount))
    return any(type(one) is type(actual) and one == actual for one in _alternatives(wanted, actual))


def _version_fits(specifier: str, version: str) -> bool:
    """Whether the version is in range; pre-releases and nightly builds take part."""
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidVersion:
        return False
