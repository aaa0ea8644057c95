"""The report in short, as Markdown for a job summary: it escapes all it shows."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from bscheck.results.report.model import Report, clean
from bscheck.results.summary import shorten

#: Failures told in full, and known issues in a line each: a job summary holds a megabyte, its reader a screen.
_FAILURES, _ISSUES, _TEXT = 20, 40, 6000
#: What means something inside a line; no text of a record begins one.
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~$&])")


def as_markdown(report: Report) -> Iterator[str]:
    """Yield the report's lines: the verdict, the table, what broke, what is known."""
    yield f"## bscheck: {escaped(report.headline)}"
    yield ""
    yield " · ".join(
        filter(None, (escaped(report.environment_line), f"{report.results} results, {report.cases} cases"))
    )
    for reason in report.reasons:
        yield f"- **{escaped(reason)}**"
    yield ""
    yield from _families(report)
    yield from _failures(report)
    yield from _issues(report)


def _families(report: Report) -> Iterator[str]:
    rows = [
        (escaped(row.name), str(row.results), str(row.cases), escaped(row.nearest), escaped(row.verdict))
        for row in report.families
    ]
    skipped = sum(reason.count for reason in report.skipped)
    documented = sum(row.documented for row in report.exceptions)
    held = len(report.issues)
    rows += [("known issues", str(held), "", "met in this run", "see below")] if held else []
    rows += [("exceptions", str(documented), "", "", "each as documented")] if documented else []
    rows += [("not applicable", str(skipped), "", "", "")] if skipped else []
    if rows:
        yield from _table(("promise family", "results", "cases", "worst share of the bound", "verdict"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _failures(report: Report) -> Iterator[str]:
    if report.failures:
        yield f"### Broken: {len(report.failures)}"
        yield ""
    for failure in report.failures[:_FAILURES]:
        yield f"- {code(failure.name)}: {escaped(shorten(failure.seen, 300))}"
    if len(report.failures) > _FAILURES:
        yield f"- and {len(report.failures) - _FAILURES} more"
    if report.failures:
        yield ""
    for failure in report.failures[:_FAILURES]:
        yield from _folded(failure.name, block(shorten(failure.text, _TEXT)))


def _folded(head: str, lines: Iterable[str]) -> Iterator[str]:
    # A line of HTML, in which Markdown's own escapes would be seen.
    yield f"<details><summary>{html.escape(' '.join(clean(head).split()))}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"
    yield ""


def _issues(report: Report) -> Iterator[str]:
    if not report.issues:
        return
    rows = [
        f"- {code(issue.id)}: {escaped(issue.reason)} ({escaped(issue.state)})" for issue in report.issues[:_ISSUES]
    ]
    if len(report.issues) > _ISSUES:
        rows.append(f"- and {len(report.issues) - _ISSUES} more")
    yield from _folded(f"Known issues met: {len(report.issues)}", rows)


def escaped(text: str) -> str:
    """Return a text as one line in which Markdown and HTML find nothing to act on, and nobody is called by name."""
    return _SPECIAL.sub(r"\\\1", " ".join(clean(text).split())).replace("@", "@\u200b")


def code(text: str) -> str:
    """Return a text as a code span, also inside a table."""
    shown = " ".join(clean(text).split()).replace("|", "\\|")
    fence = "`" * (_longest_run(shown) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`" if shown else ""


def block(text: str) -> Iterator[str]:
    """Yield a text as a fenced block that nothing inside can end."""
    shown = clean(text)
    fence = "`" * max(3, _longest_run(shown) + 1)
    yield f"{fence}text"
    yield from shown.split("\n")
    yield fence


def _longest_run(text: str) -> int:
    return max(map(len, re.findall(r"`+", text)), default=0)
