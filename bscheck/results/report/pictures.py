"""Curves drawn by matplotlib, readable without colour: every series has its own marker and its own kind of line."""

from __future__ import annotations

import base64
import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bscheck.errors import MissingEnvironmentError
from bscheck.results.curves import Curve, Point, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

#: Colours that differ in lightness too, so that a grey print keeps them apart; after Okabe and Ito (2008).
COLOURS = ("#0b3c5d", "#d55e00", "#009e73", "#9b4f8e", "#56b4e9", "#5a4300")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (1, 3)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")
INK, PALE = "#1d2329", "#c9ced4"

#: Beyond this an axis cannot be laid out in floating point.
LARGEST = 1e100
#: Points of a line beyond which markers would hide it.
CROWDED = 25
#: A logarithmic axis over more than this has marks at powers of ten alone.
_WIDE = 300.0
#: Batch sizes that are marked one by one.
_SIZES = 20
#: Text in a picture; the page has all of it.
_LABEL = 48
#: Inches.
_WIDTH, _HEIGHT, _ROW = 5.6, 3.5, 0.34
#: Inches of a letter and of a legend's sign, and the letters that fit along the height.
_LETTER, _HANDLE, _TALL = 0.075, 0.75, 34
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bscheck",
    "text.parse_math": False,
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": True,
}


def require_matplotlib() -> None:
    """Raise, in one line, where the extra is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingEnvironmentError("the report's pictures need matplotlib: pip install 'bscheck[report]'") from None


def picture(curve: Curve) -> str:
    """Return a curve as the address of an SVG picture that is inside the page, "" where nothing can be drawn.

    Parameters
    ----------
    curve : Curve
        Points that are not finite, or not positive on a logarithmic axis, are gaps.
    """
    curve = _with_names(curve)
    drawn = [(i, series, _gaps(series.points, curve)) for i, series in enumerate(curve.series)]
    if not any(math.isfinite(y) for _, _, points in drawn for _, y, _, _ in points):
        return ""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that matplotlib's own font lacks: the reader's browser has it
        rows = len(curve.ticks)
        figure = Figure(figsize=(_WIDTH, max(1.6, _ROW * rows + 1.1) if rows else _HEIGHT), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _axes(axes, curve)
        for i, series, points in drawn:
            _draw(axes, i, series, points, curve)
        _legend(figure, axes, curve)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode("ascii")


def _with_names(curve: Curve) -> Curve:
    """Return a curve of bars with names for its x: a bar has no width that an axis could give it."""
    if curve.ticks or all(series.kind != "bars" for series in curve.series):
        return curve
    places = {x: i for i, x in enumerate(sorted({p[0] for series in curve.series for p in series.points}))}
    series = tuple(
        replace(each, points=tuple((float(places[x]), y, low, high) for x, y, low, high in each.points))
        for each in curve.series
    )
    return replace(curve, ticks=tuple(f"{x:g}" for x in places), series=series)


def _gaps(points: Sequence[Point], curve: Curve) -> list[Point]:
    """Return the points with what cannot be drawn as NaN."""
    kept = []
    for x, y, low, high in sorted(points, key=lambda p: p[0]):
        x, y = _drawable(x, curve.log_x and not curve.ticks), _drawable(y, curve.log_y)
        ends = [math.nan if end is None else _drawable(end, curve.log_y) for end in (low, high)]
        kept.append((x, y if math.isfinite(x) else math.nan, *ends))
    return kept  # type: ignore[return-value]


def _drawable(value: float, logarithmic: bool) -> float:
    fits = math.isfinite(value) and abs(value) < LARGEST
    return value if fits and (value > 1 / LARGEST or not logarithmic) else math.nan


def _axes(axes: Axes, curve: Curve) -> None:
    """Lay out the axes; named things go down the page, where their names have room."""
    if curve.ticks:
        axes.set_yticks(range(len(curve.ticks)), [safe(name) for name in curve.ticks])
        axes.set_ylim(len(curve.ticks) - 0.5, -0.5)
        axes.set_xlabel(safe(curve.y_label))
        axes.set_xscale("log" if curve.log_y else "linear")
        axes.tick_params(axis="y", length=0)
    else:
        axes.set_xlabel(safe(curve.x_label))
        axes.set_ylabel(textwrap.fill(safe(curve.y_label), _TALL))
        axes.set_xscale("log" if curve.log_x else "linear")
        axes.set_yscale("log" if curve.log_y else "linear")
    points = [p for series in curve.series for p in series.points]
    if curve.log_y:
        _plain_numbers(axes.xaxis if curve.ticks else axes.yaxis, [y for _, y, *_ in points])
    if curve.log_x and not curve.ticks:
        _plain_numbers(axes.xaxis, [x for x, *_ in points])
        _name_the_sizes(axes, curve)
    elif not curve.ticks:
        _whole_numbers(axes, curve)
    axes.grid(True, color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)


def _plain_numbers(axis: Axis, values: Sequence[float]) -> None:
    """Write the numbers of a logarithmic axis as they are: powers of ten, and 2 and 5 of them where those are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [value for value in values if math.isfinite(_drawable(value, True))]
    wide = max(shown) / min(shown) > _WIDE if shown else False
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _whole_numbers(axes: Axes, curve: Curve) -> None:
    """Keep the marks of things that are counted whole."""
    from matplotlib.ticker import MaxNLocator

    if all(math.isfinite(x) and abs(x) < LARGEST and x == int(x) for series in curve.series for x, *_ in series.points):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))


