"""The property runner: one check on one parameter, from its first corner to a verdict."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bscheck.checks import PROFILES, Check
from bscheck.diagnose import ABLATION_SECONDS, ablate, attempt, culprit, is_ours
from bscheck.errors import BscheckError, one_line
from bscheck.limits import Allowance, Budget, OutOfBudget, within
from bscheck.reproduce import reproduced
from bscheck.results.curves import Exhibits
from bscheck.results.known_issues import KnownIssue
from bscheck.results.verdict import Failure, NotApplicable, Reading, Result, Verdict

if TYPE_CHECKING:
    from bscheck.cases import Case
    from bscheck.checks.context import Context

#: Seconds from the first violation to the end of shrinking: a failure is worth a minute, not an hour.
SHRINK_SECONDS = 60.0

#: Cases drawn after a violated corner, in search of a smaller one.
DRAWN_AFTER_A_CORNER = 10

#: The family whose verdicts depend on the machine, not on the arithmetic.
TIMING = "timing"

#: The family under which the pinned cases of known issues are told.
PINNED = "known issues"


@dataclass(frozen=True)
class RunSettings:
    """What a run is told from outside.

    Attributes
    ----------
    profile : str
        One of `bscheck.checks.PROFILES`.
    seed : int
        Seeds every property, together with the property's id.
    known_issues : tuple of KnownIssue
        Defects that are held instead of failed.
    max_examples : int, optional
        Cases drawn in each property, in place of the profile's number.
    timing : str
        ``off``, ``report`` or ``gate``; ``auto`` gates on a GPU and reports elsewhere.
    scripts : Path, optional
        Folder that a stand-alone program is written to for each failure; none is written without it.
    explaining : Allowance
        Of the whole run: it is used up as failures are made smaller and explained.
    """

    profile: str = "default"
    seed: int = 0
    known_issues: tuple[KnownIssue, ...] = ()
    max_examples: int | None = None
    timing: Literal["auto", "off", "report", "gate"] = "auto"
    scripts: Path | None = None
    explaining: Allowance = field(default_factory=Allowance, compare=False)

    def examples(self, check: Check) -> int:
        """Return how many cases are drawn for a check."""
        if self.max_examples is not None:
            return self.max_examples
        return check.examples[PROFILES.index(self.profile)]

    def gates_timing(self, environment: Mapping[str, str]) -> bool:
        """Whether a slow verdict may fail the run."""
        return self.timing == "gate" or (self.timing == "auto" and environment.get("device") == "gpu")

    def context_options(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options that a check's context carries."""
        gates = self.gates_timing(environment)
        return {"timing": "gate" if gates else self.timing.replace("auto", "report")}


_CURRENT: ContextVar[RunSettings] = ContextVar("bscheck_settings")


def current_settings() -> RunSettings:
    """Return the settings of the check that is running, for checks that depend on them."""
    return _CURRENT.get(RunSettings())


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of one property: the same in every process, different for every property and seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def run_check(check: Check, context: Context, settings: RunSettings, budget: Budget | None = None) -> Result:
    """Hold one check against one parameter: corners first, then drawn cases, shrunk when one fails.

    Parameters
    ----------
    check : Check
        The promise.
    context : Context
        The parameter, made ready.
    settings : RunSettings
        Profile, seed and known issues.
    budget : Budget, optional
        What the check may use. When it is nearly used up no more cases are drawn; a check that does not end within
        it has failed.

    Returns
    -------
    Result
        With the verdict; a broken promise carries its smallest case.

    Raises
    ------
    BscheckError
        For bad input met on the way, such as a subject that cannot be built.
    """
    started = time.monotonic()
    run = _Run(check, context, settings, budget)
    if budget is not None:
        run.deadline = started + budget.drawing_seconds
    token = _CURRENT.set(settings)
    try:
        run.start()
    except NotApplicable as reason:
        run.reason = str(reason)
    except OutOfBudget as spent:
        run.end(str(spent))
    except (BscheckError, KeyboardInterrupt):
        raise
    except Exception as error:
        if is_ours(error):
            raise
        run.violated = _Seen(None, _raised(error))
    finally:
        _CURRENT.reset(token)
    result = run.result(time.monotonic() - started)
    if run.broken_since is not None:
        settings.explaining.spent += time.monotonic() - run.broken_since
    return result


