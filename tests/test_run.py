"""The property runner, on checks that need no Keras."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bscheck import diagnose
from bscheck.cases import Case, InferenceCase
from bscheck.checks import Check, Param, run
from bscheck.checks.run import DRAWN_AFTER_A_CORNER, RunSettings, derive_seed, run_check, run_pinned
from bscheck.errors import SubjectError
from bscheck.limits import Allowance, Budget
from bscheck.results.known_issues import KnownIssue
from bscheck.results.verdict import NotApplicable, Reading, Verdict

HERE = str(Path(__file__).parent)


@dataclass(frozen=True, kw_only=True)
class FakeCase(Case):
    """A number of micro-batches and an option."""

    micro_batches: int = 2
    decay: str = "none"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"decay": ("none", "on")}


@dataclass(frozen=True)
class FakeContext:
    """As much of a context as the runner uses."""

    param: Param = field(default_factory=lambda: Param.of(subject="dense", optimizer="adam"))
    environment: Mapping[str, str] = field(
        default_factory=lambda: {"keras": "3.15.1", "backend": "tensorflow", "device": "cpu"}
    )
    facts: Mapping[str, str] = field(default_factory=dict)

    def relieve(self) -> None:
        """Compile nothing, so there is nothing to make room for."""


def draw(context: Any) -> Any:
    """Draw a number of micro-batches and an option."""
    return st.builds(
        FakeCase,
        seed=st.integers(0, 2**16 - 1),
        micro_batches=st.integers(2, 60),
        decay=st.sampled_from(["none", "on"]),
    )


def make(function: Callable[[Any, Any], Reading], **changes: Any) -> Check:
    """Return an unregistered check."""
    fields: dict[str, Any] = {
        "name": "parts_add_up",
        "promise": "the parts add up",
        "family": "accumulation",
        "claims": ("C1",),
        "function": function,
        "case": FakeCase,
        "cases": draw,
        "params": lambda: [Param()],
        "corners": lambda context: (),
        "applies": lambda context: None,
        "examples": (5, 30, 200),
        "catches": "", "formula": "", "source": "", "example": "",
    }  # fmt: skip
    return Check(**(fields | changes))


def go(check: Check, context: Any = None, **settings: Any) -> Any:
    """Run a check on the fake context."""
    return run_check(check, context or FakeContext(), RunSettings(**settings))


def breaks_at_seven(context: Any, case: FakeCase) -> Reading:
    """Break from seven micro-batches with weight decay."""
    broken = case.micro_batches >= 7 and case.decay == "on"
    return Reading(3.0 if broken else case.micro_batches / 100, where="kernel[0]", seen="off by 1")


def test_passing_check_counts_its_cases_and_keeps_the_worst() -> None:
    result = go(make(lambda context, case: Reading(case.micro_batches / 100)))
    assert result.verdict == Verdict.PASSED
    assert 20 < result.cases <= 30
    assert 0.02 <= result.worst.share <= 0.6
    assert result.worst_case.startswith("dense, adam, ")
    assert f"micro_batches={round(100 * result.worst.share)}" in result.worst_case


def test_failure_shrinks_to_the_smallest_case_and_is_ablated() -> None:
    result = go(make(breaks_at_seven))
    assert result.verdict == Verdict.FAILED
    assert result.failure.case == {"seed": 0, "micro_batches": 7, "decay": "on"}
    assert result.failure.situation == "dense, adam, seed 0, micro_batches=7, decay=on"
    assert result.failure.ablation == ("decay=none: passes",)
    assert result.worst.share == 3.0


def test_violated_corner_is_made_smaller_by_drawing() -> None:
    result = go(make(breaks_at_seven, corners=lambda context: (FakeCase(micro_batches=50, decay="on"),)))
    assert result.failure.case == {"seed": 0, "micro_batches": 7, "decay": "on"}


def test_violated_corner_is_the_failure_where_no_drawn_case_fails() -> None:
    corners = (FakeCase(micro_batches=3), FakeCase(micro_batches=50, decay="on"))
    seen: list[FakeCase] = []

    def function(context: Any, case: FakeCase) -> Reading:
        seen.append(case)
        return Reading(3.0 if case == corners[1] else 0.1)

    result = go(make(function, corners=lambda context: corners))
    assert result.failure.case["micro_batches"] == 50
    assert seen[:2] == [*corners]
    assert len(seen) <= 2 + DRAWN_AFTER_A_CORNER + 1  # the last one is the ablation


def test_nothing_is_drawn_after_a_violated_corner_once_the_time_for_failures_is_spent() -> None:
    seen: list[FakeCase] = []

    def function(context: Any, case: FakeCase) -> Reading:
        seen.append(case)
        return breaks_at_seven(context, case)

    corner = FakeCase(micro_batches=50, decay="on")
    result = go(make(function, corners=lambda context: (corner,)), explaining=Allowance(0.0))
    assert result.failure.case["micro_batches"] == 50
    assert seen == [corner]


def test_repeated_case_neither_runs_nor_counts_again() -> None:
    ran: list[FakeCase] = []

    def function(context: Any, case: FakeCase) -> Reading:
        ran.append(case)
        return Reading(0.0)

    few = lambda context: st.integers(0, 10**6).map(lambda n: FakeCase(micro_batches=2 + n % 3))  # noqa: E731
    result = go(make(function, cases=few))
    assert len(ran) == len(set(ran)) == result.cases <= 3


@pytest.mark.parametrize("share", [float("nan"), float("inf"), 1.0000001])
def test_share_above_one_or_not_a_number_breaks_the_promise(share: float) -> None:
    assert go(make(lambda context, case: Reading(share))).verdict == Verdict.FAILED


def test_share_of_exactly_one_holds() -> None:
    assert go(make(lambda context, case: Reading(1.0))).verdict == Verdict.PASSED


def test_exception_of_somebody_elses_code_is_a_failure_that_says_who_raised() -> None:
    def function(context: Any, case: FakeCase) -> Reading:
        raise ValueError("shapes (2,) and (3,)\nnot aligned")

    result = go(make(function))
    assert result.verdict == Verdict.FAILED
    assert result.failure.reading.seen.startswith("test_run.py:")
    assert result.failure.reading.seen.endswith("raised ValueError: shapes (2,) and (3,) not aligned")


def test_numpy_is_named_when_it_raises() -> None:
    import numpy as np

    result = go(make(lambda context, case: np.testing.assert_equal(1, 2)))
    assert "NumPy raised AssertionError" in result.failure.reading.seen


def test_exception_raised_by_bscheck_itself_is_no_finding() -> None:
    from bscheck.subject import examples

    with pytest.raises(IndexError):
        go(make(lambda context, case: examples(())))


def test_bad_input_propagates_at_once() -> None:
    calls = []

    def function(context: Any, case: FakeCase) -> Reading:
        calls.append(case)
        raise SubjectError("build= returns a shared instance")

    with pytest.raises(SubjectError, match="shared instance"):
        go(make(function))
    assert len(calls) == 1


def test_keyboard_interrupt_propagates() -> None:
    def function(context: Any, case: FakeCase) -> Reading:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(make(function))


def test_not_applicable_comes_with_its_reason() -> None:
    def function(context: Any, case: FakeCase) -> Reading:
        raise NotApplicable("no XLA on this device")

    for check in (make(function), make(breaks_at_seven, applies=lambda context: "no XLA on this device")):
        result = go(check)
        assert (result.verdict, result.reason) == (Verdict.NOT_APPLICABLE, "no XLA on this device")
        assert result.cases == 0


def test_failures_are_told_without_a_cause_once_the_allowance_is_spent() -> None:
    allowance = Allowance(0.05)
    slow = make(lambda context, case: (time.sleep(0.03), breaks_at_seven(context, case))[1])
    first = go(slow, explaining=allowance)
    assert first.failure.ablation
    assert allowance.left == 0
    later = go(slow, explaining=allowance)
    assert later.verdict == Verdict.FAILED
    assert later.failure.ablation == ()
    assert later.failure.no_script == (
        "the 0.05 s of this run for its failures are spent (--bscheck-explain; later: bscheck replay --script DIR)"
    )


def test_not_applicable_met_while_shrinking_does_not_excuse_the_failure() -> None:
    met = []

    def function(context: Any, case: FakeCase) -> Reading:
        if 2 < case.micro_batches < 7:
            met.append(case)
            raise NotApplicable("too few")
        return Reading(2.0 if case.micro_batches >= 7 else 0.0)

    result = go(make(function, cases=lambda context: st.builds(FakeCase, micro_batches=st.integers(2, 10**6))))
    assert met
    assert result.failure.case["micro_batches"] == 7


def test_exception_while_setting_up_is_a_failure_without_a_case() -> None:
    def corners(context: Any) -> Sequence[Case]:
        raise RuntimeError("cannot build")

    result = go(make(breaks_at_seven, corners=corners))
    assert result.failure.situation == "dense, adam, while setting up"
    assert "RuntimeError: cannot build" in result.failure.reading.seen


def test_answer_that_changes_is_told_as_not_reproducible_with_both_readings() -> None:
    seen: set[FakeCase] = set()

    def function(context: Any, case: FakeCase) -> Reading:
        first = case not in seen
        seen.add(case)
        return Reading(7.5 if first and case.micro_batches > 20 else 0.125, seen="off by 2")

    failure = go(make(function)).failure
    assert failure.reading.seen == (
        "not reproducible: the case broke the promise (share 7.5 of the bound: off by 2) "
        "and held when run again (share 0.125)"
    )
    assert failure.ablation == ()


def test_shrinking_stops_in_time_with_the_smallest_case_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
    result = go(make(breaks_at_seven))
    assert result.verdict == Verdict.FAILED
    assert result.failure.case["decay"] == "on"
    assert result.failure.case["micro_batches"] >= 7


def known(**when: Any) -> KnownIssue:
    """Return a known issue of the fake check."""
    return KnownIssue(
        "decay-breaks", "parts_add_up", "decay breaks it", "https://example.org/1", when,
        {"subject": "dense", "optimizer": "adam"}, {"decay": "on", "micro_batches": 9},
        "file.toml: issue 'decay-breaks'",
    )  # fmt: skip


def test_cases_of_a_known_issue_are_held_and_counted() -> None:
    issue = known(decay="on", keras=">=3.15,<3.16", optimizer=["adam", "adamw"], micro_batches={"min": 7})
    result = go(make(breaks_at_seven), known_issues=(issue,))
    assert result.verdict == Verdict.KNOWN_ISSUE
    assert 0 < result.held["decay-breaks"] < result.cases
    assert result.worst.share <= 0.6  # what is held is not held against the bound


def test_known_issue_does_not_hide_a_failure_beside_it() -> None:
    issue = known(decay="on", micro_batches={"min": 7, "max": 20})
    failure = go(make(breaks_at_seven), known_issues=(issue,)).failure
    assert failure.case["micro_batches"] == 21


def test_known_issue_of_another_release_holds_nothing() -> None:
    issue = known(decay="on", keras="<3.15")
    assert go(make(breaks_at_seven), known_issues=(issue,)).verdict == Verdict.FAILED


def test_pinned_case_that_still_fails_is_held() -> None:
    result = run_pinned(known(keras=">=3.15"), make(breaks_at_seven), FakeContext())
    assert (result.verdict, result.family) == (Verdict.KNOWN_ISSUE, "known issues")
    assert result.reason == "decay-breaks: still fails"


def test_pinned_case_that_passes_fails_the_run_and_names_the_entry() -> None:
    result = run_pinned(known(), make(lambda context, case: Reading(0.1)), FakeContext())
    assert result.verdict == Verdict.FAILED
    assert result.reason == (
        "known issue 'decay-breaks' is fixed here: delete its entry in file.toml: issue 'decay-breaks'"
    )


def test_pinned_case_of_an_intermittent_defect_may_pass() -> None:
    issue = replace(known(), intermittent=True)
    passed = run_pinned(issue, make(lambda context, case: Reading(0.1)), FakeContext())
    assert (passed.verdict, passed.reason) == (Verdict.REPORTED, "decay-breaks: did not show in this run")
    failed = run_pinned(issue, make(breaks_at_seven), FakeContext())
    assert (failed.verdict, failed.reason) == (Verdict.KNOWN_ISSUE, "decay-breaks: still fails")


@pytest.mark.parametrize(("share", "state"), [(0.1, "fixed"), (2.0, "still there")])
def test_pinned_case_outside_the_range_is_reported(share: float, state: str) -> None:
    result = run_pinned(known(keras="<3.15"), make(lambda context, case: Reading(share)), FakeContext())
    assert result.verdict == Verdict.REPORTED
    assert result.reason == f"decay-breaks: {state}, outside its range"


def test_pinned_case_that_does_not_apply_says_why() -> None:
    check = make(breaks_at_seven, applies=lambda context: "no GPU")
    result = run_pinned(known(), check, FakeContext())
    assert (result.verdict, result.reason) == (Verdict.NOT_APPLICABLE, "decay-breaks: no GPU")


def test_pinned_case_of_what_this_keras_does_not_export_is_not_applicable() -> None:
    def unreachable(context: Any, case: Any) -> Reading:
        raise AttributeError("module 'keras.losses' has no attribute 'Tversky'")

    issue = replace(known(), param={"loss": "Tversky"})
    result = run_pinned(issue, make(unreachable), FakeContext())
    assert (result.verdict, result.reason) == (Verdict.NOT_APPLICABLE, "decay-breaks: this Keras has no Tversky")


def test_pinned_case_whose_source_this_backend_lacks_is_not_applicable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(context: Any, case: Any) -> Reading:
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr("bscheck.runtime.inference.sources", lambda: ("arrays", "generator", "pydataset"))
    issue = replace(known(), case={"source": "dataset_unknown"})
    result = run_pinned(issue, make(unreachable, case=InferenceCase), FakeContext())
    reason = "decay-breaks: a dataset_unknown is TensorFlow's, and this backend another one"
    assert (result.verdict, result.reason) == (Verdict.NOT_APPLICABLE, reason)


def test_contract_exception_that_holds_is_told_as_one() -> None:
    check = make(lambda context, case: Reading(0.5), exception="schedules count micro-steps")
    assert go(check).verdict == Verdict.EXCEPTION


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.REPORTED])
def test_check_can_say_that_it_only_reports_or_cannot_tell(verdict: Verdict) -> None:
    assert go(make(lambda context, case: Reading(0.5, figures={verdict.value: 1}))).verdict == verdict


def test_timing_that_is_not_gated_cannot_fail_the_run() -> None:
    check = make(lambda context, case: Reading(2.0), family="timing")
    result = go(check)
    assert (result.verdict, result.reason) == (Verdict.REPORTED, "no GPU (--bscheck-timing=gate)")
    assert go(check, timing="gate").verdict == Verdict.FAILED
    on_gpu = FakeContext(environment={"device": "gpu"})
    assert go(check, on_gpu).verdict == Verdict.FAILED


def test_timing_is_refused_when_off_and_under_xdist(monkeypatch: pytest.MonkeyPatch) -> None:
    check = make(lambda context, case: Reading(0.5), family="timing")
    assert go(check, timing="off").reason == "timings are switched off (--bscheck-timing=off)"
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert go(check).reason.startswith("timings are refused under pytest-xdist")


def test_profile_sets_the_number_of_cases_and_the_hosts_profile_neither_acts_nor_changes() -> None:
    hypothesis_settings.register_profile("host", max_examples=1, derandomize=True)
    before = hypothesis_settings.get_current_profile_name()
    hypothesis_settings.load_profile("host")
    try:
        counts = [go(make(lambda c, case: Reading(0.0)), profile=p).cases for p in ("quick", "default", "thorough")]
        assert hypothesis_settings.default.max_examples == 1
    finally:
        hypothesis_settings.load_profile(before)
    assert counts[0] <= 5 < counts[1] <= 30 < counts[2] <= 200


def drawn_cases(seed: int) -> list[str]:
    """Return the cases that one seed draws."""
    cases: list[str] = []

    def function(context: Any, case: FakeCase) -> Reading:
        cases.append(str(case))
        return Reading(0.0)

    go(make(function), seed=seed)
    return cases


def test_seed_decides_what_is_drawn() -> None:
    assert drawn_cases(0) == drawn_cases(0)
    assert drawn_cases(0) != drawn_cases(1)


def test_constants_in_the_projects_source_do_not_change_what_is_drawn(tmp_path: Any) -> None:
    script = "import sys; sys.path[:0] = sys.argv[1:]; import test_run\n{}\nprint(test_run.drawn_cases(0))"
    (tmp_path / "local_module.py").write_text("VALUES = [11111, 22222, 33333, 44444, 55555]\n")
    outputs = []
    for line in ("", "import local_module"):
        command = [sys.executable, "-c", script.format(line), HERE, str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        outputs.append(ran.stdout)
    assert outputs[0] == outputs[1]
    assert not (tmp_path / ".hypothesis").exists()


def test_derived_seed_is_the_same_in_every_process() -> None:
    assert derive_seed(0, "parts_add_up[dense]") == 15476054159975063893
    assert derive_seed(0, "a") != derive_seed(1, "a") != derive_seed(0, "b")


def test_drawing_ends_when_most_of_the_time_budget_is_used() -> None:
    def slow(context: Any, case: Any) -> Reading:
        """The parts add up."""
        time.sleep(0.05)
        return Reading(0.5)

    go(make(slow), max_examples=1)  # Hypothesis is imported late, and takes its time
    result = run_check(make(slow), FakeContext(), RunSettings(max_examples=1000), Budget(4.0))
    assert result.verdict == Verdict.PASSED
    assert 2 < result.cases < 80
    assert result.reason == f"drawing ended early, {result.cases} cases held: the time budget is 4 s"


def test_a_case_that_does_not_end_is_named() -> None:
    def hangs(context: Any, case: Any) -> Reading:
        """The parts add up."""
        if case.micro_batches > 3:
            time.sleep(60)
        return Reading(0.5)

    result = run_check(make(hangs), FakeContext(), RunSettings(max_examples=1000), Budget(0.5))
    assert result.verdict == Verdict.FAILED
    assert result.failure is not None
    assert "it did not end within its time budget of 0.5 s (time_budget=), after" in result.failure.reading.seen
    assert "micro_batches=" in result.failure.situation
    assert result.seconds < 10


def test_a_violation_seen_before_the_budget_ran_out_stands() -> None:
    def broken(context: Any, case: Any) -> Reading:
        """The parts add up."""
        if case.micro_batches > 3:
            time.sleep(0.2)
            return Reading(3.0, seen="off by 1")
        return Reading(0.5)

    result = run_check(make(broken), FakeContext(), RunSettings(max_examples=1000), Budget(2.0))
    assert result.verdict == Verdict.FAILED
    assert result.failure is not None
    assert result.failure.reading.seen == "off by 1"


def test_error_whose_inner_frames_jax_left_out_is_a_finding_of_jax() -> None:
    path = Path(diagnose.__file__).with_name("runtime") / "jax_runtime.py"
    scope: dict[str, Any] = {}
    exec(compile("def compiled(error):\n    raise error", str(path), "exec"), scope)
    plain, cut = ValueError("ours"), ValueError("the precision is not supported")
    cut.add_note("For simplicity, JAX has removed its internal frames from the traceback of the following exception.")
    for error in (plain, cut):
        with pytest.raises(ValueError):
            scope["compiled"](error)
    assert diagnose.is_ours(plain)
    assert not diagnose.is_ours(cut)
    assert diagnose.culprit(cut) == "JAX"
