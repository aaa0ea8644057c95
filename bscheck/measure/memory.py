"""Memory of a process, as the kernel counts it: what it holds, its peak, what the machine has left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from pathlib import Path

from bscheck.errors import BscheckError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

#: Without a limit of the user's own a trial may take this share of what is left: a machine that swaps or kills
#: is no place for a bisection.
SAFE_SHARE = 0.8

#: What backends, allocators and NumPy call it. One list for all: an error may come from any layer below Keras.
_OUT_OF_MEMORY = re.compile(
    r"resource_?\s?exhausted|out of memory|can't allocate memory|cannot allocate memory|unable to allocate"
    r"|OOM when allocating|bad_alloc|failed to allocate",
    re.IGNORECASE,
)


def resident(pid: int | str = "self") -> int:
    """Return the bytes that a process holds in memory; 0 where the system does not say."""
    return _status("VmRSS", pid)


def peak(pid: int | str = "self") -> int:
    """Return the most bytes a process has held since it began or since `reset_peak`; 0 where it is not known."""
    return _status("VmHWM", pid) or (_lifetime_peak() if pid == "self" else 0)


def reset_peak() -> bool:
    """Let `peak` of this process begin anew; return whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def settle() -> None:
    """Collect garbage and give freed memory back to the system, so that what is resident is in use."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def available() -> int:
    """Return the bytes that this process may still take: the machine's or its container's; 0 if not known."""
    found = [_meminfo("MemAvailable"), _container()]
    return min((n for n in found if n), default=0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that memory ran out, on the host or the device."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or says_out_of_memory(f"{type(seen).__name__}: {seen}"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def says_out_of_memory(text: str) -> bool:
    """Whether a text, such as the last words of a process, says that memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


def parse_bytes(text: str, source: str) -> int:
    """Return a number of bytes given as ``4GB``, ``500 MB`` or ``4GiB``.

    Raises
    ------
    BscheckError
        With one line that names `source`.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    size = float(match[1]) * _UNITS[(match[2] or "").lower()] if match else 0
    if size < 1:
        raise BscheckError(f"{source}: must be an amount of memory such as 4GB or 500MB, not {text!r}")
    return int(size)


def in_words(size: float) -> str:
    """Return a number of bytes for reading: ``1.1 GB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(size) >= unit:
            return f"{size / unit:.3g} {name}" if abs(size) < 1000 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} B"


def _status(key: str, pid: int | str) -> int:
    return _field(Path(f"/proc/{pid}/status"), key)


def _meminfo(key: str) -> int:
    return _field(Path("/proc/meminfo"), key)


def _field(path: Path, key: str) -> int:
    """Return a line ``key:  123 kB`` of one of the kernel's tables in bytes, or 0."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _container() -> int:
    """Return what a control group leaves, or 0 where there is none or it sets no limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return 0 if most == "max" else max(int(most) - int(used), 1)
    except (OSError, ValueError):
        return 0


def _lifetime_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