def run_pinned(issue: KnownIssue, check: Check, context: Context) -> Result:
    """Run a known issue's pinned case and say whether the defect is still there.

    Returns
    -------
    Result
        Of family ``known issues``. Where the issue's condition holds: ``known issue`` while the case fails,
        ``failed`` once it passes (``reported``, where the defect is intermittent). Elsewhere ``reported``: fixed, or
        still there.
    """
    started = time.monotonic()
    case = check.case.from_json(dict(issue.case))
    told = Result(
        check=check.name,
        family=PINNED,
        param={"issue": issue.id, **issue.param},
        verdict=Verdict.NOT_APPLICABLE,
        worst_case=describe(context, case),
    )
    try:
        unfit = _unknown_here(issue, check) or _no_source(case) or check.applies(context)
        reading = Reading(0.0) if unfit else attempt(check, context, case)
    except NotApplicable as error:
        unfit, reading = str(error), Reading(0.0)
    told = replace(told, seconds=time.monotonic() - started)
    if unfit:
        return replace(told, reason=f"{issue.id}: {unfit}")
    return _judge_pinned(issue, case, replace(told, cases=1, worst=reading), context.environment)


def _unknown_here(issue: KnownIssue, check: Check) -> str | None:
    """Return what a pinned case is about and the installed Keras does not export; a team's subjects are theirs."""
    exported = [param.as_dict() for param in check.params()]
    if "subject" in issue.param or dict(issue.param) in exported:
        return None
    return f"this Keras has no {', '.join(map(str, issue.param.values()))}"


def _no_source(case: Case) -> str | None:
    """Return why a pinned case cannot have its examples: a tf.data pipeline where the backend is another one."""
    source = getattr(case, "source", "")
    if not source.startswith("dataset"):
        return None
    from bscheck.runtime.inference import sources

    return None if source in sources() else f"a {source} is TensorFlow's, and this backend another one"


def _judge_pinned(issue: KnownIssue, case: Case, told: Result, environment: Mapping[str, str]) -> Result:
    """Return the verdict on a pinned case that was run."""
    holds = told.worst.holds
    if not issue.in_range(environment):
        state = "fixed" if holds else "still there"
        return replace(told, verdict=Verdict.REPORTED, reason=f"{issue.id}: {state}, outside its range")
    if not holds:
        if issue.expired:
            return _expired(issue, case, told)
        reason = f"{issue.id}: still fails"
        return replace(told, verdict=Verdict.KNOWN_ISSUE, reason=reason, held={issue.id: 1})
    if issue.intermittent:
        return replace(told, verdict=Verdict.REPORTED, reason=f"{issue.id}: did not show in this run")
    text = f"known issue {issue.id!r} is fixed here: delete its entry in {issue.source}"
    seen = Reading(told.worst.share, seen=f"the pinned case passes; {text}", allowed="it must still fail")
    failure = Failure(case.to_json(), told.worst_case, seen)
    return replace(told, verdict=Verdict.FAILED, reason=text, failure=failure)


def _expired(issue: KnownIssue, case: Case, told: Result) -> Result:
    """Return the failure of a pinned case whose time is up."""
    text = f"{issue.since()}: fix the defect, or give the entry another date"
    seen = Reading(
        told.worst.share, told.worst.where, f"the pinned case still fails; {text}", "a date that has not passed",
        figures={"expired": 1.0},
    )  # fmt: skip
    failure = Failure(case.to_json(), told.worst_case, seen)
    return replace(told, verdict=Verdict.FAILED, reason=text, worst=seen, failure=failure)


def describe(context: Context, case: Case | None) -> str:
    """Return the parameter and the case in words."""
    words = [value for _, value in context.param.members]
    return ", ".join([*words, str(case)] if case is not None and str(case) else words)


def refusal(check: Check, context: Context, settings: RunSettings) -> str | None:
    """Return why the check is not run, if it is not."""
    if check.family == TIMING and settings.timing == "off":
        return "timings are switched off (--bscheck-timing=off)"
    if check.family == TIMING and "PYTEST_XDIST_WORKER" in os.environ:
        return "timings are refused under pytest-xdist, where workers disturb each other: run without -n"
    return check.applies(context)


