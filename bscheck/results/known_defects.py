"""Known defects of past and present releases: what a failure looks like. They excuse nothing; known issues do.

The table is ``bscheck/data/known_defects.toml``, whose head documents the format.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bscheck.results.known_issues import matches

#: The table that travels with bscheck.
PACKAGED = Path(__file__).resolve().parent.parent / "data" / "known_defects.toml"


@dataclass(frozen=True)
class KnownDefect:
    """A defect that Keras had or has.

    Attributes
    ----------
    id, title, link : str
        Its name, what is wrong in one line, and where that is reported.
    checks : tuple of str
        The checks that it breaks.
    fixed_in : str
        The first release without it, "" where there is none yet.
    when : mapping
        The condition on the parameter and the case, as a known issue has it.
    suspects : tuple of str
        Explanations (`bscheck.checks.suspects`) of which one must have been found; any will do where there are none.
    """

    id: str
    title: str
    link: str
    checks: tuple[str, ...]
    fixed_in: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    suspects: tuple[str, ...] = ()

    def fits(self, check: str, situation: Mapping[str, Any], suspects: Sequence[str]) -> bool:
        """Whether a failure of the check in this situation, with these suspects, looks like the defect."""
        explained = not self.suspects or bool(set(self.suspects) & set(suspects))
        return check in self.checks and explained and matches(self.when, situation)


@functools.cache
def known_defects(path: Path = PACKAGED) -> tuple[KnownDefect, ...]:
    """Return the table."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["defect"]
    return tuple(map(_defect, entries))


def _defect(entry: Mapping[str, Any]) -> KnownDefect:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return KnownDefect(**fields)


def like(check: str, situation: Mapping[str, Any], suspects: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the known defects that a failure looks like, beside the installed release; "" for none.

    Parameters
    ----------
    check : str
        The check that failed.
    situation : mapping
        The parameter's members and the case's fields.
    suspects : sequence of str
        Names of the explanations that were found.
    environment : mapping
        As `bscheck.runtime.environment.describe` gives it.
    """
    found = [d for d in known_defects() if d.fits(check, situation, suspects)]
    told = [f'known defect "{d.title}" ({f"fixed in {d.fixed_in}" if d.fixed_in else "open"})' for d in found]
    if not told:
        return ""
    return f"{' and '.join(told)}; installed: {environment.get('keras', 'unknown')}"
