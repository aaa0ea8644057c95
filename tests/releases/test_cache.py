"""What is kept between calls: whole or not at all, whatever happened to the process that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bscheck.errors import BscheckError
from bscheck.releases import cache
from bscheck.releases.cache import built, locked, read_json, snapshot, source_digest, write_json


def silent(line: str) -> None:
    """Say nothing."""


def test_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    home = tmp_path / "keras"

    def stopped() -> None:
        with built(home, silent) as folder:
            (folder / "half").touch()
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stopped()
    left = tmp_path / "keras.half-999999999"  # of a process that was killed
    left.mkdir()
    assert not home.exists()
    with built(home, silent) as folder:
        (folder / "whole").touch()
        assert not home.exists()
    assert [p.name for p in home.iterdir()] == ["whole"]
    assert not left.exists()
    with built(home, silent) as folder:
        assert folder is None


def test_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    def full() -> None:
        with built(tmp_path / "keras", silent):
            raise OSError(28, "No space left on device")

    with pytest.raises(BscheckError, match=r"cannot be written: No space left on device$"):
        full()
    assert [p.name for p in tmp_path.iterdir()] == ["keras.lock"]


def test_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = (
        "import os, sys, pathlib; from bscheck.releases.cache import locked\n"
        f"with locked(pathlib.Path({str(path)!r}), print): os.kill(os.getpid(), 9)"
    )
    source = str(Path(cache.__file__).parents[2])
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": source}, check=False)
    assert killed.returncode == -9
    said: list[str] = []
    with locked(path, said.append):
        pass
    assert said == []


def test_copy_of_the_suite_is_named_for_its_content(tmp_path: Path) -> None:
    home = snapshot(tmp_path, silent)
    assert home.name == f"bscheck-{source_digest()}"
    assert source_digest(home / "bscheck") == source_digest()
    assert snapshot(tmp_path, silent) == home
    (home / "bscheck" / "cli.py").write_text("")
    assert source_digest(home / "bscheck") != source_digest()


def test_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.json, "dump", full)
    with pytest.raises(BscheckError, match=r"state\.json: cannot be written: No space left on device"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    path.write_text("{")
    assert read_json(path) is None
