"""The page: self-contained, with a text beside every picture, and nothing from a record acts on it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_samples import result, whole, write

pytest.importorskip("jinja2", reason="needs jinja2: pip install 'bscheck[report]'")
pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bscheck[report]'")

from bscheck.results.record import read_record
from bscheck.results.report.build import build
from bscheck.results.report.page import as_html, cell, weblink

#: What somebody could write into a record: markup, both quotes, a template, control characters, other directions.
HOSTILE = (
    """<script>alert(1)</script>'"><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}$x^2$"""
    "\x00\x1b[31m\u202e\ud800]]>--></style>"
)
#: Values that say what a string is, not something that is shown.
KINDS = ("verdict", "kind", "topic", "program", "family")
KEYED_BY_NAME = ("checks", "held")


class Structure(HTMLParser):
    """Tags with the names of their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(tmp_path: Path, *results: Any, **changes: Any) -> str:
    return as_html(build([("run.json", read_record(write(tmp_path / "run.json", *results, **changes)))]))


def hostile(value: Any, key: str = "") -> Any:
    """Return a record with `HOSTILE` behind every string of it that is shown."""
    if isinstance(value, dict):
        named = key in KEYED_BY_NAME
        return {name + HOSTILE if named else name: hostile(each, "" if named else name) for name, each in value.items()}
    if isinstance(value, list):
        return [hostile(each, key) for each in value]
    return value + HOSTILE if isinstance(value, str) and key not in KINDS and value not in ("inf", "nan") else value


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of a run that has everything; its pictures take their time."""
    return page(tmp_path_factory.mktemp("page"), *whole())


def test_page_loads_nothing_and_runs_nothing(shown: str) -> None:
    found = Structure(shown)
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [name for _, names in found.tags for name in names if name.startswith("on")]
    outside = [link for link in found.links if not link.startswith(("#", "data:"))]
    assert outside == ["https://example.org/issues/1"]  # a known issue's source: a link, which nothing follows
    assert "@import" not in shown
    assert "url(" not in shown


def test_every_picture_has_a_text_and_its_figures(shown: str) -> None:
    found = Structure(shown)
    assert len(found.images) == 7
    for image in found.images:
        assert re.fullmatch(r".+: .+ by .+, for .+\. The table below it has the figures\.", image["alt"] or "")
        assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    for figure in ("0.63", "1.02 [0.99, 1.05]", "0.56 [0.51, 0.61]", "15 x 160"):
        assert figure in found.text


def test_page_has_its_parts_in_order(shown: str) -> None:
    heads = re.findall(r"<h[12][^>]*>(?:<span.*?</span>)?\s*([^<]+?)\s*<", shown)
    assert heads == [
        "Broken: 2 results of 2 checks", "Verdicts", "What broke", "How near each check came to its bound", "Time",
        "Memory", "Loss", "Noise", "Measured, never asserted", "Known issues", "Contract exceptions", "Not applicable",
        "The run",
    ]  # fmt: skip


def test_nothing_in_a_record_changes_the_page(tmp_path: Path, shown: str) -> None:
    plain = json.loads(write(tmp_path / "run.json", *whole()).read_text())
    (tmp_path / "bad.json").write_text(json.dumps(hostile(plain)))
    bad = Structure(as_html(build([("run.json", read_record(tmp_path / "bad.json"))])))
    assert bad.tags == Structure(shown).tags
    assert bad.text.count("<script>alert(1)</script>") > 100
    assert "\\x00\\x1b[31m\\u202e\\ud800" in bad.text
    words = " ".join(bad.text.split())
    assert words.count("{{ 7*7 }}") == words.count("<script>alert(1)</script>")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800]", bad.text)


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "data:text/html,x", " https://x", "//x.example", "file:///etc"]
)
def test_only_web_addresses_are_links(tmp_path: Path, link: str) -> None:
    assert weblink(link) == ""
    assert weblink("https://example.org") == "https://example.org"


def test_names_of_files_are_text(tmp_path: Path) -> None:
    document = read_record(write(tmp_path / "run.json", result()))
    found = Structure(as_html(build([("<b>run</b>.json", document)])))
    assert "<b>run</b>.json" in found.text
    assert "b" not in {tag for tag, _ in found.tags}


def test_an_empty_run_reads_well(tmp_path: Path) -> None:
    found = Structure(page(tmp_path, checks={}, selection={}, known_issues=[], environment={}, options={}))
    for line in (
        "Incomplete: nothing was run",
        "unknown environment",
        "No promise gave a verdict.",
        "Nothing was held against a bound.",
        "no timing check was run",
        "nothing can be said of what is missing",
    ):
        assert line in found.text  # fmt: skip


def test_a_whole_gate_stays_below_two_megabytes(tmp_path: Path) -> None:
    results = [
        result(f"promise_number_{check}_is_kept_on_every_member", share=check / 100, param={"layer": f"Layer{member}"},
               worst_case=f"Layer{member}, seed 0, examples=3, float64, graph, weights=unequal, scale=large")
        for check in range(89) for member in range(26)
    ]  # fmt: skip
    text = page(tmp_path, *results)
    assert len(results) > 2271
    assert len(text.encode()) < 2_000_000
    assert text.count('<details class="check">') == 89


@pytest.mark.parametrize(
    ("value", "shown"), [("a b", "a b"), (480, "480"), (12480.0, "12480"), (0.123456, "0.1235"), (1e12, "1e+12")]
)
def test_cells_are_whole_numbers_or_four_digits(value: Any, shown: str) -> None:
    assert cell(value) == shown


def test_cells_that_are_not_finite_are_text() -> None:
    assert [cell(float(name)) for name in ("inf", "nan")] == ["inf", "nan"]
