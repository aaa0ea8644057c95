"""The command: what it writes where, its exit codes, and one line for everything that is wrong."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_samples import result, selection, whole, write

from bscheck.cli import main

NEEDS_EXTRA = pytest.mark.skipif(
    any(__import__("importlib.util").util.find_spec(name) is None for name in ("jinja2", "matplotlib")),
    reason="needs jinja2 and matplotlib: pip install 'bscheck[report]'",
)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@NEEDS_EXTRA
def test_page_is_written_where_the_user_said_and_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run.json", result())
    (tmp_path / "out").mkdir()
    assert main(["report", "run.json", "--output", "out/page.html"]) == 0
    assert capsys.readouterr().out == "The promises hold · out/page.html\n"
    assert sorted(os.listdir()) == ["out", "run.json"]
    assert os.listdir("out") == ["page.html"]
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@NEEDS_EXTRA
def test_page_has_a_name_of_its_own_unless_told(tmp_path: Path) -> None:
    write(tmp_path / "run.json", result(verdict="failed", share=2.0))
    assert main(["report", "run.json"]) == 1
    assert sorted(os.listdir()) == ["bscheck-report.html", "run.json"]


@NEEDS_EXTRA
def test_page_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run.json", result())
    assert main(["report", "run.json", "--output", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
    assert os.listdir() == ["run.json"]


def test_markdown_needs_no_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    write(tmp_path / "run.json", result())
    assert main(["report", "run.json", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("## bscheck: The promises hold\n")
    assert main(["report", "run.json", "--markdown", "--output", "summary.md"]) == 0
    assert (tmp_path / "summary.md").read_text().startswith("## bscheck: The promises hold\n")


@pytest.mark.parametrize(("name", "thing"), [("jinja2", "page"), ("matplotlib", "pictures")])
def test_a_missing_extra_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, thing: str
) -> None:
    if name == "matplotlib":
        pytest.importorskip("jinja2", reason="needs jinja2: pip install 'bscheck[report]'")
    monkeypatch.setitem(sys.modules, name, None)
    write(tmp_path / "run.json", result())
    assert main(["report", "run.json"]) == 4
    need = "needs" if thing == "page" else "need"
    assert capsys.readouterr().err == f"bscheck: the report's {thing} {need} {name}: pip install 'bscheck[report]'\n"
    assert os.listdir() == ["run.json"]


def test_several_records_and_folders_are_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [result(param={"subject": name}) for name in ("dense", "lstm", "gru")]
    (tmp_path / "shards").mkdir()
    for i, part in enumerate(parts, 1):
        write(tmp_path / "shards" / f"{i}.json", part, selection=selection(3, selected=1, shard=[i, 3]))
    assert main(["report", "--markdown", "shards"]) == 0
    assert "3 results, 36 cases" in capsys.readouterr().out
    assert main(["report", "--markdown", "shards/1.json", "shards/3.json"]) == 3
    text = capsys.readouterr().out
    assert "- **no record of shard 2 of 3**\n- **no verdict on 1 of 3 that were to be run**" in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.json"], "record none.json: cannot be read: No such file or directory"),
        (["empty"], "empty: holds no record (*.json)"),
        (["bad.json"], "record bad.json: is not valid JSON: "),
        (["run.json", "--output", "empty"], "--output empty: is a folder; give the name of a file"),
        (["run.json", "--output", "no/page.html"], "--output no/page.html: there is no folder no"),
        (["run.json", "--output", "./run.json"], "--output run.json: is one of the records; give another name"),
        (["empty/../run.json", "--output", "run.json"], "--output run.json: is one of the records; give another name"),
        (
            ["run.json", "--output", os.devnull],
            f"--output {os.devnull}: is no ordinary file; use '-'",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    before = write(tmp_path / "run.json", result()).read_text()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{")
    assert main(["report", *arguments]) == 4
    assert capsys.readouterr().err.startswith(f"bscheck: {line}")
    assert (tmp_path / "run.json").read_text() == before
    assert sorted(os.listdir()) == ["bad.json", "empty", "run.json"]


@NEEDS_EXTRA
def test_an_older_report_survives_a_failed_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path / "run.json", result())
    (tmp_path / "page.html").write_text("an older one")
    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", "run.json", "--output", "page.html"]) == 4
    assert capsys.readouterr().err == "bscheck: --output page.html: cannot be written: No space left on device\n"
    assert (tmp_path / "page.html").read_text() == "an older one"
    assert sorted(os.listdir()) == ["page.html", "run.json"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["inf", "nan", "timing", "failed", "<script>", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in places(each, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = put(value[path[0]], path[1:], new)
    return copied


@pytest.mark.parametrize("markdown", [True, pytest.param(False, marks=NEEDS_EXTRA)], ids=["markdown", "html"])
def test_no_record_is_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str], markdown: bool) -> None:
    document = json.loads(write(tmp_path / "run.json", *whole(), selection=selection(20, shard=[1, 2])).read_text())
    if not markdown:  # pictures take their time; they have tests of their own
        for each in document["results"]:
            each.pop("curves", None)
            each["worst"]["figures"].pop("ratio", None)
    everywhere = places(document)

    @settings(
        max_examples=120 if markdown else 40,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.sampled_from(everywhere), JSON)
    def one_line_or_a_report(path: tuple[Any, ...], new: Any) -> None:
        (tmp_path / "run.json").write_text(json.dumps(put(document, path, new)))
        code = main(["report", "run.json", "--output", "out", *(["--markdown"] if markdown else [])])
        assert code in (0, 1, 3, 4)
        assert capsys.readouterr().err.count("\n") == (code == 4)

    one_line_or_a_report()
