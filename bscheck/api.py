"""For scripts and notebooks: the promises of a subject as values, without pytest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bscheck.results.verdict import Result, Verdict
from bscheck.subject_runs import Terms, choose, context_of, hold, look, overrun, require_subject

if TYPE_CHECKING:
    from bscheck.checks import Check
    from bscheck.inspection import Inspection
    from bscheck.subject import Subject


def run_checks(
    subject: Subject,
    *,
    checks: Iterable[str] | None = None,
    family: str | None = None,
    profile: str | None = None,
    seed: int | None = None,
    known_issues: Iterable[str | Path] = (),
    timing: str | None = None,
    verbose: bool = True,
) -> tuple[Result, ...]:
    """Hold a subject to the promises and return what came of each; a broken one is a result, not an exception.

    Environment variables (``BSCHECK_PROFILE`` ...) go before the arguments, and the arguments before
    ``[tool.bscheck]`` of the nearest pyproject.toml.

    Parameters
    ----------
    subject : Subject
        What is tested.
    checks : iterable of str, optional
        Names of the checks; all by default (``bscheck list`` shows them).
    family : str, optional
        Only the checks of this family.
    profile : str, optional
        How many cases are drawn: ``quick``, ``default`` or ``thorough``.
    seed : int, optional
        Seeds every property; 0 by default.
    known_issues : iterable of path, optional
        Files of known issues, beside the packaged ones.
    timing : str, optional
        ``off``, ``report`` or ``gate``.
    verbose : bool, optional
        Whether to print what was found out about the subject, then a line for each verdict as it comes.

    Returns
    -------
    tuple of Result
        One for each check and for each pinned case of the subject's own known issues. ``str(result)`` is the
        text for the reader, ``result.verdict`` the verdict, ``result.to_json()`` all that was measured.

    Raises
    ------
    BscheckError
        For a subject that cannot be built or breaks its contract, and for a bad argument, in one line.

    Examples
    --------
    >>> results = bscheck.run_checks(churn, family="accumulation")  # doctest: +SKIP
    >>> assert not [r for r in results if r.verdict == "failed"]  # doctest: +SKIP
    """
    from bscheck.limits import OutOfBudget

    require_subject(subject)
    chosen = choose(checks, family, "run_checks")
    terms = _terms(profile, seed, known_issues, timing)
    context = context_of(subject, terms)
    say = print if verbose else _silent
    try:
        say(look(subject, chosen, context, terms))
    except OutOfBudget as spent:
        ended = [(check, overrun(check, subject, spent)) for check in chosen]
        say(ended[0][1].worst.seen)
        return tuple(replace(result, text=_text(result, check)) for check, result in ended)
    results: list[Result] = []
    for check in chosen:
        for result in hold(check, subject, context, terms):
            results.append(replace(result, text=_text(result, check)))
            say(results[-1])
    return tuple(results)


def inspect(
    subject: Subject, *, checks: Iterable[str] | None = None, family: str | None = None, profile: str | None = None
) -> Inspection:
    """Return what is found out about a subject, without holding it to anything.

    Parameters
    ----------
    subject : Subject
    checks, family, profile
        As in `run_checks`; the estimate of the time depends on them.

    Returns
    -------
    Inspection
        What it has (batch statistics, dropout, state, masks, schedules ...), which promises apply, which do not
        and why, and about how long they take; ``print`` it.

    Raises
    ------
    BscheckError
        For a subject that cannot be built, breaks its contract, or hangs.
    """
    from bscheck.errors import SubjectError
    from bscheck.limits import OutOfBudget

    require_subject(subject)
    chosen = choose(checks, family, "inspect")
    terms = _terms(profile, None, (), None)
    try:
        return look(subject, chosen, context_of(subject, terms), terms)
    except OutOfBudget as spent:
        raise SubjectError(f"Subject {subject.name!r}: {spent}, while it was built and called") from None


def _terms(profile: str | None, seed: int | None, known_issues: Iterable[str | Path], timing: str | None) -> Terms:
    """Return the terms of a script's run: the environment's, the arguments', the project's."""
    from bscheck.checks import all_checks
    from bscheck.checks.run import RunSettings
    from bscheck.limits import Allowance
    from bscheck.options import parse, read
    from bscheck.project import read_project
    from bscheck.results.known_issues import load_known_issues
    from bscheck.runtime.environment import describe

    given = {
        "profile": None if profile is None else parse("profile", profile, "profile="),
        "seed": None if seed is None else parse("seed", str(seed), "seed="),
        "timing": None if timing is None else parse("timing", timing, "timing="),
        "known_issues": parse("known-issues", [str(path) for path in known_issues], "known_issues=") or None,
    }
    project = read_project(Path.cwd())
    options = read({}, project={**project.options, **{k: v for k, v in given.items() if v is not None}})
    settings = RunSettings(
        profile=options.profile,
        seed=options.seed,
        known_issues=load_known_issues(all_checks(), *options.known_issues),
        timing=options.timing,  # type: ignore[arg-type]  # one of TIMINGS, or "auto"
        explaining=Allowance(options.explain),
    )
    return Terms(settings, project.promises, settings.context_options(describe()), options.time_budget)


def _text(result: Result, check: Check) -> str:
    """Return a result for the reader: a line, or the whole text of a broken promise."""
    from bscheck.results.failure import name_of, render
    from bscheck.runtime.environment import describe

    if result.verdict == Verdict.FAILED:
        return render(result, check.promise, describe())
    reason = f": {result.reason}" if result.reason else ""
    return f"{result.verdict} {name_of(result)}{reason}"


def _silent(*words: Any) -> None:
    pass
