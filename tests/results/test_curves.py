"""Curves and tables of a result: validated when made, put together over cases, the same after a record."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bscheck.errors import RecordError
from bscheck.results.curves import MAX_POINTS, MAX_ROWS, MAX_SERIES, Curve, Exhibits, Series, Table, point
from bscheck.results.record import read_record, write_record
from bscheck.results.verdict import Failure, Reading, Result, Verdict

TABLE = Table("loss", "Losses", ("epochs", "loss"), ((15, "0.56"), (150, 1.27)))


def curve(*series: Series, title: str = "Loss by batch size", **more: Any) -> Curve:
    return Curve("loss", title, "batch size", "loss", series, **more)


def line(name: str, *points: tuple[float, float]) -> Series:
    return Series(name, tuple(point(x, y) for x, y in points))


def told(reading: Reading, **more: Any) -> Result:
    exhibits = Exhibits().joined(reading.curves, reading.tables)
    return Result("a_promise", "tiny batches", {}, Verdict.PASSED, worst=reading, exhibits=exhibits, **more)


def written(path: Path, result: Any) -> Path:
    write_record(
        path, environment={}, options={}, started="", finished="", interrupted=False, results=[result], known_issues=[]
    )
    return path


def test_a_record_holds_them_once_and_gives_them_back(tmp_path: Path) -> None:
    drawn = curve(Series("mean", (point(1, 0.5, 0.4, 0.6), point(2, math.nan)), "points"), ticks=("one", "two"))
    reading = Reading(0.5, curves=(drawn,), tables=(TABLE,))
    result = told(reading, failure=Failure({}, "dense", reading))
    document = result.to_json()
    assert "curves" not in document["worst"]
    assert "curves" not in document["failure"]["reading"]
    found = read_record(written(tmp_path / "run.json", document))["results"][0]
    back = Result.from_json(found).exhibits
    assert back.tables == (TABLE,)
    assert repr(back.curves) == repr(result.exhibits.curves)  # NaN is not equal to itself


def test_a_result_without_them_has_no_such_keys() -> None:
    assert not {"curves", "tables", "exhibits"} & told(Reading(0.5)).to_json().keys()


def test_cases_add_series_and_points_and_the_earlier_case_stays() -> None:
    first = curve(line("seed 0", (1, 0.5), (4, 0.2)))
    second = curve(line("seed 0", (1, 9.0), (2, 0.3)), line("seed 1", (1, 0.6)))
    joined = Exhibits().joined([first], []).joined([second], []).curves
    assert [each.title for each in joined] == ["Loss by batch size"]
    assert [(each.name, [p[:2] for p in each.points]) for each in joined[0].series] == [
        ("seed 0", [(1, 0.5), (2, 0.3), (4, 0.2)]),
        ("seed 1", [(1, 0.6)]),
    ]


def test_tables_add_rows_and_keep_equal_ones_once() -> None:
    more = dataclasses.replace(TABLE, rows=((15, "0.56"), (15, "1.27")))
    joined = Exhibits().joined([], [TABLE]).joined([], [more]).tables
    assert joined[0].rows == ((15, "0.56"), (150, 1.27), (15, "1.27"))


def test_what_is_put_together_stays_small() -> None:
    exhibits = Exhibits()
    for seed in range(40):
        many = tuple(point(200 * seed + i, i) for i in range(MAX_POINTS))
        rows = tuple((seed, i) for i in range(50))
        exhibits = exhibits.joined(
            [curve(Series("all", many), Series(f"seed {seed}", many))],
            [dataclasses.replace(TABLE, rows=rows)],
        )
    assert len(exhibits.curves[0].series) == MAX_SERIES
    assert max(len(series.points) for series in exhibits.curves[0].series) == MAX_POINTS
    assert len(exhibits.tables[0].rows) == MAX_ROWS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Series("none", ()), "'none': has 0 points; 1 to 200 are kept"),
        (lambda: Series("x", (point(1, 1),), "pie"), "kind must be one of line, points, bars, not 'pie'"),
        (lambda: curve(), "needs 1 to 12 series of different names"),
        (lambda: curve(line("a", (1, 1)), line("a", (2, 2))), "needs 1 to 12 series of different names"),
        (lambda: Curve("speed", "T", "x", "y", (line("a", (1, 1)),)), "topic must be one of time, memory, loss, noise"),
        (lambda: Table("loss", "T", ("a", "b"), ((1,),)), "every row needs 2 cells"),
        (lambda: Table("loss", "T", ("a",), ()), "needs 1 to 12 columns and 1 to 60 rows"),
    ],
)
def test_what_cannot_be_shown_is_refused_where_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("curves", 5, "'curves' is not a list"),
        ("curves", [5], "'curves' is not a table"),
        ("curves", [{}], "'curves' has no 'topic'"),
        ("tables", [{"topic": "loss", "title": "T", "columns": [1], "rows": [[1]]}], "'columns' is not text"),
        ("tables", [{"topic": "loss", "title": "T", "columns": ["a"], "rows": [[None]]}], "'rows' is not a number"),
        ("worst", {"share": "much"}, "'share' is not a number"),
        ("worst", {"share": 10**400}, "'share' is too large for a number"),
        ("verdict", "fine", "'verdict' is none of passed, failed"),
        ("cases", "12", "'cases' is not an integer"),
        ("param", {"subject": 5}, "'param.subject' is not text"),
        ("held", {"issue": True}, "'held.issue' is not an integer"),
    ],
    ids=str,
)
def test_a_damaged_record_is_one_line(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = written(tmp_path / "run.json", {**told(Reading(0.5)).to_json(), key: value})
    with pytest.raises(RecordError) as error:
        read_record(path)
    assert str(error.value).startswith(f"record {path}: result 0: {message}")
    assert str(error.value).endswith("; the file is damaged")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1, 2]], "'points' has 2 entries where it needs 4"),
        ([[1, None, None, None]], "'points' is not a number"),
        ([[1, "2", None, None]], "'points' is not a number"),
        ([[1, True, None, None]], "'points' is not a number"),
        ([], "has 0 points"),
    ],
    ids=str,
)
def test_a_damaged_point_is_one_line(tmp_path: Path, points: Any, message: str) -> None:
    document = json.loads(json.dumps(told(Reading(0.5, curves=(curve(line("a", (1, 1))),))).to_json()))
    document["curves"][0]["series"][0]["points"] = points
    with pytest.raises(RecordError, match=message):
        read_record(written(tmp_path / "run.json", document))
