"""Does the batch size change what a Keras model learns, and what does it cost?

Importing this package imports neither Keras nor a backend nor Hypothesis: the public names below are
looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bscheck.checks import check as check
    from bscheck.errors import BscheckError as BscheckError
    from bscheck.parametrize import parametrize_with_checks as parametrize_with_checks
    from bscheck.subject import Subject as Subject

_HOMES = {
    "BscheckError": "bscheck.errors",
    "Subject": "bscheck.subject",
    "check": "bscheck.checks",
    "parametrize_with_checks": "bscheck.parametrize",
}

__all__ = ["BscheckError", "Subject", "__version__", "check", "parametrize_with_checks"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bscheck' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
