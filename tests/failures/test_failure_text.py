"""The text of a failure, as a whole: one planted fault for each kind of promise, and the file that it must equal.

Figures depend on the machine's arithmetic, so numbers with a fraction are shown as ``#``. After a change that is meant,
``BSCHECK_GOLDEN=write`` writes the files anew (then read the difference).
"""

import functools
import importlib.util
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from bscheck.cases import Case
from bscheck.checks import Check, Param, get_check
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.failure import Place, render
from bscheck.results.verdict import Reading, Result

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "fixtures" / "golden" / "failures"
WRITE = os.environ.pop("BSCHECK_GOLDEN", "") == "write"

ENVIRONMENT = {
    "keras": "3.15.1", "backend": "tensorflow", "backend_version": "2.21.0", "device": "cpu", "threads": "2",
    "dtype": "float32", "tf32": "off",
}  # fmt: skip

PLANTED = (
    "accumulation/decay_on_every_micro_batch",
    "accumulation/last_micro_batch_counts_double",
    "accumulation/own_step_sums_instead_of_averaging",
    "accumulation/own_step_weighs_ragged_micro_batches_equally",
    "independence/rows_reversed_in_batches_of_three",
    "independence/evaluated_loss_is_a_mean_of_batches",
    "independence/masked_predictions_still_count",
    "independence/masked_rows_are_counted",
    "tiny_batches/bias_correction_one_update_late",
)


def load(name: str) -> Any:
    """Return a planted fault's module."""
    path = ROOT / "fixtures" / "planted" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def broken(name: str) -> Result:
    """Run the check that owns a planted fault's promise; its corners suffice."""
    defect = load(name)
    forget()
    try:
        check, param, subject = get_check(defect.CHECK), Param.of(**defect.PARAM), getattr(defect, "SUBJECT", None)
        context = Context(param) if subject is None else Context.for_subject(subject(), param)
        with defect.plant():
            return run_check(check, context, RunSettings(max_examples=0))
    finally:
        forget()


def told(result: Result, promise: str) -> str:
    """Return the text with the figures that depend on the machine left out."""
    known = replace(result.failure, like=re.sub(r"installed: \S+", "installed: 3.15.1", result.failure.like))
    place = Place("run.json", 17, "repro", "tests/test_gate.py")
    text = render(replace(result, failure=known), promise, ENVIRONMENT, place)
    head, _, environment = text.rpartition("\n")
    # Where a line is wrapped depends on the figures' lengths.
    head = re.sub(r"\n {14}(?!python|no stand-alone)", " ", head)
    number = r"(?<![\d.])(\d+\.\d+(e[-+]\d+)?|\d+e[-+]\d+)(?![\d.])"  # not 3.5.0
    head = re.sub(r"\d+ times the bound|#e\S+ times", "# times the bound", re.sub(number, "#", head))
    return f"{head}\n{environment}\n"


def assert_golden(name: str, text: str) -> None:
    """Compare with the file of this name."""
    path = GOLDEN / f"{name}.txt"
    if WRITE:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PLANTED, ids=lambda name: name.rpartition("/")[2])
def test_text_of_a_planted_fault(name: str) -> None:
    result = broken(name)
    assert_golden(name.rpartition("/")[2], told(result, get_check(result.check).promise))


@dataclass(frozen=True)
class FakeContext:
    """As much of a context as the runner uses."""

    param: Param = field(default_factory=lambda: Param.of(subject="dense"))
    environment: Any = field(default_factory=lambda: ENVIRONMENT)
    facts: Any = field(default_factory=dict)

    def relieve(self) -> None:
        """Compile nothing, so there is nothing to make room for."""


def test_text_of_an_answer_that_changes() -> None:
    seen: set[Case] = set()

    def function(context: Any, case: Case) -> Reading:
        first = case not in seen
        seen.add(case)
        return Reading(7.5 if first else 0.125, seen="off by 2")

    check = Check(
        "parts_add_up", "The parts add up", "accumulation", (), function, Case,
        lambda context: st.builds(Case, seed=st.integers(0, 5)), list, lambda context: (), lambda context: None,
        (5, 5, 5), "", "", "", "",
    )  # fmt: skip
    result = run_check(check, FakeContext(), RunSettings())
    assert not result.failure.steady
    assert_golden("answer_that_changes", told(result, check.promise))


def test_failure_without_a_record_says_nothing_of_one() -> None:
    result = broken("accumulation/last_micro_batch_counts_double")
    text = render(result, "promise", ENVIRONMENT)
    assert "Run it" not in text
    assert "Intended?" not in text


def test_result_is_the_same_after_a_journey_through_the_record() -> None:
    result = broken("accumulation/last_micro_batch_counts_double")
    again = Result.from_json(result.to_json())
    assert render(again, "promise", ENVIRONMENT) == render(result, "promise", ENVIRONMENT)
