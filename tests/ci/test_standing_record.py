"""The standing record's script: what is planned, what is kept of a record, and what the table says."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from bscheck.results.compare import compare_runs, merged, read_run
from bscheck.results.record import read_bundle, read_record, write_bundle, write_record

CI = Path(__file__).resolve().parents[2] / "ci"
DECAY = "weight_decay_acts_once_per_update"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(CI))
    yield importlib.import_module("standing_record")
    for name in ("standing_record", "verify_known_releases"):
        sys.modules.pop(name, None)


def result(verdict: str, check: str = DECAY, **changes: object) -> dict[str, object]:
    reading = {"share": 1.23456 if verdict == "failed" else 0.41234, "seen": "x" * 500, "allowed": "1e-5", "where": "w"}
    failure = {"case": {"seed": 1}, "situation": "sgd", "reading": reading, "ablation": ["a"], "like": ""}
    made: dict[str, object] = {
        "check": check, "family": "accumulation", "param": {"optimizer": "sgd"}, "verdict": verdict, "reason": "",
        "cases": 3, "held": {}, "worst": {**reading, "figures": {"a": 1.0}}, "worst_case": "long", "seconds": 1.5,
        "failure": failure if verdict == "failed" else None, "nodeid": "t.py::a[sgd]",
    }  # fmt: skip
    return made | changes


def record(path: Path, keras: str, *results: dict[str, object]) -> dict[str, object]:
    """Return a record as the gate writes it."""
    environment = {"keras": keras, "backend": "tensorflow", "backend_version": "2.21.0"}
    write_record(
        path, environment=environment, options={}, started="", finished="", interrupted=False, results=results,
        known_issues=[{"id": "old", "reason": "long"}], selection={"collected": 1, "digest": "d", "skipped": []},
    )  # fmt: skip
    return read_record(path)


def test_first_and_last_patch_of_each_minor_release_are_planned(script) -> None:
    versions = ["3.9.2", "3.1.0", "3.1.1", "3.5.0", "3.9.0", "3.9.1", "3.10.0"]
    assert script.ends_of_minors(versions) == ["3.1.0", "3.1.1", "3.5.0", "3.9.0", "3.9.2", "3.10.0"]
    assert script.ends_of_minors(versions, first=False) == ["3.1.1", "3.5.0", "3.9.2", "3.10.0"]


def test_slim_record_compares_as_the_whole_one(script, tmp_path: Path) -> None:
    passed, failed = result("passed", "a"), result("failed", "b")
    whole = record(tmp_path / "run.json", "3.15.1", passed, failed, result("not applicable", "c", reason="no"))
    slim = script.slim(whole)
    write_bundle(tmp_path / "all.jsonl.xz", {"keras-3.15.1": slim})
    text = json.dumps(slim)
    assert len(text) < 0.7 * len(json.dumps(whole))
    assert "x" * 161 not in text
    again = read_run(f"{tmp_path}/all.jsonl.xz#keras-3.15.1")
    compared = compare_runs(merged([whole]), again)
    assert (compared.rows, compared.same) == ((), 3)
    assert again.results["a", (("optimizer", "sgd"),)]["worst"]["share"] == 0.41


def test_record_that_is_not_whole_is_refused(script, tmp_path: Path) -> None:
    from bscheck.errors import BscheckError
    from bscheck.releases.engine import Outcome, Status

    cut = record(tmp_path / "run.json", "3.15.1")
    with pytest.raises(BscheckError, match=r"keras-3\.15\.1: 1 collected items have no result"):
        script.recorded([Outcome("keras-3.15.1", Status.RUN, record=cut)])


def test_table_says_where_each_promise_broke_and_which_defect_that_is(script, tmp_path: Path) -> None:
    verdicts = {"3.3.3": "failed", "3.4.1": "failed", "3.5.0": "passed", "3.15.0": "failed", "3.15.1": "known issue"}
    records = {
        f"keras-{keras}+tensorflow-2.21.0": record(tmp_path / "run.json", keras, result(verdict))
        for keras, verdict in verdicts.items()
    }
    lines = list(script.tables(records))
    assert lines[0] == "| release | accumulation |"
    assert lines[2] == "| 3.3.3 (2.21.0) | BROKEN: 1 of 1 |"
    assert lines[6] == "| 3.15.1 (2.21.0) | holds (known issues) |"
    assert lines[-1] == (
        f"| `{DECAY}` | 3.3.3 (2.21.0) to 3.4.1 (2.21.0), 3.15.0 (2.21.0) | 3.15.1 (2.21.0) "
        "| weight decay on every micro-batch |"
    )
    wrong = list(script.unseen(records))
    assert not [line for line in wrong if line.startswith("weight decay on")]
    assert "ragged evaluation: Keras 3.1.1 is not recorded" in wrong
    assert "clipping of every micro-batch: what shows it on Keras 3.4.1 is not recorded" in wrong
    records["keras-3.5.0+tensorflow-2.21.0"] = records["keras-3.4.1+tensorflow-2.21.0"]
    assert "weight decay on every micro-batch: red on Keras 3.5.0, not green" in list(script.unseen(records))


def test_table_is_placed_between_its_markers(script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = {"keras-3.6.0+tensorflow-2.21.0": record(tmp_path / "run.json", "3.6.0", result("passed"))}
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{script.BEGIN}\nof yesterday\n{script.END}\nafter\n")
    assert script._placed(records, readme) == 3  # the other releases are not recorded
    text = readme.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("-->\nafter\n")
    assert "| 3.6.0 (2.21.0) | holds |" in text
    assert "of yesterday" not in text
    readme.write_text("no markers\n")
    script._placed(records, readme)
    assert "| 3.6.0 (2.21.0) | holds |" in capsys.readouterr().out
    assert readme.read_text() == "no markers\n"


def test_bundle_that_is_shipped_can_be_read_and_is_small(script) -> None:
    if not script.BUNDLE.is_file():
        pytest.skip("nothing is recorded yet (python ci/standing_record.py)")
    records = read_bundle(script.BUNDLE)
    assert script.BUNDLE.stat().st_size < 300_000
    assert all(merged([one]).results for one in records.values())
    # What shows a defect may be younger than the record; what is recorded must show it where it was.
    assert [line for line in script.unseen(records) if not line.endswith(" is not recorded")] == []
