"""What a run is told: options of pytest, then ``BSCHECK_*`` environment variables, then ``[tool.bscheck]``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bscheck.errors import BscheckError, unknown

PROFILES = ("quick", "default", "thorough")
TIMINGS = ("off", "report", "gate")
PREFIX = "BSCHECK_"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")

#: Option, its value's name in the help (none: a switch), whether it may be repeated, and the help itself.
OPTIONS: tuple[tuple[str, str | None, bool, str], ...] = (
    ("profile", "NAME", False, "how many cases are drawn: quick, default or thorough"),
    ("seed", "N", False, "seed of every property (default 0)"),
    ("known-issues", "FILE", True, "TOML file of known issues, beside those bscheck ships"),
    ("record", "FILE", False, "write every verdict and figure to this JSON file, also when interrupted"),
    ("repro", "DIR", False, "folder of stand-alone programs, one for each failure (default: repro beside the record)"),
    (
        "explain",
        "SECONDS",
        False,
        "what a run may spend on shrinking and explaining failures (default 300)",
    ),
    ("timing", "MODE", False, "off, report or gate (default: gate on a GPU, report elsewhere)"),
    ("timing-baseline", "FILE", False, "record of an earlier run whose times per batch size must not be exceeded"),
    ("require-gpu", None, False, "stop with an error where the backend sees no GPU"),
    ("check", "NAME", True, "run only this check"),
    ("trait", "NAME", True, "run only subjects with this trait, as probing finds it"),
    ("time-budget", "SECONDS", False, "seconds that one check may take on a subject of yours (default 300)"),
)

#: Options whose value names a file or a folder.
FILES = ("known-issues", "record", "repro", "timing-baseline")


@dataclass(frozen=True)
class Options:
    """The options of one run, validated; see `OPTIONS`."""

    profile: str = "default"
    seed: int = 0
    known_issues: tuple[Path, ...] = ()
    record: Path | None = None
    repro: Path | None = None
    explain: float = 300.0
    timing: str = "auto"
    timing_baseline: Path | None = None
    require_gpu: bool = False
    check: tuple[str, ...] = ()
    trait: tuple[str, ...] = ()
    time_budget: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the options as a JSON object."""
        return {
            "profile": self.profile,
            "seed": self.seed,
            "known_issues": [str(path) for path in self.known_issues],
            "timing": self.timing,
            "timing_baseline": str(self.timing_baseline) if self.timing_baseline else None,
            "repro": self.scripts_beside_record(),
            "explain": self.explain,
            "require_gpu": self.require_gpu,
            "check": list(self.check),
            "trait": list(self.trait),
            "time_budget": self.time_budget,
        }

    @property
    def scripts(self) -> Path | None:
        """The folder of stand-alone programs: as asked for, else beside the record; None: none are written."""
        if self.repro is None and self.record is not None:
            return self.record.parent / "repro"
        return self.repro

    def scripts_beside_record(self) -> str:
        """Return the folder of stand-alone programs as seen from the record's, "" for none."""
        if self.scripts is None:
            return ""
        start = self.record.parent if self.record is not None else Path.cwd()
        return os.path.relpath(self.scripts, start)


def option(name: str) -> str:
    """Return the command line's spelling of an option."""
    return f"--bscheck-{name}"


def variable(name: str) -> str:
    """Return the environment variable that gives an option's default."""
    return PREFIX + name.upper().replace("-", "_")


def field(name: str) -> str:
    """Return the option's field in `Options`."""
    return name.replace("-", "_")


def settings_in(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return every ``BSCHECK_*`` variable that is set."""
    return {key: environ[key] for key in sorted(environ) if key.startswith(PREFIX)}


def read(
    given: Mapping[str, Any], environ: Mapping[str, str] = os.environ, project: Mapping[str, Any] | None = None
) -> Options:
    """Return the options: those given on the command line, else the environment's, the project's, the defaults.

    Parameters
    ----------
    given : mapping
        Values by the options' field names; None or empty where an option was not given.
    environ : mapping, optional
        The environment variables.
    project : mapping, optional
        Values of the project's pyproject.toml or of a script's call, validated already.

    Raises
    ------
    BscheckError
        With one line that names the option or variable, what it has, and what would be right.
    """
    known = {variable(name): name for name, *_ in OPTIONS}
    values = {}
    for key, text in settings_in(environ).items():
        if key not in known:
            raise BscheckError(unknown("environment variable", key, known))
        repeatable = next(spec[2] for spec in OPTIONS if spec[0] == known[key])
        value = [part.strip() for part in text.split(",") if part.strip()] if repeatable else text
        values[field(known[key])] = parse(known[key], value, key)
    return Options(**(dict(project or {}) | values | parse_given(given)))


def parse_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command line's values, validated; only those given.

    Raises
    ------
    BscheckError
        With one line that names the option.
    """
    return {
        field(name): parse(name, given[field(name)], option(name))
        for name, *_ in OPTIONS
        if given.get(field(name)) not in (None, [], False)
    }


def parse(name: str, value: Any, source: str) -> Any:
    """Return an option's text (a list of texts where it may be repeated) as its type.

    Raises
    ------
    BscheckError
        With one line that names the source.
    """
    if name == "require-gpu":
        return _switch(value, source)
    if name == "timing-baseline":
        return _file(value, source)
    if name == "record":
        return Path(_filled(value, source)).absolute()
    if name == "repro":
        return _folder(value, source)
    parsers: dict[str, Callable[[Any], Any]] = {
        "profile": lambda text: _one_of(text, PROFILES, source, "profile"),
        "timing": lambda text: _one_of(text, TIMINGS, source, "timing mode"),
        "seed": lambda text: _seed(text, source),
        "known-issues": lambda files: tuple(_file(text, source) for text in files),
        "check": tuple,
        "trait": tuple,
        "explain": lambda text: _seconds(text, source, "what failures may take", least=0.0),
        "time-budget": lambda text: _seconds(text, source, "the time budget"),
    }
    return parsers[name](value)


def _one_of(text: str, valid: tuple[str, ...], source: str, kind: str) -> str:
    if text not in valid:
        raise BscheckError(f"{source}: {unknown(kind, text, valid)}")
    return text


def _seed(text: str, source: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise BscheckError(f"{source}: the seed must be an integer >= 0, not {text!r}")
    return int(text)


def _seconds(text: str, source: str, what: str, least: float | None = None) -> float:
    """Return a number of seconds: above 0, or from `least`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and (seconds > 0 or seconds == least)):
        bound = "> 0" if least is None else f">= {least:g}"
        raise BscheckError(f"{source}: {what} must be a number of seconds {bound}, not {text!r}")
    return seconds


def _switch(value: Any, source: str) -> bool:
    if value is True:
        return True
    if value.lower() not in _YES + _NO:
        raise BscheckError(f"{source}: must be 1 or 0, not {value!r}")
    return value.lower() in _YES


def _filled(text: str, source: str) -> str:
    if not text:
        raise BscheckError(f"{source}: give the name of a file")
    return text


def _folder(text: str, source: str) -> Path:
    path = Path(os.path.abspath(text)) if text else None
    if path is None or (path.exists() and not path.is_dir()):
        raise BscheckError(f"{source}: give the name of a folder{f'; {path} is a file' if path else ''}")
    return path


def _file(text: str, source: str) -> Path:
    path = Path(_filled(text, source)).absolute()
    if not path.is_file():
        raise BscheckError(f"{source}: there is no file {path}")
    return path
