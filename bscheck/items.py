"""The pytest items that bscheck collects, and how a result becomes an outcome."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import pytest

from bscheck.errors import BscheckError

if TYPE_CHECKING:
    from bscheck.checks import Check, Param
    from bscheck.checks.context import Context
    from bscheck.plugin import Session
    from bscheck.results.known_issues import KnownIssue
    from bscheck.results.verdict import Result

#: The item that is running, for `bscheck.parametrize`.
CURRENT_ITEM: ContextVar[pytest.Item | None] = ContextVar("bscheck_item", default=None)

#: Results of an item as JSON texts, what was found out about its subject, and the session's plugin.
RESULTS = pytest.StashKey[list[str]]()
FOUND = pytest.StashKey[list[str]]()
SESSION: pytest.StashKey[Session] = pytest.StashKey()

MARKER = "bscheck"


#: The configuration of the pytest run, for markers of families that it learns of late.
CONFIG: ContextVar[pytest.Config | None] = ContextVar("bscheck_config", default=None)


def announce(family: str) -> None:
    """Register the marker of a family, unless it is known: a team's own families are declared after the start."""
    config = CONFIG.get()
    if config is None:
        return
    known = [line.partition(":")[0] for line in config.getini("markers")]
    if marker_of(family) not in known:
        config.addinivalue_line("markers", f"{marker_of(family)}: a promise of the family {family!r}")


def marker_of(family: str) -> str:
    """Return the marker's name of a family, for ``-m``."""
    return f"{MARKER}_{''.join(c if c.isalnum() else '_' for c in family)}"


def marks_of(check: Check) -> list[pytest.MarkDecorator]:
    """Return the markers of a check: bscheck's own, its family's, and a filter of warnings."""
    # Keras's way to NumPy warns once for every array on NumPy 2, which is no news and slows the gate down.
    quiet = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
    return [getattr(pytest.mark, MARKER)(check=check.name), getattr(pytest.mark, marker_of(check.family)), quiet]


class BscheckItem(pytest.Item):
    """An item whose failures are told in bscheck's own words."""

    check: Check

    def _prepare(self, check: Check) -> None:
        self.check = check
        for mark in marks_of(check):
            self.add_marker(mark)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return where the item is, and the heading of its failure."""
        return self.path, 0, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the failure's text: no traceback, unless the bug is bscheck's own."""
        from bscheck.results.failure import PromiseBroken

        if isinstance(excinfo.value, PromiseBroken):
            # The heading above it has the first line's name already.
            return textwrap.dedent(str(excinfo.value).partition("\n")[2])
        if isinstance(excinfo.value, BscheckError):
            return f"bscheck: {excinfo.value}"
        return super().repr_failure(excinfo, style)


def _named(parent: pytest.Collector, name: str) -> dict[str, str]:
    """Return an item's name and id: from the name alone, pytest 9.2 would not see where its parameters begin."""
    return {"name": name, "nodeid": f"{parent.nodeid}::{name}"}


class PromiseItem(BscheckItem):
    """One check on one parameter."""

    param: Param

    @classmethod
    def of(cls, parent: pytest.Collector, check: Check, param: Param) -> Self:
        """Return the item, named ``check[param]``."""
        item = cls.from_parent(parent, **_named(parent, f"{check.name}[{param.id}]"))
        item.param = param
        item._prepare(check)
        return item

    def begin(self) -> None:
        """Have the corners worked on, where another process does that."""
        if self.check.begin is None:
            return
        context = new_context(self.param, self.config.stash[SESSION].context_options())
        if not self.check.applies(context):
            for case in self.check.corners(context):
                self.check.begin(case)

    def runtest(self) -> None:
        """Run the check and record its result."""
        from bscheck.checks.run import run_check

        session = self.config.stash[SESSION]
        context = new_context(self.param, session.context_options())
        conclude(self, self.check, run_check(self.check, context, session.settings()))


class KnownIssueItem(BscheckItem):
    """The pinned case of one known issue."""

    issue: KnownIssue

    @classmethod
    def of(cls, parent: pytest.Collector, issue: KnownIssue) -> Self:
        """Return the item, named ``known_issue[id]``."""
        from bscheck.checks import get_check

        item = cls.from_parent(parent, **_named(parent, f"known_issue[{issue.id}]"))
        item.issue = issue
        item._prepare(get_check(issue.check))
        return item

    def begin(self) -> None:
        """Have the pinned case worked on, where another process does that."""
        if self.check.begin is not None and not self.check.applies(self._context()):
            self.check.begin(self.check.case.from_json(dict(self.issue.case)))

    def runtest(self) -> None:
        """Run the pinned case and record whether the defect is still there."""
        from bscheck.checks.run import run_pinned

        absent = _absent_subject(self.issue)
        if absent:
            pytest.skip(f"its subject {absent!r} is not the gate's: its own tests run the pinned case")
        conclude(self, self.check, run_pinned(self.issue, self.check, self._context()))

    def _context(self) -> Context:
        from bscheck.checks import Param

        return new_context(Param(tuple(self.issue.param.items())), self.config.stash[SESSION].context_options())


def _absent_subject(issue: KnownIssue) -> str:
    """Return the name of the issue's subject where the gate has no such subject, else ""."""
    name = issue.param.get("subject", "")
    if not name:
        return ""
    from bscheck.reference_subjects import REFERENCE_SUBJECTS

    return "" if name in REFERENCE_SUBJECTS else name


def wordings(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return what is said of these checks, as JSON of `bscheck.results.coverage.Wording`."""
    from bscheck.checks import get_check
    from bscheck.results.coverage import Wording

    checks = map(get_check, dict.fromkeys(names))
    return {check.name: asdict(Wording(check.promise, check.exception)) for check in checks}


def new_context(param: Param, options: Mapping[str, str]) -> Context:
    """Return the context of one of the gate's parameters."""
    from bscheck.checks.context import Context

    return Context(param, options=options)


def conclude(item: pytest.Item | None, check: Check, result: Result) -> None:
    """Record a result on its item, then fail or skip as its verdict demands.

    Raises
    ------
    PromiseBroken
        When the promise is broken.
    """
    __tracebackhide__ = True
    from bscheck.results.failure import PromiseBroken, render
    from bscheck.results.verdict import Verdict

    environment: Mapping[str, str] = {}
    if item is not None:
        item.stash.setdefault(RESULTS, []).append(json.dumps(result.to_json()))
        item.user_properties += _figures(result)
        environment = item.config.stash[SESSION].environment
    if result.verdict == Verdict.FAILED:
        raise PromiseBroken(render(result, check.promise, environment), result)
    if result.verdict == Verdict.NOT_APPLICABLE:
        raise pytest.skip.Exception(f"not applicable: {result.reason}", _use_item_location=True)


def _figures(result: Result) -> list[tuple[str, object]]:
    """Return what JUnit shows as properties."""
    figures: list[tuple[str, object]] = [
        ("bscheck_verdict", result.verdict.value),
        ("bscheck_cases", result.cases),
        ("bscheck_worst_share", f"{result.worst.share:.6g}"),
        ("bscheck_seconds", f"{result.seconds:.3f}"),
    ]
    figures += [(f"bscheck_{name}", f"{value:.6g}") for name, value in result.worst.figures.items()]
    return figures