def _raised(error: BaseException) -> Reading:
    return Reading(float("inf"), seen=f"{culprit(error)} raised {one_line(error)}", allowed="no error")


@dataclass(frozen=True)
class _Seen:
    """A case and what was read from it; no case where setting up failed already."""

    case: Case | None
    reading: Reading


class _BrokenError(AssertionError):
    """Tells Hypothesis that the drawn case breaks the promise."""


class _Stop(BaseException):
    """Ends a property from inside; Hypothesis lets it pass as it does a Ctrl-C."""


class _Escape(_Stop):
    """Carries an exception that is no finding past Hypothesis, which would shrink it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@dataclass
class _Run:
    """One check on one parameter, while it runs."""

    check: Check
    context: Context
    settings: RunSettings
    budget: Budget | None = None
    reason: str = ""
    curtailed: str = ""
    held: Counter[str] = field(default_factory=Counter)
    good: dict[Case, None] = field(default_factory=dict)
    broken: dict[Case, Reading] = field(default_factory=dict)
    latest: _Seen | None = None
    violated: _Seen | None = None
    flaky: tuple[Case, Reading, Reading] | None = None
    unsteady: bool = False
    running: Case | None = None
    ablates: bool = True
    worst: _Seen = _Seen(None, Reading(0.0))
    verdicts: set[str] = field(default_factory=set)
    told: dict[str, tuple[float, str]] = field(default_factory=dict)
    exhibits: Exhibits = field(default_factory=Exhibits)
    deadline: float = float("inf")
    broken_since: float | None = None

    def start(self) -> None:
        """Find out whether the promise applies and hold it, within the budget."""
        with within(self.budget):
            self.reason = refusal(self.check, self.context, self.settings) or ""
            if not self.reason:
                self.execute()

    def end(self, overrun: str) -> None:
        """Say what ended the check; a violation found before stands."""
        self.violated = _smallest(self.broken)
        if self.violated is None:
            held = f"after {len(self.good)} cases that held" if self.good else "before its first case ended"
            seen = Reading(math.inf, seen=f"{overrun}, {held}", allowed="an end")
            self.violated = _Seen(self.running, seen)
            self.ablates = False

    def execute(self) -> None:
        """Run the corners, then draw."""
        for case in self.check.corners(self.context):
            if self.violates(case):
                self.shrink_corner()
                return
        self.draw(self.settings.examples(self.check))

    def shrink_corner(self) -> None:
        """Draw a few cases in search of a smaller one than the violated corner, which Hypothesis did not draw."""
        self.violated = self.latest
        if self.settings.explaining.left:
            self.hurry()
            self.draw(min(DRAWN_AFTER_A_CORNER, self.settings.examples(self.check)))
            self.violated, self.unsteady = _smallest(self.broken), False

    def hurry(self) -> None:
        """Leave no more time for drawing than a failure is worth."""
        left = min(SHRINK_SECONDS, self.settings.explaining.left)
        self.deadline = min(self.deadline, time.monotonic() + left)

    def draw(self, examples: int) -> None:
        """Draw cases until one fails and is shrunk, or `examples` of them have held."""
        if examples <= 0:
            return
        from hypothesis.errors import Flaky

        try:
            with _no_constants_of_the_project():
                _property(self, examples)()
        except _BrokenError:
            self.violated = self.latest
        except _Escape as escape:
            raise escape.error from None
        except _Stop:
            self.violated = _smallest(self.broken)
            if self.violated is None and self.budget is not None:
                held = f"{len(self.good)} cases held"
                self.curtailed = f"drawing ended early, {held}: the time budget is {self.budget.seconds:g} s"
        except Flaky:
            if self.flaky is None:  # the check's own strategy is at fault
                raise
            self.unsteady, self.violated = True, _unsteady(*self.flaky)

    def violates(self, case: Case) -> bool:
        """Run one case, unless it has held before, and say whether it breaks the promise."""
        if case in self.good:
            return False
        self.running = case
        reading = attempt(self.check, self.context, case)
        before = self.broken.get(case)
        if reading.holds and before is not None:
            self.flaky = (case, before, reading)
            return False
        for key in ("inconclusive", "reported"):
            if reading.figures.get(key):
                self.verdicts.add(key)
                self._tell(key, reading)
        if not reading.holds and not self._reported_only():
            issue = self._covering(case)
            if issue is None:
                self.latest = _Seen(case, reading)
                self.broken[case] = reading
                self.broken_since = self.broken_since or time.monotonic()
                return True
            self.held[issue.id] += 1
        elif reading.share >= self.worst.reading.share or not reading.holds:
            self.worst = _Seen(case, reading)
        self.exhibits = self.exhibits.joined(reading.curves, reading.tables)
        self.good[case] = None
        return False

    def _tell(self, verdict: str, reading: Reading) -> None:
        """Keep the words of the reading with the largest figures: the size of an effect is that of its worst case."""
        size = max((v for key, v in reading.figures.items() if key != verdict), default=0.0)
        words = reading.cause or reading.seen if verdict == "inconclusive" else reading.seen
        if verdict not in self.told or size > self.told[verdict][0]:
            self.told[verdict] = size, words

    def _reported_only(self) -> bool:
        """Whether a broken bound is told but does not fail the run: timings where they are not gated."""
        if self.check.family != TIMING or self.settings.gates_timing(self.context.environment):
            return False
        self.verdicts.add("reported")
        return True

    def _situation(self, case: Case) -> dict[str, Any]:
        """Return what conditions are held against: the subject's facts, the parameter's members, the case's fields."""
        return {**self.context.facts, **self.context.param.as_dict(), **case.to_json()}

    def _covering(self, case: Case, *, expired: bool = False) -> KnownIssue | None:
        situation = self._situation(case)
        for issue in self.settings.known_issues:
            if issue.expired == expired and issue.covers(self.check.name, situation, self.context.environment):
                return issue
        return None

    def result(self, seconds: float) -> Result:
        """Return what is said of the check."""
        seen = self.violated or self.worst
        return Result(
            check=self.check.name,
            family=self.check.family,
            param=self.context.param.as_dict(),
            verdict=self._verdict(),
            reason=self._reason(),
            cases=len(self.good) + len(self.broken),
            held=dict(self.held),
            worst=seen.reading,
            worst_case=describe(self.context, seen.case) if seen.case is not None else "",
            failure=self._failure(),
            seconds=seconds,
            exhibits=self.exhibits.joined(seen.reading.curves, seen.reading.tables),
        )

    def _verdict(self) -> Verdict:
        if self.violated:
            return Verdict.FAILED
        if self.reason:
            return Verdict.NOT_APPLICABLE
        if self.held:
            return Verdict.KNOWN_ISSUE
        for verdict in (Verdict.INCONCLUSIVE, Verdict.REPORTED):
            if verdict.value in self.verdicts:
                return verdict
        return Verdict.EXCEPTION if self.check.exception else Verdict.PASSED

    def _reason(self) -> str:
        verdict = self._verdict()
        if self.reason or verdict not in (Verdict.REPORTED, Verdict.INCONCLUSIVE):
            return self.reason or self.curtailed
        if self.check.family == TIMING and verdict == Verdict.REPORTED:
            return "" if self.settings.timing == "report" else "no GPU (--bscheck-timing=gate)"
        return self.told.get(verdict.value, (0.0, ""))[1]

    def _failure(self) -> Failure | None:
        if self.violated is None:
            return None
        case, reading = self.violated.case, self.violated.reading
        own = getattr(self.context, "given", None) is not None
        if case is None:
            return Failure({}, f"{describe(self.context, None)}, while setting up", reading, own_subject=own)
        expired = self._covering(case, expired=True)
        told = Failure(
            case.to_json(),
            describe(self.context, case),
            reading,
            own_subject=own,
            steady=not self.unsteady,
            expired="" if expired is None else expired.since(),
        )
        if self.unsteady:
            return replace(told, no_script="a case that does not give the same answer twice proves nothing by itself")
        if not self.ablates:
            return replace(told, no_script="a case that did not end within its budget would not end in a script either")
        allowance = self.settings.explaining
        if not allowance.left:
            spent = f"the {allowance.seconds:g} s of this run for its failures are spent (--bscheck-explain"
            return replace(told, no_script=f"{spent}; later: bscheck replay --script DIR)")
        return reproduced(self.check, self.context, case, self._looked_into(case, told), self.settings.scripts)

    def _looked_into(self, case: Case, failure: Failure) -> Failure:
        """Return the failure with its ablation and its suspects, as far as that ends: the failure is known already."""
        limit = None if self.budget is None else replace(self.budget, seconds=3 * ABLATION_SECONDS)
        with suppress(OutOfBudget), within(limit):
            failure = replace(failure, ablation=ablate(self.check, self.context, case, failure.reading))
            return self._explained(case, failure)
        return failure

    def _explained(self, case: Case, failure: Failure) -> Failure:
        """Return the failure with its suspects, and the known defect that it looks like."""
        from bscheck.checks.suspects import suspects
        from bscheck.results.known_defects import like

        found = suspects(self.check, self.context, case, failure.reading)
        situation = self._situation(case)
        ids = [suspect.id for suspect in found.suspects]
        reading = failure.reading
        if found.cause:
            reading = replace(reading, cause=found.cause)
        return replace(
            failure,
            reading=reading,
            suspects=tuple(suspect.text for suspect in found.suspects),
            like=like(self.check.name, situation, ids, self.context.environment),
        )


