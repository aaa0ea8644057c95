"""Pictures of curves that nobody would draw: gaps, extremes, names with markup. A picture is always good XML."""

from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bscheck[report]'")

from bscheck.results.curves import Curve, Series, point
from bscheck.results.report.pictures import picture, safe

TEXT = "{http://www.w3.org/2000/svg}text"


def drawn(*series: Series, **more: Any) -> ElementTree.Element | None:
    """Return the picture's root, None where there is none."""
    fields = {"topic": "loss", "title": "T", "x_label": "batch size", "y_label": "loss", **more}
    address = picture(Curve(series=series, **fields))
    prefix = "data:image/svg+xml;base64,"
    assert address == "" or address.startswith(prefix)
    return ElementTree.fromstring(base64.b64decode(address.removeprefix(prefix))) if address else None


def words(root: ElementTree.Element | None) -> list[str]:
    assert root is not None
    return ["".join(text.itertext()).strip() for text in root.iter(TEXT)]


def line(*points: tuple[float, float], name: str = "a", kind: str = "line") -> Series:
    return Series(name, tuple(point(x, y) for x, y in points), kind)


def test_axes_and_series_are_named_in_text() -> None:
    found = words(drawn(line((1, 2), (16, 3), name="direct"), line((1, 2), name="accumulated", kind="points")))
    assert {"batch size", "loss", "direct", "accumulated"} <= set(found)


def test_batch_sizes_are_marked_themselves_and_powers_of_two_first() -> None:
    found = words(drawn(line(*((b, 1.0) for b in (1, 2, 16, 17, 32, 33))), log_x=True))
    assert [word for word in found if word.isdigit()] == ["1", "2", "16", "32"]


def test_numbers_of_a_logarithmic_axis_are_plain() -> None:
    found = words(drawn(line((1, 0.001), (2, 20.0)), log_y=True))
    assert "0.01" in found
    assert not [word for word in found if "$" in word]


def test_a_wide_logarithmic_axis_has_powers_of_ten_alone() -> None:
    found = words(drawn(line((1, 0.001), (2, 1000.0)), log_y=True))
    assert {"0.01", "1", "100"} <= set(found)
    assert not {"0.02", "0.5", "200"} & set(found)


def test_counted_things_are_marked_whole() -> None:
    assert "2.5" not in words(drawn(line((0, 1.0), (20, 1.0))))


def test_named_things_and_bars_go_down_the_page() -> None:
    assert {"15 x 16", "15 x 160"} <= set(
        words(drawn(line((0, 1), (1, 2), kind="bars"), ticks=("15 x 16", "15 x 160")))
    )
    assert {"1", "16"} <= set(words(drawn(line((1, 0.6), (16, 0.1), kind="bars"), log_x=True)))


@pytest.mark.parametrize(
    ("series", "more"),
    [
        ([line((1, math.nan), (2, 1.0))], {}),
        ([line((1, 1e308), (2, -1e308), (3, 1.0))], {}),
        ([line((1, 1e99), (2, -1e99))], {}),
        ([line((0, 1.0), (-1, 2.0), (4, 3.0))], {"log_x": True}),
        ([line((1, 0.0), (2, -1.0), (3, 5.0))], {"log_y": True}),
        ([line((1, 1e-99), (2, 1e99))], {"log_y": True}),
        ([line((1, 5.0))], {"log_x": True, "log_y": True}),
        ([Series("a", (point(1, 1, 2, 0), point(2, 1, math.nan, 3), point(3, 1, -math.inf, math.inf)))], {}),
        ([line((0.5, 1), (7, 2), kind="bars")], {"ticks": ("one",)}),
        ([line(*((i / 7, math.sin(i)) for i in range(200)), name=f"s{k}") for k in range(12)], {}),
        ([line((math.inf, 1.0), (1, 1.0))], {"log_x": True}),
    ],
)
def test_what_can_be_drawn_is_drawn(series: list[Series], more: dict[str, Any]) -> None:
    assert drawn(*series, **more) is not None


@pytest.mark.parametrize(
    ("series", "more"),
    [
        ([line((1, math.nan))], {}),
        ([line((1, math.inf), (math.nan, 1))], {}),
        ([line((1, -1.0))], {"log_y": True}),
        ([line((0, 1.0))], {"log_x": True}),
    ],
)
def test_nothing_to_draw_is_no_picture(series: list[Series], more: dict[str, Any]) -> None:
    assert drawn(*series, **more) is None


def test_names_are_text_whatever_they_hold() -> None:
    names = ("$\\frac{1}$", "_hidden", "<script>alert(1)</script>", "a\x00\x1b\ud800b", "\u4e2d\u6587", "%s {x}", "\\")
    found = words(drawn(*(line((1, i), name=name) for i, name in enumerate(names)), x_label="<b>&", y_label="$x$"))
    assert [word for word in map(safe, names) if word.strip() not in found] == []
    assert {"<b>&", "$x$"} <= set(found)


def test_the_same_curve_is_the_same_picture() -> None:
    curve = Curve("loss", "T", "x", "y", (line((1, 2), (2, 3)),))
    assert picture(curve) == picture(curve)
