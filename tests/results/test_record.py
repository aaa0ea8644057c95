"""The record of a run: written whole or not at all, and read back strictly."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from bscheck.errors import RecordError
from bscheck.results import record
from bscheck.results.record import check_writable, read_bundle, read_record, write_bundle, write_record
from bscheck.results.verdict import Reading, Result, Verdict

RESULT = Result("parts_add_up", "accumulation", {"subject": "dense"}, Verdict.FAILED, worst=Reading(float("inf")))


def write(path: Path, **changes: Any) -> None:
    """Write a small record."""
    fields: dict[str, Any] = {
        "environment": {"keras": "3.15.1"},
        "options": {"seed": 0},
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:01:00+00:00",
        "interrupted": False,
        "results": [RESULT.to_json()],
        "known_issues": [],
    }
    write_record(path, **(fields | changes))


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "run.json")
    document = read_record(tmp_path / "run.json")
    assert document["schema"] == 2
    assert document["results"][0]["verdict"] == "failed"
    assert float(document["results"][0]["worst"]["share"]) == float("inf")
    assert document["interrupted"] is False


def test_record_is_an_ordinary_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("an older one")
    write(path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "run.json"]


def test_older_record_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text("an older one")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(RecordError, match=r"run\.json: cannot be written: No space left on device"):
        write(path)
    assert path.read_text() == "an older one"
    assert os.listdir(tmp_path) == ["run.json"]


def test_folder_or_missing_folder_is_noticed_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is a folder; give the name of a file"):
        check_writable(tmp_path)
    with pytest.raises(RecordError, match=r"run\.json: there is no folder .*/no; make it first"):
        check_writable(tmp_path / "no" / "run.json")
    check_writable(tmp_path / "run.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"schema": 1', "is not valid JSON"),
        ("\x00\xff", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is not a record of bscheck"),
        ('{"schema": 1, "results": []}', "is not a record of bscheck"),
        ('{"program": "pytest-benchmark", "schema": 1}', "is not a record of bscheck"),
        ('{"program": "bscheck", "schema": 3}', "has schema 3; this bscheck reads schema 1 and 2"),
        ('{"program": "bscheck"}', "has schema None; this bscheck reads schema 1 and 2"),
        ('{"program": "bscheck", "schema": true}', "has schema True; this bscheck reads schema 1 and 2"),
        ('{"program": "bscheck", "schema": 1}', "'version' is missing or not a str; the file is damaged"),
    ],
)
def test_file_that_is_no_record_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RecordError) as error:
        read_record(path)
    assert str(error.value).startswith(f"record {path}: {message}")
    assert "\n" not in str(error.value)


def test_missing_record_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"run\.json: cannot be read: No such file or directory"):
        read_record(tmp_path / "run.json")


@pytest.mark.parametrize("key", sorted(record._KEYS))
def test_record_without_a_key_is_damaged(tmp_path: Path, key: str) -> None:
    path = tmp_path / "run.json"
    write(path)
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"damaged|reads schema|not a record"):
        read_record(path)


def test_record_with_an_incomplete_result_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "run.json", results=[RESULT.to_json(), {"check": "parts_add_up"}])
    with pytest.raises(RecordError, match="result 1 is incomplete; the file is damaged"):
        read_record(tmp_path / "run.json")


def test_record_of_schema_1_is_read_and_says_nothing_of_what_was_collected(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write(path)
    document = json.loads(path.read_text())
    del document["selection"]
    document["schema"] = 1
    path.write_text(json.dumps(document))
    assert read_record(path)["selection"] == {}


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".xz", lzma)])
def test_packed_record_is_read(tmp_path: Path, suffix: str, module: Any) -> None:
    write(tmp_path / "run.json")
    packed = tmp_path / f"run.json{suffix}"
    packed.write_bytes(module.compress((tmp_path / "run.json").read_bytes()))
    assert read_record(packed) == read_record(tmp_path / "run.json")
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(RecordError, match=rf"run\.json\{suffix}: cannot be unpacked: \w+Error"):
        read_record(packed)
    packed.write_bytes(b"no archive")
    with pytest.raises(RecordError, match="cannot be unpacked"):
        read_record(packed)


def test_bundle_holds_records_by_name(tmp_path: Path) -> None:
    records = {}
    for name in ("keras-3.14.1", "keras-3.15.1"):
        write(tmp_path / "run.json", environment={"keras": name[6:]})
        records[name] = read_record(tmp_path / "run.json")
    write_bundle(tmp_path / "all.jsonl.xz", records)
    assert read_bundle(tmp_path / "all.jsonl.xz") == records
    assert read_record(tmp_path / "all.jsonl.xz#keras-3.14.1")["environment"] == {"keras": "3.14.1"}
    with pytest.raises(RecordError, match=r"unknown record 'keras-3.14.2'; did you mean 'keras-3.14.1'\?"):
        read_record(tmp_path / "all.jsonl.xz#keras-3.14.2")
    with pytest.raises(RecordError, match=r"holds several records; name one: all\.jsonl\.xz#keras-3\.14\.1"):
        read_record(tmp_path / "all.jsonl.xz")
