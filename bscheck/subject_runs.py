"""A team's own subject under the checks: looked at once, then held to each promise as a guest of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bscheck.checks import FAMILIES, Check, Param, all_checks
from bscheck.errors import BscheckError, SubjectError, unknown
from bscheck.limits import Budget, OutOfBudget, within
from bscheck.subject import Subject

if TYPE_CHECKING:
    from bscheck.checks.context import Context
    from bscheck.checks.run import RunSettings
    from bscheck.inspection import Inspection
    from bscheck.results.verdict import Result


@dataclass(frozen=True)
class Terms:
    """What a run holds subjects to.

    Attributes
    ----------
    settings : RunSettings
    promises : mapping
        Those of pyproject.toml.
    options : mapping
        What a check's context carries.
    time_budget : float or None
        That of the command line or the environment, which every subject's gives way to.
    stuck : callable or None
        Ends the process where a subject does not come back to Python.
    """

    settings: RunSettings
    promises: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    time_budget: float | None = None
    stuck: Callable[[str], None] | None = None

    def budget(self, subject: Subject) -> Budget:
        """Return what one check on the subject may use."""
        seconds = self.time_budget or subject.promised("time_budget", self.promises)
        return Budget(seconds, subject.promised("memory_budget", self.promises), self.stuck)


def require_subject(subject: Any) -> None:
    """Raise `SubjectError` unless this is a subject."""
    if not isinstance(subject, Subject):
        raise SubjectError(f"a check takes a bscheck.Subject, not {type(subject).__name__}")


def choose(names: Iterable[str] | None, family: str | None, asker: str) -> list[Check]:
    """Return the checks asked for; those asked for by name must be applicable to a subject.

    Raises
    ------
    BscheckError
        For an unknown name or family, or where nothing is left.
    """
    registered = {name: check for name, check in all_checks().items() if check.per_subject}
    if isinstance(names, str):
        raise BscheckError(f"checks= takes a list of names; write [{names!r}]")
    wanted = list(registered) if names is None else list(names)
    for name in wanted:
        if name not in registered:
            raise BscheckError(unknown("check", name, registered))
    families = {check.family for check in registered.values()} | set(FAMILIES)
    if family is not None and family not in families:
        raise BscheckError(unknown("family", family, families))
    chosen = [registered[name] for name in wanted if family in (None, registered[name].family)]
    if not chosen:
        raise BscheckError(f"{asker} leaves no check, so nothing would be tested")
    return chosen


def look(subject: Subject, checks: Iterable[Check], context: Context, terms: Terms) -> Inspection:
    """Return what is found out about the subject, the first thing that is done with it.

    Raises
    ------
    SubjectError
        When it cannot be built, or breaks its contract.
    OutOfBudget
        When it hangs, or takes too much memory.
    """
    from bscheck.inspection import inspect_context
    from bscheck.runtime.isolation import undisturbed

    with undisturbed(subject.name), within(terms.budget(subject)):
        return inspect_context(context, list(checks), terms.settings)


def hold(check: Check, subject: Subject, context: Context, terms: Terms) -> list[Result]:
    """Hold the subject to one promise; the pinned cases of its known issues come first.

    Raises
    ------
    BscheckError
        For bad input met on the way, such as a subject that cannot be built.
    """
    from bscheck.checks.context import forget
    from bscheck.checks.run import run_check, run_pinned
    from bscheck.runtime.isolation import undisturbed

    pinned = [
        i for i in terms.settings.known_issues if i.check == check.name and i.param.get("subject") == subject.name
    ]
    with undisturbed(subject.name):
        results = [run_pinned(issue, check, context) for issue in pinned]
        results.append(run_check(check, context, terms.settings, terms.budget(subject)))
    if results[-1].failure is not None and "budget" in results[-1].failure.reading.seen:
        forget()  # what was being built when it was stopped
    return results


def overrun(check: Check, subject: Subject, spent: OutOfBudget) -> Result:
    """Return the failure of every check on a subject that cannot even be looked at within its budget."""
    from bscheck.results.verdict import Failure, Reading, Result, Verdict

    seen = Reading(float("inf"), seen=f"{spent}, while it was built and called for the first time", allowed="an end")
    failure = Failure({}, subject.name, seen)
    param = {"subject": subject.name}
    return Result(check.name, check.family, param, Verdict.FAILED, worst=seen, failure=failure)


def crashed(nodeid: str) -> list[Result]:
    """Return the failure of the check whose test, by its id, ended the interpreter; empty where none is named."""
    from bscheck.results.verdict import Failure, Reading, Result, Verdict

    seen = Reading(float("inf"), seen="the interpreter ended while the check ran", allowed="a verdict")
    own, _, param = nodeid.rpartition("::")[2].rstrip("]").partition("[")
    for check in all_checks().values():
        if check.name == own or param.endswith(f"-{check.name}"):
            subject = param if check.name == own else param.removesuffix(f"-{check.name}")
            failure = Failure({}, subject, seen)
            named = {"subject": subject}
            return [Result(check.name, check.family, named, Verdict.FAILED, worst=seen, failure=failure)]
    return []


def context_of(subject: Subject, terms: Terms) -> Context:
    """Return the context of a subject's checks."""
    from bscheck.checks.context import Context

    return Context.for_subject(subject, Param.of(subject=subject.name), terms.options, terms.promises)
