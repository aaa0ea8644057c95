"""``bscheck releases``: the gate in an isolated environment for each release."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bscheck.errors import BscheckError

if TYPE_CHECKING:
    from bscheck.releases.engine import Outcome
    from bscheck.results.matrix import Line

_EPILOG = """\
exit codes: 0 every promise holds on every release, 1 a promise broke on one, 3 a release could not be installed,
imported or run, 4 bad input

Finished records are kept: the same command goes on where it stopped.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "releases",
        help="the gate on several releases of Keras",
        description="Run the gate on each release in an environment of its own, made by uv, and print a table. What "
        "comes after -- goes to pytest.",
        usage="bscheck releases SPEC ... [--tensorflow [V ...]] [--jax [V ...]] [options] [-- PYTEST ARGUMENTS]",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", metavar="SPEC", nargs="+", help="keras==3.15.1, keras-nightly, ...")
    for backend in ("tensorflow", "jax", "torch"):
        text = f"releases of {backend} (none: the newest that works with each Keras)"
        parser.add_argument(f"--{backend}", metavar="V", nargs="*", help=text)
    parser.add_argument("--gpu", action="store_true", help="the backends' builds for GPUs, which are not hidden then")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("releases"), help="folder of the records")
    parser.add_argument("--jobs", metavar="N", type=int, help="gates at a time (default: as memory and cores allow)")
    parser.add_argument("--again", action="store_true", help="run what is finished once more")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--tests", metavar="PATH", action="append", help="your own tests in place of the gate")
    add_shared(parser)
    parser.set_defaults(lines=_releases)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command with environments has."""
    parser.add_argument("--python", metavar="V", default="", help="Python of the environments (default: this one)")
    parser.add_argument("--with", metavar="REQ", action="append", dest="extras", help="a further requirement")
    parser.add_argument("--cache", metavar="DIR", type=Path, help="folder of the environments (default: the user's)")


def _releases(given: argparse.Namespace) -> Iterator[str | int]:
    """Yield the table of ``bscheck releases``, and its exit code; progress goes to standard error."""
    from bscheck.releases import uv
    from bscheck.releases.cache import default_cache, made
    from bscheck.releases.combination import BACKENDS, crossed
    from bscheck.releases.engine import Session, Settings, exit_code
    from bscheck.releases.processes import jobs_for
    from bscheck.results.matrix import as_markdown, as_text, broken
    from bscheck.signals import ended_by_sigterm

    if given.jobs is not None and given.jobs < 1:
        raise BscheckError(f"--jobs: must be at least 1, not {given.jobs}")
    combinations = crossed(
        given.spec,
        {backend: getattr(given, backend) for backend in BACKENDS},
        python=given.python,
        extras=given.extras or (),
        gpu=given.gpu,
    )
    uv.program()
    settings = Settings(
        out=made(given.out),
        cache=made(given.cache or default_cache()),
        jobs=jobs_for(len(combinations), given.jobs),
        again=given.again,
        arguments=tuple(given.rest),
        tests=tuple(given.tests or ()),
    )
    plural = "" if len(combinations) == 1 else "s"
    tell(f"{len(combinations)} release{plural}, {settings.jobs} at a time; records: {settings.out}")
    with ended_by_sigterm():
        outcomes = Session(settings, tell).run_all(combinations)
    yield from (as_markdown if given.markdown else as_text)(table(outcomes))
    yield exit_code(outcomes, broken)


def tell(line: str) -> None:
    """Print a line of progress, apart from the result."""
    print(f"bscheck: {line}", file=sys.stderr, flush=True)


def table(outcomes: Sequence[Outcome]) -> list[Line]:
    """Return the outcomes as rows of the table."""
    from bscheck.results.matrix import Line

    return [Line(o.name, o.record, "" if o.record is not None else o.words) for o in outcomes]
