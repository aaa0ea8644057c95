"""Every planted slowdown is seen by its owning check under the gate: failed, or inconclusive for a reason.

These have a runner of their own: a verdict about time needs the machine's consent, so *inconclusive* is right
on a noisy one. *Passed* never is. The quick plan is used, whose power the default plan exceeds.
"""

import importlib.util
import os
import re
from pathlib import Path

import pytest

from bscheck.checks import Param, get_check, timing
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.measure.steps import Plan
from bscheck.results.failure import render
from bscheck.results.verdict import Verdict

FOLDER = Path(__file__).parents[2] / "fixtures" / "planted" / "timing"
SETTINGS = RunSettings(profile="quick", timing="gate")

#: What an inconclusive verdict may blame: the machine. That the fixed cost hides the batch size is no excuse
#: for missing a slowdown of this size.
THE_MACHINE = r"identical sizes|shown neither|whole instance|grow with work"

pytestmark = pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="timings are refused under xdist")


def load(path):
    spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _a_short_plan(monkeypatch):
    """Fewer rounds than the quick gate's: the planted slowdowns are large."""
    monkeypatch.setitem(timing.GATE, "quick", Plan(6, 16, 15.0))


def run(name, param, options):
    forget()
    try:
        return run_check(get_check(name), Context(Param.of(**param), options=options), SETTINGS)
    finally:
        forget()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_planted_slowdown_never_passes(path):
    defect = load(path)
    with defect.plant():
        result = run(defect.CHECK, defect.PARAM, defect.OPTIONS)
    assert result.verdict in (Verdict.FAILED, Verdict.INCONCLUSIVE)
    if result.verdict == Verdict.INCONCLUSIVE:
        assert re.search(THE_MACHINE, result.worst.cause)
        pytest.skip(f"inconclusive here: {result.worst.cause}")
    text = render(result, get_check(defect.CHECK).promise)
    assert re.search(defect.MESSAGE, " ".join(text.split()))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_keras_is_restored(path):
    import keras
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    def patched():
        return keras.layers.Dense.call, keras.layers.LSTMCell.call, BaseOptimizer.apply

    before = patched()
    with load(path).plant():
        assert patched() != before
    assert patched() == before


def test_a_report_cannot_fail():
    defect = load(FOLDER / "odd_batches_multiply_copies.py")
    forget()
    with defect.plant():
        context = Context(Param.of(**defect.PARAM), options={"timing": "report"})
        settings = RunSettings(profile="quick", timing="report")
        result = run_check(get_check(defect.CHECK), context, settings)
    forget()
    assert result.verdict == Verdict.REPORTED
    assert re.search(r"vs \d+: |no verdict", result.worst.seen)


@pytest.mark.parametrize("check", [
    "odd_batch_is_not_dearer_than_padding_to_the_next_power_of_two",
    "batch_is_not_dearer_than_the_parts_it_could_be_split_into",
])  # fmt: skip
def test_keras_as_it_is_raises_no_alarm(check):
    context = Context(Param.of(subject="dense"), options={"timing": "gate"})
    result = run_check(get_check(check), context, SETTINGS)
    assert result.verdict in (Verdict.PASSED, Verdict.INCONCLUSIVE)
