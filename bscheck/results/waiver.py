"""A recorded failure as an entry of a file of known issues."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bscheck.errors import BscheckError, KnownIssueError, one_line
from bscheck.results.known_issues import PACKAGED, read_known_issues
from bscheck.results.record import replace_file
from bscheck.results.reference import Recorded
from bscheck.results.verdict import Failure

if TYPE_CHECKING:
    from bscheck.cases import Case
    from bscheck.checks import Check

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")

#: The family of the pinned cases, which are no failures of a check on a case.
_PINNED = "known issues"


def entry_of(
    recorded: Recorded, checks: Mapping[str, Check], *, reason: str, link: str, expires: str, today: date
) -> dict[str, Any]:
    """Return the entry that holds one recorded failure, and as little else as can be said without running it.

    The condition names the releases of the record, the parameter, and each option of the case that the failure was
    seen to need: those whose ablation passes (all that are on, where none was tried).

    Raises
    ------
    BscheckError
        For an empty reason, a date that is none or has passed, or a failure that no entry can hold.
    """
    result, failure = recorded.result, recorded.result.failure
    assert failure is not None
    if not reason.strip():
        raise BscheckError("--reason: say in one sentence why the failure is accepted")
    last = _day(expires, today)
    if result.family == _PINNED:
        raise BscheckError(f"{recorded.name}: is the pinned case of a known issue: change that entry instead")
    if result.check not in checks:
        from bscheck.errors import unknown

        raise BscheckError(unknown("check", result.check, checks))
    if not failure.case:
        raise BscheckError(f"{recorded.name}: failed while setting up, before any case: no entry can hold that")
    case = checks[result.check].case.from_json(dict(failure.case))
    for kind in result.param:
        if not _BARE.match(kind):
            raise BscheckError(f"{recorded.name}: a parameter is called {kind!r}; the file is damaged")
    return {
        "id": _slug("-".join([result.check, *result.param.values()])),
        "check": result.check,
        "reason": " ".join(reason.split()),
        "link": link.strip() or f"recorded as {recorded.record.name}#{recorded.number}",
        "expires": last,
        "when": {**_releases(recorded.environment), **result.param, **dict(_needed(case, failure))},
        "param": dict(result.param),
        "case": case.to_json(),
    }


def _day(text: str, today: date) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BscheckError(f"--expires: must be a date such as 2027-01-31, not {text!r}") from None
    if day < today:
        raise BscheckError(f"--expires: {day} has passed; give a day to come")
    return day


def _releases(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the condition on the release: the one that the failure was seen on."""
    found = {}
    if environment.get("keras"):
        # A local version (3.16.0+nightly) is compared as it is.
        found["keras"] = f"=={environment['keras']}"
    if environment.get("backend"):
        found["backend"] = environment["backend"]
    return found


def _needed(case: Case, failure: Failure) -> Iterator[tuple[str, Any]]:
    """Yield the conditions on the case: what its ablation showed to be needed."""
    defaults = type(case)().to_json()
    outcomes = dict(phrase.partition("=")[::2] for phrase in failure.ablation)
    for key, value in case.to_json().items():
        if key == "seed" or value == defaults[key]:
            continue
        if key in outcomes:
            if not outcomes[key].endswith(": passes"):
                continue
        elif failure.ablation or not isinstance(value, (str, bool)):
            continue  # how much was run is no condition: other cases would fail for the same reason
        yield key, {"min": value} if type(value) is int and value > defaults[key] else value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100] or "waived"


def append(path: Path, entry: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Append an entry to a file of known issues, atomically; what is there stays as it is, to the byte.

    Returns
    -------
    dict
        The entry as it was written: its id is changed where it was taken.

    Raises
    ------
    KnownIssueError
        When the file is there and is none of known issues, when it holds such a case already, or cannot be written.
    """
    before = ""
    if path.exists():
        known = read_known_issues(path, checks)
        same = next((i for i in known if (i.check, dict(i.param), dict(i.case)) == _pinned(entry)), None)
        if same is not None:
            raise KnownIssueError(
                f"{path}: issue {same.id!r} holds this case already, until {same.expires or 'further notice'}"
            )
        before = path.read_bytes().decode("utf-8")  # line ends as they are
    taken = {issue.id for file in (PACKAGED, path) if file.exists() for issue in read_known_issues(file, checks)}
    written = {**entry, "id": _free(str(entry["id"]), taken)}
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    text = f"{before}{gap}{as_toml(written)}"
    if not _reads_back(text, written):
        raise KnownIssueError(f"{path}: the entry would not read as it was meant; nothing was written")
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise KnownIssueError(f"{path}: cannot be written: {error.strerror or one_line(error)}") from None
    return written


def _reads_back(text: str, written: Mapping[str, Any]) -> bool:
    """Whether a reader of the new file finds the entry, at its end, as it was meant."""
    try:
        text.encode("utf-8")
        return bool(tomllib.loads(text).get("issue", [])[-1:] == [written])
    except ValueError:
        return False


def _pinned(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return entry["check"], dict(entry["param"]), dict(entry["case"])


def _free(id: str, taken: set[str]) -> str:
    numbered = (id if n == 1 else f"{id}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in numbered if name not in taken)


def as_toml(entry: Mapping[str, Any]) -> str:
    """Return one entry as TOML."""
    lines = ["[[issue]]", *(f"{key} = {_value(v)}" for key, v in entry.items() if not isinstance(v, Mapping))]
    for name, table in entry.items():
        if isinstance(table, Mapping):
            lines += ["", f"[issue.{name}]", *(f"{key} = {_value(v)}" for key, v in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Return a value as TOML has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, date):
        return value.isoformat()
    # JSON's strings, booleans and integers are TOML's too, but for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
