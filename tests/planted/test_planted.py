"""Every planted fault is caught by the check that owns the promise, at default settings, with its message.

A fault alters Keras or the user's step, never bscheck. Slowdowns have a runner of their own, in
``test_timing_planted.py``: a verdict about time needs the machine's consent.
"""

import importlib.util
import re
from pathlib import Path

import pytest

from bscheck.checks import Param, all_checks, get_check
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.failure import render
from bscheck.results.known_issues import load_known_issues
from bscheck.results.verdict import Verdict

FOLDER = Path(__file__).parents[2] / "fixtures" / "planted"
FILES = sorted(path for path in FOLDER.rglob("*.py") if path.parent.name != "timing")

#: Verdicts of a check on a sound Keras; defects of the release itself are held.
SOUND = (Verdict.PASSED, Verdict.KNOWN_ISSUE, Verdict.EXCEPTION, Verdict.REPORTED)


def load(path):
    spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(defect):
    """Run the owning check on models built, traced and compiled on Keras as it is now."""
    forget()
    try:
        check = get_check(defect.CHECK)
        subject = getattr(defect, "SUBJECT", None)
        param = Param.of(**defect.PARAM)
        context = Context(param) if subject is None else Context.for_subject(subject(), param)
        return run_check(check, context, RunSettings(known_issues=load_known_issues(all_checks())))
    finally:
        forget()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_planted_fault_is_caught_with_its_message(path):
    defect = load(path)
    with defect.plant():
        result = run(defect)
    assert result.verdict == Verdict.FAILED
    text = " ".join(render(result, get_check(defect.CHECK).promise).split())
    assert re.search(defect.MESSAGE, text), text


#: Faults of a user's own step have no sound Keras to compare with: `tests/checks/test_own_step.py` has a sound step.
_OWNERS = {(d.CHECK, tuple(d.PARAM.items())): d for d in map(load, FILES) if not hasattr(d, "SUBJECT")}


@pytest.mark.parametrize("defect", _OWNERS.values(), ids=lambda d: "-".join([d.CHECK, *d.PARAM.values()]))
def test_keras_as_it_is_passes_the_owning_check(defect):
    assert run(defect).verdict in SOUND
