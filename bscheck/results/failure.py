"""The text of a broken promise."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

from bscheck.results.verdict import Reading, Result

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


def name_of(result: Result) -> str:
    """Return the result's name as pytest shows it: ``check[param]``."""
    return f"{result.check}[{'-'.join(result.param.values())}]"


def render(result: Result, promise: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the text of a broken promise, in a fixed order, without lines that have nothing to say.

    Parameters
    ----------
    result : Result
        Of verdict ``failed``.
    promise : str
        The check's promise, one sentence.
    environment : mapping, optional
        As `bscheck.runtime.environment.describe` gives it.
    """
    failure = result.failure
    lines = [f"FAILED {name_of(result)}", *_field("Promise", promise)]
    if failure is None:
        return "\n".join([*lines, *_field("Seen", result.reason)])
    lines += _field("Seen", seen(failure.reading))
    lines += _field("Smallest", failure.situation)
    lines += _field("Where", "; ".join(filter(None, (failure.reading.where, failure.reading.cause))))
    lines += _field("Ablation", " · ".join(failure.ablation))
    lines += _field("Like", failure.like)
    lines += _field("Environment", one_line_environment(environment or {}))
    return "\n".join(lines)


def seen(reading: Reading) -> str:
    """Return what was seen beside what is allowed."""
    text = reading.seen or "the difference is larger than its bound"
    notes = [f"allowed: {reading.allowed}"] if reading.allowed else []
    if math.isfinite(reading.share) and reading.share > 1:
        notes.append(f"{reading.share:.3g} times the bound")
    return f"{text} ({'; '.join(notes)})" if notes else text


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


def _field(label: str, text: str) -> list[str]:
    """Return a labelled paragraph, wrapped and indented; nothing where there is nothing to say."""
    if not text.strip():
        return []
    indent = " " * (2 + _LABEL)
    first = f"  {label:<{_LABEL}}"
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    )
