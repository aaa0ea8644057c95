"""What a report says, read from records: plain data, the same for every page."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bscheck.results.coverage import Coverage
from bscheck.results.curves import Curve, Table
from bscheck.results.failure import Place
from bscheck.results.summary import percent
from bscheck.results.verdict import Result, Verdict

#: Unicode categories of what cannot be seen: control, format, surrogate, private and unassigned characters.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


class State(StrEnum):
    """What is said of a check, a family or the whole run, the gravest first."""

    BROKEN = "broken"
    INCOMPLETE = "incomplete"
    INCONCLUSIVE = "inconclusive"
    KNOWN = "known issue"
    HOLDS = "holds"
    DOCUMENTED = "exception"
    REPORTED = "reported"
    SKIPPED = "not applicable"


_STATES = {
    Verdict.FAILED: State.BROKEN,
    Verdict.INCONCLUSIVE: State.INCONCLUSIVE,
    Verdict.KNOWN_ISSUE: State.KNOWN,
    Verdict.REPORTED: State.REPORTED,
    Verdict.EXCEPTION: State.DOCUMENTED,
    Verdict.PASSED: State.HOLDS,
    Verdict.NOT_APPLICABLE: State.SKIPPED,
}


@dataclass(frozen=True)
class Told:
    """One result as the report shows it; its parameter names the backend where there are several."""

    result: Result
    param: str
    raw: Mapping[str, Any]
    place: Place
    environment: Mapping[str, str]

    @property
    def state(self) -> State:
        """The verdict."""
        return _STATES[self.result.verdict]

    @property
    def share(self) -> float:
        """The share of the bound; what is not a number is beyond any bound."""
        share = self.result.worst.share
        return math.inf if math.isnan(share) else share

    @property
    def shown_share(self) -> str:
        """The share for reading, "" where nothing was held against a bound."""
        return share_in_words(self.share) if self.result.cases else ""

    @property
    def words(self) -> str:
        """The case that came nearest, or why there is none."""
        if self.result.verdict in (Verdict.NOT_APPLICABLE, Verdict.REPORTED, Verdict.INCONCLUSIVE):
            return self.result.reason or self.result.worst_case
        return self.result.worst_case

    @property
    def figures(self) -> str:
        """What else was measured of the nearest case."""
        told = {key: value for key, value in self.result.worst.figures.items() if key not in ("reported", "slower")}
        return ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in told.items())


@dataclass(frozen=True)
class CheckRow:
    """One check, and how near to its bound it came."""

    name: str
    promise: str
    exception: str
    family: str
    state: State
    share: float
    members: tuple[Told, ...]

    @property
    def nearest(self) -> Told:
        """The result nearest to its bound, the first of the members."""
        return self.members[0]

    @property
    def cases(self) -> int:
        """Executions of Keras held against an oracle."""
        return sum(told.result.cases for told in self.members)

    @property
    def documented(self) -> int:
        """How many results are contract exceptions."""
        return sum(told.state == State.DOCUMENTED for told in self.members)

    @property
    def counts(self) -> str:
        """How many results have which verdict, in words."""
        counted = Counter(told.state for told in self.members)
        return ", ".join(f"{counted[state]} {state}" for state in State if counted[state])


@dataclass(frozen=True)
class FamilyRow:
    """One line of the summary."""

    name: str
    state: State
    results: int
    cases: int
    nearness: tuple[int, ...]
    nearest: str
    verdict: str


@dataclass(frozen=True)
class FailureCard:
    """One broken promise with its whole text."""

    name: str
    anchor: str
    seen: str
    text: str


@dataclass(frozen=True)
class IssueRow:
    """A known issue, what became of it in this run, and whether it is a matter of the releases that were run."""

    id: str
    check: str
    reason: str
    link: str
    state: str
    held: str
    open: bool


@dataclass(frozen=True)
class Skipped:
    """A reason why promises do not apply, and to what they do not."""

    reason: str
    count: int
    checks: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Picture:
    """A curve or a table, with the parameter that it is about in its title."""

    title: str
    exhibit: Curve | Table


@dataclass(frozen=True)
class Source:
    """One record that the report was made of."""

    name: str
    started: str
    finished: str
    interrupted: bool
    results: int
    options: str
    shard: str


@dataclass(frozen=True)
class Report:
    """All that a report says, in the order in which it says it."""

    state: State
    headline: str
    reasons: tuple[str, ...]
    environment_line: str
    results: int
    cases: int
    seconds: float
    families: tuple[FamilyRow, ...]
    failures: tuple[FailureCard, ...]
    checks: tuple[CheckRow, ...]
    timings: tuple[CheckRow, ...]
    pictures: Mapping[str, tuple[Picture, ...]]
    unmeasured: Mapping[str, str]
    issues: tuple[IssueRow, ...]
    elsewhere: tuple[IssueRow, ...]
    exceptions: tuple[CheckRow, ...]
    reported: tuple[Told, ...]
    skipped: tuple[Skipped, ...]
    coverage: Coverage
    sources: tuple[Source, ...]
    environment: Mapping[str, str]
    version: str


def share_in_words(share: float) -> str:
    """Return a share of the bound: percent inside of it, how many times the bound beyond."""
    if not math.isfinite(share):
        return "beyond any bound"
    if share > 1:
        return f"{float(f'{share:.3g}'):.10g} × the bound" if share < 1e6 else f"{share:.3g} × the bound"
    return "> 99 %" if share > 0.995 else percent(share)


def clean(value: object) -> str:
    """Return a text that shows what it holds: control characters, lone surrogates and marks that turn the direction of
    writing as escapes; line ends and tabs stay.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _HIDDEN else _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
