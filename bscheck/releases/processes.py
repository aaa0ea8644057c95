"""Processes in environments: how many at a time, and none left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bscheck.releases import uv
from bscheck.releases.cache import Tell
from bscheck.releases.environments import Environment

#: What one gate needs at its peak, bytes: whole runs with TensorFlow on a CPU took about 3 GB each.
GATE_BYTES = 3 * 2**30

#: Seconds between two lines about one gate, and those a gate has to write its record once it is told to stop.
_PROGRESS, _GRACE = 60.0, 20.0


def available_bytes() -> int:
    """Return the memory that can be had now, a container's limit included."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        found += [int(match[1]) * 1024] if match else []
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdecimal():
        found.append(int(limit.read_text()))
    return min(found)


def jobs_for(count: int, asked: int | None = None) -> int:
    """Return how many gates run at a time: as many as were asked for, else as memory and cores allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, asked or min(cores, available_bytes() // GATE_BYTES)))


class Processes:
    """The processes that run now; all of them end when this one is told to."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def run(
        self,
        found: Environment,
        module: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        log: Path,
        tell: Tell,
        variables: dict[str, str] | None = None,
    ) -> int:
        """Run a module in an environment, its output in a file, and return the exit code.

        Raises
        ------
        OSError
            When the log cannot be written, or the process cannot be started.
        """
        command = [str(found.python), "-m", "bscheck.releases.launch", str(os.getpid()), module, *arguments]
        with log.open("wb") as file:
            with self._lock:
                if self.stopped:
                    return -signal.SIGTERM
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=found.variables() | (variables or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return self._waited(process, found.resolved.name, log, tell)
            finally:
                with self._lock:
                    self._running.discard(process)

    def _waited(self, process: subprocess.Popen[bytes], name: str, log: Path, tell: Tell) -> int:
        started = time.monotonic()
        while True:
            try:
                return process.wait(_PROGRESS)
            except subprocess.TimeoutExpired:
                share = _progress(log)
                tell(f"{name}: {f'{share} %, ' if share else ''}{(time.monotonic() - started) / 60:.0f} min")

    def stop(self) -> None:
        """Ask every process to end, so that each writes what it has; kill those that do not."""
        with self._lock:
            self.stopped = True
            uv.stop()
            running = list(self._running)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                if process.poll() is None:
                    _signal(process, number)
            deadline = time.monotonic() + _GRACE
            while running and time.monotonic() < deadline and any(p.poll() is None for p in running):
                time.sleep(0.1)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the process; killed, its own children (workers of pytest-xdist) go with it."""
    try:
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except ProcessLookupError:
        pass


def _progress(log: Path) -> str:
    """Return pytest's last word on how far it is, in per cent."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            seen = re.findall(rb"\[\s*(\d+)%\]", file.read())
    except OSError:
        return ""
    return seen[-1].decode() if seen else ""


def last_words(log: Path) -> str:
    """Return the last line of a log that tells of an error, or else the last one."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    except OSError:
        return "no log"
    told = [line for line in lines if line and not line.startswith("=")]
    errors = [line for line in told if "bscheck: " in line or "Error" in line or line.startswith("ERROR")]
    return (errors or told or ["no output"])[-1][:300]


def killed_by(code: int) -> str:
    """Return in words what a negative exit code says."""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (" (out of memory? fewer at a time: --jobs 1)" if -code == signal.SIGKILL else "")
