"""The record of a run: one versioned JSON file with the environment, every verdict and every figure."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bscheck.errors import RecordError, one_line

SCHEMA = 1
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
    }
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        replace_file(path, text)
    except OSError as error:
        raise RecordError(f"record {path}: cannot be written: {error.strerror or one_line(error)}") from None


def replace_file(path: Path, text: str) -> None:
    """Write beside the file, make sure it is on the disk, then rename over it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
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
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise RecordError(f"record {path}: cannot be written: {error.strerror or one_line(error)}") from None
    os.close(handle)
    os.unlink(name)


def read_record(path: Path) -> dict[str, Any]:
    """Return a record that `write_record` wrote.

    Raises
    ------
    RecordError
        With one line: missing, not JSON, another program's, of an unknown schema, or incomplete.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"record {path}: cannot be read: {error.strerror or one_line(error)}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"record {path}: is not valid JSON: {one_line(error)}") from None
    if not isinstance(document, dict) or document.get("program") != _PROGRAM:
        raise RecordError(f"record {path}: is not a record of bscheck (pytest --bscheck-record writes one)")
    if document.get("schema") != SCHEMA:
        raise RecordError(f"record {path}: has schema {document.get('schema')!r}; this bscheck reads schema {SCHEMA}")
    for key, kind in _KEYS.items():
        if type(document.get(key)) is not kind:
            wanted = f"{key!r} is missing or not a {kind.__name__}"
            raise RecordError(f"record {path}: {wanted}; the file is damaged")
    for number, result in enumerate(document["results"]):
        if not isinstance(result, dict) or not {"check", "family", "param", "verdict"} <= result.keys():
            raise RecordError(f"record {path}: result {number} is incomplete; the file is damaged")
        for key in ("param", "held", "worst", "failure"):
            if not isinstance(result.get(key) or {}, dict):
                raise RecordError(f"record {path}: {key!r} of result {number} is not a table; the file is damaged")
    return document
