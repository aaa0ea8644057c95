"""What a team promises of its subjects, in code or in ``[tool.bscheck]``: sizes, and what a check may use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bscheck.errors import BscheckError

#: The promises and what holds where a team says nothing. Five minutes are more than any check took on a small model;
#: None of memory is what the machine has left.
PROMISES: Mapping[str, Any] = {
    "batch_sizes": (1, 2, 3, 16, 17),
    "accumulation": (2, 3, 4),
    "time_budget": 300.0,
    "memory_budget": None,
}

_LEAST = {"batch_sizes": 1, "accumulation": 2}


def check_promise(key: str, value: Any, source: str) -> Any:
    """Return a promise's value, lists as tuples.

    Parameters
    ----------
    key : str
        One of `PROMISES`.
    value
        What was given.
    source : str
        Where, for the error.

    Raises
    ------
    BscheckError
        With one line that says what the value must be.
    """
    if key in _LEAST:
        sizes = tuple(value) if isinstance(value, list) else value
        least = _LEAST[key]
        if not (isinstance(sizes, tuple) and sizes and all(type(n) is int and n >= least for n in sizes)):
            raise BscheckError(f"{source} must be a non-empty tuple of integers >= {least}; got {value!r}")
        return sizes
    if value is None and key == "memory_budget":
        return None
    number = type(value) in ((int, float) if key == "time_budget" else (int,))
    if not (number and 0 < value < float("inf")):
        unit = "a number of seconds > 0" if key == "time_budget" else "a number of bytes > 0 (an integer)"
        raise BscheckError(f"{source} must be {unit}; got {value!r}")
    return float(value) if key == "time_budget" else value
