"""Stand-alone programs for failures: Keras and NumPy, no bscheck, run in a fresh process before they are offered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bscheck.errors import BscheckError, one_line
from bscheck.results.verdict import Failure, Reading

if TYPE_CHECKING:
    from bscheck.cases import Case
    from bscheck.checks import Check
    from bscheck.checks.context import Context


def reproduced(check: Check, context: Context, case: Case, failure: Failure, folder: Path | None) -> Failure:
    """Return the failure with the name of its stand-alone program, or why there is none.

    Parameters
    ----------
    check, context, case
        What failed.
    failure : Failure
        How.
    folder : Path or None
        Where programs are written; None: nowhere.
    """
    if folder is None:
        return failure
    try:
        return replace(failure, script=write_script(check, context, case, failure.reading, folder), no_script="")
    except NoScript as reason:
        return replace(failure, script="", no_script=str(reason))


class NoScript(Exception):  # noqa: N818 - an answer, not an error
    """Raised where no stand-alone program can be offered; ``str()`` is the reason."""


def write_script(check: Check, context: Context, case: Case, reading: Reading, folder: Path) -> str:
    """Write the program that shows a failure, once it has shown it in a fresh process; return the file's name.

    Raises
    ------
    NoScript
        With the reason: no template, too much to write down, or the program did not fail.
    """
    from bscheck.reproduce.files import place, shown
    from bscheck.reproduce.templates import source_of

    try:
        source = source_of(check, context, case, reading)
    except (NoScript, BscheckError) as reason:
        raise NoScript(str(reason)) from None
    except Exception as error:
        # Whatever a template trips over, the failure itself must be told.
        raise NoScript(f"it could not be written ({one_line(error)})") from None
    path = place(folder, check.name, context.param.id)
    shown(path, source, context.runtime.name)
    return path.name
