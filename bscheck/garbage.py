"""When garbage is collected: where a case ends, not in the middle of one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects made until the collector comes by itself: far more than a case makes, unless it trains for long.
YOUNG = 200_000


@contextmanager
def prompt_collection() -> Iterator[None]:
    """Collect what was made inside as soon as it is left, and hardly before.

    Keras's epoch iterators end in reference cycles, and freeing one waits for the tuning thread of its tf.data
    iterator: for as long as that thread sleeps, which is about as long as the iterator has lived. Left to the
    collector, they were seen to cost a run tens of seconds in which nothing was computed.
    """
    thresholds = gc.get_threshold()
    if not gc.isenabled() or thresholds[0] == 0:
        yield
        return
    gc.set_threshold(max(YOUNG, thresholds[0]), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.collect(1)
