"""Two devices at work: a process that has them, started once and asked for trainings."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from bscheck.oracles.replicas import DEVICES
from bscheck.runtime import current
from bscheck.runtime.replica_worker import MARK

#: Strategy by backend, as the parameter names it.
STRATEGIES = {"tensorflow": "MirroredStrategy", "jax": "DataParallel"}

#: Seconds for the process's first answer (it imports and traces first) and for every later one. On two busy cores
#: the first took 40 and a later one 10.
FIRST_SECONDS, SECONDS = 240.0, 120.0


class WorkerError(Exception):
    """The process gave no answer; ``str()`` says why."""


class Worker:
    """A process with two devices; `ask` it for trainings.

    It ends with this object, or with the interpreter.
    """

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bscheck.runtime.replica_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        self._end = weakref.finalize(self, _stop, self._process)
        self._seconds = FIRST_SECONDS
        self._dead = ""
        self._sent: deque[str] = deque()
        self._kept: dict[str, Mapping[str, Any]] = {}

    def expect(self, **request: Any) -> None:
        """Have a request worked on while this process does something else; `ask` has the answer."""
        line = json.dumps(request, sort_keys=True)
        if line not in self._sent and line not in self._kept:
            with contextlib.suppress(OSError):  # the process ended: `ask` says so
                self._send(line)

    def ask(self, **request: Any) -> Mapping[str, Any]:
        """Return the answer to a request: ``weights`` and ``history``, or ``error``.

        Raises
        ------
        WorkerError
            When there is none: the process ended, or took too long, and from then on at every call.
        """
        if self._dead:
            raise WorkerError(self._dead)
        line = json.dumps(request, sort_keys=True)
        try:
            if line not in self._sent and line not in self._kept:
                self._send(line)
            while line not in self._kept:
                self._receive()
        except queue.Empty:
            self._give_up(f"no answer within {self._seconds:g} seconds: training on {DEVICES} devices hangs")
        except OSError:
            self._give_up(f"the process with {DEVICES} devices ended: {self._last_words()}")
        return self._kept.pop(line)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self._sent.append(line)

    def _receive(self) -> None:
        """Keep the next answer: requests are answered in turn."""
        answer = self._answers.get(timeout=self._seconds)
        if answer is None:
            raise BrokenPipeError
        self._seconds = SECONDS
        self._kept[self._sent.popleft()] = json.loads(answer)

    def _give_up(self, reason: str) -> None:
        self._dead = reason
        self._end()
        raise WorkerError(reason)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


def _environment() -> dict[str, str]:
    """Return the process's environment: this backend, and no limit on the threads between operations.

    With one inter-op thread the two replicas of a `MirroredStrategy` wait for each other for ever.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TF_NUM_INTEROP_THREADS"}
    root = str(Path(__file__).resolve().parents[2])
    # Before it, what the caller set: its own start-up file may stand there.
    paths = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, root])
    environment["KERAS_BACKEND"] = current().name
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if current().name == "jax":
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={DEVICES}".strip()
    return environment


def _read(stream: IO[str] | None, answers: queue.Queue[str | None]) -> None:
    """Pass on the marked lines, then None."""
    assert stream is not None
    for line in stream:
        if line.startswith(MARK):
            answers.put(line[len(MARK) :])
    answers.put(None)


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            # A request that the process did not live to read is flushed into a broken pipe.
            with contextlib.suppress(OSError):
                stream.close()
