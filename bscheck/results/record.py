"""The record of a run: one versioned JSON file with the environment, every verdict and every figure."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bscheck.errors import RecordError, one_line, unknown
from bscheck.results.coverage import selection_of, wordings_of
from bscheck.results.decode import decode
from bscheck.results.verdict import Result

#: Written; 2 added what was collected, so that a reader of shards sees that one is missing. 1 is read still.
SCHEMA = 2
READABLE = (1, 2)
_PROGRAM = "bscheck"
_KEYS = {
    "program": str,
    "schema": int,
    "version": str,
    "environment": dict,
    "options": dict,
    "started": str,
    "finished": str,
    "interrupted": bool,
    "results": list,
    "known_issues": list,
}

#: What the name of several records in one file ends in; ``FILE#NAME`` is one of them.
BUNDLE = ".jsonl.xz"

#: What `read_record` opens by the end of the name.
_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open}


def write_record(
    path: Path,
    *,
    environment: Mapping[str, str],
    options: Mapping[str, Any],
    started: str,
    finished: str,
    interrupted: bool,
    results: Sequence[Mapping[str, Any]],
    known_issues: Sequence[Mapping[str, Any]],
    selection: Mapping[str, Any] | None = None,
    checks: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a record, all of it or none: a reader never sees half a file.

    Parameters
    ----------
    path : Path
        The file; an older one is replaced.
    environment, options : mapping
        What the run ran on, and how it was called.
    started, finished : str
        ISO 8601 times, UTC.
    interrupted : bool
        Whether the run was cut short, so that results are missing.
    results, known_issues : sequence of mapping
        `Result.to_json` of each check, and the entries that were in force.
    selection : mapping, optional
        What was collected: `bscheck.results.coverage.Selection` as JSON.
    checks : mapping, optional
        What is said of the checks: `bscheck.results.coverage.Wording` as JSON, by name.

    Raises
    ------
    RecordError
        When the file cannot be written.
    """
    from bscheck import __version__

    document = {
        "program": _PROGRAM,
        "schema": SCHEMA,
        "version": __version__,
        "environment": dict(environment),
        "options": dict(options),
        "started": started,
        "finished": finished,
        "interrupted": interrupted,
        "results": list(results),
        "known_issues": list(known_issues),
        "selection": dict(selection or {}),
        "checks": dict(checks or {}),
    }
    write_json(path, document)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document, all of it or none.

    Raises
    ------
    RecordError
        When the file cannot be written.
    """
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise RecordError(f"record {path}: cannot be written: {error.strerror or one_line(error)}") from None


def replace_file(path: Path, content: bytes) -> None:
    """Write beside the file, make sure it is on the disk, then rename over it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes private files; a record is an ordinary one
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def check_writable(path: Path) -> None:
    """Raise a `RecordError` if a record could not be written there at the end of the run."""
    if path.is_dir():
        raise RecordError(f"record {path}: is a folder; give the name of a file")
    if not path.parent.exists():
        raise RecordError(f"record {path}: there is no folder {path.parent}; make it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise RecordError(f"record {path}: cannot be written: {error.strerror or one_line(error)}") from None
    os.close(handle)
    os.unlink(name)


def read_record(path: Path) -> dict[str, Any]:
    """Return a record that `write_record` wrote, packed (``.gz``, ``.xz``) or one of a bundle (``FILE.jsonl.xz#NAME``).

    Raises
    ------
    RecordError
        With one line: missing, not JSON, another program's, of an unknown schema, or incomplete.
    """
    file, mark, name = path.name.partition(f"{BUNDLE}#")
    if not mark and not path.name.endswith(BUNDLE):
        return checked(_text(path), path)
    bundle = path.with_name(file + BUNDLE) if mark else path
    records = read_bundle(bundle)
    if not mark:
        raise RecordError(f"record {path}: holds several records; name one: {path.name}#{next(iter(records), 'NAME')}")
    if name not in records:
        raise RecordError(f"record {bundle}: {unknown('record', name, records)}")
    return records[name]


def write_bundle(path: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write records side by side in one packed file, a line each: what they share is stored once.

    Raises
    ------
    RecordError
        When the file cannot be written.
    """
    lines = (
        json.dumps({"name": name, **record}, allow_nan=False, ensure_ascii=False) for name, record in records.items()
    )
    content = lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9 | lzma.PRESET_EXTREME)
    try:
        replace_file(path, content)
    except OSError as error:
        raise RecordError(f"record {path}: cannot be written: {error.strerror or one_line(error)}") from None


def read_bundle(path: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a bundle by name.

    Raises
    ------
    RecordError
        As `read_record` does.
    """
    records = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        record = checked(line, f"{path}, line {number}")
        records[str(record.pop("name", number))] = record
    return records


def _text(path: Path) -> str:
    """Return a file's text, unpacked where its name ends in ``.gz`` or ``.xz``."""
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            content: bytes = file.read()
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise RecordError(f"record {path}: cannot be unpacked: {one_line(error)}") from None
    except OSError as error:
        raise RecordError(f"record {path}: cannot be read: {error.strerror or one_line(error)}") from None
    except ValueError as error:  # a name no file can have
        raise RecordError(f"record {path}: cannot be read: {one_line(error)}") from None
    try:
        return content.decode("utf-8")
    except ValueError as error:
        raise RecordError(f"record {path}: is not valid JSON: {one_line(error)}") from None


def checked(text: str, path: Path | str) -> dict[str, Any]:
    """Return the record that a text holds; `path` is where it came from, for messages.

    Raises
    ------
    RecordError
        As `read_record` does.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {path}: is not valid JSON: {one_line(error)}") from None
    if not isinstance(document, dict) or document.get("program") != _PROGRAM:
        raise RecordError(f"record {path}: is not a record of bscheck (pytest --bscheck-record writes one)")
    if type(document.get("schema")) is not int or document["schema"] not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise RecordError(f"record {path}: has schema {document.get('schema')!r}; this bscheck reads schema {known}")
    document.setdefault("selection", {})  # schema 1 had none
    for key, kind in (*_KEYS.items(), ("selection", dict)):
        if type(document.get(key)) is not kind:
            wanted = f"{key!r} is missing or not a {kind.__name__}"
            raise RecordError(f"record {path}: {wanted}; the file is damaged")
    _validate_parts(path, document)
    return document


def _validate_parts(path: Path | str, document: Mapping[str, Any]) -> None:
    """Raise a `RecordError` for the first entry that no run has written."""
    for number, result in enumerate(document["results"]):
        if not isinstance(result, dict) or not {"check", "family", "param", "verdict"} <= result.keys():
            raise RecordError(f"record {path}: result {number} is incomplete; the file is damaged")
        try:
            Result.from_json(result)
        except RecordError as error:
            raise RecordError(f"record {path}: result {number}: {error}; the file is damaged") from None
    for number, issue in enumerate(document["known_issues"]):
        if not isinstance(issue, dict):
            raise RecordError(f"record {path}: known issue {number} is not a table; the file is damaged")
    try:
        decode(Mapping[str, str], document["environment"], "environment")
        selection_of(document)
        wordings_of(document)
    except ValueError as error:
        raise RecordError(f"record {path}: {error}; the file is damaged") from None
