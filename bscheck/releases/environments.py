"""Isolated environments: resolved, made, and asserted to hold what was asked for."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from bscheck.errors import BscheckError
from bscheck.releases import uv
from bscheck.releases.cache import PACKAGE, Tell, built, digest, read_json, write_json
from bscheck.releases.combination import OLDEST_KERAS, Combination

#: Prints what the environment has: the distribution that owns ``import keras``, and the versions that import says.
_PROBE = """
import importlib, importlib.metadata as metadata, json, os, sys, sysconfig
backend = sys.argv[1]
home = sysconfig.get_path("purelib")
owners = {
    name: sorted(
        d.metadata["Name"].lower().replace("_", "-")
        for d in metadata.distributions(path=[home])
        if any(str(f) == f"{name}/__init__.py" for f in d.files or ())
    )
    for name in ("keras", backend)
}
versions = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions(path=[home])}
said = {}
for name in ("keras", backend):
    module = importlib.import_module(name)
    said[name] = str(module.__version__)
    inside = os.path.realpath(module.__file__ or "").startswith(os.path.realpath(home) + os.sep)
    if not inside:
        owners[name].append(f"the file {module.__file__} outside the environment")
print("PROBED " + json.dumps({"owners": owners, "versions": versions, "said": said}))
"""


class ImportFailedError(uv.ReleaseError):
    """A release that is installed but cannot be imported."""


@dataclass(frozen=True)
class Resolved:
    """A combination with every version settled.

    Attributes
    ----------
    combination : Combination
    pins : str
        ``name==version`` lines.
    note : str
        What is to be said of it, for example that the index could not be asked.
    """

    combination: Combination
    pins: str
    note: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """Version by distribution."""
        return uv.pins(self.pins)

    @property
    def name(self) -> str:
        """What its record is called."""
        return self.combination.name(self.versions)

    @property
    def keras(self) -> str:
        """Keras's version."""
        return self.versions[self.combination.keras_distribution]

    @property
    def backend(self) -> str:
        """The backend's version."""
        return self.versions[self.combination.backend_distribution]

    @property
    def words(self) -> str:
        """The resolved versions in words."""
        one = self.combination
        return f"{one.keras_distribution} {self.keras} · {one.backend_distribution} {self.backend}"


@dataclass(frozen=True)
class Environment:
    """An environment that is ready.

    Attributes
    ----------
    resolved : Resolved
    python : Path
        Its interpreter.
    source : Path
        The copy of bscheck that is imported in it.
    home : Path
        Where Keras keeps what it downloads and its settings: an empty folder, not the user's.
    """

    resolved: Resolved
    python: Path
    source: Path
    home: Path

    def variables(self) -> dict[str, str]:
        """Return the variables that a process in this environment has."""
        dropped = ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTEST_ADDOPTS")
        combination = self.resolved.combination
        variables = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("PYTEST_XDIST_")}
        variables |= {
            "PYTHONPATH": str(self.source),
            "PYTHONNOUSERSITE": "1",
            "KERAS_BACKEND": combination.backend,
            "KERAS_HOME": str(self.home),
        }
        variables.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        if not combination.gpu:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        return variables


def own_requirements() -> list[str]:
    """Return what bscheck itself needs, Keras aside: from its project file in a checkout, else as it was installed."""
    project = PACKAGE.parent / "pyproject.toml"
    if project.is_file():
        document = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if document.get("name") == "bscheck":
            return _without_keras(document.get("dependencies", []))
    try:
        return _without_keras(importlib.metadata.requires("bscheck") or [])
    except importlib.metadata.PackageNotFoundError:
        raise BscheckError("bscheck is not installed and this is no checkout: what it needs cannot be told") from None


def _without_keras(lines: list[str]) -> list[str]:
    parsed = map(Requirement, lines)
    return [str(r) for r in parsed if canonicalize_name(r.name) != "keras" and "extra" not in str(r.marker or "")]


