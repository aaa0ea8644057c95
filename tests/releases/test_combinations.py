"""What is asked for, which index is asked, and what is made of uv's words: no process is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from bscheck.releases import combination, environments, processes, uv
from bscheck.releases.combination import Combination, crossed

OFFLINE = "Packages were unavailable because the network was disabled."


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on the platform that has tensorflow-cpu."""
    monkeypatch.setattr(combination.sys, "platform", "linux")
    monkeypatch.setattr(combination.platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("intel")
def test_every_keras_is_crossed_with_every_backend_once() -> None:
    found = crossed(["keras==3.14.1", "keras-nightly"], {"tensorflow": ["2.19.1", "nightly"], "jax": [], "torch": None})
    assert [one.requirements() for one in found] == [
        ("keras==3.14.1", "tensorflow-cpu==2.19.1"),
        ("keras==3.14.1", "tf-nightly-cpu"),
        ("keras==3.14.1", "jax"),
        ("keras-nightly", "tensorflow-cpu==2.19.1"),
        ("keras-nightly", "tf-nightly-cpu"),
        ("keras-nightly", "jax"),
    ]
    assert [one.excluded() for one in found[::3]] == [("keras-nightly",), ("keras",)]
    assert len(crossed(["keras==3.14.1", "keras==3.14.1"], {})) == 1


@pytest.mark.usefixtures("intel")
def test_names_of_records_say_what_was_resolved() -> None:
    versions = {
        "keras-nightly": "3.16.0.dev1",
        "keras": "3.15.1",
        "tf-nightly-cpu": "2.22.0.dev2",
        "torch": "2.13.0+cpu",
    }
    nightly = Combination("keras-nightly", "tensorflow", "nightly", "3.12")
    assert nightly.name(versions) == "keras-nightly-3.16.0.dev1+tensorflow-nightly-2.22.0.dev2+python-3.12"
    assert Combination("keras", "torch").name(versions) == "keras-3.15.1+torch-2.13.0+cpu"


def test_builds_for_gpus_and_other_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combination.sys, "platform", "darwin")
    assert Combination("keras").requirements() == ("keras", "tensorflow")
    assert Combination("keras", gpu=True).requirements() == ("keras", "tensorflow[and-cuda]")
    assert Combination("keras", "jax", "0.5.0", gpu=True).requirements() == ("keras", "jax[cuda12]==0.5.0")


def test_pips_index_is_asked_where_uv_was_told_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://mirror.example/simple")
    assert uv.environment_variables()["UV_DEFAULT_INDEX"] == "http://mirror.example/simple"
    monkeypatch.setenv("UV_INDEX_URL", "http://own.example/simple")
    assert "UV_DEFAULT_INDEX" not in uv.environment_variables()
    monkeypatch.delenv("UV_INDEX_URL")
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setattr(uv, "_configured_index", lambda: "http://configured.example/simple")
    assert uv.environment_variables()["UV_DEFAULT_INDEX"] == "http://configured.example/simple"


@pytest.mark.parametrize(
    ("code", "text", "kind", "words"),
    [
        (1, "  × No solution found when resolving dependencies:\n  ╰─▶ Because there is no version of keras==3.99 and",
         uv.ReleaseError, "Because there is no version of keras==3.99 and"),
        (1, "error: Failed to build `keras==0.1`\n  cause: no setup", uv.ReleaseError, "Failed to build"),
        (1, f"error: No solution found\n  cause: not in the cache\nhint: {OFFLINE}",
         uv.UnavailableError, "the package index cannot be asked: not in the cache"),
        (2, "error: Request failed\n  cause: tcp connect error", uv.UnavailableError, "the package index cannot"),
        (2, "error: Failed to write\n  cause: No space left on device (os error 28)", uv.UnavailableError, "disk full"),
        (2, "error: No interpreter found for Python 3.7", uv.UnavailableError, "the Python is missing"),
        (-9, "", uv.UnavailableError, "uv was killed by signal 9"),
        (2, "error: something new", uv.UnavailableError, "uv failed: something new"),
    ],
)  # fmt: skip
def test_only_what_is_the_releases_own_is_its_verdict(code: int, text: str, kind: type, words: str) -> None:
    error = uv.explained(code, text, Path("/cache"))
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        ("3.15.1", "3.15.1", True),
        ("2.13.0+cpu", "2.13.0", True),
        ("2.22.0-dev20260905", "2.22.0.dev20260905", True),
        ("3.15.1", "3.15.0", False),
        ("3.16.0", "3.16.0.dev2026102704", False),
    ],
)
def test_versions_are_the_same_release_or_not(said: str, wanted: str, same: bool) -> None:
    assert environments.same_version(said, wanted) is same


def test_as_many_at_a_time_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for gibibytes, expected in ((1, 1), (7, 2), (100, 5)):
        monkeypatch.setattr(processes, "available_bytes", lambda n=gibibytes: n * 2**30)
        assert processes.jobs_for(5) == expected
        assert processes.jobs_for(5, asked=3) == 3
    monkeypatch.undo()
    assert 2**28 < processes.available_bytes() < 2**50


def test_bscheck_needs_what_its_project_file_says_but_keras() -> None:
    names = {requirement.split(">")[0] for requirement in environments.own_requirements()}
    assert {"hypothesis", "numpy", "pytest", "scipy"} <= names
    assert "keras" not in names
