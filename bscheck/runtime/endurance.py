"""The same steps over and over, and what stays behind: objects, tensors, bytes, traces."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from bscheck.measure import memory
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Bench, build_model, precision
from bscheck.subject import take

#: Batches of one call, and their sizes: a full one, a ragged last one, a single example.
SIZES = (4, 3, 1)


class Loop:
    """A fresh model in one of Keras's loops, or in the subject's own step.

    Parameters
    ----------
    bench : Bench
        Says subject and precision; the model is one of its own.
    path : str
        ``fit``, ``evaluate``, ``train_on_batch``, or ``step``.
    mode : str
        Execution mode.

    Attributes
    ----------
    traces : int
        How often the model was called by a compiler that traced it.
    """

    def __init__(self, bench: Bench, path: str, mode: str) -> None:
        self.bench, self.path = bench, path
        self.traces = 0
        self.model = build_model(bench.subject, bench.dtype)
        self._count_traces()
        with precision(bench.dtype):
            self.optimizer = _optimizer(bench)
            bench.compile_model(self.model, self.optimizer, **bench.runtime.compile_options(mode))
            self.optimizer.build(self.model.trainable_variables)
        batch = bench.cast(bench.subject.draw(0, sum(SIZES)))
        self.whole = batch
        self.parts = [_rows(batch, start, size) for start, size in zip((0, 4, 7), SIZES, strict=True)]
        self._call: Callable[[], None] = getattr(self, f"_{path}")

    def _count_traces(self) -> None:
        call, tracing = self.model.call, self.bench.runtime.tracing

        def counted(*arguments: Any, **options: Any) -> Any:
            self.traces += tracing()
            return call(*arguments, **options)

        self.model.call = counted

    def run(self, calls: int) -> None:
        """Make so many calls of three steps each, one for each of `SIZES` (``fit``: 4, 4)."""
        with precision(self.bench.dtype):
            for _ in range(calls):
                self._call()

    def _fit(self) -> None:
        x, y, w = self.whole
        self.model.fit(x, y, sample_weight=w, batch_size=SIZES[0], epochs=1, shuffle=False, verbose=0)

    def _evaluate(self) -> None:
        x, y, w = self.whole
        self.model.evaluate(x, y, sample_weight=w, batch_size=SIZES[0], verbose=0)

    def _train_on_batch(self) -> None:
        for x, y, w in self.parts:
            self.model.train_on_batch(x, y, sample_weight=w)

    def _step(self) -> None:
        step = self.bench.subject.step
        assert step is not None
        for part in self.parts:
            step(self.model, self.optimizer, [part])


def watched(bench: Bench) -> Mapping[str, Callable[[], int]]:
    """Return what is looked at after every call, by name; of objects and arrays only those made in `only_new`."""
    runtime = bench.runtime
    return {
        "objects": lambda: len(gc.get_objects()),
        "tensors": runtime.live_tensors,
        "array_bytes": _array_bytes,
        "device_bytes": lambda: runtime.memory()[0],
        "host_bytes": memory.resident,
    }


def _array_bytes() -> int:
    """Return the bytes of NumPy arrays: the collector does not know them, but NumPy tells tracemalloc."""
    filters = [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(filters).traces)


@contextmanager
def only_new() -> Iterator[None]:
    """Hide what exists already from the garbage collector, garbage too, and note where memory is taken from now on."""
    gc.freeze()
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        yield
    finally:
        if not tracing:
            tracemalloc.stop()
        gc.unfreeze()


def _optimizer(bench: Bench) -> Any:
    given = bench.subject.optimizer
    return given() if callable(given) else keras_module().optimizers.get(given)


def _rows(batch: Any, start: int, size: int) -> Any:
    rows = slice(start, start + size)
    x, y, w = batch
    return take(x, rows), take(y, rows), None if w is None else w[rows]