def resolve(combination: Combination, cache: Path) -> Resolved:
    """Return the combination with every version settled; the last resolution where the index cannot be asked.

    Raises
    ------
    ReleaseError
        When there is no such release, or nothing fits with it.
    UnavailableError
        When the index cannot be asked, and was not before.
    """
    wanted = [*combination.requirements(), *own_requirements()]
    kept = cache / f"resolved-{digest(interpreter(combination), *wanted, *combination.excluded())}.json"
    overrides = cache / "overrides-{}.txt".format("-".join(combination.excluded()))
    overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in combination.excluded()))
    command = ["pip", "compile", "-", "--no-header", "--no-annotate", "--quiet", "--overrides", str(overrides)]
    note = ""
    try:
        pins = uv.run([*command, "--python", interpreter(combination)], cache, "\n".join(wanted))
        write_json(kept, pins)
    except uv.UnavailableError as error:
        pins = read_json(kept)
        if not isinstance(pins, str):
            raise
        note = f"as resolved before ({error})"
    resolved = Resolved(combination, pins, note)
    if Version(resolved.keras) < OLDEST_KERAS:
        raise uv.ReleaseError(f"Keras {resolved.keras} is older than {OLDEST_KERAS}, which bscheck supports")
    return resolved


def interpreter(combination: Combination) -> str:
    """Return what uv is told to take for Python."""
    return combination.python or sys.executable


def environment(resolved: Resolved, cache: Path, source: Path, tell: Tell) -> Environment:
    """Return the environment, made where it is not there yet, and asserted to hold what was resolved.

    `source` is the copy of bscheck that is imported in it (`bscheck.releases.cache.snapshot`).

    Raises
    ------
    ReleaseError
        When it cannot be installed; `ImportFailedError` when it cannot be imported.
    UnavailableError
        When something else is missing.
    """
    python = interpreter(resolved.combination)
    home = cache / f"{resolved.name}-{digest(python, resolved.pins)}"
    with built(home, tell) as folder:
        if folder is not None:
            tell(f"making the environment of {resolved.name}")
            uv.run(
                ["venv", "--quiet", "--no-project", "--relocatable", "--python", python, str(folder / "venv")], cache
            )
            into = str(folder / "venv" / "bin" / "python")
            uv.run(["pip", "install", "--quiet", "--no-deps", "--python", into, "-r", "-"], cache, resolved.pins)
            (folder / "keras").mkdir()
    found = Environment(resolved, home / "venv" / "bin" / "python", source, home / "keras")
    _assert(found, home)
    return found


def _assert(found: Environment, home: Path) -> None:
    """Raise unless the environment imports what was resolved; what an earlier run saw of the same folder stands."""
    seen = read_json(home / "probed.json")
    if seen is None:
        seen = _probe(found)
        write_json(home / "probed.json", seen)
    problem = disagreement(found.resolved, seen)
    if problem:
        raise uv.UnavailableError(f"the environment of {found.resolved.name} is not what was asked for: {problem}")


def _probe(found: Environment) -> Mapping[str, Mapping[str, object]]:
    backend = found.resolved.combination.backend
    ran = subprocess.run(
        [str(found.python), "-c", _PROBE, backend],
        env=found.variables(),
        cwd=found.home,
        capture_output=True,
        text=True,
        check=False,
    )
    line = next((line for line in ran.stdout.splitlines() if line.startswith("PROBED ")), "")
    if ran.returncode < 0 and not line:
        raise uv.UnavailableError(f"importing {found.resolved.name} was killed by signal {-ran.returncode}")
    if not line:
        last = [line for line in ran.stderr.splitlines() if line.strip()] or ["no message"]
        raise ImportFailedError(last[-1].strip()[:300])
    document: Mapping[str, Mapping[str, object]] = json.loads(line.removeprefix("PROBED "))
    return document


def disagreement(resolved: Resolved, seen: Mapping[str, Mapping[str, object]]) -> str:
    """Return in what the environment differs from what was resolved, or ""."""
    one = resolved.combination
    for name, distribution, version in (
        ("keras", one.keras_distribution, resolved.keras),
        (one.backend, one.backend_distribution, resolved.backend),
    ):
        owners = seen["owners"][name]
        if owners != [distribution]:
            return f"import {name} comes from {owners}, not from {distribution} alone"
        if seen["versions"].get(distribution) != version:
            return f"{distribution} is {seen['versions'].get(distribution)}, not {version}"
        said = str(seen["said"][name])
        if not same_version(said, version):
            return f"{name}.__version__ is {said}, not {version}"
    return ""


def same_version(said: str, wanted: str) -> bool:
    """Whether two versions are the same release; what a build adds of its own (``+cpu``) is none."""
    a, b = Version(said), Version(wanted)
    return (a.public == b.public) or (a.is_devrelease and b.is_devrelease and a.base_version == b.base_version)
