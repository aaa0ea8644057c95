"""``bscheck bisect``: the release that broke a promise, or fixed it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bscheck.commands.releases import add_shared, tell
from bscheck.errors import BscheckError

if TYPE_CHECKING:
    from bscheck.releases.bisect import Found, Question, Search
    from bscheck.releases.combination import Combination

_PACKAGES = ("keras", "keras-nightly", "tensorflow", "jax", "torch")
_EPILOG = """\
The smallest case that breaks on the bad end is found first; the releases between are asked about that case alone, all
with one and the same backend. Where the good release is the newer one, the fix is looked for. What was seen is kept:
the same command goes on where it stopped.

exit codes: 0 found, 3 not settled (a release between could not be tried, or something is missing), 4 bad input
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bisect",
        help="the release that broke a promise, or fixed it",
        description="Find the first release on which a promise is broken, or holds again, in the fewest runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("check", metavar="CHECK", help="a promise of bscheck list")
    parser.add_argument("--good", metavar="V", required=True, help="a release where it holds")
    parser.add_argument("--bad", metavar="V", required=True, help="a release where it is broken")
    parser.add_argument("--param", metavar="KIND=NAME", action="append", help="only this parameter (optimizer=adam)")
    parser.add_argument("--case", metavar="JSON", help="the case to run, as a record has it under failure")
    parser.add_argument("--package", choices=_PACKAGES, default="keras", help="whose releases (default keras)")
    parser.add_argument("--keras", metavar="V", help="Keras beside another package (default: the newest that works)")
    for backend in ("tensorflow", "jax", "torch"):
        text = f"run on {backend}, this release (default: the newest that works with the oldest Keras)"
        parser.add_argument(f"--{backend}", metavar="V", nargs="?", const="", help=text)
    parser.add_argument("--profile", choices=("quick", "default", "thorough"), default="quick", help="cases at the end")
    parser.add_argument("--trust-ends", action="store_true", help="do not run the two ends first")
    parser.add_argument("--again", action="store_true", help="forget what was seen before")
    add_shared(parser)
    parser.set_defaults(lines=_bisect)


def _bisect(given: argparse.Namespace) -> Iterator[str | int]:
    """Yield the answer of ``bscheck bisect``, and its exit code; progress goes to standard error."""
    from bscheck.checks import get_check
    from bscheck.releases import uv
    from bscheck.releases.bisect import Search
    from bscheck.releases.cache import default_cache, made
    from bscheck.signals import ended_by_sigterm

    get_check(given.check)
    question = _question(given)
    uv.program()
    search = Search(question, made(given.cache or default_cache()), tell, given.trust_ends, given.again)
    try:
        with ended_by_sigterm():
            found = search.run()
    except uv.UnavailableError as error:
        tell(f"{error}; run the same command again to go on")
        yield 3
        return
    except OSError as error:
        tell(f"{error.strerror or error}; run the same command again to go on")
        yield 3
        return
    finally:
        search.processes.stop()
    yield from _told(question, search, found)
    yield 3 if found.between else 0


def _told(question: Question, search: Search, found: Found) -> Iterator[str]:
    """Yield the answer in words."""
    what, other = ("good", "bad") if question.fix else ("bad", "good")
    name = question.distribution
    if found.between:
        yield f"the first {what} release is {found.first}, or one before it that could not be tried"
        yield f"  {name} {found.last}: the last {other} one"
        yield from (f"  {name} {release}: {reason}" for release, reason in found.between)
    else:
        yield f"first {what} release: {name} {found.first} (last {other}: {found.last}), {search.runs} runs"
    case = question.case or search.document["case"]
    param = search.document.get("param") or question.param
    members = ", ".join(f"{kind}={value}" if kind else value for kind, value in param.items()) or "every parameter"
    yield f"  {question.check}: {members}{', case ' + json.dumps(case) if case else ''}"
    if case:
        yield "  asked about that case alone; other cases may break the promise in other releases"


def _question(given: argparse.Namespace) -> Question:
    """Return what is asked, validated."""
    from bscheck.releases.bisect import Question

    for end in ("good", "bad"):
        _version(getattr(given, end), f"--{end}")
    return Question(
        check=given.check,
        package=given.package,
        good=given.good,
        bad=given.bad,
        combination=_combination(given),
        param=_param(given.param or ()),
        case=_case(given.case, given.check),
        profile=given.profile,
    )


def _combination(given: argparse.Namespace) -> Combination:
    from bscheck.releases.combination import BACKENDS, crossed

    named = {backend: getattr(given, backend) for backend in BACKENDS}
    asked = [backend for backend in BACKENDS if named[backend] is not None]
    if given.package in BACKENDS:
        if asked and asked != [given.package]:
            raise BscheckError(f"--package {given.package} runs on {given.package}, not on {asked[0]}")
        named = {backend: "" if backend == given.package else None for backend in BACKENDS}
    elif len(asked) > 1:
        raise BscheckError(f"give one backend, not {' and '.join(asked)}")
    if given.keras is not None and given.package not in BACKENDS:
        raise BscheckError("--keras is for --package tensorflow, jax or torch; Keras is what is bisected")
    keras = f"keras=={_version(given.keras, '--keras')}" if given.keras is not None else "keras"
    backends = {backend: None if value is None else [value] for backend, value in named.items()}
    return crossed([keras], backends, python=given.python, extras=given.extras or ())[0]


def _version(text: str, option: str) -> str:
    from packaging.version import InvalidVersion, Version

    try:
        return str(Version(text))
    except InvalidVersion:
        raise BscheckError(f"{option}: {text!r} is no version; give 3.14.1 or the like") from None


def _param(given: Sequence[str]) -> dict[str, str]:
    """Return the parameter's members; a text without ``=`` is a whole id."""
    pairs = [text.partition("=") if "=" in text else ("", "=", text) for text in given]
    return {kind: value for kind, _, value in pairs}


def _case(text: str | None, check: str) -> dict[str, Any] | None:
    from bscheck.checks import get_check

    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BscheckError(f"--case: is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BscheckError('--case: must be a JSON object such as {"micro_batches": 2}')
    get_check(check).case.from_json(document)
    return document
