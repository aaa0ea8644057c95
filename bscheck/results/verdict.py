"""Readings, verdicts and results: what a check says of a case, and what a run says of a check."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeVar

from bscheck.errors import RecordError


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
    """

    share: float
    where: str = ""
    seen: str = ""
    allowed: str = ""
    cause: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

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

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object; infinities and NaN become strings."""
        return _plain(dataclasses.asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the result that `to_json` wrote; what is missing takes its default, what is unknown is left out.

        Raises
        ------
        RecordError
            When a value is not what it should be.
        """
        return _typed(cls, data)


T = TypeVar("T")

#: What a field of these names is read as; other fields are strings, numbers or tables of them.
_NESTED: Mapping[str, Any] = {"worst": Reading, "reading": Reading, "failure": Failure}
_PLAIN_FIELDS = ("float", "str", "bool", "int", "Verdict", "tuple[str, ...]")


def _typed(kind: type[T], data: Any) -> T:
    """Return a table of a record as the dataclass it was."""
    if not isinstance(data, Mapping):
        raise RecordError(f"a {kind.__name__.lower()} must be a table, not {type(data).__name__}")
    values = {}
    for spec in dataclasses.fields(kind):  # type: ignore[arg-type]
        hint = str(spec.type)
        if not (spec.name in _NESTED or hint in _PLAIN_FIELDS or hint.startswith("Mapping[")):
            continue  # curves and tables: for the report, which reads them itself
        if spec.name not in data:
            required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
            if required:
                raise RecordError(f"a {kind.__name__.lower()} lacks {spec.name!r}")
            continue
        values[spec.name] = _field(kind.__name__.lower(), spec.name, hint, data[spec.name])
    return kind(**values)


def _field(kind: str, name: str, hint: str, value: Any) -> Any:
    """Return one field's value as its type, or raise."""
    if name in _NESTED:
        return None if value is None and "None" in hint else _typed(_NESTED[name], value)
    good = True
    if hint == "float":
        good = type(value) in (int, float) or value in ("inf", "-inf", "nan")
        value = float(value) if good else value
    elif hint == "Verdict":
        good = value in list(Verdict)
        value = Verdict(value) if good else value
    elif hint in ("str", "bool", "int"):
        good = type(value).__name__ == hint
    elif hint == "tuple[str, ...]":
        good = isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
        value = tuple(value) if good else value
    elif hint.startswith("Mapping"):
        good = isinstance(value, Mapping)
        if good and hint != "Mapping[str, Any]":
            part = hint.removeprefix("Mapping[str, ").removesuffix("]")
            value = {str(key): _field(kind, f"{name}.{key}", part, one) for key, one in value.items()}
    if not good:
        raise RecordError(f"{name!r} of a {kind} must be {hint}, not {value!r}"[:200])
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Verdict) else value
