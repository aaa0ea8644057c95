"""A recorded failure, run again: still there, fixed, or impossible to tell here."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bscheck.errors import BscheckError, one_line, unknown
from bscheck.results.known_issues import PLACES
from bscheck.results.reference import Recorded
from bscheck.results.verdict import NotApplicable, Reading, Verdict
from bscheck.subject import Subject

if TYPE_CHECKING:
    from bscheck.checks import Check
    from bscheck.checks.context import Context

#: Runs of a case that did not give the same answer twice when it was recorded.
UNSTEADY_RUNS = 10

#: Results that are not about one case of a check.
_PINNED = "known issues"


class Outcome(StrEnum):
    """What is said of a recorded failure."""

    STILL_FAILS = "still fails"
    FIXED = "fixed"
    CANNOT_RUN = "cannot run here"


EXIT = {Outcome.STILL_FAILS: 1, Outcome.FIXED: 0, Outcome.CANNOT_RUN: 3}


@dataclass(frozen=True)
class Replayed:
    """What came of running a recorded failure again.

    Attributes
    ----------
    recorded : Recorded
    outcome : Outcome
    words : str
        What was seen, or why it cannot be run.
    """

    recorded: Recorded
    outcome: Outcome
    words: str


def exit_code(replayed: Iterable[Replayed]) -> int:
    """Return 1 if any still fails, else 3 if any cannot be run, else 0."""
    seen = {one.outcome for one in replayed}
    return next((EXIT[o] for o in (Outcome.STILL_FAILS, Outcome.CANNOT_RUN) if o in seen), 0)


def replay(recorded: Recorded, subjects: Mapping[str, Subject]) -> Replayed:
    """Run the recorded case again.

    Parameters
    ----------
    recorded : Recorded
        Names in it are looked up: the check in the registry, the subject among `subjects` and the gate's own.
    subjects : mapping of str to Subject
        The subjects that the user points at.
    """
    try:
        check, context = ready(recorded, subjects)
        reading = _again(check, context, recorded)
    except NotApplicable as reason:
        return Replayed(recorded, Outcome.CANNOT_RUN, str(reason))
    except BscheckError as error:
        return Replayed(recorded, Outcome.CANNOT_RUN, str(error))
    if not reading.holds:
        from bscheck.results.failure import seen

        return Replayed(recorded, Outcome.STILL_FAILS, seen(reading))
    failure = recorded.result.failure
    if failure is not None and not failure.steady:
        words = f"it held {UNSTEADY_RUNS} times; when it was recorded it did not give the same answer twice"
        return Replayed(recorded, Outcome.CANNOT_RUN, words)
    return Replayed(recorded, Outcome.FIXED, f"{_share(reading)}{_changed(recorded, context.environment)}")


def ready(recorded: Recorded, subjects: Mapping[str, Subject]) -> tuple[Check, Context]:
    """Return the recorded failure's check and its context here.

    Raises
    ------
    NotApplicable
        Where it cannot be run here, with the reason.
    BscheckError
        For a name that is not registered, or a subject that is not among those pointed at.
    """
    from bscheck.checks import Param, get_check
    from bscheck.checks.context import Context

    result, failure = recorded.result, recorded.result.failure
    assert failure is not None
    if result.family == _PINNED:
        raise NotApplicable("it is the pinned case of a known issue, which the gate itself runs")
    check = get_check(result.check)
    param, name = Param(tuple(result.param.items())), result.param.get("subject", "")
    given = _subject(name, own=failure.own_subject, subjects=subjects)
    options = {"timing": "gate"}
    context = Context(param, options=options) if given is None else Context.for_subject(given, param, options)
    for key in PLACES:
        recorded_on, here = recorded.environment.get(key, ""), context.environment.get(key, "")
        if key != "platform" and recorded_on and recorded_on != here:
            raise NotApplicable(f"it was recorded on the {key} {recorded_on!r}; here it is {here!r}")
    return check, context


def _subject(name: str, *, own: bool, subjects: Mapping[str, Subject]) -> Subject | None:
    """Return the subject of this name that the user points at, None for one of the gate's own or none at all."""
    if name in subjects:
        return subjects[name]
    if not name or not own:
        return None
    if not subjects:
        raise NotApplicable(f"the subject {name!r} is not bscheck's: point at it with --subjects MODULE")
    raise BscheckError(unknown("subject", name, subjects))


def _again(check: Check, context: Context, recorded: Recorded) -> Reading:
    """Run the recorded case, or where setting up failed, set up."""
    from bscheck.checks.run import RunSettings, run_check
    from bscheck.diagnose import attempt

    failure = recorded.result.failure
    assert failure is not None
    if not failure.case:
        result = run_check(check, context, RunSettings(max_examples=1, timing="gate"))
        setting_up = result.failure is not None and not result.failure.case
        if result.verdict == Verdict.NOT_APPLICABLE:
            raise NotApplicable(result.reason)
        return result.worst if setting_up else Reading(0.0)
    case = check.case.from_json(dict(failure.case))
    try:
        reason = check.applies(context)
    except (NotApplicable, BscheckError):
        raise
    except Exception as error:
        raise NotApplicable(f"setting up raised {one_line(error)}") from None
    if reason:
        raise NotApplicable(f"the promise does not apply: {reason}")
    readings: Iterator[Reading] = (attempt(check, context, case) for _ in range(1 if failure.steady else UNSTEADY_RUNS))
    held = Reading(0.0)
    for reading in readings:
        if not reading.holds:
            return reading
        held = max(held, reading, key=lambda r: r.share)
    return held


def _share(reading: Reading) -> str:
    if not math.isfinite(reading.share):
        return "it holds"
    return f"it holds, at {100 * reading.share:.2g} % of the bound"


def _changed(recorded: Recorded, here: Mapping[str, str]) -> str:
    """Return what differs from the recorded versions, or that nothing does."""
    before = recorded.environment
    pairs = [(k, before.get(k, ""), here.get(k, "")) for k in ("keras", "backend_version", "numpy", "python")]
    changed = [
        f"{before.get('backend', 'backend') if k == 'backend_version' else k} {a} -> {b}" for k, a, b in pairs if a != b
    ]
    return f" ({', '.join(changed)})" if changed else " (the versions are those of the record)"


# Subjects ----------------------------------------------------------------------------------------------


def subjects_in(modules: Iterable[str]) -> dict[str, Subject]:
    """Return the subjects of the modules that the user names, by name.

    Parameters
    ----------
    modules : iterable of str
        Names as ``import`` takes them, or files that end in ``.py``.

    Raises
    ------
    BscheckError
        When one cannot be imported, or has no subject.
    """
    found: dict[str, Subject] = {}
    for name in modules:
        here = {subject.name: subject for subject in _subjects_of(_imported(name))}
        if not here:
            raise BscheckError(f"--subjects {name}: has no bscheck.Subject (nor a list of them) at its top level")
        found |= here
    return found


def _imported(name: str) -> Any:
    """Import a module that the user named; the present folder counts, as with ``python -m``."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).absolute()
        if not path.is_file():
            raise BscheckError(f"--subjects {name}: there is no such file")
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    except BscheckError as error:
        raise BscheckError(f"--subjects {name}: {error}" if "--subjects" not in str(error) else str(error)) from None
    except Exception as error:
        raise BscheckError(f"--subjects {name}: cannot be imported: {one_line(error)}") from None


def _subjects_of(module: Any) -> Iterator[Subject]:
    """Yield the subjects at a module's top level, also those in its lists."""
    for value in vars(module).values():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, Subject):
                yield one
