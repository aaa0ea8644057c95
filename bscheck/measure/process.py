"""Work in a process of its own, under a limit of memory and time: what it breaks, it breaks alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from bscheck.errors import BscheckError
from bscheck.measure.memory import in_words, resident, says_out_of_memory

#: Seconds between two looks at the child. Filling memory at 5 GB/s it overshoots by 50 MB.
_LOOK_EVERY = 0.01


class OutOfMemoryError(Exception):
    """The child had no memory left; ``str()`` says how that showed. It has ended."""


class OutOfTimeError(Exception):
    """The child did not answer in time. It has ended."""


class ChildFailedError(Exception):
    """The child raised, or died, for another reason; ``str()`` says which. It has ended."""


class Child:
    """A fresh Python process that calls functions by name.

    Parameters
    ----------
    limit : int, optional
        Bytes of host memory that it may hold; above them it is killed, and `ask` raises `OutOfMemoryError`. Needs
        ``/proc`` (Linux): elsewhere only what the process itself notices is caught.

    Attributes
    ----------
    pid : int
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bscheck.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._last_words,
            text=True,
            env=environ,
            start_new_session=True,  # Ctrl-C is the parent's to answer
        )
        self.pid = self._process.pid
        self._deadline = float("inf")
        self._stopped = ""
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether it can be asked for more."""
        return not self._closed.is_set() and self._process.poll() is None

    def ask(self, call: str, *, seconds: float = float("inf"), **arguments: Any) -> Any:
        """Return what ``module:function`` returns when called with the arguments; all of it as JSON has it."""
        return [answer for kind, answer in self._answers(call, seconds, arguments) if kind == "done"][-1]

    def follow(self, call: str, *, seconds: float = float("inf"), **arguments: Any) -> Iterator[Any]:
        """Yield what the generator ``module:function`` yields, as it comes."""
        for kind, answer in self._answers(call, seconds, arguments):
            if kind == "told":
                yield answer

    def _answers(self, call: str, seconds: float, arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the kind and the value of every answer, the last of kind ``done``, or raise."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._deadline = time.monotonic() + seconds
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._death() from None
        for line in self._process.stdout:
            kind, value = next(iter(json.loads(line).items()))
            if kind in ("told", "done"):
                yield kind, value
            if kind == "done":
                self._deadline = float("inf")
                return
            if kind != "told":
                # A process that ran out of memory is not to be trusted with another trial.
                self.close()
                raise {"wrong": BscheckError, "out_of_memory": OutOfMemoryError}.get(kind, ChildFailedError)(value)
        raise self._death()

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_EVERY) and self._process.poll() is None:
            held = resident(self.pid)
            if self.limit is not None and held > self.limit:
                self._kill(f"stopped at {in_words(held)}, the limit is {in_words(self.limit)}")
            elif time.monotonic() > self._deadline:
                self._kill("time")

    def _kill(self, why: str) -> None:
        self._stopped = self._stopped or why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _death(self) -> Exception:
        """Return the exception that says how the process ended."""
        code = self._process.wait()
        why, said = self._stopped, self._said()
        self.close()
        if why == "time":
            return OutOfTimeError("no answer in time")
        if why:
            return OutOfMemoryError(why)
        if code == -signal.SIGKILL:
            return OutOfMemoryError("killed by the system, which does so when memory runs out")
        if says_out_of_memory(said):
            return OutOfMemoryError(_last_line(said))
        return ChildFailedError(f"the process ended with code {code}: {_last_line(said)}")

    def _said(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._last_words.seek(0)
            return self._last_words.read()[-10_000:].decode(errors="replace")
        return ""

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._kill("closed")
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._last_words):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
