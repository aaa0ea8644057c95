"""The report for a job summary: short, and nothing from a record acts on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_samples import ISSUE, result, whole, write

from bscheck.results.record import read_record
from bscheck.results.report.build import build
from bscheck.results.report.markdown import as_markdown, code, escaped


def lines(tmp_path: Path, *results: Any, **changes: Any) -> list[str]:
    return list(as_markdown(build([("run.json", read_record(write(tmp_path / "run.json", *results, **changes)))])))


def test_verdict_table_failures_and_known_issues(tmp_path: Path) -> None:
    report = build([("run.json", read_record(write(tmp_path / "run.json", *whole())))])
    decay, predictions = (failure.text.split("\n") for failure in report.failures)
    assert "Promise     Weight decay acts once per update" in decay
    assert list(as_markdown(report)) == [
        "## bscheck: Broken: 2 results of 2 checks",
        "",
        "keras 3.15.1 · tensorflow 2.21.0 · cpu, 2 threads · float32, TF32 off · 13 results, 144 cases",
        "- **1 inconclusive: measured, and nothing can be said**",
        "",
        "| promise family | results | cases | worst share of the bound | verdict |",
        "| --- | --- | --- | --- | --- |",
        "| accumulation | 4 | 48 | 5220 × the bound (dense, seed 0, float32) | BROKEN: 1 of 4 |",
        "| independence | 2 | 24 | beyond any bound (dense, seed 0, float32) | BROKEN: 1 of 2 |",
        "| tiny batches | 2 | 24 | 29 % (dense, seed 0, float32) | holds |",
        r"| timing | 2 | 24 | 32 vs 17: -20.0 % \[-30.0, -9.0\] | inconclusive: 1 of 2 |",
        "| known issues | 1 |  | met in this run | see below |",
        "| exceptions | 1 |  |  | each as documented |",
        "| not applicable | 1 |  |  |  |",
        "",
        "### Broken: 2",
        "",
        "- `weight_decay_acts_once_per_update[adamw]`: off by 3.1e-4: 30 % of the update",
        "- `predictions_do_not_depend_on_batch_size[dense]`: raised ValueError",
        "",
        "<details><summary>weight_decay_acts_once_per_update[adamw]</summary>",
        "",
        "```text",
        *decay,
        "```",
        "",
        "</details>",
        "",
        "<details><summary>predictions_do_not_depend_on_batch_size[dense]</summary>",
        "",
        "```text",
        *predictions,
        "```",
        "",
        "</details>",
        "",
        "<details><summary>Known issues met: 1</summary>",
        "",
        rf"- `{ISSUE['id']}`: {ISSUE['reason']} (still fails on its pinned case)".replace("_", r"\_"),
        "",
        "</details>",
        "",
    ]


def test_an_interrupted_run_says_so_first(tmp_path: Path) -> None:
    found = lines(tmp_path, result(), interrupted=True)
    assert found[0] == "## bscheck: Incomplete: nothing that ran is broken"
    assert found[3] == "- **the run was interrupted: results are missing**"


def test_many_failures_stay_short(tmp_path: Path) -> None:
    results = [result(verdict="failed", share=2.0, param={"layer": str(i)}, seen="x" * 10_000) for i in range(300)]
    text = "\n".join(lines(tmp_path, *results))
    assert "- and 280 more" in text
    assert len(text) < 200_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("<script>&amp;", r"\<script\>\&amp;"),
        ("`x` *y* _z_ [a](b) ![c]", r"\`x\` \*y\* \_z\_ \[a\](b) !\[c\]"),
        ("line\nbreak\x1b[31m", r"line break\\x1b\[31m"),
        ("@keras-team #12", "@\u200bkeras-team \\#12"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_text_is_text(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a_b[c]", "`a_b[c]`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a|b", r"`a\|b`"), ("", "")],
)
def test_code_ends_where_it_should(text: str, shown: str) -> None:
    assert code(text) == shown


def test_a_folded_head_is_text(tmp_path: Path) -> None:
    found = lines(tmp_path, result(verdict="failed", share=2.0, param={"x": "</summary><script>&"}))
    assert "<details><summary>a_promise[&lt;/summary&gt;&lt;script&gt;&amp;]</summary>" in found


def test_a_block_cannot_be_left(tmp_path: Path) -> None:
    found = lines(tmp_path, result(verdict="failed", share=2.0, seen="```` </details> <script>"))
    assert found.count("`````text") == found.count("`````") == 1
