"""The text of a broken promise: a function of the result and of where it is told, the same on every page."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from bscheck.results.verdict import Failure, Reading, Result

#: Columns; a terminal's width less pytest's own margin.
WIDTH = 110

_LABEL = 12


class PromiseBroken(AssertionError):  # noqa: N818 - a finding, not an error
    """A promise does not hold; ``str()`` is the whole text for the reader.

    Attributes
    ----------
    result : Result or None
        What broke.
    """

    def __init__(self, text: str, result: Result | None = None) -> None:
        super().__init__(text)
        self.result = result


@dataclass(frozen=True)
class Place:
    """Where a failure can be found again.

    Attributes
    ----------
    record : str
        The record's file as a shell takes it, "" where none is written.
    number : int or None
        The result's place in the record, counted from 0.
    scripts : str
        The folder of the stand-alone programs.
    subjects : str
        What ``--subjects`` takes for a team's own subject: the file of the test, or a module.
    """

    record: str = ""
    number: int | None = None
    scripts: str = ""
    subjects: str = ""

    @property
    def case(self) -> str:
        """``RECORD#number``, quoted for a shell where it needs to be."""
        name = f"{self.record}#{self.number}"
        return shlex.quote(name) if shlex.quote(self.record) != self.record else name


def name_of(result: Result) -> str:
    """Return the result's name as pytest shows it: ``check[param]``."""
    return f"{result.check}[{'-'.join(result.param.values())}]"


def render(
    result: Result, promise: str, environment: Mapping[str, str] | None = None, place: Place | None = None
) -> str:
    """Return the text of a broken promise, in a fixed order, without lines that have nothing to say.

    Parameters
    ----------
    result : Result
        Of verdict ``failed``.
    promise : str
        The check's promise, one sentence.
    environment : mapping, optional
        As `bscheck.runtime.environment.describe` gives it.
    place : Place, optional
        Where the failure is recorded; without it nothing is said about how to run it again.
    """
    failure = result.failure
    lines = [f"FAILED {name_of(result)}", *_field("Promise", promise)]
    if failure is None:
        return "\n".join([*lines, *_field("Seen", result.reason)])
    lines += _field("Seen", seen(failure.reading))
    lines += _field("Smallest", failure.situation)
    lines += _field("Where", "; ".join(filter(None, (failure.reading.where, failure.reading.cause))))
    lines += _field("Ablation", " · ".join(failure.ablation))
    lines += _field("Suspects", "; ".join(failure.suspects))
    lines += _field("Like", failure.like)
    lines += _field("Expired", failure.expired)
    lines += labelled(failure, place or Place())
    lines += _field("Environment", one_line_environment(environment or {}))
    return "\n".join(lines)


def labelled(failure: Failure, place: Place) -> list[str]:
    """Return the lines about what to run."""
    return [line for label, text in how_to_go_on(failure, place) for line in _field(label, text, wrap=False)]


def how_to_go_on(failure: Failure, place: Place) -> list[tuple[str, str]]:
    """Return what to run: the same case again, the stand-alone program, and what excuses it."""
    script = shlex.quote(f"{place.scripts}/{failure.script}") if failure.script and place.scripts else ""
    program = f"python {script}   (Keras and NumPy only)" if script else ""
    if failure.own_subject and script:
        program = f"python {script}   (imports your module, not bscheck)"
    if place.number is None or not place.record:
        return [("Run it", program)]
    own = f" --subjects {shlex.quote(place.subjects)}" if failure.own_subject and place.subjects else ""
    told = [("Run it", f"bscheck replay {place.case}{own}")]
    told += [("", program or (f"no stand-alone program: {failure.no_script}" if failure.no_script else ""))]
    return [*told, ("Intended?", f'bscheck waive {place.case} --reason "..." --expires YYYY-MM-DD')]


def seen(reading: Reading) -> str:
    """Return what was seen beside what is allowed."""
    text = reading.seen or "the difference is larger than its bound"
    notes = [f"allowed: {reading.allowed}"] if reading.allowed else []
    if math.isfinite(reading.share) and reading.share > 1:
        notes.append(f"{times(reading.share)} times the bound")
    return f"{text} ({'; '.join(notes)})" if notes else text


def times(share: float) -> str:
    """Return how many times the bound was exceeded: three digits, and no exponent below a million."""
    return f"{float(f'{share:.3g}'):.10g}" if share < 1e6 else f"{share:.3g}"


def one_line_environment(environment: Mapping[str, str]) -> str:
    """Return the environment as ``keras 3.15.1 · tensorflow 2.21.0 · cpu, 2 threads · float32, TF32 off``."""
    get = environment.get
    parts = [
        f"keras {get('keras')}" if get("keras") else "",
        f"{get('backend')} {get('backend_version', '')}".strip() if get("backend") else "",
        _device(environment),
        ", ".join(filter(None, (get("dtype"), f"TF32 {get('tf32')}" if get("tf32") else ""))),
    ]
    return " · ".join(filter(None, parts))


def _device(environment: Mapping[str, str]) -> str:
    device, name = environment.get("device", ""), environment.get("device_name", "")
    threads = environment.get("threads", "")
    shown = f"{device} ({name})" if name and name.lower() != device else device
    plural = "" if threads == "1" else "s"
    return ", ".join(filter(None, (shown, f"{threads} thread{plural}" if threads else "")))


def _field(label: str, text: str, *, wrap: bool = True) -> list[str]:
    """Return a labelled paragraph, indented; nothing where there is nothing to say. What is to be copied is not cut."""
    if not text.strip():
        return []
    indent = " " * (2 + _LABEL)
    first = f"  {label:<{_LABEL}}"
    if not wrap:
        return [first + text]
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )
