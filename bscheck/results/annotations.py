"""Broken promises as annotations of a pull request: one line for each, in the form GitHub's runners read.

``python -m bscheck.results.annotations RECORD`` prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bscheck.errors import EXIT_BAD_INPUT, BscheckError


def annotation_lines(record: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Yield ``::error file=...,line=...,title=...::what was seen`` for each result that failed.

    Parameters
    ----------
    record : mapping
        As `bscheck.results.record.read_record` gives it.
    folder : Path
        Where the ids of its items begin; a promise's line is looked up there.
    """
    for result in record["results"]:
        if result["verdict"] != "failed":
            continue
        file = str(result.get("nodeid", "")).partition("::")[0]
        place = {"file": file, "line": str(_line(folder / file, str(result["check"])))} if file else {}
        title = f"{result['check']}[{'-'.join(map(str, result['param'].values()))}]"
        properties = ",".join(f"{key}={_property(value)}" for key, value in {**place, "title": title}.items())
        yield f"::error {properties}::{_message(_words(result))}"


def _words(result: Mapping[str, Any]) -> str:
    failure = dict(result.get("failure") or {})
    reading = dict(failure.get("reading") or {})
    seen = str(reading.get("seen") or result.get("reason") or "the promise is broken")
    allowed = f" (allowed: {reading['allowed']})" if reading.get("allowed") else ""
    case = f"; smallest case: {failure['situation']}" if failure.get("situation") else ""
    return seen + allowed + case


def _line(path: Path, check: str) -> int:
    """Return the line of a file that names the check, the first where none does or there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 1
    return next((number for number, line in enumerate(lines, 1) if check in line), 1)


def _message(text: str) -> str:
    """Escape a message as the runners' workflow commands want it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def main() -> int:
    """Print the annotations of the record named on the command line."""
    from bscheck.results.record import read_record

    try:
        for line in annotation_lines(read_record(Path(sys.argv[1])), Path.cwd()):
            print(line)
    except BscheckError as error:
        print(f"bscheck: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
