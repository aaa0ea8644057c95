"""What a check measured beyond its worst case: curves and tables, small enough to travel in a record.

They are shown, never judged: a verdict rests on a `Reading`'s share of its bound alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
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
Cell = str | int | float


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


def exhibits_from_json(curves: Any, tables: Any) -> Exhibits:
    """Return the curves and tables of a record's result.

    Raises
    ------
    ValueError
        In one line, for anything that `dataclasses.asdict` of them could not have given.
    """
    return Exhibits(
        tuple(_curve(each) for each in _list("curves", curves)), tuple(_table(each) for each in _list("tables", tables))
    )


def _curve(given: Any) -> Curve:
    values = _fields("curve", given, Curve)
    values["series"] = tuple(_series(each) for each in _list("series", values["series"]))
    values["ticks"] = tuple(_text("ticks", tick) for tick in _list("ticks", values["ticks"]))
    for key in ("log_x", "log_y"):
        if type(values[key]) is not bool:
            raise ValueError(f"{key!r} is not true or false")
    return Curve(**values)


def _series(given: Any) -> Series:
    values = _fields("series", given, Series)
    points = tuple(_point(each) for each in _list("points", values["points"]))
    return Series(values["name"], points, values["kind"])


def _point(given: Any) -> Point:
    numbers = _list("point", given)
    if len(numbers) != 4 or numbers[0] is None or numbers[1] is None:
        raise ValueError("a point is not x, y, low, high")
    x, y, low, high = (None if number is None else _number(number) for number in numbers)
    assert x is not None
    assert y is not None
    return (x, y, low, high)


def _number(given: Any) -> float:
    """Return a number; infinities and NaN are strings in JSON."""
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        try:
            return float(given)
        except OverflowError:
            raise ValueError("a number is too large") from None
    if isinstance(given, str) and given in ("nan", "inf", "-inf"):
        return float(given)
    raise ValueError("a point's coordinate is not a number")


def _table(given: Any) -> Table:
    values = _fields("table", given, Table)
    values["columns"] = tuple(_text("columns", column) for column in _list("columns", values["columns"]))
    values["rows"] = tuple(tuple(_cell(cell) for cell in _list("row", row)) for row in _list("rows", values["rows"]))
    return Table(**values)


def _cell(given: Any) -> Cell:
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise ValueError("a cell is neither text nor a number")
    return given if isinstance(given, str) else _number(given)


def _fields(kind: str, given: Any, of: type) -> dict[str, Any]:
    """Return the attributes of a dataclass, those of type ``str`` checked."""
    names = {f.name: f for f in dataclasses.fields(of)}
    if not isinstance(given, Mapping) or given.keys() != names.keys():
        raise ValueError(f"a {kind} has not the keys {', '.join(names)}")
    return {name: _text(name, given[name]) if f.type == "str" else given[name] for name, f in names.items()}


def _list(name: str, given: Any) -> Sequence[Any]:
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{name!r} is not a list")
    return given


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{name!r} is not text")
    return given


def finite(p: Point) -> bool:
    """Whether a point can be drawn."""
    return math.isfinite(p[0]) and math.isfinite(p[1])
