"""The command ``bscheck``: what is promised, what is not, and why."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from bscheck import __version__
from bscheck.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, BscheckError

#: Modules of `bscheck.commands`, in the order that help shows.
COMMANDS = (
    "list",
    "compare",
    "report",
    "replay",
    "waive",
    "advise",
    "releases",
    "bisect",
)

#: Commands that hand what comes after ``--`` on to pytest.
HAND_ON = ("releases",)

_EPILOG = """\
exit codes:
  0    fine
  1    a promise is broken, or still is (replay)
  2    usage: an unknown command or option
  3    coverage was lost (compare, report); a release (releases, bisect) or a case (replay) could not be run
  4    bad input: an unknown check, a file that cannot be used, no Keras
  130  interrupted

The gate itself is run by pytest: pytest --pyargs bscheck.gate
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; the process's own by default.
    """
    mine, others = _split(sys.argv[1:] if arguments is None else list(arguments))
    given = _parser().parse_args(mine, argparse.Namespace(rest=others))
    try:
        code = 0
        for line in given.lines(given):
            if isinstance(line, int):
                code = line
            else:
                print(line, flush=True)
        sys.stdout.flush()
        return code
    except BscheckError as error:
        print(f"bscheck: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        # The reader has seen enough (head, less); keep Python from complaining when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the command's own arguments, and those after ``--`` where it hands them on (argparse would mix them)."""
    if "--" not in arguments or arguments[0] not in HAND_ON:
        return arguments, ()
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bscheck",
        description="Does the batch size change what a Keras model learns, and what does it cost?",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bscheck {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"bscheck.commands.{name}").add(commands)
    return parser
