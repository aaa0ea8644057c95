"""What a report says of a run, whatever page shows it: the headline first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from report_samples import ENVIRONMENT, ISSUE, result, selection, whole, write

from bscheck.results.curves import Exhibits, Table
from bscheck.results.record import read_record
from bscheck.results.report.build import build
from bscheck.results.report.model import Report, State, share_in_words


def report(tmp_path: Path, *results: Any, **changes: Any) -> Report:
    return build([("run.json", read_record(write(tmp_path / "run.json", *results, **changes)))])


@pytest.mark.parametrize(
    ("results", "changes", "state", "headline"),
    [
        ([result()], {}, State.HOLDS, "The promises hold"),
        ([result()], {"selection": selection(9, selected=1)}, State.HOLDS, "The selected promises hold"),
        ([result(verdict="known issue")], {}, State.HOLDS, "The promises hold, but for known issues"),
        ([result("timed", "inconclusive", family="timing"), result()], {}, State.HOLDS, "The promises hold"),
        ([], {}, State.INCOMPLETE, "Incomplete: nothing was run"),
        ([result()], {"interrupted": True}, State.INCOMPLETE, "Incomplete: nothing that ran is broken"),
        (
            [result()],
            {"selection": selection(2, shard=[1, 2])},
            State.INCOMPLETE,
            "Incomplete: nothing that ran is broken",
        ),
        (
            [result()],
            {"selection": selection(4)},
            State.INCOMPLETE,
            "Incomplete: nothing that ran is broken",
        ),
        (
            [result(verdict="not applicable", cases=0)],
            {},
            State.INCOMPLETE,
            "Incomplete: no promise was held against anything",
        ),
        ([result(verdict="failed", share=3)], {"interrupted": True}, State.BROKEN, "Broken: 1 result of 1 check"),
        (
            [result(verdict="failed", share=0.0, family="known issues", reason="is fixed")],
            {},
            State.BROKEN,
            "Broken: 1 known issue fixed here, delete the entry",
        ),
    ],
)
def test_headline(tmp_path: Path, results: Any, changes: Any, state: State, headline: str) -> None:
    found = report(tmp_path, *results, **changes)
    assert (found.state, found.headline) == (state, headline)


def test_what_must_be_said_at_once(tmp_path: Path) -> None:
    cut = report(tmp_path, result(), interrupted=True, selection=selection(4, selected=2))
    assert cut.reasons == (
        "the run was interrupted: results are missing",
        "no verdict on 1 of 2 that were to be run",
        "2 more were collected and deselected: this is a part of the gate",
    )


def test_a_missing_shard_is_not_green(tmp_path: Path) -> None:
    one, two = result(param={"subject": "dense"}), result(param={"subject": "lstm"})
    shards = ((1, one), (2, two))
    files = [write(tmp_path / f"{i}.json", each, selection=selection(2, shard=[i, 3])) for i, each in shards]
    found = build([(file.name, read_record(file)) for file in files])
    assert found.state == State.INCOMPLETE
    assert found.reasons == ("no record of shard 3 of 3",)
    assert [source.shard for source in found.sources] == ["1 of 3", "2 of 3"]


def test_families_are_counted_by_how_near_they_came(tmp_path: Path) -> None:
    shares = (0.05, 0.1, 0.3, 0.7, 1.0)
    results = [result(share=share, param={"subject": str(share)}) for share in shares]
    broken = result(share=math.nan, verdict="failed", param={"subject": "nan"})
    family = report(tmp_path, *results, broken).families[0]
    assert family.nearness == (2, 1, 2, 1)
    assert family.nearest == "beyond any bound (dense, seed 0, float32)"
    assert family.verdict == "BROKEN: 1 of 6"


def test_checks_come_nearest_first_with_their_members(tmp_path: Path) -> None:
    found = report(tmp_path, *whole())
    assert [row.name for row in found.checks][:4] == [
        "predictions_do_not_depend_on_batch_size",
        "weight_decay_acts_once_per_update",
        "accumulated_gradient_matches_large_batch",
        "schedules_count_micro_steps_as_documented",
    ]
    decay = found.checks[1]
    assert decay.promise == "Weight decay acts once per update"
    assert [told.param for told in decay.members] == ["adamw", "sgd"]
    assert decay.counts == "1 broken, 1 holds"
    assert {row.family for row in found.checks}.isdisjoint({"timing", "known issues"})
    assert [row.name for row in found.timings] == ["odd_is_not_dearer", "one_more_costs_one_more"]


def test_failures_have_their_whole_text(tmp_path: Path) -> None:
    found = report(tmp_path, *whole())
    assert [failure.name for failure in found.failures] == [
        "weight_decay_acts_once_per_update[adamw]",
        "predictions_do_not_depend_on_batch_size[dense]",
    ]
    text = found.failures[0].text
    for line in (
        "Promise     Weight decay acts once per update",
        "Seen        off by 3.1e-4: 30 % of the update (allowed: 1e-4; ",
        "Smallest    dense, seed 0",
        "Ablation    decay=none: passes",
        "Run it      bscheck replay run.json#0",
        'Intended?   bscheck waive run.json#0 --reason "..." --expires YYYY-MM-DD',
        "Environment keras 3.15.1 · tensorflow 2.21.0 · cpu, 2 threads · float32, TF32 off",
    ):
        assert line in text


def test_timing_pairs_are_a_picture_of_intervals(tmp_path: Path) -> None:
    pairs = report(tmp_path, *whole()).pictures["time"][0].exhibit
    assert pairs.ticks == ("dense: 16 vs 17", "dense: 32 vs 17")
    assert [series.points for series in pairs.series] == [
        ((0, 1.02, 0.99, 1.05), (1, 0.8, 0.7, 0.91)),
        ((0, 1.046, None, None), (1, 1.02, None, None)),
    ]


def test_curves_of_several_parameters_are_told_apart(tmp_path: Path) -> None:
    learning = next(each for each in whole() if "curves" in each)
    several = [{**learning, "param": {"subject": name}} for name in ("dense", "lstm")]
    titles = [picture.title for picture in report(tmp_path, *several).pictures["noise"]]
    assert titles == ["Runs that left the shallow well — dense", "Runs that left the shallow well — lstm"]


def test_tables_of_several_parameters_are_one(tmp_path: Path) -> None:
    learning = next(each for each in whole() if "tables" in each)
    several = [{**learning, "param": {"subject": name}} for name in ("dense", "lstm")]
    shown = [picture.exhibit for picture in report(tmp_path, *several).pictures["loss"]]
    tables = [exhibit for exhibit in shown if isinstance(exhibit, Table)]
    assert [(table.columns[:2], [row[:2] for row in table.rows]) for table in tables] == [
        (("on", "epochs"), [(name, epochs) for name in ("dense", "lstm") for epochs in (15, 15, 150)])
    ]


def test_a_table_that_names_its_parameter_needs_no_column_for_it(tmp_path: Path) -> None:
    several = [
        result("learning", family="tiny batches", param={"optimizer": name}, exhibits=Exhibits(tables=(table,)))
        for name in ("adam", "sgd")
        for table in [Table("loss", "Final loss", ("optimizer", "loss"), ((name, 0.5),))]
    ]
    table = report(tmp_path, *several).pictures["loss"][0].exhibit
    assert (table.columns, table.rows) == (("optimizer", "loss"), (("adam", 0.5), ("sgd", 0.5)))


def test_why_nothing_was_timed_is_told(tmp_path: Path) -> None:
    skipped = [
        result("timed", "not applicable", family="timing", reason="refused under xdist", cases=0),
        result("weighed", "not applicable", family="memory", reason="no GPU", cases=0),
    ]
    assert report(tmp_path, *skipped).unmeasured == {"time": "refused under xdist", "memory": "no GPU"}


def test_known_issues_say_what_became_of_them(tmp_path: Path) -> None:
    issues = [{**ISSUE, "id": name} for name in ("held", "fixed", "elsewhere", "absent")]
    pinned = [
        result(verdict="known issue", family="known issues", param={"issue": "held"}, reason="held: still fails"),
        result(
            verdict="failed", family="known issues", param={"issue": "fixed"}, reason="known issue 'fixed' is fixed"
        ),
        result(
            verdict="reported",
            family="known issues",
            param={"issue": "elsewhere"},
            reason="elsewhere: fixed, outside its range",
        ),
    ]
    found = report(tmp_path, *pinned, result(verdict="known issue", held={"held": 3}), known_issues=issues)
    assert [(issue.id, issue.state, issue.held) for issue in found.issues] == [
        ("fixed", "fixed here: delete the entry", ""),
        ("held", "still fails on its pinned case", "3 of 12 cases (25.0 %)"),
    ]
    assert [(issue.id, issue.state) for issue in found.elsewhere] == [
        ("elsewhere", "fixed, outside its range"),
        ("absent", "not run"),
    ]


def test_exceptions_are_counted_among_what_does_not_apply(tmp_path: Path) -> None:
    verdicts = ("contract exception", "contract exception", "not applicable", "known issue")
    results = [result(verdict=verdict, param={"n": str(n)}) for n, verdict in enumerate(verdicts)]
    assert [row.documented for row in report(tmp_path, *results).exceptions] == [2]


def test_what_does_not_apply_is_told_by_reason(tmp_path: Path) -> None:
    results = [
        result("one", "not applicable", reason="no mask", cases=0, param={"subject": name}) for name in ("a", "b")
    ]
    found = report(tmp_path, *results, result("two", "not applicable", reason="no state", cases=0), result())
    assert [(skipped.reason, skipped.count, skipped.checks) for skipped in found.skipped] == [
        ("no mask", 2, (("one", ("a", "b")),)),
        ("no state", 1, (("two", ("dense",)),)),
    ]


def test_backends_are_one_run_whose_failures_keep_their_own_environment(tmp_path: Path) -> None:
    tensorflow = write(tmp_path / "tensorflow.json", result())
    on_jax = {**ENVIRONMENT, "backend": "jax", "backend_version": "0.10.0"}
    jax = write(tmp_path / "jax.json", result(verdict="failed", share=2.0), environment=on_jax)
    found = build([(file.name, read_record(file)) for file in (tensorflow, jax)])
    assert found.headline == "Broken: 1 result of 1 check"
    assert found.environment["backend"] == "jax and tensorflow"
    assert [told.param for told in found.checks[0].members] == ["dense-jax", "dense-tensorflow"]
    assert found.failures[0].name == "a_promise[dense-jax]"
    assert "keras 3.15.1 · jax 0.10.0" in found.failures[0].text


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.41, "41 %"),
        (0.9999, "> 99 %"),
        (1.0, "> 99 %"),
        (5220.4, "5220 × the bound"),
        (4.8e9, "4.8e+09 × the bound"),
        (math.inf, "beyond any bound"),
    ],
)
def test_shares_are_read_as_percent_or_multiples(share: float, words: str) -> None:
    assert share_in_words(share) == words
