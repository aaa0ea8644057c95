"""``bscheck report``: a run as one page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

DEFAULT_OUTPUT = "bscheck-report.html"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    reporting = commands.add_parser(
        "report",
        help="a run as one page, or as Markdown for a job summary",
        description="Show a run's records as one self-contained HTML page: verdicts, how near to its bound each check "
        "came, curves, known issues, environment. Several records (shards, backends) are read as one run. "
        "Needs the extra 'report' (pip install 'bscheck[report]'); --markdown does not.",
        epilog="exit codes: 0 the promises hold, 1 one is broken, 3 coverage was lost (a run cut short, a missing "
        "shard), 4 a record cannot be used",
    )
    reporting.add_argument("records", nargs="+", metavar="RECORD", help="a record, or a folder of them")
    reporting.add_argument(
        "--output",
        metavar="FILE",
        help=f"where the report goes; '-' is standard output (default: {DEFAULT_OUTPUT} in the current folder, "
        "standard output for --markdown)",
    )
    reporting.add_argument("--markdown", action="store_true", help="as Markdown, for a job summary")
    reporting.set_defaults(lines=_report)


def _report(given: argparse.Namespace) -> Iterator[str | int]:
    """Write the report, yield what was written, and the exit code."""
    from bscheck.checks import FAMILIES
    from bscheck.results.compare import record_files
    from bscheck.results.record import read_record
    from bscheck.results.report.build import build
    from bscheck.results.report.markdown import as_markdown
    from bscheck.results.report.output import exit_code, names_of, output_file, write
    from bscheck.results.report.page import as_html

    files = [file for record in given.records for file in record_files(Path(record))]
    target = output_file(given.output or ("-" if given.markdown else DEFAULT_OUTPUT), files)
    report = build(list(zip(names_of(files), map(read_record, files), strict=True)), FAMILIES)
    text = "\n".join(as_markdown(report)) if given.markdown else as_html(report)
    if target is None:
        yield text
    else:
        write(target, text)
        yield f"{report.headline} · {target}"
    yield exit_code(report)
