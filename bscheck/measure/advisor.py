"""Measure what `bscheck advise` tells: in processes of their own, within a budget, keeping what is done."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bscheck.measure import memory
from bscheck.measure.advice import Advice, Trial, chosen_target, next_size, plans, timed_sizes
from bscheck.measure.process import Child, ChildFailedError, OutOfMemoryError, OutOfTimeError
from bscheck.measure.sampler import Load, Samples, Window

_TRIALS = "bscheck.measure.trials"
_EQUALITY = "bscheck.checks.equality:share_of_the_bound"

#: When each part must be over, as a share of the budget. What is left at the end is a reserve for the builds
#: that overrun.
FITTING, NOISE, TIMING, PLANNING, WEIGHING, EQUALITY = 0.45, 0.5, 0.65, 0.74, 0.93, 1.0

INSTANCES, ROUNDS = 6, 20

#: Examples whose gradients tell the noise scale, and how often they are drawn.
NOISE_EXAMPLES, NOISE_DRAWS = 64, 24


class Advisor:
    """One model on one machine; `steps` measures, `advice` holds what is known at any time.

    Parameters
    ----------
    advice : Advice
        Says the subject, the dtype and the sizes; filled in on the way.
    seconds : float
        Budget for everything.
    limit : int, optional
        Bytes that the device may use (a CPU: this process's trials, Python and the backend included).
    """

    def __init__(self, advice: Advice, *, seconds: float, limit: int | None = None) -> None:
        self.advice, self.limit = advice, limit
        self.began, self.seconds = time.monotonic(), seconds
        self._child: Child | None = None

    def steps(self) -> Iterator[str]:
        """Yield a line of progress for everything that was measured, until all is or the budget is spent.

        Raises
        ------
        BscheckError
            For a subject that cannot be used.
        """
        try:
            yield from self._introduce()
            yield from self._fit()
            if self.advice.largest:
                yield from self._noise()
                yield from self._time()
                yield from self._plan()
                yield from self._equality()
        finally:
            self._close()

    def _left(self, until: float) -> float:
        return self.began + until * self.seconds - time.monotonic()

    def _fresh(self) -> Child:
        if self._child is None or not self._child.alive:
            self._child = Child(limit=self.advice.limit or None)
        return self._child

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _ask(self, function: str, until: float, **arguments: Any) -> Any:
        subject = self.advice.subject
        return self._fresh().ask(f"{_TRIALS}:{function}", seconds=self._left(until), subject=subject, **arguments)

    def _introduce(self) -> Iterator[str]:
        left = memory.available()
        self.advice.limit = self.limit or int(memory.resident() + memory.SAFE_SHARE * left if left else 0)
        yield f"starting {self.advice.subject} in a process of its own"
        try:
            told = self._ask("introduce", 1.0)
        except (OutOfMemoryError, OutOfTimeError, ChildFailedError) as error:
            self.advice.trials.append(Trial(1, reason=f"Keras itself does not run: {error}"))
            return
        self.advice.environment, self.advice.process = told["environment"], told["process"]
        if self.limit and told["environment"].get("device") != "cpu":
            # The user's limit is the device's; the host keeps the machine's own.
            self._fresh().limit = int(memory.resident() + memory.SAFE_SHARE * left) if left else None

    # Does it fit? --------------------------------------------------------------------------------------

    def _fit(self) -> Iterator[str]:
        advice = self.advice
        while not any("Keras itself" in t.reason for t in advice.trials):
            size = next_size(advice.largest, advice.smallest_failing, advice.most)
            if size is None:
                break
            if self._left(FITTING) <= 0 and advice.largest:
                advice.notes.append(
                    f"larger batches than {advice.largest} were not tried: the budget for them was spent"
                )
                break
            # The first carries the build: without it nothing can be told.
            trial = self._weigh(size, until=FITTING + 0.1 if advice.largest else 1.0)
            if trial is None:
                advice.notes.append(f"batch {size} did not end in time, and no larger one was tried")
                break
            advice.trials.append(trial)
            yield _fit_line(trial)

    def _weigh(self, size: int, micro_batches: int = 1, until: float = FITTING + 0.1) -> Trial | None:
        """Return the trial, or None where it took too long."""
        try:
            figures = self._ask("weigh", until, size=size, micro_batches=micro_batches, dtype=self.advice.dtype)
        except OutOfMemoryError as error:
            return Trial(size, micro_batches, reason=str(error))
        except OutOfTimeError:
            return None
        except ChildFailedError as error:
            return Trial(size, micro_batches, reason=f"fails: {error}")
        if self.limit and figures["device_peak"] > self.limit:
            self._close()
            limit = memory.in_words(self.limit)
            return Trial(size, micro_batches, reason=f"takes {memory.in_words(figures['device_peak'])} of {limit}")
        return Trial(size, micro_batches, figures)

    # How long does it take? ----------------------------------------------------------------------------

    def _time(self) -> Iterator[str]:
        sizes = timed_sizes(self.advice)
        yield f"timing {len(sizes)} batch sizes in random order, {self._left(TIMING):.0f} s"
        for samples in self._timed(sizes, TIMING):
            self.advice.samples = samples
            yield f"timing: instance {samples.completed} done, {max(0.0, self._left(TIMING)):.0f} s left"

    def _plan(self) -> Iterator[str]:
        advice = self.advice
        target = chosen_target(advice)
        windows = plans(target, advice.largest)
        if not windows or target is None:
            return
        whole = [target] if advice.trial(target) else sorted({w.size for w in windows})
        for samples in self._timed([*whole, *windows], PLANNING):
            advice.plan_samples = samples
            yield f"accumulation to {target}: instance {samples.completed} done"
        self._close()  # what the timed models have left behind must not be weighed
        for window in sorted(windows, key=lambda w: w.size):
            trial = self._weigh(window.size, window.micro_batches, until=WEIGHING)
            if trial is None:
                advice.notes.append(f"memory of {window}: no time left (give more --budget)")
            else:
                advice.windows.append(trial)
                yield f"{window} accumulated: {memory.in_words(trial.memory) if trial.fits else trial.reason}"

    def _timed(self, loads: Sequence[Load], until: float) -> Iterator[Samples]:
        """Yield the samples so far after every instance; a failure ends them with a note."""
        kept: list[Mapping[str, tuple[float, ...]]] = []
        plain = [[load.size, load.micro_batches] if isinstance(load, Window) else load for load in loads]
        options = {"dtype": self.advice.dtype, "instances": INSTANCES, "rounds": ROUNDS}
        left = max(1.0, self._left(until))
        try:
            answers = self._fresh().follow(
                f"{_TRIALS}:time_loads",
                seconds=left + 0.1 * self.seconds,
                subject=self.advice.subject,
                loads=plain,
                budget=left,
                **options,
            )
            for one in answers:
                kept.append(MappingProxyType({label: tuple(times) for label, times in one.items()}))
                yield Samples(tuple(loads), tuple(kept), INSTANCES)
        except OutOfMemoryError as error:
            self.advice.notes.append(f"timing ended early, out of memory: {error}")
        except OutOfTimeError:
            self.advice.notes.append(f"timing ended after {len(kept)} instances: the budget was spent")
        except ChildFailedError as error:
            self.advice.notes.append(f"timing ended early: {error}")

    # What is a larger batch worth? ---------------------------------------------------------------------

    def _noise(self) -> Iterator[str]:
        size = min(NOISE_EXAMPLES, self.advice.largest)
        if size < 2:
            return
        found = self._extra(f"{_TRIALS}:estimate_noise", NOISE, "noise scale", size=size, draws=NOISE_DRAWS)
        if found:
            self.advice.noise = found
            yield f"noise scale: {found['draws']} draws of {found['whole']} examples"

    def _equality(self) -> Iterator[str]:
        advice = self.advice
        windows = plans(chosen_target(advice), advice.largest)
        if not windows:
            return
        window = windows[0]
        sizes = [window.size] * window.micro_batches
        found = self._extra(_EQUALITY, EQUALITY, "equality of the update", sizes=sizes, dtype=advice.dtype)
        if found:
            advice.equality = {**found, "window": str(window)}
            yield "compared the accumulated gradient with the large batch's"

    def _extra(self, function: str, until: float, what: str, **arguments: Any) -> Any:
        """Return what is nice to have; why it is not to be had becomes a note."""
        seconds = max(0.05 * self.seconds, self._left(until))
        try:
            return self._fresh().ask(function, seconds=seconds, subject=self.advice.subject, **arguments)
        except OutOfTimeError:
            self.advice.notes.append(f"{what}: no time left (give more --budget)")
        except (OutOfMemoryError, ChildFailedError) as error:
            self.advice.notes.append(f"{what}: {error}")
        return None


def _fit_line(trial: Trial) -> str:
    if not trial.fits:
        return f"batch {trial.size}: does not fit ({trial.reason})"
    return f"batch {trial.size}: fits, {memory.in_words(trial.memory)}"
