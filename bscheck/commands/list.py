"""``bscheck list``: what is promised, what is not, and why."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bscheck.errors import BscheckError

if TYPE_CHECKING:
    from bscheck.checks import Check, Param

_WIDTH = 100


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    listing = commands.add_parser(
        "list",
        help="the checks, or what one of them catches",
        description="Print the checks, or one of them.",
    )
    listing.add_argument("name", nargs="?", metavar="NAME", help="one check: what it catches, formula, source")
    views = listing.add_mutually_exclusive_group()
    views.add_argument("--why", action="store_true", help="what is not applicable to the installed Keras, and why")
    views.add_argument("--known", action="store_true", help="the known issues")
    views.add_argument("--contract", action="store_true", help="what Keras promises, and documents otherwise")
    listing.set_defaults(lines=_list)


def _list(given: argparse.Namespace) -> Iterable[str]:
    """Return the lines of ``bscheck list``."""
    from bscheck.checks import all_checks, get_check

    if given.name is not None and (given.why or given.known or given.contract):
        raise BscheckError("give either the NAME of a check or one of --why, --known, --contract")
    if given.name is not None:
        return _explained(get_check(given.name))
    views: dict[str, Callable[[Iterable[Check]], Iterable[str]]] = {
        "why": _why,
        "known": _known,
        "contract": _contract,
    }
    view = next((views[name] for name in views if getattr(given, name)), _table)
    return view(all_checks().values())


def _table(checks: Iterable[Check]) -> Iterator[str]:
    """Yield a row for each check, by family."""
    rows = [("check", "family", "claims", "promise")]
    rows += [(c.name, c.family, " ".join(c.claims), c.promise) for c in checks]
    yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the rows with all columns but the last padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*cells, row[-1]]).rstrip()


def _explained(check: Check) -> Iterator[str]:
    """Yield what is known of one check."""
    yield check.name
    fields = [
        ("promise", check.promise),
        ("family", check.family),
        ("claims", ", ".join(check.claims)),
        ("catches", check.catches),
        ("formula", check.formula),
        ("source", check.source),
        ("exception", check.exception),
        ("in place of", check.excepts),
        ("cases drawn", "{} quick, {} default, {} thorough, in each parameter".format(*check.examples)),
        (
            "own models",
            "yes, by parametrize_with_checks" if check.per_subject else "no: it asks nothing of a subject",
        ),
    ]
    for label, text in fields:
        yield from _labelled(label, text)
    if check.example:
        yield "  example failure"
        yield from textwrap.indent(textwrap.dedent(check.example).strip("\n"), "    ").splitlines()


def _labelled(label: str, text: str) -> list[str]:
    first = f"  {label:<12}"
    return _wrapped(" ".join(text.split()), first)


def _wrapped(text: str, first: str) -> list[str]:
    """Return the text in lines; a link stays whole, so that it can be followed."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _why(checks: Iterable[Check]) -> Iterator[str]:
    """Yield every parameter that a check does not apply to, with the reason; needs Keras."""
    skipped = asked = 0
    for check in checks:
        for param in check.params():
            asked += 1
            reason = _reason(check, param)
            if reason:
                skipped += 1
                yield f"{check.name}[{param.id}]"
                yield from _wrapped(reason, "    ")
    yield f"not applicable: {skipped} of {asked}"


def _reason(check: Check, param: Param) -> str | None:
    """Return why the check does not apply, or None."""
    from bscheck.items import new_context
    from bscheck.results.verdict import NotApplicable

    try:
        return check.applies(new_context(param, {}))
    except NotApplicable as error:
        return str(error)


def _known(checks: Iterable[Check]) -> Iterator[str]:
    """Yield the known issues: bscheck's own, and those of ``BSCHECK_KNOWN_ISSUES`` or of pyproject.toml."""
    from pathlib import Path

    from bscheck.options import read
    from bscheck.project import read_project
    from bscheck.results.known_issues import load_known_issues

    issues = load_known_issues(
        {check.name: check for check in checks}, *read({}, project=read_project(Path.cwd()).options).known_issues
    )
    for issue in issues:
        yield issue.id
        fields: list[tuple[str, Any]] = [
            ("check", issue.check),
            ("reason", issue.reason),
            (
                "where",
                ", ".join(f"{key}: {_condition(value)}" for key, value in issue.when.items()) or "everywhere",
            ),
            *([("shows", "in some runs only: one in which it does not proves nothing")] * issue.intermittent),
            ("link", issue.link),
        ]
        for label, text in fields:
            yield from _labelled(label, text)
    if not issues:
        yield "no known issues"


def _condition(value: Any) -> str:
    """Return one line of a condition in words."""
    if isinstance(value, dict):
        return " to ".join(str(value.get(key, "…")) for key in ("min", "max"))
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _contract(checks: Iterable[Check]) -> Iterator[str]:
    """Yield what Keras promises, then what it documents otherwise."""
    listed = list(checks)
    yield "Keras promises"
    yield from _aligned([(f"  {c.name}", c.promise) for c in listed if not c.exception] or [("  nothing", "")])
    yield "Keras documents otherwise; the documented behaviour is what is checked"
    for check in listed:
        if check.exception:
            yield f"  {check.name}"
            place = f" (in place of {check.excepts})" if check.excepts else ""
            text = f"{check.promise}: {check.exception}{place}"
            yield from _wrapped(text, "    ")
    if not any(check.exception for check in listed):
        yield "  nothing that is checked yet"
