"""A team's own promises: registered, parametrized, selected and reported like bscheck's, in a family of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import bscheck
from bscheck.errors import BscheckError

Extend = Callable[[str], None]

OWN = """
    @bscheck.check(family="churn rules")
    def sums_to_one(context, case):
        "The predicted probabilities of an example sum to one, whatever the batch size."
        assert case.batch_size in (1, 2) and case.micro_batches == 2
        x, y, weights = context.subject.draw(case.seed, case.batch_size)
        off = float(len(x) != case.batch_size) + (2e-5 if os.environ.get("PLANTED") and case.batch_size == 2 else 0)
        return bscheck.Reading(off / 1e-5, seen=f"a sum is off by {off:.2g}", allowed="1e-5")

    @bscheck.check(family="accumulation")
    def one_of_ours(context, case):
        "Something that our accumulation keeps"
        raise bscheck.NotApplicable("this subject has none")
"""

TEST = """
    import bscheck, numpy as np
    churn = bscheck.Subject("churn", build=lambda: None, data=(np.ones((2, 1)), np.ones(2)), loss="mse")

    @bscheck.parametrize_with_checks([churn])
    def test_batch_size(subject, check):
        check(subject)
"""


@pytest.fixture
def team(team_project: pytest.Pytester, extend: Extend) -> pytest.Pytester:
    extend(OWN)
    team_project.makepyfile(test_team=TEST)
    return team_project


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", *arguments)


def test_own_promises_run_in_a_family_of_their_own(team: pytest.Pytester) -> None:
    result = run(team, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["churn: found 31 parameters", "  2 of 2 promises apply, *", "churn rules * holds", "*this subject has none*"]
    )


@pytest.mark.parametrize(
    "arguments", [["-m", "bscheck_churn_rules"], ["-k", "sums_to_one"], ["--bscheck-check=sums_to_one"]]
)
def test_own_promises_are_selected_as_others_are(team: pytest.Pytester, arguments: list[str]) -> None:
    run(team, *arguments).assert_outcomes(passed=1, deselected=1)


def test_subjects_are_selected_by_trait(team: pytest.Pytester, extend: Extend) -> None:
    extend("bscheck.inspection.traits_of = lambda context: ('recurrent', 'masked_loss')")
    run(team, "--bscheck-trait=recurrent", "--bscheck-trait=masked_loss").assert_outcomes(passed=1, skipped=1)
    result = run(team, "--bscheck-trait=stateful")
    result.assert_outcomes(deselected=2)
    result = run(team, "--bscheck-trait=recurent")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: bscheck: unknown trait 'recurent'; did you mean 'recurrent'? valid: *"])


def test_an_own_promise_that_breaks_reads_like_the_others(
    team: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "1")
    result = run(team)
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*FAILED sums_to_one[[]churn[]]",
            "*Promise     The predicted probabilities of an example sum to one, whatever the batch size",
            "*Seen        a sum is off by 2e-05 (allowed: 1e-5; 2 times the bound)",
            "*Smallest    churn, seed 0, batch_size=2",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"family": ""}, "check: family= must be a letter followed by letters, digits, '_' or spaces; got ''"),
        ({"family": 3}, "check: family= must be a letter followed by letters, digits, '_' or spaces; got 3"),
        ({"case": dict}, "check: case= must be a frozen dataclass derived from bscheck.Case; got <class 'dict'>"),
        ({"examples": (1, 2)}, "check: examples= must be a tuple of three integers >= 0 *"),
        ({"cases": 3}, "check: cases= must be a function; got 3"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: dict[str, Any], line: str) -> None:
    def own(context: Any, case: Any) -> None:
        """It holds."""

    with pytest.raises(BscheckError) as raised:
        bscheck.check(**{"family": "own", **arguments})(own)
    assert str(raised.value).startswith(line.rstrip("*"))


def test_a_function_of_other_arguments_is_refused() -> None:
    with pytest.raises(BscheckError, match=r"check 'own': it must take \(context, case\) and return a Reading"):

        @bscheck.check(family="own")
        def own(model: Any) -> None:
            """It holds."""
