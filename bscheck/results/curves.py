"""What a check measured beyond its worst case: curves and tables, small enough to travel in a record.

They are shown, never judged: a verdict rests on a `Reading`'s share of its bound alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

#: What a curve or table is about, in the order in which the report shows them.
TOPICS = ("time", "memory", "loss", "noise")
#: How a series is drawn: joined points, points alone, or bars.
KINDS = ("line", "points", "bars")

#: A record holds thousands of results: a picture that needs more than this is no picture.
MAX_POINTS, MAX_SERIES, MAX_ROWS, MAX_COLUMNS = 200, 12, 60, 12

#: (x, y, low, high); the interval's ends are None where there is none.
Point = tuple[float, float, float | None, float | None]
Cell = str | float


def point(x: float, y: float, low: float | None = None, high: float | None = None) -> Point:
    """Return a point, with the ends of its interval where it has one."""
    return (float(x), float(y), None if low is None else float(low), None if high is None else float(high))


@dataclass(frozen=True)
class Series:
    """One line, set of points or set of bars.

    Attributes
    ----------
    name : str
        What is drawn, as the legend says it: ``seed 0``, ``theory``.
    points : tuple of Point
        At most `MAX_POINTS`; made by `point`.
    kind : str
        One of `KINDS`.
    """

    name: str
    points: tuple[Point, ...]
    kind: str = "line"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"series {self.name!r}: kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not 1 <= len(self.points) <= MAX_POINTS:
            raise ValueError(f"series {self.name!r}: has {len(self.points)} points; 1 to {MAX_POINTS} are kept")


@dataclass(frozen=True)
class Curve:
    """A picture with axes: one or several series against the same x.

    Attributes
    ----------
    topic : str
        One of `TOPICS`.
    title : str
        What the picture shows; curves of one result with the same title are put together.
    x_label, y_label : str
        The axes, with units: ``batch size``, ``seconds per example``.
    series : tuple of Series
        At most `MAX_SERIES`.
    log_x, log_y : bool
        Whether an axis is logarithmic.
    ticks : tuple of str
        Names for x = 0, 1, 2 …, where x counts things that are no numbers.
    note : str
        One sentence: how it was measured, what to see. It is part of the text alternative.
    """

    topic: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    ticks: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _require_topic(self.title, self.topic)
        names = [series.name for series in self.series]
        if not 1 <= len(names) <= MAX_SERIES or len(set(names)) != len(names):
            raise ValueError(f"curve {self.title!r}: needs 1 to {MAX_SERIES} series of different names")


@dataclass(frozen=True)
class Table:
    """Figures that are read, not looked at.

    Attributes
    ----------
    topic : str
        One of `TOPICS`.
    title : str
        What the table shows; tables of one result with the same title are put together, row below row.
    columns : tuple of str
        The heads, with units.
    rows : tuple of tuple
        Cells, as many in each row as there are columns; text, or numbers that are shown to four digits.
    note : str
        One sentence: how it was measured, what to see.
    """

    topic: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        _require_topic(self.title, self.topic)
        if not 1 <= len(self.columns) <= MAX_COLUMNS or not 1 <= len(self.rows) <= MAX_ROWS:
            raise ValueError(f"table {self.title!r}: needs 1 to {MAX_COLUMNS} columns and 1 to {MAX_ROWS} rows")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.title!r}: every row needs {len(self.columns)} cells")


def _require_topic(title: str, topic: str) -> None:
    if topic not in TOPICS:
        raise ValueError(f"{title!r}: topic must be one of {', '.join(TOPICS)}, not {topic!r}")


@dataclass(frozen=True)
class Exhibits:
    """The curves and tables of one result, put together over its cases."""

    curves: tuple[Curve, ...] = ()
    tables: tuple[Table, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.curves or self.tables)

    def joined(self, curves: Iterable[Curve], tables: Iterable[Table]) -> Self:
        """Return these and a further case's, those of one title as one.

        Of a series that both have, points at new x are added; where both have a point, the earlier case's stays. So a
        series is named for what differs between the cases: ``seed 3``, not ``loss``.
        """
        return type(self)(
            _joined(self.curves, curves, _join_curves),
            _joined(self.tables, tables, _join_tables),
        )


def _joined(old: Iterable[Any], new: Iterable[Any], join: Any) -> tuple[Any, ...]:
    by_title = {exhibit.title: exhibit for exhibit in old}
    for exhibit in new:
        before = by_title.get(exhibit.title)
        by_title[exhibit.title] = exhibit if before is None else join(before, exhibit)
    return tuple(by_title.values())


def _join_curves(old: Curve, new: Curve) -> Curve:
    by_name = {series.name: series for series in old.series}
    for series in new.series:
        before = by_name.get(series.name)
        if before is not None:
            points = {p[0]: p for p in (*series.points, *before.points)}
            by_name[series.name] = dataclasses.replace(before, points=tuple(sorted(points.values()))[:MAX_POINTS])
        elif len(by_name) < MAX_SERIES:
            by_name[series.name] = series
    return dataclasses.replace(old, series=tuple(by_name.values()))


def _join_tables(old: Table, new: Table) -> Table:
    rows = (*old.rows, *(row for row in new.rows if row not in old.rows))
    return dataclasses.replace(old, rows=rows[:MAX_ROWS])


def finite(p: Point) -> bool:
    """Whether a point can be drawn."""
    return math.isfinite(p[0]) and math.isfinite(p[1])