def _name_the_sizes(axes: Axes, curve: Curve) -> None:
    """Mark the batch sizes themselves on a logarithmic axis where they are few; powers of two first, others in room."""
    few = [series for series in curve.series if len(series.points) <= _SIZES]
    sizes = {x for series in few for x, *_ in series.points if math.isfinite(x)}
    if not 0 < len(sizes) <= _SIZES or not all(0 < x < 1e6 and x == int(x) for x in sizes):
        return
    from matplotlib.ticker import NullLocator

    room = 0.055 * math.log(max(sizes) / min(sizes))
    named: list[float] = []
    for x in sorted(sizes, key=lambda x: (int(x) & (int(x) - 1) != 0, x)):
        if all(abs(math.log(x / other)) >= room for other in named):
            named.append(x)
    axes.set_xticks(sorted(named), [f"{x:g}" for x in sorted(named)])
    axes.xaxis.set_minor_locator(NullLocator())


def _draw(axes: Axes, i: int, series: Series, points: list[Point], curve: Curve) -> None:
    """Draw one series in its own colour, marker and line."""
    x, y, low, high = (list(column) for column in zip(*points, strict=True))
    colour = COLOURS[i % len(COLOURS)]
    again = i // len(COLOURS)  # from here on a colour has another marker and another line
    marker, dashes = MARKERS[(i + again) % len(MARKERS)], DASHES[(i + 2 * again) % len(DASHES)]
    errors = _errors(y, low, high)
    label = safe(series.name)
    if series.kind == "bars":
        _bars(axes, i, label, x, y, errors, curve)
        return
    is_line = series.kind == "line" and not curve.ticks
    style: dict[str, Any] = {
        "color": colour,
        "label": label,
        "linestyle": dashes if is_line else "none",
        "linewidth": 1.4,
        "marker": "" if is_line and len(points) > CROWDED else marker,
        "markersize": 5,
        "markerfacecolor": colour if (i + again) % 2 == 0 else "white",
        "elinewidth": 1.1,
        "capsize": 3,
    }
    if curve.ticks:
        axes.errorbar(y, _spread(x, i, len(curve.series)), xerr=errors, **style)
    else:
        axes.errorbar(x, y, yerr=errors, **style)


def _spread(x: list[float], i: int, of: int) -> list[float]:
    """Return the places of one series among several of the same names, so that none covers another."""
    return [place + 0.5 * ((i + 0.5) / of - 0.5) for place in x]


def _bars(
    axes: Axes, i: int, label: str, x: list[float], y: list[float], errors: list[list[float]] | None, curve: Curve
) -> None:
    bars = [j for j, series in enumerate(curve.series) if series.kind == "bars"]
    place, of = bars.index(i), len(bars)
    colour = COLOURS[i % len(COLOURS)]
    hatch = HATCHES[place % len(HATCHES)]
    style: dict[str, Any] = {
        "color": "white" if hatch else colour,
        "edgecolor": colour,
        "hatch": hatch,
        "label": label,
        "error_kw": {"ecolor": INK, "capsize": 3, "elinewidth": 1.1},
    }
    steps = [b - a for a, b in zip(sorted(x), sorted(x)[1:], strict=False) if b > a]
    width = 0.8 * (1.0 if curve.ticks else min(steps, default=1.0)) / of
    at = [value + width * (place - (of - 1) / 2) for value in x]
    if curve.ticks:
        axes.barh(at, y, width * 0.9, xerr=errors, **style)
    else:
        axes.bar(at, y, width * 0.9, yerr=errors, **style)


def _errors(y: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]] | None:
    """Return how far the intervals' ends are from the points; None where no point has an interval."""
    below = [max(value - end, 0.0) for value, end in zip(y, low, strict=True)]
    above = [max(end - value, 0.0) for value, end in zip(y, high, strict=True)]
    return [below, above] if any(map(math.isfinite, (*below, *above))) else None


def _legend(figure: Any, axes: Axes, curve: Curve) -> None:
    if len(curve.series) > 1 or curve.series[0].name not in ("", curve.title, curve.y_label):
        handles, labels = axes.get_legend_handles_labels()
        widest = _LETTER * max(map(len, labels), default=0) + _HANDLE
        columns = max(1, min(int(_WIDTH / widest), len(labels)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2)


def safe(text: str) -> str:
    """Return a text for a picture: short, without characters that are not allowed in XML, and never hidden.

    matplotlib leaves labels that begin with an underscore out of its legends.
    """
    printable = "".join(c if c.isprintable() else " " for c in text).strip()
    shown = printable if len(printable) <= _LABEL else printable[: _LABEL - 1].rstrip() + "…"
    return f"\u200b{shown}" if shown.startswith("_") else shown