def _property(run: _Run, examples: int) -> Callable[[], None]:
    """Return the check as a Hypothesis property whose settings owe nothing to the host project's profile."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity
    from hypothesis import strategies as st

    cases = run.check.cases(run.context)

    def holds(data: st.DataObject) -> None:
        case = data.draw(cases, label="case")
        if time.monotonic() > run.deadline:
            raise _Stop
        if _violates_while_drawing(run, case):
            run.hurry()
            raise _BrokenError

    name = f"{run.check.name}[{run.context.param.id}]"
    holds.__name__ = holds.__qualname__ = run.check.name
    configure = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
        stateful_step_count=1,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        backend="hypothesis",
    )
    seeded = hypothesis.seed(derive_seed(run.settings.seed, name))
    return seeded(configure(hypothesis.given(st.data())(holds)))


def _violates_while_drawing(run: _Run, case: Case) -> bool:
    """Run a drawn case; bad input, our own bugs and *not applicable* end the property at once."""
    try:
        return run.violates(case)
    except NotApplicable as reason:
        if run.broken:  # met while shrinking: it does not excuse the failure
            return False
        raise _Escape(reason) from None
    except Exception as error:
        raise _Escape(error) from None


@contextmanager
def _no_constants_of_the_project() -> Iterator[None]:
    """Keep Hypothesis from mixing constants it finds in the project's source files into the draws.

    With them one seed draws other cases in another folder, or after an unrelated edit.
    """
    from unittest import mock

    from hypothesis.internal.conjecture import providers

    provider: Any = getattr(providers, "HypothesisProvider", None)
    if not hasattr(provider, "_maybe_draw_constant"):  # Hypothesis before 6.131 has no such constants
        yield
        return
    with mock.patch.object(provider, "_maybe_draw_constant", return_value=None):
        yield


def _smallest(broken: Mapping[Case, Reading]) -> _Seen | None:
    """Return the simplest violation seen."""
    if not broken:
        return None
    case = min(broken, key=_complexity)
    return _Seen(case, broken[case])


def _complexity(case: Case) -> tuple[int, int, int]:
    """Return the order of simplicity: options switched on, then amounts, then the seed."""
    options, amount = 0, 0
    defaults = type(case)().to_json()
    for key, value in case.to_json().items():
        if key == "seed":
            continue
        parts: Sequence[Any] = value if isinstance(value, list) else [value]
        numbers = [part for part in parts if type(part) is int]
        amount += len(numbers) + sum(numbers)
        options += not numbers and value != defaults[key]
    return options, amount, case.seed


def _unsteady(case: Case, first: Reading, second: Reading) -> _Seen:
    """Return the failure that says a case did not give the same answer twice."""
    text = (
        f"not reproducible: the case broke the promise (share {first.share:.3g} of the bound"
        f"{': ' + first.seen if first.seen else ''}) and held when run again (share {second.share:.3g})"
    )
    return _Seen(case, Reading(first.share, first.where, text, "the same answer twice"))
