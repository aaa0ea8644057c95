"""``RECORD#number``: one result of a record, named on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bscheck.errors import RecordError
from bscheck.results.record import read_record
from bscheck.results.verdict import Result, Verdict


@dataclass(frozen=True)
class Recorded:
    """One failure of a record.

    Attributes
    ----------
    record : Path
    number : int
        Its place among the record's results, counted from 0.
    result : Result
        Of verdict ``failed``, with its failure.
    environment : dict of str
        What the record's run ran on.
    """

    record: Path
    number: int
    result: Result
    environment: dict[str, str]

    @property
    def name(self) -> str:
        """``RECORD#number``."""
        return f"{self.record}#{self.number}"


def find(given: str) -> tuple[Recorded, ...]:
    """Return the failure that ``RECORD#number`` names, or every failure of ``RECORD``.

    Raises
    ------
    RecordError
        With one line: the number is none, out of range, or that of a result that is no failure.
    """
    path, number = _parts(given)
    document = read_record(path)
    environment = {str(k): str(v) for k, v in document["environment"].items()}
    results = document["results"]
    if number is None:
        found = tuple(_failures(path, results, environment))
        if not found:
            raise RecordError(f"record {path}: holds no failure")
        return found
    if number >= len(results):
        raise RecordError(f"{given}: the record has results 0 to {len(results) - 1}{_failed(results)}")
    if results[number].get("verdict") != Verdict.FAILED:
        raise RecordError(f"{given}: is no failure but {results[number].get('verdict')!r}{_failed(results)}"[:300])
    return (_recorded(path, number, results[number], environment),)


def _parts(given: str) -> tuple[Path, int | None]:
    """Return file and number; a file whose name has a # in it is a file."""
    name, sign, number = given.rpartition("#")
    if not sign or _is_file(given):
        return Path(given), None
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and name):
        raise RecordError(f"{given!r}: after # comes the number of a result, for example run.json#17")
    return Path(name), int(number)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name no file can have
        return False


def _failures(path: Path, results: list[Any], environment: dict[str, str]) -> Iterator[Recorded]:
    for number, result in enumerate(results):
        if result.get("verdict") == Verdict.FAILED and result.get("failure"):
            yield _recorded(path, number, result, environment)


def _recorded(path: Path, number: int, result: Any, environment: dict[str, str]) -> Recorded:
    try:
        read = Result.from_json(result)
    except RecordError as error:
        raise RecordError(f"{path}#{number}: {error}; the file is damaged") from None
    if read.failure is None:
        raise RecordError(f"{path}#{number}: has no case; the file is damaged")
    return Recorded(path, number, read, environment)


def _failed(results: list[Any]) -> str:
    numbers = [str(n) for n, r in enumerate(results) if r.get("verdict") == Verdict.FAILED]
    more = "" if len(numbers) <= 10 else f" and {len(numbers) - 10} more"
    return f"; failures: {', '.join(numbers[:10])}{more}" if numbers else "; it holds no failure"
