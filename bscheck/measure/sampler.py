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

Run = Callable[[int], None]
Clock = Callable[[], float]

# design.md: two builds of one model differ by 7 %, so instances, not rounds, buy certainty; 12 of them with
# 50 rounds each caught a 5 % slowdown 95 % of the time.
INSTANCES = 12
ROUNDS = 50
# The first call traces and autotunes, the second is the first on a warm allocator: neither is a step's cost.
WARM_CALLS = 2


@dataclass(frozen=True)
class Samples:
    """Seconds of every timed step, whole instances only.

    Parameters
    ----------
    sizes : tuple of int
        The batch sizes timed (examples).
    seconds : tuple of mapping from label to tuple of float
        ``seconds[k][label][r]``: instance k, round r. A label is the size as text, or `canary_label`.
    requested : int
        Instances asked for; `completed` says how many were measured.
    """

    sizes: tuple[int, ...]
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

    def paired(self, numerator: int | Sequence[int], denominator: int | Sequence[int]) -> PairedTimes:
        """Log ratios of two batch sizes, or of two sums of sizes, taken round by round.

        Parameters
        ----------
        numerator, denominator : int or sequence of int
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

    def by_size(self) -> list[list[tuple[float, ...]]]:
        """Seconds as [instance][size][round] without the canary, for `fixed_and_per_example_cost`."""
        return [[instance[str(size)] for size in self.sizes] for instance in self.seconds]

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for the record."""
        return {
            "sizes": list(self.sizes),
            "canary": self.canary_label,
            "requested": self.requested,
            "completed": self.completed,
            "seconds": [{label: list(times) for label, times in one.items()} for one in self.seconds],
        }

    def _of(self, label: str) -> list[tuple[float, ...]]:
        return [instance[label] for instance in self.seconds]

    def _total(self, sizes: int | Sequence[int]) -> Any:
        several = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        if not several or not set(several) <= set(self.sizes):
            raise ValueError(f"sizes {list(several)} were not all sampled: choose from {list(self.sizes)}")
        return sum(np.asarray(self._of(str(size))) for size in several)


def paired_sample(
    make_instance: Callable[[int], Run],
    sizes: Sequence[int],
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
    sizes : sequence of int
        Distinct batch sizes (examples). The first is also the canary's.
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
    sizes, dummy_sizes = _distinct_sizes("sizes", sizes), _distinct_sizes("dummy_sizes", dummy_sizes)
    _validate_plan(sizes, dummy_sizes, seed, instances, rounds, budget_seconds)
    rng = np.random.default_rng(seed)
    deadline = None if budget_seconds is None else clock() + budget_seconds
    quickest = 0.0
    kept: list[Mapping[str, tuple[float, ...]]] = []
    for k in range(instances):
        began = clock()
        if deadline is not None and began + quickest >= deadline:
            break
        one = _sample_instance(make_instance(k), sizes, dummy_sizes, rounds, rng, clock, deadline)
        if one is None:
            break
        kept.append(one)
        quickest = min(quickest or float("inf"), clock() - began)
    return Samples(sizes, tuple(kept), instances)


def _sample_instance(
    run: Run,
    sizes: tuple[int, ...],
    dummy_sizes: tuple[int, ...],
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
    """Collect once, so that the last instance's garbage is not ours, then keep the collector out."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _canary_label(size: int) -> str:
    return f"{size} again"


def _labels(sizes: tuple[int, ...]) -> tuple[str, ...]:
    return (*map(str, sizes), _canary_label(sizes[0]))


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _distinct_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    listed = list(sizes)
    if not listed or not all(_whole(s) and s >= 1 for s in listed) or len(set(listed)) < len(listed):
        raise ValueError(f"{name} must be distinct positive integers, at least one, got {listed}")
    return tuple(int(s) for s in listed)


def _validate_plan(
    sizes: tuple[int, ...],
    dummy_sizes: tuple[int, ...],
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
