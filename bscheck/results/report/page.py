"""The report as one HTML file: it loads nothing, runs nothing, and escapes all it shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bscheck.errors import MissingEnvironmentError
from bscheck.results.curves import TOPICS, Cell, Curve, Series, Table
from bscheck.results.report.model import CheckRow, Report, State, Told, clean
from bscheck.results.report.pictures import picture, require_matplotlib

if TYPE_CHECKING:
    from markupsafe import Markup

#: A sign for each state, so that nothing is told by colour alone.
MARKS = {
    State.BROKEN: "✗",
    State.INCOMPLETE: "!",
    State.INCONCLUSIVE: "?",
    State.KNOWN: "◐",
    State.REPORTED: "i",
    State.DOCUMENTED: "§",
    State.HOLDS: "✓",
    State.SKIPPED: "–",
}

#: Where a bar ends that is beyond the bound, in hundredths of it; the axis ends at 125.
_BEYOND = 122.0

#: Checks that stayed below this share of their bound are folded away: their bars cannot be seen.
_FAR = 0.01

#: What is said of a topic without pictures, where the record says nothing.
_NOTHING = {
    "time": "no timing check was run",
    "memory": "no figures of memory",
    "loss": "no curves of losses",
    "noise": "no figures about the gradients' noise",
}
_TOPIC_TITLES = {"time": "Time", "memory": "Memory", "loss": "Loss", "noise": "Noise"}


def as_html(report: Report) -> str:
    """Return the report as a page.

    Raises
    ------
    MissingEnvironmentError
        In one line, where the extra ``report`` is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingEnvironmentError("the report's page needs jinja2: pip install 'bscheck[report]'") from None
    require_matplotlib()
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"count": count, "plural": plural, "moment": moment, "duration": duration, "weblink": weblink}
    environment.filters |= {**filters, "name": breakable}
    page: str = environment.get_template("page.html.jinja").render(
        report=report,
        near=[row for row in report.checks if row.share >= _FAR or row.state == State.BROKEN],
        far=[row for row in report.checks if row.share < _FAR and row.state != State.BROKEN],
        reported=list(_by_check(report.reported)),
        marks=MARKS,
        states=State,
        bar=bar,
        topics=[(topic, _TOPIC_TITLES[topic], report.pictures[topic]) for topic in TOPICS if _is_there(report, topic)],
        absent=[(_TOPIC_TITLES[topic], words) for topic, words in _absent(report)],
        picture=picture,
        alternative=alternative,
        figures=figures,
        is_broad=lambda exhibit: isinstance(exhibit, Table) and (len(exhibit.columns) > 4 or len(exhibit.rows) > 8),
        is_curve=lambda exhibit: isinstance(exhibit, Curve),
    )
    return page


def _is_there(report: Report, topic: str) -> bool:
    return bool(report.pictures[topic] or (topic == "time" and report.timings))


def _absent(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the topics of which nothing is shown, and why."""
    for topic in TOPICS:
        if not _is_there(report, topic):
            yield topic, report.unmeasured.get(topic, _NOTHING[topic])


def _by_check(told: Sequence[Told]) -> Iterator[tuple[str, list[Told]]]:
    """Yield the checks' names with their results."""
    ordered = sorted(told, key=lambda each: each.result.check)
    for check, group in itertools.groupby(ordered, key=lambda each: each.result.check):
        yield check, list(group)


def breakable(name: str) -> Markup:
    """Return a name that a line may end in, behind an underscore."""
    from markupsafe import Markup, escape

    return escape(clean(name)).replace("_", Markup("_<wbr>"))


def bar(row: CheckRow) -> float:
    """Return how long a check's bar is, in hundredths of the bound."""
    return min(100 * row.share, _BEYOND) if row.share <= 1 else _BEYOND


def count(number: int) -> str:
    """Return a count with a thin space between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def plural(number: int, noun: str) -> str:
    """Return a count of things."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def moment(iso: str) -> str:
    """Return a time of the record for reading."""
    return iso.replace("T", " ").replace("+00:00", " UTC")


def duration(seconds: float) -> str:
    """Return seconds for reading."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def weblink(address: str) -> str:
    """Return the address if a browser may be sent there, else ""."""
    return address if address.startswith(("https://", "http://")) else ""


def cell(value: Cell) -> str:
    """Return a table's cell: text as it is, whole numbers whole, others to four digits."""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else f"{value:.4g}"


def alternative(curve: Curve) -> str:
    """Return what a picture shows, for those who do not see it; the figures are in a table beside it."""
    names = ", ".join(series.name for series in curve.series)
    scale = " on a logarithmic scale" if curve.log_y else ""
    return f"{curve.title}: {curve.y_label}{scale} by {curve.x_label}, for {names}. The table below it has the figures."


def figures(exhibit: Curve | Table) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the heads and rows of the table that says what a picture shows."""
    if isinstance(exhibit, Table):
        return exhibit.columns, [[cell(value) for value in row] for row in exhibit.rows]
    xs = sorted({p[0] for series in exhibit.series for p in series.points})
    values = [_by_x(series) for series in exhibit.series]
    heads = [exhibit.x_label, *(series.name for series in exhibit.series)]
    return heads, [[_name_of_x(exhibit, x), *(column.get(x, "") for column in values)] for x in xs]


def _name_of_x(curve: Curve, x: float) -> str:
    if curve.ticks and 0 <= x < len(curve.ticks) and x == int(x):
        return curve.ticks[int(x)]
    return f"{x:.6g}"


def _by_x(series: Series) -> Mapping[float, str]:
    return {x: _with_interval(y, low, high) for x, y, low, high in series.points}


def _with_interval(y: float, low: float | None, high: float | None) -> str:
    ends = [end for end in (low, high) if end is not None and not math.isnan(end)]
    return f"{y:.4g} [{', '.join(f'{end:.4g}' for end in ends)}]" if len(ends) == 2 else f"{y:.4g}"
