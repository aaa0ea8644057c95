"""Broken promises as annotations: one line each, escaped, at the line that names the promise."""

from __future__ import annotations

from pathlib import Path

from bscheck.results.annotations import annotation_lines


def record(*results: dict[str, object]) -> dict[str, object]:
    """Return as much of a record as is looked at."""
    return {"results": list(results)}


def failed(**changes: object) -> dict[str, object]:
    """Return a result that failed."""
    reading = {"seen": "off by 30%\nof the update", "allowed": "0.1 %"}
    made = {"check": "a_promise", "param": {"subject": "dense", "optimizer": "adam"}, "verdict": "failed", "reason": ""}
    return (
        made
        | {"nodeid": "gate/test_a.py::a_promise[dense-adam]", "failure": {"reading": reading, "situation": "k=2"}}
        | changes
    )


def test_each_failure_is_one_line_at_its_promise(tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "test_a.py").write_text("from x import promise\n\na_promise = promise('a_promise')\n")
    passed = failed(verdict="passed")
    words = "off by 30%25%0Aof the update (allowed: 0.1 %25); smallest case: k=2"
    assert list(annotation_lines(record(failed(), passed, failed(param={"n": "a,b:c"})), tmp_path)) == [
        f"::error file=gate/test_a.py,line=3,title=a_promise[dense-adam]::{words}",
        f"::error file=gate/test_a.py,line=3,title=a_promise[a%2Cb%3Ac]::{words}",
    ]


def test_failure_without_file_or_case_is_told_all_the_same(tmp_path: Path) -> None:
    known = failed(nodeid="", failure=None, reason="the pinned case passes")
    assert list(annotation_lines(record(known, failed(nodeid="no/such.py::x", failure={})), tmp_path)) == [
        "::error title=a_promise[dense-adam]::the pinned case passes",
        "::error file=no/such.py,line=1,title=a_promise[dense-adam]::the promise is broken",
    ]
