"""``bscheck releases`` on releases made for the purpose: uv, environments and pytest are real."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest


def test_gate_runs_on_each_release_and_the_table_tells_where_a_promise_broke(shelf) -> None:
    shelf.keras("3.4.1", bad=True)
    shelf.keras("3.5.0")
    ran = shelf.run("releases", "keras==3.4.1", "keras==3.5.0", "--tensorflow", "2.21.0", "--jobs", "2")
    assert ran.returncode == 1, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["release", "accumulation"]
    assert lines[1].split() == ["keras-3.4.1+tensorflow-2.21.0", "BROKEN:", "2", "of", "2"]
    assert lines[2].split() == ["keras-3.5.0+tensorflow-2.21.0", "holds"]
    assert lines[3:] == ["BROKEN sums_agree", "       keras-3.4.1+tensorflow-2.21.0 (2 of 2)"]
    assert shelf.states() == ["keras-3.4.1+tensorflow-2.21.0", "keras-3.5.0+tensorflow-2.21.0"]
    assert "keras 3.4.1 · tensorflow" in ran.stderr
    environment = json.loads((shelf.out / "keras-3.4.1+tensorflow-2.21.0.json").read_text())["environment"]
    assert environment["keras"] == "3.4.1"

    again = shelf.run("releases", "keras==3.5.0", "--tensorflow", "2.21.0", "--markdown")
    assert again.returncode == 0
    assert "[1/1] keras-3.5.0+tensorflow-2.21.0: kept" in again.stderr
    assert "| keras-3.5.0+tensorflow-2.21.0 | holds |" in again.stdout
    other = shelf.run("releases", "keras==3.5.0", "--tensorflow", "2.21.0", "--", "-k", "dense")
    assert "there is a record with other arguments; it is run again" in other.stderr
    assert len(json.loads((shelf.out / "keras-3.5.0+tensorflow-2.21.0.json").read_text())["results"]) == 1


def test_newest_backend_that_works_with_an_old_keras_is_found(shelf) -> None:
    shelf.keras("3.1.1", "3.5.0")
    shelf.tensorflow("2.22.0", needs=("keras>=3.5",))
    ran = shelf.run("releases", "keras==3.1.1", "keras==3.5.0")
    assert ran.returncode == 0, ran.stderr
    assert shelf.states() == ["keras-3.1.1+tensorflow-2.21.0", "keras-3.5.0+tensorflow-2.22.0"]


def test_release_that_cannot_be_had_has_its_own_verdict(shelf) -> None:
    shelf.keras("3.5.0")
    shelf.keras("3.6.0", source="raise ImportError('libdevice is missing')\n")
    shelf.tensorflow("2.23.0", needs=("keras>=3.9",))
    ran = shelf.run("releases", "keras==3.5.0", "keras==3.6.0", "keras==3.9.9", "--tensorflow", "2.21.0", "2.23.0")
    assert ran.returncode == 3, ran.stderr
    rows = {line.split("  ")[0]: line for line in ran.stdout.splitlines()}
    assert rows["keras-3.5.0+tensorflow-2.21.0"].endswith("holds")
    assert "cannot be imported: ImportError: libdevice is missing" in rows["keras-3.6.0+tensorflow-2.21.0"]
    assert (
        "cannot be installed: Because there is no version of keras==3.9.9" in rows["keras==3.9.9 + tensorflow==2.21.0"]
    )
    assert "depends on keras>=3.9" in rows["keras==3.5.0 + tensorflow==2.23.0"]
    assert "BROKEN" not in ran.stdout


def test_nightly_is_imported_from_its_own_distribution(shelf) -> None:
    shelf.keras("3.15.1")
    shelf.keras("3.16.0.dev2026102704", name="keras-nightly")
    ran = shelf.run("releases", "keras-nightly")
    assert ran.returncode == 0, ran.stderr
    name = "keras-nightly-3.16.0.dev2026102704+tensorflow-2.21.0"
    assert shelf.states() == [name]
    probed = json.loads(next(shelf.cache.glob(f"{name}-*/probed.json")).read_text())
    assert probed["owners"]["keras"] == ["keras-nightly"]
    assert "keras" not in probed["versions"]


def test_environment_that_imports_another_keras_is_refused(shelf) -> None:
    shelf.keras("3.5.0", source="__version__ = '3.4.1'\n")
    ran = shelf.run("releases", "keras==3.5.0")
    assert ran.returncode == 3
    assert "is not what was asked for: keras.__version__ is 3.4.1, not 3.5.0" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3.15.1"], "'3.15.1' is not a release of Keras; give keras==VERSION"),
        (["keras=3.15.1"], "'keras=3.15.1' is no release; give keras==3.15.1"),
        (["keras==2.15.0"], "'keras==2.15.0' is too old; bscheck supports Keras 3.1 and later"),
        (["keras==3.5.0", "--tensorflow", "newest"], "--tensorflow: 'newest' is not a version or nightly"),
        (["keras==3.5.0", "--python", "three"], "--python: 'three' is no version of Python"),
        (["keras==3.5.0", "--jobs", "0"], "--jobs: must be at least 1, not 0"),
        (["keras @ file:///tmp/keras"], "is not a release but a place"),
    ],
)
def test_bad_input_is_one_line(shelf, capsys, monkeypatch, arguments: list[str], message: str) -> None:
    assert message in shelf.refused(capsys, monkeypatch, "releases", *arguments)


def test_missing_uv_is_one_line(shelf) -> None:
    ran = shelf.run("releases", "keras==3.5.0", PATH="/nowhere")
    if ran.returncode != 4:
        pytest.skip("uv is installed beside Python here, where it is always found")
    assert ran.stderr == ("bscheck: uv is not installed; it makes the environments: pip install 'bscheck[releases]'\n")


def test_nothing_selected_and_a_gate_that_cannot_start_could_not_be_run(shelf) -> None:
    shelf.keras("3.5.0")
    none = shelf.run("releases", "keras==3.5.0", "--", "-k", "nothing_of_the_kind")
    assert (none.returncode, "could not be run: nothing was selected" in none.stdout) == (3, True)
    bad = shelf.run("releases", "keras==3.5.0", "--", "--bscheck-seed", "x")
    assert bad.returncode == 3
    assert "exit code 4: ERROR: bscheck: --bscheck-seed: the seed must be an integer >= 0, not 'x'" in bad.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_goes_on_where_it_was(shelf, number: signal.Signals) -> None:
    shelf.keras("3.4.1", "3.5.0")
    arguments = ["releases", "keras==3.4.1", "keras==3.5.0", "--jobs", "1"]
    assert shelf.run("releases", "keras==3.4.1", "--jobs", "1").returncode == 0
    process = shelf.start(*arguments, SLOW="60")
    lines = iter(process.stderr.readline, "")
    assert any("keras-3.5.0+tensorflow-2.21.0: the gate runs" in line for line in lines)
    child = _child_of(process.pid)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGTERM else -number)
    _assert_gone(child)
    assert shelf.states() == ["keras-3.4.1+tensorflow-2.21.0"]

    ran = shelf.run(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert "keras-3.4.1+tensorflow-2.21.0: kept" in ran.stderr
    assert "keras-3.5.0+tensorflow-2.21.0: run" in ran.stderr


def test_gate_that_is_killed_could_not_be_run(shelf) -> None:
    shelf.keras("3.4.1")
    process = shelf.start("releases", "keras==3.4.1", "--jobs", "1", SLOW="60")
    lines = iter(process.stderr.readline, "")
    assert any("the gate runs" in line for line in lines)
    os.kill(_child_of(process.pid), signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "could not be run: the gate was killed by SIGKILL (out of memory? fewer at a time: --jobs 1)" in out


def _child_of(pid: int) -> int:
    """Return the gate that the command started, once it is there."""
    for _ in range(200):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        every = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
        if text or every:
            return int((text or every)[0])
        time.sleep(0.05)
    raise AssertionError("no gate was started")


def _assert_gone(pid: int) -> None:
    for _ in range(200):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} runs on")


def test_without_an_index_it_says_so_and_goes_on_later(shelf) -> None:
    shelf.keras("3.5.0")
    config = shelf.root / "uv.toml"
    good = config.read_text()
    config.write_text("")
    missing = shelf.run("releases", "keras==3.5.0", UV_OFFLINE="1")
    assert missing.returncode == 3
    assert "could not be run: the package index cannot be asked" in missing.stdout
    assert "network was disabled" in missing.stdout
    config.write_text(good)
    assert shelf.run("releases", "keras==3.5.0").returncode == 0
    config.write_text("")  # what was resolved and run before needs no index
    kept = shelf.run("releases", "keras==3.5.0", UV_OFFLINE="1")
    assert kept.returncode == 0
    assert "as resolved before (the package index cannot be asked" in kept.stderr
    assert ": kept" in kept.stderr


def test_on_a_full_disk_it_says_so_and_goes_on_later(shelf) -> None:
    shelf.keras("3.5.0")
    small = shelf.root / "cache"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        full = shelf.run("releases", "keras==3.5.0")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert full.returncode in (3, 4)
    assert "No space left on device" in full.stdout + full.stderr
    assert "Traceback" not in full.stderr
    assert shelf.run("releases", "keras==3.5.0").returncode == 0


def test_record_that_does_not_fit_is_not_put_in_place(shelf) -> None:
    shelf.keras("3.5.0")
    assert shelf.run("releases", "keras==3.5.0").returncode == 0
    before = next(shelf.out.glob("*.json")).read_text()
    command, variables = shelf.command("releases", "keras==3.5.0", "--again")
    limit = (2000, 2000)  # bytes a file: the record is larger
    full = subprocess.run(
        command,
        cwd=shelf.root,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert full.returncode in (3, 4), full.stdout
    assert "Traceback" not in full.stderr
    assert "File too large" in full.stdout + full.stderr
    assert next(shelf.out.glob("*.json")).read_text() == before
    assert shelf.run("releases", "keras==3.5.0", "--again").returncode == 0


def test_two_at_once_make_each_environment_once(shelf) -> None:
    shelf.keras("3.5.0")
    both = [shelf.start("releases", "keras==3.5.0", SLOW="1") for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("making the environment" in text for text in said) == 1
    assert sorted(text.rsplit(": ", 1)[-1].strip() for text in said) == ["kept", "run"]
