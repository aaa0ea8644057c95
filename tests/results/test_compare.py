"""Two runs side by side: the right label for a regression, a fix, a drift, a lost shard and a changed package."""

import copy
import json

import pytest

from bscheck.cli import main
from bscheck.results.compare import Change, as_markdown, compare_runs, headline, merged


def result(check="a_promise", verdict="passed", share=0.1, family="accumulation", **param):
    failed = verdict == "failed"
    return {
        "check": check, "family": family, "param": param or {"subject": "dense"}, "verdict": verdict, "reason": "",
        "held": {}, "worst": {"share": share, "figures": {}},
        "failure": {"reading": {"seen": "off by 1 | <b>"}} if failed else None,
    }  # fmt: skip


def record(*results, interrupted=False, **environment):
    return {
        "program": "bscheck", "schema": 1, "version": "0", "options": {}, "started": "", "finished": "",
        "interrupted": interrupted, "known_issues": [{"id": "old"}], "results": list(results),
        "environment": {"keras": "3.15.1", "backend": "tensorflow", **environment},
    }  # fmt: skip


def compared(old, new):
    return compare_runs(merged([old]), merged([new]))


@pytest.mark.parametrize(
    ("before", "after", "change", "words"),
    [
        (result(), result(verdict="failed"), Change.REGRESSION, "passed -> failed: off by 1"),
        (result(), {**result(verdict="known issue"), "held": {"new": 1}}, Change.REGRESSION, "known issue: new"),
        (result(verdict="failed"), result(), Change.FIXED, "failed -> passed"),
        (
            result(family="known issues", verdict="known issue"),
            {**result(family="known issues", verdict="failed"), "reason": "delete its entry"},
            Change.FIXED,
            "delete its entry",
        ),
        (result(share=0.12), result(share=0.31), Change.DRIFT, "12% -> 31% of the bound, not blocking"),
        (result(), result(verdict="not applicable"), Change.LOST, "passed -> not applicable"),
    ],
)
def test_each_change_has_its_label(before, after, change, words):
    found = compared(record(before), record(after))
    assert [row.change for row in found.rows] == [change]
    assert found.rows[0].name == "a_promise[dense]"
    assert words in found.rows[0].words


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (result(), result()),
        (result(verdict="failed"), result(verdict="failed")),
        (result(share=0.01), result(share=0.2)),  # grew, but is far inside
        (result(share=0.5), result(share=0.6)),
        ({**result(verdict="known issue"), "held": {"old": 1}}, result()),
        (result(), {**result(verdict="known issue"), "held": {"old": 1}}),
        (result(share="inf", verdict="failed"), result(share="nan", verdict="failed")),
    ],
)
def test_what_is_the_same_is_not_told(before, after):
    found = compared(record(before), record(after))
    assert found.rows == ()
    assert found.same == 1


def test_a_shard_that_is_missing_is_coverage_lost():
    one, two = result(subject="dense"), result(subject="lstm")
    found = compare_runs(merged([record(one), record(two)]), merged([record(one)]))
    assert [(row.change, row.name) for row in found.rows] == [(Change.LOST, "a_promise[lstm]")]
    assert found.exit_code == 3
    assert headline(found).startswith("INCOMPLETE: 1 coverage lost")


def test_shards_read_together_are_the_whole_run():
    parts = [result(subject=name) for name in ("dense", "lstm", "gru")]
    found = compare_runs(merged([record(*parts)]), merged([record(part) for part in parts]))
    assert (found.rows, found.same, found.changed) == ((), 3, ())


def test_backends_read_together_are_kept_apart():
    run = merged([record(result()), record(result(verdict="failed"), backend="jax")])
    assert sorted(r["verdict"] for r in run.results.values()) == ["failed", "passed"]


def test_what_changed_is_named():
    found = compared(record(result()), record(result(verdict="failed"), keras="3.16.0"))
    assert headline(found) == "HOLD: 1 regression · 0 same · coverage complete · only keras 3.15.1 -> 3.16.0"


def timed(ratio, low, high, verdict="passed"):
    made = result(family="timing", verdict=verdict)
    made["worst"]["figures"] = {"ratio": ratio, "low": low, "high": high}
    return made


def test_timings_make_no_claim_while_their_intervals_meet():
    assert compared(record(timed(1.0, 0.98, 1.02)), record(timed(1.03, 1.01, 1.05))).rows == ()
    apart = compared(record(timed(1.0, 0.98, 1.02)), record(timed(1.1, 1.05, 1.15)))
    assert [row.change for row in apart.rows] == [Change.TIMING]
    assert "no claim" not in apart.rows[0].words


def test_markdown_escapes_what_it_shows():
    text = "\n".join(as_markdown(compared(record(result()), record(result(verdict="failed")))))
    assert "off by 1 \\| &lt;b>" in text


def test_the_command_compares_files_and_folders(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    for name, content in {"a": record(result(subject="dense")), "b": record(result(subject="lstm"))}.items():
        (tmp_path / "old" / f"{name}.json").write_text(json.dumps(content))
    new = copy.deepcopy(record(result(subject="dense", verdict="failed"), result(subject="lstm")))
    (tmp_path / "new.json").write_text(json.dumps(new))
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new.json")]) == 1
    assert "REGRESSION     a_promise[dense]" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "old"), f"{tmp_path}/old/a.json,{tmp_path}/old/b.json"]) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"program": "bscheck", "schema": 99}'])
def test_a_record_that_cannot_be_read_is_one_line(tmp_path, capsys, content):
    (tmp_path / "bad.json").write_text(content)
    assert main(["compare", str(tmp_path / "bad.json"), str(tmp_path / "bad.json")]) == 4
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "damage",
    [{"param": 5}, {"held": [1]}, {"worst": "abc"}, {"failure": 7}, {"worst": {"share": [], "figures": 3}}],
    ids=str,
)
def test_a_damaged_result_raises_nothing_else(tmp_path, capsys, damage):
    (tmp_path / "bad.json").write_text(json.dumps(record({**result(), **damage})))
    assert main(["compare", str(tmp_path / "bad.json"), str(tmp_path / "bad.json")]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 4
    assert "holds no record" in capsys.readouterr().err
