"""Where stand-alone programs lie, and the fresh process in which each is tried out."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bscheck.reproduce import NoScript

#: Seconds within which a program must have shown its failure; most of them go into importing the backend.
TIMEOUT = 90.0

#: What a program's last line begins with when it has shown the failure.
SIGN = "FAILS"

_LONGEST = 120


def place(folder: Path, check: str, param: str) -> Path:
    """Return the file of a check's program: below the folder, whatever the names are."""
    wanted = f"{check}-{param}" if param else check
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", wanted).strip(".-")[:_LONGEST]
    if name != wanted or not name:
        name = f"{name or 'case'}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    return folder / f"{name}.py"


def shown(path: Path, source: str, backend: str) -> None:
    """Write a program and keep it if it shows the failure in a fresh process: exit code 1, and a line that says so.

    Raises
    ------
    NoScript
        When it does not, or cannot be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".py", dir=path.parent)
    except OSError as error:
        raise NoScript(f"{path.parent} cannot be written ({error.strerror})") from None
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(source)
        _must_fail(Path(name), backend)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _must_fail(path: Path, backend: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BSCHECK_", "PYTEST_"))}
    settings = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, str(path.absolute())],
            capture_output=True, text=True, timeout=TIMEOUT, env={**environment, **settings}, stdin=subprocess.DEVNULL,
            errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoScript(f"the program did not end within {TIMEOUT:.0f} s in a fresh process") from None
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 1 and last.startswith(SIGN):
        return
    if done.returncode == 0:
        raise NoScript("in a fresh process, without bscheck, the same case does not fail")
    told = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise NoScript(f"the program could not be run in a fresh process ({told[:120]})")
