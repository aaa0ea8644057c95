"""What bscheck says when its input is wrong: one line, what is wrong and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: Exit code of ``bscheck`` and of pytest runs stopped by bad input (pytest's own code for usage errors).
EXIT_BAD_INPUT = 4

#: Exit code of a command that was interrupted: 128 + SIGINT, as shells have it.
EXIT_INTERRUPTED = 130


class BscheckError(Exception):
    """Bad input or a missing part of the environment; ``str()`` is one line meant for the user."""

    def __str__(self) -> str:
        # A name that the user gave may have line breaks of its own.
        return " ".join(super().__str__().splitlines())


class SubjectError(BscheckError):
    """A subject that cannot be tested as it is given."""


class MissingEnvironmentError(BscheckError):
    """Keras, a backend or a device that was asked for is not there."""


class RecordError(BscheckError):
    """A record that cannot be read."""


class KnownIssueError(BscheckError):
    """A known-issue file or entry that cannot be used."""


#: Names shown of a long list: what fits on a screen beside the hint.
SHOWN = 30


def unknown(kind: str, name: object, valid: Iterable[str]) -> str:
    """Return the one-line text for a name that is not among the valid ones: the nearest, then the first of them all."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"unknown {kind} {name!r}; {hint}valid: {', '.join(names[:SHOWN]) or 'none'}{more}"


def one_line(error: BaseException) -> str:
    """Return an exception as one line, type first, without the colours that Keras puts into its messages."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
