"""Keras's rule on JAX and torch that no operation returns 64 bits, and how to lift it."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def wide_floats() -> Iterator[None]:
    """Let operations on float64 return float64 inside.

    On JAX and torch, Keras turns every float64 result into float32, "aligned with JAX's default behavior", under
    the float64 policy too. An oracle needs the real thing. The rule is one entry of a private table; where a
    release keeps it elsewhere nothing happens, and probing finds that the subject has no float64 twin.
    """
    table: Any = {}
    with contextlib.suppress(ImportError):
        dtypes = importlib.import_module("keras.src.backend.common.dtypes")
        table = getattr(dtypes, "BIT64_TO_BIT32_DTYPE", {})
    before = table.get("float64")
    if before is not None:
        table["float64"] = "float64"
    try:
        yield
    finally:
        if before is not None:
            table["float64"] = before
