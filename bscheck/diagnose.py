"""From a failure to its cause: who raised, and which option of the case the failure needs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from bscheck.errors import BscheckError, one_line
from bscheck.garbage import prompt_collection
from bscheck.results.verdict import NotApplicable, Reading

if TYPE_CHECKING:
    from bscheck.cases import Case
    from bscheck.checks import Check
    from bscheck.checks.context import Context

_HERE = Path(__file__).resolve().parent

#: Who raised, by the folder of the innermost frame.
_PACKAGES = {
    "keras": "Keras",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "torch": "PyTorch",
    "numpy": "NumPy",
    "scipy": "SciPy",
}

#: JAX leaves its own frames out of a traceback, and says so in a note: the innermost frame left is the caller's.
_CUT_BY_JAX = "JAX has removed its internal frames"

#: Seconds. An ablation helps to read a failure that is known already: it must not double the run's time.
ABLATION_SECONDS = 10.0

#: Fields that say how much is run, not which option is on: resetting them is the shrinking's work.
_AMOUNTS = frozenset(
    {
        "seed",
        "sizes",
        "micro_batches",
        "updates",
        "size",
        "examples",
        "batch_size",
        "batches",
        "first",
        "second",
        "calls",
        "chunks",
        "epochs",
    }
)


def attempt(check: Check, context: Context, case: Case) -> Reading:
    """Run one case; an exception of Keras, its backend or the user's code becomes a broken promise.

    Raises
    ------
    NotApplicable, BscheckError
        As the check raised them.
    Exception
        Whatever was raised by bscheck's own code: a bug of bscheck, not a finding.
    """
    try:
        with prompt_collection():
            context.relieve()
            return check.function(context, case)
    except (NotApplicable, BscheckError):
        raise
    except Exception as error:
        if is_ours(error):
            raise
        return Reading(math.inf, seen=f"{culprit(error)} raised {one_line(error)}", allowed="no error")


def is_ours(error: BaseException) -> bool:
    """Whether the innermost frame of the traceback lies in bscheck itself."""
    frames = extract_tb(error.__traceback__)
    return bool(frames) and _HERE in Path(frames[-1].filename).resolve().parents and not _cut_by_jax(error)


def _cut_by_jax(error: BaseException) -> bool:
    return any(_CUT_BY_JAX in note for note in getattr(error, "__notes__", ()))


def culprit(error: BaseException) -> str:
    """Return who raised the error: a package's name, else the file and line of the user's code."""
    frames = extract_tb(error.__traceback__)
    if not frames:
        return "the check"
    if _cut_by_jax(error):
        return _PACKAGES["jax"]
    path = Path(frames[-1].filename)
    for part in reversed(path.parts):
        if part in _PACKAGES:
            return _PACKAGES[part]
    return f"{path.name}:{frames[-1].lineno}"


def ablate(check: Check, context: Context, case: Case, reading: Reading) -> tuple[str, ...]:
    """Switch each option of a failing case off, one at a time, and say whether it still fails.

    Parameters
    ----------
    check, context, case
        What failed.
    reading : Reading
        How it failed, so that a phrase can tell a like failure from a smaller one.

    Returns
    -------
    tuple of str
        Phrases such as ``decay=none: passes``; no more than `ABLATION_SECONDS` are spent on them.
    """
    phrases = []
    deadline = time.monotonic() + ABLATION_SECONDS
    for name, value, simpler in _ablations(case):
        if time.monotonic() > deadline:
            phrases.append(f"{name}={value}: not tried (out of time)")
            continue
        phrases.append(f"{name}={value}: {_outcome(check, context, simpler, reading)}")
    return tuple(phrases)


def _ablations(case: Case) -> Iterator[tuple[str, Any, Case]]:
    """Yield each option that differs from its default, with the case that has it reset."""
    for field in dataclasses.fields(case):
        if field.name in _AMOUNTS or getattr(case, field.name) == field.default:
            continue
        if getattr(case, field.name) == "step":  # Keras's own accumulation is another step, not this one with less
            continue
        default: Any = field.default
        yield field.name, default, dataclasses.replace(case, **{field.name: default})


def _outcome(check: Check, context: Context, case: Case, reading: Reading) -> str:
    """Return what becomes of the simpler case, in a few words."""
    try:
        seen = attempt(check, context, case)
    except NotApplicable:
        return "not applicable"
    except Exception:
        # The failure itself stands, whatever happens to a variation of it.
        return "could not be run"
    if seen.holds:
        return "passes"
    if not math.isfinite(seen.share):
        return "still fails"
    same = math.isfinite(reading.share) and math.isclose(seen.share, reading.share, rel_tol=0.05)
    return "still fails the same" if same else f"still fails ({percent(seen.share)} of the bound)"


def percent(share: float) -> str:
    """Return a share of a bound, above 1, for reading."""
    return f"{100 * share:.0f} %" if share < 100 else f"{100 * share:.1e} %"
