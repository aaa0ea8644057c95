"""The program ``uv``, which resolves versions and makes environments; it decides which index is asked."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bscheck.errors import BscheckError, MissingEnvironmentError


class ReleaseError(Exception):
    """A release that cannot be had: it does not exist, or nothing fits with it; ``str()`` is one line."""


class UnavailableError(BscheckError):
    """What is needed is not there (an index, room on the disk, uv's own life); it says nothing about the release."""


#: What uv says when the index cannot be asked, and when the disk cannot be written.
_NO_INDEX = re.compile(
    r"network was disabled|error sending request|failed to fetch|dns error|connect error|timed out|request failed|"
    r"certificate|status code|401 unauthorized|403 forbidden|50\d |network connectivity",
    re.IGNORECASE,
)
_NO_ROOM = re.compile(
    r"no space left|os error 28|file too large|os error 27|quota exceeded|os error 122|read-only file system|"
    r"permission denied",
    re.IGNORECASE,
)
_NO_PYTHON = re.compile(r"no interpreter found|not a valid python|python downloads", re.IGNORECASE)


#: What runs now, in any thread.
_RUNNING: set[subprocess.Popen[str]] = set()


@functools.cache
def program() -> str:
    """Return the path of ``uv``.

    Raises
    ------
    MissingEnvironmentError
        When it is not installed.
    """
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingEnvironmentError("uv is not installed; it makes the environments: pip install 'bscheck[releases]'")
    return found


def environment_variables() -> dict[str, str]:
    """Return the variables uv runs with: the user's own, and pip's index where uv was told none."""
    variables = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    if not any(k in variables for k in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_NO_INDEX")):
        index = _pips_index(variables)
        if index:
            variables["UV_DEFAULT_INDEX"] = index
    return variables | {"NO_COLOR": "1", "UV_NO_PROGRESS": "1"}


def _pips_index(variables: Mapping[str, str]) -> str:
    """Return the index that pip is configured to ask in place of the public one, or ""."""
    if variables.get("PIP_INDEX_URL"):
        return variables["PIP_INDEX_URL"]
    return _configured_index()


@functools.cache
def _configured_index() -> str:
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def run(arguments: Sequence[str], folder: Path, given: str | None = None) -> str:
    """Run ``uv`` in a folder and return what it printed.

    Parameters
    ----------
    arguments : sequence of str
        After ``uv``.
    folder : Path
        Where it runs: not in the user's project, whose own settings for uv are none of ours.
    given : str, optional
        Its standard input.

    Raises
    ------
    ReleaseError
        When what was asked for does not exist or cannot be fitted together.
    UnavailableError
        When the index cannot be asked, the disk is full, or uv was killed.
    """
    try:
        process = subprocess.Popen(
            [program(), *arguments],
            cwd=folder,
            env=environment_variables(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise UnavailableError(f"uv cannot be run: {error.strerror or error}") from None
    _RUNNING.add(process)
    try:
        said, errors = process.communicate(given)
    finally:
        _RUNNING.discard(process)
    if process.returncode == 0:
        return said
    raise explained(process.returncode, errors, folder)


def stop() -> None:
    """End what uv is doing now: an installation of minutes is not waited for."""
    for process in list(_RUNNING):
        process.terminate()


def explained(code: int, text: str, folder: Path) -> ReleaseError | UnavailableError:
    """Return the exception for what uv said when it failed."""
    words = reason(text)
    if code < 0:
        return UnavailableError(f"uv was killed by signal {-code}")
    if _NO_ROOM.search(text):
        return UnavailableError(f"uv cannot write (is the disk full? caches: {folder}, uv's own): {words}")
    if _NO_INDEX.search(text):
        return UnavailableError(f"the package index cannot be asked: {words}")
    if _NO_PYTHON.search(text):
        return UnavailableError(f"the Python is missing: {words}")
    if "no solution found" in text.lower() or "failed to build" in text.lower():
        return ReleaseError(words)
    return UnavailableError(f"uv failed: {words}")


def reason(text: str) -> str:
    """Return uv's message as one line, without its drawing and its headings."""
    kept = []
    for line in text.splitlines():
        line = re.sub(r"^[\s×╰├─▶│]+", "", line)
        line = re.sub(r"^(error|cause|hint|warning):\s*", "", line)
        if line and not line.startswith(("No solution found", "Resolved ", "Using ", "Creating ", "Activate ")):
            kept.append(line)
    words = " ".join(" ".join(kept).split())
    return words if len(words) <= 300 else words[:299].rstrip() + "…"


def versions_between(package: str, low: str, high: str, python: str, folder: Path) -> list[str]:
    """Return the releases from `low` to `high`, both included, oldest first, as the configured index has them.

    uv has no list of a package's releases, so it is asked for the newest, then for the newest before that one: the
    index, its credentials, offline mode and the Python that a release needs are those of every later installation.
    """
    found: list[str] = []
    wanted = f"{package}>={low},<={high}"
    while True:
        try:
            text = run(
                ["pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate", "--quiet", "--python", python],
                folder,
                wanted,
            )
        except ReleaseError as error:
            if not found:
                raise ReleaseError(f"there is no release of {package} from {low} to {high}: {error}") from None
            return found[::-1]
        found.append(pins(text)[package])
        wanted = f"{package}>={low},<{found[-1]}"


def pins(text: str) -> dict[str, str]:
    """Return version by distribution of a resolution (``name==version`` lines)."""
    lines = (line.split(";")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.split("[")[0].strip(): version.strip() for name, version in pairs}
