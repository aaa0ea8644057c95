"""The report as one HTML file: it loads nothing, runs nothing, and escapes all it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bscheck.errors import MissingEnvironmentError
from bscheck.results.curves import TOPICS, Cell, Curve, Series, Table
from bscheck.results.report.model import CheckRow, Report, State, clean
from bscheck.results.report.pictures import picture, require_matplotlib

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

#: Where a bar ends that is beyond the bound, and where the axis does; in hundredths of the bound.
_BEYOND, _AXIS = 122.0, 125.0

#: What a topic without pictures says.
_NOTHING = {
    "memory": "These records hold no memory figures: on a CPU, TensorFlow and JAX count none.",
    "loss": "These records hold no curves of losses.",
    "noise": "These records hold no figures about gradient noise.",
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
    environment.filters |= {"count": count, "moment": moment, "duration": duration, "weblink": weblink, "cell": cell}
    page: str = environment.get_template("page.html.jinja").render(
        report=report,
        marks=MARKS,
        states=State,
        bar=bar,
        topics=list(_topics(report)),
        picture=picture,
        alternative=alternative,
        figures=figures,
        is_curve=lambda exhibit: isinstance(exhibit, Curve),
    )
    return page


def _topics(report: Report) -> Iterator[tuple[str, str, Sequence[Any], str]]:
    """Yield the topics' names, titles, pictures, and what is said where there are none."""
    for topic in TOPICS:
        nothing = f"Nothing was timed: {report.untimed}." if topic == "time" else _NOTHING[topic]
        yield topic, _TOPIC_TITLES[topic], report.pictures[topic], "" if report.pictures[topic] else nothing


def bar(row: CheckRow) -> float:
    """Return how long a check's bar is, in hundredths of the bound."""
    return min(100 * row.share, _BEYOND) if row.share <= 1 else _BEYOND


def count(number: int) -> str:
    """Return a count with a thin space between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def moment(iso: str) -> str:
    """Return a time of the record for reading."""
    return iso.replace("T", " ").replace("+00:00", " UTC")


def duration(seconds: float) -> str:
    """Return seconds for reading."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def weblink(address: str) -> str:
    """Return the address if a browser may be sent there, else ""."""
    return address if address.startswith(("https://", "http://")) else ""


def cell(value: Cell | None) -> str:
    """Return a table's cell: text as it is, numbers to four digits."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4g}"


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
