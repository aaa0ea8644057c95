"""``bscheck waive``: a failure that is intended, or known, for a while."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

DEFAULT_FILE = "known_issues.toml"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    waiving = commands.add_parser(
        "waive",
        help="hold a recorded failure until a date",
        description="Append a known issue for one recorded failure to a TOML file: the gate holds the failure there "
        "and no further, and once the day has passed it fails and names the entry.",
        epilog="exit codes: 0 written, 4 nothing was written, and why",
    )
    waiving.add_argument("record", metavar="RECORD#NUMBER")
    waiving.add_argument("--reason", required=True, help="why it is accepted, one sentence")
    waiving.add_argument("--expires", required=True, metavar="DATE", help="the last day of it, such as 2027-01-31")
    waiving.add_argument("--link", default="", metavar="URL", help="where it is discussed; the record by default")
    waiving.add_argument("--file", default=DEFAULT_FILE, metavar="FILE", help=f"the TOML file ({DEFAULT_FILE})")
    waiving.set_defaults(lines=_waive)


def _waive(given: argparse.Namespace) -> Iterator[str | int]:
    """Yield the lines of ``bscheck waive``."""
    from datetime import date
    from pathlib import Path

    from bscheck.checks import all_checks
    from bscheck.errors import BscheckError
    from bscheck.results.reference import find
    from bscheck.results.waiver import append, entry_of

    if "#" not in given.record:
        raise BscheckError(f"{given.record}: say which failure is waived, for example {given.record}#17")
    found = find(given.record)
    if len(found) != 1:
        raise BscheckError(f"{given.record}: say which failure is waived, for example {given.record}#{found[0].number}")
    checks, path = all_checks(), Path(given.file)
    entry = entry_of(found[0], checks, reason=given.reason, link=given.link, expires=given.expires, today=date.today())
    entry = append(path, entry, checks)
    yield f"{path}: added known issue {entry['id']!r}, until {entry['expires']}"
    yield f"    {', '.join(f'{k}: {v}' for k, v in entry['when'].items())}"
    yield f"the gate holds it with --bscheck-known-issues {path}"
