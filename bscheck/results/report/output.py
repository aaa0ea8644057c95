"""Where a report goes: only to the file that its user named, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bscheck.errors import BscheckError, one_line
from bscheck.results.compare import EXIT_LOST, EXIT_REGRESSION, EXIT_SAME
from bscheck.results.record import replace_file
from bscheck.results.report.model import Report, State


def output_file(given: str, records: Sequence[Path]) -> Path | None:
    """Return the file to write, None for standard output.

    Raises
    ------
    BscheckError
        For a folder, something that is no ordinary file, a folder that is not there, or one of the records themselves.
    """
    if given == "-":
        return None
    path = Path(given)
    if path.is_dir():
        raise BscheckError(f"--output {path}: is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise BscheckError(f"--output {path}: is no ordinary file; use '-' for standard output")
    if not path.parent.is_dir():
        raise BscheckError(f"--output {path}: there is no folder {path.parent}")
    if any(path.resolve() == record.resolve() for record in records):
        raise BscheckError(f"--output {path}: is one of the records; give another name")
    return path


def names_of(files: Sequence[Path]) -> list[str]:
    """Return what the records are called in the report: where they lay is nobody's business, unless it tells them
    apart.
    """
    names = [file.name for file in files]
    return [name if names.count(name) == 1 else str(file) for name, file in zip(names, files, strict=True)]


def write(path: Path, text: str) -> None:
    """Write the report.

    Raises
    ------
    BscheckError
        When the file cannot be written; an older one is left as it was.
    """
    try:
        replace_file(path, f"{text}\n".encode())
    except OSError as error:
        raise BscheckError(f"--output {path}: cannot be written: {error.strerror or one_line(error)}") from None


def exit_code(report: Report) -> int:
    """Return 1 where a promise is broken, 3 where coverage was lost, else 0."""
    return {State.BROKEN: EXIT_REGRESSION, State.INCOMPLETE: EXIT_LOST}.get(report.state, EXIT_SAME)
