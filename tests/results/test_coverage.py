"""What was to be run beside what gave a verdict: shards, interruptions, what was left out on purpose."""

from __future__ import annotations

from typing import Any

import pytest

from bscheck.results.coverage import coverage


def record(*models: str, collected: int = 4, environment: Any = None, **selection: Any) -> dict[str, Any]:
    """Return a record of these models' results, of a run that collected so many."""
    results = [
        {"check": "sums_agree", "family": "accumulation", "param": {"model": model}, "verdict": "passed",
         "nodeid": f"gate/test_gate.py::sums_agree[{model}]"}
        for model in models
    ]  # fmt: skip
    return {
        "environment": environment or {"backend": "tensorflow"}, "results": results, "known_issues": [],
        "interrupted": False, "version": "0", "options": {},
        "selection": {"collected": collected, "digest": str(collected), "skipped": [], **selection},
    }  # fmt: skip


def test_a_whole_run_is_complete() -> None:
    found = coverage([record("a", "b", "c", "d")])
    assert found.known
    assert found.complete
    assert found.expected == 4
    assert list(found.told()) == []


def test_a_run_cut_short_misses_the_rest() -> None:
    found = coverage([record("a", selected=4)])
    assert list(found.told()) == ["no verdict on 3 of 4 that were to be run"]
    assert (found.expected, found.lost, found.missing) == (4, 3, 3)


def test_what_was_skipped_is_not_lost() -> None:
    assert coverage([record("a", "b", "c", skipped=["gate/test_gate.py::sums_agree[d]"])]).complete


def test_what_one_run_leaves_out_on_purpose_is_counted_not_missed() -> None:
    found = coverage([record("a", selected=1)])
    assert found.complete
    assert (found.expected, found.left_out, found.missing) == (1, 3, 3)


def test_shards_read_together_are_whole() -> None:
    shards = [record("a", "b", selected=2, shard=[1, 2]), record("c", "d", selected=2, shard=[2, 2])]
    assert coverage(shards).complete


def test_a_missing_shard_is_named_and_counted() -> None:
    found = coverage([record("a", selected=1, shard=[1, 4]), record("b", selected=1, shard=[3, 4])])
    assert list(found.told()) == ["no record of shards 2, 4 of 4", "no verdict on 2 of 4 that were to be run"]


def test_one_shard_alone_is_not_the_run() -> None:
    found = coverage([record("a", "b", selected=2, shard=[2, 2])])
    assert next(found.told()) == "no record of shard 1 of 2"


def test_parts_of_a_matrix_are_held_to_the_whole() -> None:
    found = coverage([record("a", selected=1), record("b", "c", selected=2)])
    assert list(found.told()) == ["no verdict on 1 of 4 that were to be run"]


def test_the_same_run_twice_is_no_part_of_a_whole() -> None:
    assert coverage([record("a", selected=1), record("a", selected=1)]).complete


def test_backends_are_whole_each_by_itself() -> None:
    jax = record("a", "b", "c", collected=3, environment={"backend": "jax"})
    assert coverage([record("a", "b", "c", "d"), jax]).complete
    short = record("a", "b", collected=3, environment={"backend": "jax"}, shard=[1, 2])
    told = list(coverage([record("a", "b", "c", "d"), short]).told())
    assert told == ["no record of shard 2 of 2 (jax)", "no verdict on 1 of 7 that were to be run"]


def test_records_of_older_releases_say_nothing() -> None:
    found = coverage([{**record("a"), "selection": {}}])
    assert not found.known
    assert found.complete


@pytest.mark.parametrize("shard", [[1], [0, 2], [3, 2], ["1", "2"], [1, 10**9], "1/2", [True, 2]], ids=str)
def test_a_shard_that_is_none_is_refused(shard: Any) -> None:
    with pytest.raises(ValueError, match=r"'shard'|'selection'"):
        coverage([record("a", shard=shard)])
