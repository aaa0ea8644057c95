"""Readings, verdicts and results: what a check says of a case, and what a run says of a check."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from bscheck.errors import RecordError
from bscheck.results.curves import Curve, Exhibits, Table
from bscheck.results.decode import decode


class Verdict(StrEnum):
    """What is said of one check on one parameter; nothing is dropped in silence."""

    PASSED = "passed"
    FAILED = "failed"
    KNOWN_ISSUE = "known issue"
    EXCEPTION = "contract exception"
    NOT_APPLICABLE = "not applicable"
    INCONCLUSIVE = "inconclusive"
    REPORTED = "reported"


class NotApplicable(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a check whose promise does not apply; ``str()`` is the reason."""


@dataclass(frozen=True)
class Reading:
    """One case held against its bound.

    Attributes
    ----------
    share : float
        Size of the difference as a share of what is allowed; above 1, or not a number, the promise is broken.
    where : str
        The worst place, for example ``kernel[3,0] after update 1``.
    seen : str
        One sentence: how far off, relative to what; meant for the failure text.
    allowed : str
        What the bound is, in the same unit as `seen`.
    cause : str
        What can be said of the cause, for example ``gradients agree; their application does not``.
    figures : mapping
        Further measured figures for the record.
    curves, tables : tuple
        What was measured beyond one figure, for `bscheck report`; of all cases that held, put together by title
        (`bscheck.results.curves.Exhibits.joined`).
    """

    share: float
    where: str = ""
    seen: str = ""
    allowed: str = ""
    cause: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the promise holds for this case."""
        return self.share <= 1.0


def worst(readings: Iterable[Reading]) -> Reading:
    """Return the reading with the largest share; one that is not a number is worse than any."""
    return max(readings, key=lambda r: math.inf if math.isnan(r.share) else r.share, default=Reading(0.0))


@dataclass(frozen=True)
class Failure:
    """The smallest case that breaks a promise, ready to be told.

    Attributes
    ----------
    case : dict
        The case as JSON.
    situation : str
        Parameter and case in words.
    reading : Reading
        What was seen.
    ablation : tuple of str
        One phrase for each option switched off: ``decay=none: still fails``.
    suspects : tuple of str
        Explanations that were tried out and agree with what was seen, the likeliest first.
    like : str
        The known defect this looks like, or "".
    script : str
        Name of the stand-alone program that shows the failure, among the run's scripts; "" where there is none.
    no_script : str
        Why there is none.
    own_subject : bool
        Whether the subject is a team's own, so that the parameter's name for it means nothing to bscheck.
    steady : bool
        Whether the case broke the promise again when it was run again.
    expired : str
        The known issue that would hold the case if its date had not passed, or "".
    """

    case: Mapping[str, Any]
    situation: str
    reading: Reading
    ablation: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    like: str = ""
    script: str = ""
    no_script: str = ""
    own_subject: bool = False
    steady: bool = True
    expired: str = ""


@dataclass(frozen=True)
class Result:
    """One check on one parameter.

    Attributes
    ----------
    check, family : str
        Registered names.
    param : dict of str
        The surface members and subject that pytest parametrizes over.
    cases : int
        Executions of Keras held against an oracle; skips and repeats do not count.
    held : dict of int
        Cases excused by each known issue.
    worst : Reading
        The case that came nearest to its bound.
    worst_case : str
        That case in words.
    seconds : float
        Wall time of the check, setting up included.
    exhibits : Exhibits
        Curves and tables of all its cases.
    text : str
        The whole text for the reader, where `bscheck.run_checks` made the result; not part of the JSON.
    """

    check: str
    family: str
    param: Mapping[str, str]
    verdict: Verdict
    reason: str = ""
    cases: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    worst: Reading = Reading(0.0)
    worst_case: str = ""
    failure: Failure | None = None
    seconds: float = 0.0
    exhibits: Exhibits = field(default_factory=Exhibits)
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.verdict} {self.check}[{'-'.join(self.param.values())}]"

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object; infinities and NaN become strings.

        Curves and tables are there once, and only where there are any.
        """
        document = dataclasses.asdict(self)
        del document["text"]
        exhibits = document.pop("exhibits")
        for reading in (document["worst"], (document["failure"] or {}).get("reading", {})):
            for key in exhibits:
                reading.pop(key, None)
        return _plain({**document, **{key: found for key, found in exhibits.items() if found}})  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the result that `to_json` gave; what is missing takes its default, what is unknown is left aside.

        Raises
        ------
        RecordError
            In one line, for a value that is not of its type.
        """
        if not isinstance(document, Mapping):
            raise RecordError(f"a result is not a table but {type(document).__name__}")
        try:
            worst_of = {"share": 0.0, **_table(document, "worst")}
            failure = _table(document, "failure")
            if failure:
                reading = {"share": "inf", **_table(failure, "reading")}
                failure = {"situation": "", **failure, "reading": reading}
            exhibits = {key: document[key] for key in ("curves", "tables") if key in document}
            parts = {"worst": worst_of, "failure": failure or None, "held": _table(document, "held")}
            return decode(cls, {**document, **parts, "exhibits": exhibits}, "result")  # type: ignore[no-any-return]
        except ValueError as error:
            raise RecordError(str(error)) from None


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{key!r} is not a table")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Verdict) else value
