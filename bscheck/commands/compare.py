"""``bscheck compare``: two runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    comparing = commands.add_parser(
        "compare",
        help="two runs side by side",
        description="Say what broke, what was fixed and what was not run from one run to the other. A run is a record, "
        "several separated by commas (shards, backends), or a folder of them.",
        epilog="exit codes: 0 nothing is worse, 1 a promise broke, 3 coverage was lost, 4 a record cannot be used",
    )
    comparing.add_argument("old", metavar="OLD")
    comparing.add_argument("new", metavar="NEW")
    comparing.add_argument("--markdown", action="store_true", help="as Markdown, for a job summary")
    comparing.set_defaults(lines=_compare)


def _compare(given: argparse.Namespace) -> Iterator[str | int]:
    """Yield the lines of ``bscheck compare``, and its exit code."""
    from bscheck.results.compare import as_markdown, as_text, compare_runs, read_run

    comparison = compare_runs(read_run(given.old), read_run(given.new))
    yield from (as_markdown if given.markdown else as_text)(comparison)
    yield comparison.exit_code
