"""Take paired times: fresh instances, sizes interleaved in random order, an A/A canary in every round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from bscheck.measure.verdict import PairedTimes, paired_times

Clock = Callable[[], float]

# design.md: two builds of one model differ by 7 %, so instances, not rounds, buy certainty; 12 of them with
# 50 rounds each caught a 5 % slowdown 95 % of the time.
INSTANCES = 12
ROUNDS = 50
# The first call traces and autotunes, the second is the first on a warm allocator: neither is a step's cost.
WARM_CALLS = 2


@dataclass(frozen=True)
class Window:
    """Micro-batches accumulated into one update, where a batch size is asked for.

    Parameters
    ----------
    size, micro_batches : int
        Examples in each micro-batch, and how many of them make the update.
    """

    size: int
    micro_batches: int

    def __str__(self) -> str:
        return f"{self.size} x {self.micro_batches}"


#: What is timed: a batch size, or a window of micro-batches.
Load = int | Window
Run = Callable[[Any], None]


@dataclass(frozen=True)
class Samples:
    """Seconds of every timed step, whole instances only.

    Parameters
    ----------
    sizes : tuple of int or Window
        What was timed: batch sizes (examples), windows.
    seconds : tuple of mapping from label to tuple of float
        ``seconds[k][label][r]``: instance k, round r. A label is the size as text, or `canary_label`.
    requested : int
        Instances asked for; `completed` says how many were measured.
    """

    sizes: tuple[Load, ...]
    seconds: tuple[Mapping[str, tuple[float, ...]], ...]
    requested: int

    @property
    def completed(self) -> int:
        """Instances measured in full: fewer than `requested` if the budget ran out."""
        return len(self.seconds)

    @property
    def canary_label(self) -> str:
        """Label of the second copy of the first size."""
        return _canary_label(self.sizes[0])

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label: the sizes in the order given, then the canary."""
        return _labels(self.sizes)

    def paired(self, numerator: Load | Sequence[Load], denominator: Load | Sequence[Load]) -> PairedTimes:
        """Log ratios of two batch sizes, or of two sums of sizes, taken round by round.

        Parameters
        ----------
        numerator, denominator : int, Window, or sequence of these
            Sampled sizes; several are summed (split dominance: 17 against (8, 9), or 16 against (8, 8)).

        Returns
        -------
        PairedTimes

        Raises
        ------
        ValueError
            If a size was not sampled or a time is not positive.
        """
        if not self.seconds:
            return PairedTimes((), ())
        return paired_times(
            self._total(numerator),
            self._total(denominator),
            self._of(self.canary_label),
            self._of(str(self.sizes[0])),
        )

    def drift(self) -> PairedTimes:
        """Log ratios of the last third of the rounds to the first third, over all sizes of an instance.

        What the machine does to one instance it does to the next one too, in either direction; what slows down with
        every step starts anew with every instance.
        """
        ratios = []
        for instance in self.seconds:
            logs = np.log(np.asarray(list(instance.values())))
            logs -= np.median(logs, axis=1, keepdims=True)
            third = max(1, logs.shape[1] // 3)
            ratios.append(float(np.median(logs[:, -third:]) - np.median(logs[:, :third])))
        return PairedTimes(tuple(ratios), self.paired(self.sizes[0], self.sizes[0]).canary)

    def by_size(self) -> list[list[tuple[float, ...]]]:
        """Seconds as [instance][size][round] without the canary, for `fixed_and_per_example_cost`."""
        return [[instance[str(size)] for size in self.sizes] for instance in self.seconds]

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for the record."""
        return {
            "sizes": [size if isinstance(size, int) else str(size) for size in self.sizes],
            "canary": self.canary_label,
            "requested": self.requested,
            "completed": self.completed,
            "seconds": [{label: list(times) for label, times in one.items()} for one in self.seconds],
        }

    def _of(self, label: str) -> list[tuple[float, ...]]:
        return [instance[label] for instance in self.seconds]

    def _total(self, sizes: Load | Sequence[Load]) -> Any:
        several = (sizes,) if isinstance(sizes, Load) else tuple(sizes)
        if not several or not set(several) <= set(self.sizes):
            raise ValueError(f"sizes {list(several)} were not all sampled: choose from {list(self.sizes)}")
        return sum(np.asarray(self._of(str(size))) for size in several)


def paired_sample(
    make_instance: Callable[[int], Run],
    sizes: Sequence[Load],
    *,
    dummy_sizes: Sequence[int],
    seed: int,
    instances: int = INSTANCES,
    rounds: int = ROUNDS,
    budget_seconds: float | None = None,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time one step at each batch size, so that drift, instance and call order cancel in the ratios.

    For each instance: `make_instance`, one call of each dummy size, `WARM_CALLS` calls of every size in
    random order, then `rounds` rounds. A round calls every size and the canary (the first size once more)
    once, in a fresh random order, with the garbage collector off.

    Parameters
    ----------
    make_instance : callable of int returning a callable of int
        ``make_instance(k)`` builds fresh instance k (never a shared model) and returns ``run(size)``, which
        does one step on a batch of `size` examples. Whatever must not be timed is the maker's job: data for
        every size lie ready (on the device), `run` fetches no input, and it returns only when the device has
        finished (TensorFlow ``sync_devices``, JAX ``block_until_ready``, torch ``synchronize``), else the
        time of a launch is measured. One program must serve all sizes of the instance.
    sizes : sequence of int or Window
        Distinct batch sizes (examples), or windows of micro-batches. The first is also the canary's.
    dummy_sizes : sequence of two int
        Two sizes not in `sizes`, called first: TensorFlow traces the first shape it sees statically and
        generalises at the second, so by then no timed size is special.
    seed : int
        Seeds the random order. Same seed, same order.
    instances, rounds : int
        Fresh instances, and rounds in each.
    budget_seconds : float or None
        Stop when this much time has passed by `clock`; an instance cut short is dropped, and one for which
        too little is left (going by the quickest so far) is not begun. Looked at between calls' rounds, so
        it may be overrun by one build and warm-up or one round. None: no limit.
    clock : callable returning float
        Seconds, monotonic.

    Returns
    -------
    Samples

    Raises
    ------
    ValueError
        If an argument is out of its range, or `make_instance` returns something that cannot be called.
    """
    loads, dummies = _distinct("sizes", sizes), _distinct("dummy_sizes", dummy_sizes)
    _validate_plan(loads, dummies, seed, instances, rounds, budget_seconds)
    rng = np.random.default_rng(seed)
    deadline = None if budget_seconds is None else clock() + budget_seconds
    quickest = 0.0
    kept: list[Mapping[str, tuple[float, ...]]] = []
    for k in range(instances):
        began = clock()
        if deadline is not None and began + quickest >= deadline:
            break
        one = _sample_instance(make_instance(k), loads, dummies, rounds, rng, clock, deadline)
        if one is None:
            break
        kept.append(one)
        quickest = min(quickest or float("inf"), clock() - began)
    return Samples(loads, tuple(kept), instances)


def _sample_instance(
    run: Run,
    sizes: tuple[Load, ...],
    dummy_sizes: tuple[Load, ...],
    rounds: int,
    rng: np.random.Generator,
    clock: Clock,
    deadline: float | None,
) -> Mapping[str, tuple[float, ...]] | None:
    """Seconds by label, or None if the deadline passed before the last round was done."""
    if not callable(run):
        raise ValueError(f"make_instance must return a callable of a batch size, got {type(run).__name__}")
    for size in dummy_sizes:
        run(size)
    for _ in range(WARM_CALLS):
        for i in rng.permutation(len(sizes)):
            run(sizes[i])
    entries = list(zip(_labels(sizes), (*sizes, sizes[0]), strict=True))
    seconds: dict[str, list[float]] = {label: [] for label, _ in entries}
    with _garbage_collector_off():
        for _ in range(rounds):
            if deadline is not None and clock() >= deadline:
                return None
            for i in rng.permutation(len(entries)):
                label, size = entries[i]
                start = clock()
                run(size)
                seconds[label].append(clock() - start)
    return MappingProxyType({label: tuple(times) for label, times in seconds.items()})


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Keep the collector out; what the last instance left is collected first, where that is cheap."""
    was_on = gc.isenabled()
    gc.collect(1)
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _canary_label(size: Load) -> str:
    return f"{size} again"


def _labels(sizes: tuple[Load, ...]) -> tuple[str, ...]:
    return (*map(str, sizes), _canary_label(sizes[0]))


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _distinct(name: str, sizes: Sequence[Load]) -> tuple[Load, ...]:
    listed = list(sizes)
    good = all(isinstance(s, Window) or (_whole(s) and s >= 1) for s in listed)
    if not listed or not good or len(set(listed)) < len(listed):
        raise ValueError(f"{name} must be distinct positive integers, at least one, got {listed}")
    return tuple(s if isinstance(s, Window) else int(s) for s in listed)


def _validate_plan(
    sizes: tuple[Load, ...],
    dummy_sizes: tuple[Load, ...],
    seed: int,
    instances: int,
    rounds: int,
    budget_seconds: float | None,
) -> None:
    if len(dummy_sizes) != 2 or set(dummy_sizes) & set(sizes):
        raise ValueError(f"dummy_sizes must be two sizes not in {list(sizes)}, got {list(dummy_sizes)}")
    for name, value, least in (("seed", seed, 0), ("instances", instances, 1), ("rounds", rounds, 1)):
        if not _whole(value) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if budget_seconds is not None and not budget_seconds > 0:
        raise ValueError(f"budget_seconds must be positive or None, got {budget_seconds}")
