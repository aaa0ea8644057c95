"""What a check may use of time and memory: a subject that hangs or swallows the machine ends in a verdict."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

#: Seconds between looks at the process's memory.
LOOK = 0.1

#: Seconds after the budget in which Python code may still end; what is stuck below Python never does.
GRACE = 5.0

#: Share of the memory the machine has left that one check may take where no budget is given: the rest is others'.
SHARE_OF_THE_REST = 0.9


@dataclass
class Allowance:
    """What a run may spend on its failures: making cases smaller, finding causes, trying programs.

    Attributes
    ----------
    seconds : float
        A run with hundreds of failures must still end; the first ones are explained.
    spent : float
        Seconds.
    """

    seconds: float = 300.0
    spent: float = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.seconds - self.spent)


class OutOfBudget(BaseException):
    """A budget is used up; not an `Exception`, so that no handler of the user's swallows it."""


@dataclass(frozen=True)
class Budget:
    """What one check may use.

    Attributes
    ----------
    seconds : float
    memory : int or None
        Bytes by which the process may grow; None for what the machine has left.
    stuck : callable or None
        Called with the words of the overrun where the main thread does not come back to Python: ends the process.
    """

    seconds: float
    memory: int | None = None
    stuck: Callable[[str], None] | None = None

    @property
    def drawing_seconds(self) -> float:
        """Seconds after which no further case is drawn, so that the last one can still end."""
        return 0.8 * self.seconds

    def out_of_time(self) -> str:
        """Return the words for a check that took too long."""
        return f"it did not end within its time budget of {self.seconds:g} s (time_budget=)"


@dataclass
class _Watch:
    """One budget being watched, from a thread of its own."""

    budget: Budget
    main: int
    interrupts: bool
    done: threading.Event = field(default_factory=threading.Event)
    overrun: str = ""

    def run(self) -> None:
        """Look at clock and memory until the check is done or over its budget."""
        started, resident = time.monotonic(), resident_bytes()
        allowed = self.budget.memory if self.budget.memory is not None else int(SHARE_OF_THE_REST * available_bytes())
        while not self.done.wait(min(LOOK, self.budget.seconds)):
            if resident and resident_bytes() - resident > allowed:
                named = "its memory budget (memory_budget=)" if self.budget.memory else "what the machine had left"
                self._end(f"it took more than {_mebibytes(allowed)} of memory: {named}", 1.0)
                return
            if time.monotonic() - started > self.budget.seconds:
                self._end(self.budget.out_of_time(), GRACE)
                return

    def _end(self, words: str, grace: float) -> None:
        """Interrupt the main thread; where it does not come back to Python, say so to who ends the process."""
        self.overrun = words
        give_up = time.monotonic() + grace
        while time.monotonic() < give_up or self.budget.stuck is None:
            if self.interrupts:  # again and again: a bare ``except`` may have swallowed it
                signal.pthread_kill(self.main, signal.SIGALRM)
            if self.done.wait(1.0):
                return
        if self.budget.stuck is not None:
            self.budget.stuck(f"{words}, and did not come back to Python to be stopped")


@contextmanager
def within(budget: Budget | None) -> Iterator[None]:
    """Run a block within a budget.

    Raises
    ------
    OutOfBudget
        Inside the block, where its time or memory is used up; ``str()`` says which.
    """
    if budget is None:
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    watch = _Watch(budget, threading.main_thread().ident or 0, in_main)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if watch.overrun and not watch.done.is_set():
            raise OutOfBudget(watch.overrun)
        if callable(before):  # another's alarm
            before(number, frame)

    before = signal.signal(signal.SIGALRM, interrupt) if in_main else None
    thread = threading.Thread(target=watch.run, name="bscheck-budget", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.done.set()
        thread.join()
        if in_main:
            signal.signal(signal.SIGALRM, before if before is not None else signal.SIG_DFL)


def resident_bytes() -> int:
    """Return the bytes of memory this process holds, 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()


def available_bytes() -> int:
    """Return the bytes of memory that the machine, or the container, has left."""
    found = []
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found += [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable")]
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup")
        limit, used = ((folder / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        found += [max(0, int(limit) - int(used))]
    except (OSError, ValueError):  # no such container, or one without a limit ("max")
        pass
    return min(found, default=2**63)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
