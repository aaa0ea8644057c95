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
        "failure": {"case": {}, "reading": {"seen": "off by 1 | <b>"}} if failed else None,
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


def collected(*names, of, skipped=(), **more):
    made = record(*({**result(subject=name), "nodeid": f"t.py::a_promise[{name}]"} for name in names), **more)
    made["selection"] = {"collected": len(of), "digest": " ".join(of), "skipped": list(skipped)}
    return made


WHOLE = ("dense", "lstm", "gru", "conv")


def test_a_missing_shard_is_seen_without_an_older_run_to_tell_of_it():
    shards = [collected("dense", "lstm", of=WHOLE), collected("gru", of=WHOLE, skipped=["t.py::a_promise[conv]"])]
    assert (merged(shards).missing, merged(shards).collected) == (0, 4)
    assert merged(shards[:1]).missing == 2
    old = merged([record(result(subject="dense"), result(subject="lstm"))])
    found = compare_runs(old, merged(shards[:1]))
    assert [(row.change, row.name) for row in found.rows] == [(Change.LOST, "2 of 4 collected")]
    assert found.rows[0].words == "in no record of the new run: a shard is missing, or they were deselected"
    assert found.exit_code == 3
    assert compare_runs(old, merged(shards)).exit_code == 0


def test_what_is_deselected_in_both_runs_is_told_and_is_no_loss():
    half = [collected("dense", "lstm", of=WHOLE)]
    found = compare_runs(merged(half), merged(half))
    assert [(row.change, row.name) for row in found.rows] == [(Change.NOT_RUN, "2 of 4 collected")]
    assert found.exit_code == 0
    assert "2 same" in headline(found)


def test_a_loss_that_is_named_is_not_counted_twice():
    whole = [collected(*WHOLE, of=WHOLE)]
    found = compare_runs(merged(whole), merged([collected("dense", "lstm", "gru", of=WHOLE)]))
    assert [(row.change, row.name) for row in found.rows] == [(Change.LOST, "a_promise[conv]")]


def test_shards_of_two_backends_are_counted_apart():
    tensorflow, jax = collected(*WHOLE, of=WHOLE), collected("dense", of=WHOLE, backend="jax")
    assert (merged([tensorflow, jax]).missing, merged([tensorflow, jax]).collected) == (3, 8)


def test_backends_read_together_are_kept_apart():
    run = merged([record(result()), record(result(verdict="failed"), backend="jax")])
    assert sorted(r["verdict"] for r in run.results.values()) == ["failed", "passed"]


def test_what_changed_is_named():
    found = compared(record(result()), record(result(verdict="failed"), keras="3.16.0"))
    assert headline(found) == "HOLD: 1 regression · 0 same · coverage complete · only keras 3.15.1 -> 3.16.0"


def test_one_thing_alone_has_changed_only_where_suite_profile_and_seed_are_the_same():
    old, new = record(result(), numpy="2.0.1"), record(result(), numpy="2.1.0")
    assert compared(old, new).changed == ("numpy 2.0.1 -> 2.1.0",)
    assert headline(compared(old, new)).endswith("only numpy 2.0.1 -> 2.1.0")
    old, new = (r | {"options": {"profile": p, "seed": 0}} for r, p in ((old, "quick"), (new, "default")))
    assert compared(old, new | {"version": "1"}).changed == (
        "bscheck 0 -> 1",
        "numpy 2.0.1 -> 2.1.0",
        "profile quick -> default",
    )


def timed(ratio, low, high, verdict="passed"):
    made = result(family="timing", verdict=verdict)
    made["worst"]["figures"] = {"ratio": ratio, "low": low, "high": high}
    return made


def test_timings_make_no_claim_while_their_intervals_meet():
    meet = compared(record(timed(1.0, 0.98, 1.02)), record(timed(1.03, 1.01, 1.05)))
    assert [(row.change, row.words) for row in meet.rows] == [
        (Change.NO_CLAIM, "1.00 [0.98, 1.02] -> 1.03 [1.01, 1.05]: the intervals meet")
    ]
    assert meet.exit_code == 0
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
