"""A team's own model: the same promises, as parameters of an ordinary pytest test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bscheck.checks import Check, Param
from bscheck.errors import BscheckError, SubjectError
from bscheck.items import CURRENT_ITEM, SESSION, announce, conclude, marks_of
from bscheck.subject import Subject
from bscheck.subject_runs import Terms, choose, context_of, hold, overrun, require_subject

if TYPE_CHECKING:
    from bscheck.checks.context import Context


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
            require_subject(subject)
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
    chosen = choose(checks, family, "parametrize_with_checks")
    for check in chosen:
        announce(check.family)
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
        require_subject(subject)
        if subject.name in names:
            raise SubjectError(f"two subjects are named {subject.name!r}; names must differ")
        names.add(subject.name)
    return listed


def _run(check: Check, subject: Subject) -> None:
    """Look at the subject, the first time, then hold it to the promise."""
    __tracebackhide__ = True
    from bscheck.checks.run import RunSettings

    item = CURRENT_ITEM.get()
    session = None if item is None else item.config.stash.get(SESSION, None)
    terms = Terms(RunSettings()) if session is None else session.terms(check, subject)
    context = _context(subject, terms)
    spent = None if session is None else session.look_at(subject, context, terms)
    if spent is not None:
        conclude(item, check, overrun(check, subject, spent))
    for result in hold(check, subject, context, terms):
        conclude(item, check, result)


def context_of_item(item: pytest.Item, terms: Terms) -> tuple[object, Context | None]:
    """Return what an item is about, for comparing, and its context; None where it is about no subject."""
    spec = getattr(item, "callspec", None)
    subject = None if spec is None else spec.params.get("subject")
    if isinstance(subject, Subject):
        return id(subject), _context(subject, terms)
    param = getattr(item, "param", None)
    name = param.get("subject") if isinstance(param, Param) else ""
    if not name:
        return None, None
    from bscheck.items import new_context

    return name, new_context(Param.of(subject=name), {})


def _context(subject: Subject, terms: Terms) -> Context:
    return context_of(subject, terms)
