"""Where environments are kept, and how two runs that use them at once stay out of each other's way."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bscheck
from bscheck.errors import BscheckError, one_line

Tell = Callable[[str], None]

#: Where the package itself is: what runs in every environment is a copy of it.
PACKAGE = Path(bscheck.__file__).resolve().parent


def default_cache() -> Path:
    """Return the user's cache folder of bscheck, where the platform has it."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "bscheck"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bscheck"


def made(folder: Path) -> Path:
    """Return the folder, made where it is missing.

    Raises
    ------
    BscheckError
        When it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BscheckError(f"folder {folder}: cannot be made: {error.strerror or one_line(error)}") from None
    return folder.resolve()


@contextmanager
def locked(path: Path, tell: Tell) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends; wait for another holder, and say so."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"waiting for another bscheck that holds {path.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def built(home: Path, tell: Tell) -> Iterator[Path | None]:
    """Let a folder be filled where nobody sees it, then rename it into place: it is there whole, or not at all.

    Yields the folder to fill, or None where `home` is there already. What an earlier process left half done is removed.
    """
    if home.is_dir():
        yield None
        return
    with locked(home.with_name(f"{home.name}.lock"), tell):
        if home.is_dir():
            yield None
            return
        for left in home.parent.glob(f"{home.name}.half-*"):
            shutil.rmtree(left, ignore_errors=True)
        half = home.with_name(f"{home.name}.half-{os.getpid()}")
        try:
            half.mkdir()
            yield half
            half.rename(home)
        except BaseException as error:
            shutil.rmtree(half, ignore_errors=True)
            if isinstance(error, OSError):
                raise BscheckError(f"folder {home.parent}: cannot be written: {_why(error)}") from None
            raise


def _why(error: OSError) -> str:
    """Return what the system said; copying a folder makes a list of it."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])[:200]
    return error.strerror or one_line(error)


def digest(*parts: str) -> str:
    """Return a short name for what the parts say."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def source_digest(package: Path = PACKAGE) -> str:
    """Return a digest of bscheck's own source, data files included."""
    sources = sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    whole = hashlib.sha256()
    for path in sources:
        whole.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def snapshot(cache: Path, tell: Tell) -> Path:
    """Return a folder with a copy of bscheck as it is now, to be imported from there.

    A run over many releases takes hours; all of them are held to the same promises, whatever becomes of the checkout.
    """
    home = cache / f"bscheck-{source_digest()}"
    with built(home, tell) as folder:
        if folder is not None:
            shutil.copytree(PACKAGE, folder / "bscheck", ignore=shutil.ignore_patterns("__pycache__"))
            (folder / "pytest.ini").write_text("[pytest]\n")  # keeps pytest from looking for one further up
    return home


def write_json(path: Path, document: Any) -> None:
    """Write a small JSON file, all of it or none.

    Raises
    ------
    BscheckError
        When it cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BscheckError(f"{path}: cannot be written: {error.strerror or one_line(error)}") from None


def read_json(path: Path) -> Any:
    """Return what `write_json` wrote, or None where there is no such file or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
