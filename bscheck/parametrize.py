"""A team's own model: the same promises, as parameters of an ordinary pytest test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from bscheck.checks import FAMILIES, Check, Param, all_checks
from bscheck.errors import BscheckError, SubjectError, unknown
from bscheck.items import CURRENT_ITEM, SESSION, conclude, marks_of
from bscheck.subject import Subject

if TYPE_CHECKING:
    from bscheck.checks.context import Context
    from bscheck.checks.run import RunSettings
    from bscheck.plugin import Session


@dataclass(frozen=True)
class SubjectCheck:
    """A check, ready to be called with a subject inside a test.

    Attributes
    ----------
    check : Check
        The promise.
    """

    check: Check

    @property
    def name(self) -> str:
        """The check's registered name."""
        return self.check.name

    @property
    def promise(self) -> str:
        """What is promised, in one sentence."""
        return self.check.promise

    def __call__(self, subject: Subject) -> None:
        """Hold the promise against the subject.

        Raises
        ------
        bscheck.results.failure.PromiseBroken
            When it is broken; the text is the whole failure.
        pytest.skip.Exception
            When it does not apply to this subject; the text is the reason.
        """
        __tracebackhide__ = True
        wrong = ""
        try:
            _require_subject(subject)
            _run(self.check, subject)
        except BscheckError as error:
            wrong = str(error)
        if wrong:
            # Outside the handler: pytest would print the chain of exceptions that led here.
            pytest.fail(f"bscheck: {wrong}", pytrace=False)

    def __repr__(self) -> str:
        return self.check.name


def parametrize_with_checks(
    subjects: Iterable[Subject], *, checks: Iterable[str] | None = None, family: str | None = None
) -> pytest.MarkDecorator:
    """Parametrize a test over subjects and the checks that can be asked of a subject.

    Parameters
    ----------
    subjects : iterable of Subject
        What is tested; their names must differ.
    checks : iterable of str, optional
        Names of the checks; all by default (``bscheck list`` shows them).
    family : str, optional
        Only the checks of this family.

    Returns
    -------
    pytest.MarkDecorator
        For a test ``def test_...(subject, check): check(subject)``; ids are ``subject-check``.

    Raises
    ------
    BscheckError
        For something that is not a subject, a name given twice, or an unknown check or family.

    Examples
    --------
    >>> @bscheck.parametrize_with_checks([churn])  # doctest: +SKIP
    ... def test_batch_size(subject, check):
    ...     check(subject)
    """
    subjects = _validated(subjects)
    chosen = _chosen(checks, family)
    params = [
        pytest.param(subject, SubjectCheck(check), id=f"{subject.name}-{check.name}", marks=marks_of(check))
        for subject in subjects
        for check in chosen
    ]
    return pytest.mark.parametrize(("subject", "check"), params)


def _validated(subjects: Iterable[Subject]) -> list[Subject]:
    """Return the subjects; testing none, or one in place of two, would look like success."""
    if isinstance(subjects, Subject):
        raise SubjectError("parametrize_with_checks takes a list of subjects; write [subject]")
    listed = list(subjects)
    if not listed:
        raise SubjectError("parametrize_with_checks was given no subjects, so nothing would be tested")
    names = set()
    for subject in listed:
        _require_subject(subject)
        if subject.name in names:
            raise SubjectError(f"two subjects are named {subject.name!r}; names must differ")
        names.add(subject.name)
    return listed


def _require_subject(subject: Any) -> None:
    if not isinstance(subject, Subject):
        raise SubjectError(f"a check takes a bscheck.Subject, not {type(subject).__name__}")


def _chosen(names: Iterable[str] | None, family: str | None) -> list[Check]:
    """Return the checks asked for; those asked for by name must be applicable to a subject."""
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
        raise BscheckError("parametrize_with_checks leaves no check, so nothing would be tested")
    return chosen


def _run(check: Check, subject: Subject) -> None:
    """Run the check, then the pinned cases of the team's own known issues with it."""
    __tracebackhide__ = True
    from bscheck.checks.run import RunSettings, run_check, run_pinned

    item = CURRENT_ITEM.get()
    session = None if item is None else item.config.stash.get(SESSION, None)
    settings = RunSettings() if session is None else session.settings()
    context = _context(subject, session)
    for issue in _pinned(settings, check, subject):
        conclude(item, check, run_pinned(issue, check, context))
    conclude(item, check, run_check(check, context, settings))


def _context(subject: Subject, session: Session | None) -> Context:
    from bscheck.checks.context import Context

    options = {} if session is None else session.context_options()
    return Context.for_subject(subject, Param.of(subject=subject.name), options)


def _pinned(settings: RunSettings, check: Check, subject: Subject) -> list[Any]:
    """Return the known issues of this check whose pinned case is about this subject."""
    return [
        issue
        for issue in settings.known_issues
        if issue.check == check.name and issue.param.get("subject") == subject.name
    ]
