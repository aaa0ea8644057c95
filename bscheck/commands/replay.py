"""``bscheck replay``: a recorded failure, run again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    replaying = commands.add_parser(
        "replay",
        help="run a recorded failure again",
        description="Run the smallest case of a recorded failure again, or of every failure of a record, and say "
        "whether it still fails. The number after # is the result's place in the record, counted from 0; the "
        "failure's own text has it.",
        epilog="exit codes: 0 fixed, 1 one still fails, 3 one cannot be run here, 4 the record cannot be used",
    )
    replaying.add_argument("record", metavar="RECORD[#NUMBER]")
    replaying.add_argument(
        "--subjects",
        action="append",
        default=[],
        metavar="MODULE",
        help="where a team's own subjects are defined: a module, or a .py file (repeatable); nothing that a record "
        "says is ever imported",
    )
    replaying.add_argument(
        "--script", metavar="DIR", help="also write the stand-alone program of each that still fails to this folder"
    )
    replaying.set_defaults(lines=_replay)


def _replay(given: argparse.Namespace) -> Iterator[str | int]:
    """Yield the lines of ``bscheck replay``, and its exit code."""
    from bscheck.replay import Outcome, exit_code, replay, subjects_in
    from bscheck.results.failure import name_of
    from bscheck.results.reference import find

    recorded = find(given.record)
    subjects = subjects_in(given.subjects)
    replayed = []
    for one in recorded:
        done = replay(one, subjects)
        replayed.append(done)
        yield f"{one.name} {name_of(one.result)}: {done.outcome}"
        yield f"    {done.words}"
        if given.script is not None and done.outcome == Outcome.STILL_FAILS:
            yield f"    {_script(done, subjects, given.script)}"
    if len(replayed) > 1:
        counts = [
            f"{sum(r.outcome == o for r in replayed)} {o}" for o in Outcome if any(r.outcome == o for r in replayed)
        ]
        yield " · ".join(counts)
    yield exit_code(replayed)


def _script(done: object, subjects: object, folder: str) -> str:
    """Return the line about the program that was written, or why none was."""
    from pathlib import Path
    from typing import Any

    from bscheck.replay import ready
    from bscheck.reproduce import NoScript, write_script

    told: Any = done
    check, context = ready(told.recorded, subjects)  # type: ignore[arg-type]
    failure = told.recorded.result.failure
    if not failure.case:
        return "no stand-alone program: it fails while setting up"
    case = check.case.from_json(dict(failure.case))
    try:
        name = write_script(check, context, case, failure.reading, Path(folder))
    except NoScript as reason:
        return f"no stand-alone program: {reason}"
    return f"python {Path(folder) / name}"
