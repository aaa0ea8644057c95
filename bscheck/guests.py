"""Teams' own subjects in a pytest run: what they are held to, what is told of them first, and how they are stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bscheck.items import CURRENT_ITEM, FOUND, MARKER

if TYPE_CHECKING:
    import pytest

    from bscheck.checks import Check
    from bscheck.checks.context import Context
    from bscheck.limits import OutOfBudget
    from bscheck.plugin import Session
    from bscheck.subject import Subject
    from bscheck.subject_runs import Terms


@dataclass(eq=False)
class Guests:
    """What one pytest session knows of teams' own subjects.

    Attributes
    ----------
    session : Session
    seen : list of (Subject, OutOfBudget or None)
        Those that were looked at, and what spent their budget while they were.
    told : list of str
        Names of those of which was told what was found.
    """

    session: Session
    seen: list[tuple[Subject, OutOfBudget | None]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def terms(self, check: Check, subject: Subject | None = None) -> Terms:
        """Return what the run holds a team's subject to."""
        from bscheck.subject_runs import Terms

        return Terms(
            self.session.settings(),
            self.session.project.promises,
            self.session.context_options(),
            self.session.read_options().time_budget,
            None if subject is None else lambda words: self._end_process(check, subject, words),
        )

    def look_at(self, subject: Subject, context: Context, terms: Terms) -> OutOfBudget | None:
        """Look at a subject and tell what was found, the first time; return what its budget was spent on, if it was."""
        from bscheck.limits import OutOfBudget
        from bscheck.subject_runs import choose, look

        if not any(each is subject for each, _ in self.seen):
            spent = None
            try:
                found = look(subject, choose(self._asked_of(subject), None, "pytest"), context, terms).lines()
                self.tell(subject.name, found)
            except OutOfBudget as error:
                spent = error
            self.seen.append((subject, spent))
        return next(spent for each, spent in self.seen if each is subject)

    def _asked_of(self, subject: Subject) -> list[str] | None:
        """Return the names of the checks that this run asks of a subject; None where a test calls them otherwise."""
        asked = [check_name(item) for item in self.session.items if params_of(item).get("subject") is subject]
        return list(dict.fromkeys(filter(None, asked))) or None

    def tell(self, name: str, lines: list[str]) -> None:
        """Print what was found about a subject at once; a worker of pytest-xdist leaves that to its controller."""
        item = CURRENT_ITEM.get()
        if self.session.is_worker and item is not None:
            item.stash[FOUND] = lines
            return
        if name in self.told:
            return
        self.told.append(name)
        reporter = self.session.config.pluginmanager.get_plugin("terminalreporter")
        capture = self.session.config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line("")  # without a path before them, the letters of a quiet run end no line
                for line in lines:
                    reporter.write_line(line)

    def _end_process(self, check: Check, subject: Subject, words: str) -> None:
        """End a process whose main thread is stuck, after the record is written; under xdist, the worker's alone."""
        from bscheck.limits import OutOfBudget
        from bscheck.subject_runs import overrun

        result = overrun(check, subject, OutOfBudget(words))
        item = CURRENT_ITEM.get() or self.session.running
        nodeid = "" if item is None else item.nodeid
        with suppress(Exception):
            capture = self.session.config.pluginmanager.get_plugin("capturemanager")
            if capture is not None:
                capture.suspend_global_capture(in_=True)
            print(f"\nbscheck: FAILED {nodeid}: {words}; the process is ended", file=sys.stderr, flush=True)
        with suppress(Exception):
            self.session.results.append({**result.to_json(), "nodeid": nodeid})
            if self.session.read_options().record is not None and not self.session.is_worker:
                self.session.write(self.session.read_options(), interrupted=True)
        os._exit(1)


def check_name(item: pytest.Item) -> str:
    """Return the name of an item's check, "" where it has none."""
    marker = item.get_closest_marker(MARKER)
    return str(marker.kwargs.get("check", "")) if marker else ""


def params_of(item: pytest.Item) -> Mapping[str, Any]:
    """Return what an item is parametrized with."""
    spec = getattr(item, "callspec", None)
    return {} if spec is None else spec.params


def having(session: Session, traits: tuple[str, ...]) -> Callable[[pytest.Item], bool]:
    """Return whether an item is about a subject with all these traits; its subject is built to find out."""
    from bscheck.checks import get_check
    from bscheck.inspection import check_trait, traits_of
    from bscheck.parametrize import context_of_item

    wanted = {check_trait(name) for name in traits}
    known: dict[Any, set[str]] = {}

    def has(item: pytest.Item) -> bool:
        key, context = context_of_item(item, session.guests.terms(get_check(check_name(item))))
        if context is None:
            return False
        if key not in known:
            known[key] = set(traits_of(context))
        return wanted <= known[key]

    return has
