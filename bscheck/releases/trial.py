"""One promise in the installed release, without excuses: run in an environment, says ``good``, ``bad`` or ``skip``.

``python -m bscheck.releases.trial JSON`` prints one line, ``TRIAL`` and a JSON object. With a case it runs that case
alone; without one it runs the check on the parameters asked for until one breaks, and tells the smallest case.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bscheck.checks import Check, Param

MARK = "TRIAL "


def main() -> None:
    """Read what to run from the command line and print what became of it."""
    asked = json.loads(sys.argv[1])
    importlib.import_module("keras")  # first, so that a release that cannot be imported says so
    from bscheck.checks import get_check

    print(MARK + json.dumps(tried(get_check(asked["check"]), asked)), flush=True)


def tried(check: Check, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the check on the parameters asked for."""
    params = [param for param in check.params() if selected(param, asked["param"])]
    if not params:
        return {"state": "skip", "reason": "it has no such parameter"}
    run = _case if asked["case"] is not None else _drawn
    seen: list[dict[str, Any]] = []
    for param in params:
        seen.append(run(check, param, asked))
        if seen[-1]["state"] == "bad":
            return seen[-1]
    good = next((one for one in seen if one["state"] == "good"), None)
    return good or seen[0]


def selected(param: Param, wanted: Mapping[str, str]) -> bool:
    """Whether a parameter has the members asked for; ``{"": VALUE}`` is a whole id."""
    members = param.as_dict()
    return all(param.id == value if kind == "" else members.get(kind) == value for kind, value in wanted.items())


def _case(check: Check, param: Param, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run one case."""
    from bscheck.diagnose import attempt
    from bscheck.items import new_context
    from bscheck.results.verdict import NotApplicable

    context = new_context(param, {})
    try:
        reason = check.applies(context)
        if not reason:
            reading = attempt(check, context, check.case.from_json(dict(asked["case"])))
    except NotApplicable as error:
        reason = str(error)
    if reason:
        return {"state": "skip", "reason": f"not applicable: {reason}"}
    state = "good" if reading.holds else "bad"
    return {"state": state, "param": param.as_dict(), "case": asked["case"], "seen": reading.seen}


def _drawn(check: Check, param: Param, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Run a check as the gate would, known issues included."""
    from bscheck.checks.run import RunSettings, run_check
    from bscheck.items import new_context
    from bscheck.results.verdict import Verdict

    settings = RunSettings(profile=asked["profile"], seed=asked["seed"], timing="off")
    result = run_check(check, new_context(param, {}), settings)
    if result.verdict == Verdict.NOT_APPLICABLE:
        return {"state": "skip", "reason": f"not applicable: {result.reason}"}
    if result.failure is None:
        return {"state": "good", "param": param.as_dict()}
    case = dict(result.failure.case) or None  # none where setting up failed
    return {"state": "bad", "param": param.as_dict(), "case": case, "seen": result.failure.reading.seen}


if __name__ == "__main__":
    main()
