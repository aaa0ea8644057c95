"""Does the batch size change what a Keras model learns, and what does it cost?

Importing this package imports neither Keras nor a backend nor Hypothesis: the public names below are
looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bscheck.api import inspect as inspect
    from bscheck.api import run_checks as run_checks
    from bscheck.cases import Case as Case
    from bscheck.cases import SubjectCase as SubjectCase
    from bscheck.checks import check as check
    from bscheck.errors import BscheckError as BscheckError
    from bscheck.inspection import Inspection as Inspection
    from bscheck.parametrize import parametrize_with_checks as parametrize_with_checks
    from bscheck.results.verdict import NotApplicable as NotApplicable
    from bscheck.results.verdict import Reading as Reading
    from bscheck.results.verdict import Result as Result
    from bscheck.subject import Subject as Subject

_HOMES = {
    "BscheckError": "bscheck.errors",
    "Case": "bscheck.cases",
    "Inspection": "bscheck.inspection",
    "NotApplicable": "bscheck.results.verdict",
    "Reading": "bscheck.results.verdict",
    "Result": "bscheck.results.verdict",
    "Subject": "bscheck.subject",
    "SubjectCase": "bscheck.cases",
    "check": "bscheck.checks",
    "inspect": "bscheck.api",
    "parametrize_with_checks": "bscheck.parametrize",
    "run_checks": "bscheck.api",
}

__all__ = [
    "BscheckError",
    "Case",
    "Inspection",
    "NotApplicable",
    "Reading",
    "Result",
    "Subject",
    "SubjectCase",
    "__version__",
    "check",
    "inspect",
    "parametrize_with_checks",
    "run_checks",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bscheck' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
