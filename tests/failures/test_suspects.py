"""Suspects are what was tried out and agreed; known defects are matched by what they do."""

import numpy as np
import pytest

from bscheck.checks import all_checks
from bscheck.checks.suspects import EXPLANATIONS, OF_UPDATES, explains, of_mixture
from bscheck.reproduce.templates import TEMPLATES
from bscheck.results.known_defects import known_defects, like

#: Explanations of numbers that a model reports, which the table may ask for.
OF_VALUES = ("mean-of-batches", "divided-by-scale", "running-mean", "activity-undivided")

MICRO = np.random.default_rng(0).standard_normal((3, 40))
EVEN = np.full(3, 1 / 3)
RAGGED = np.array([0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("weights", "shares", "sizes", "text"),
    [
        ([1, 1, 1], EVEN, (2, 2, 2), "a sum in place of the mean: 3 times"),
        ([1 / 9] * 3, EVEN, (2, 2, 2), "divided by the 3 micro-batches once more"),
        ([0, 0, 1], EVEN, (2, 2, 2), "the last micro-batch alone"),
        ([1 / 3, 0, 1 / 3], EVEN, (2, 2, 2), "micro-batch 2 of 3 is missing"),
        ([0.5, 0.5, 0], EVEN, (2, 2, 2), "the last micro-batch is missing, the mean is of the others"),
        ([1 / 3, 2 / 3, 1 / 3], EVEN, (2, 2, 2), "micro-batch 2 of 3 counts twice"),
        ([1 / 3] * 3, RAGGED, (4, 2, 2), "ragged micro-batches (4+2+2) weigh alike"),
        ([-1 / 3] * 3, EVEN, (2, 2, 2), "the sign is turned around"),
        ([1.2 / 3] * 3, EVEN, (2, 2, 2), "every micro-batch counts 1.2 times"),
        ([1.001 / 3, 1 / 3, 1 / 3], EVEN, (2, 2, 2), "micro-batch 1 of 3 counts 1.001 times"),
    ],
)
def test_mixture_of_micro_batches_is_read_off(weights, shares, sizes, text) -> None:
    (found,) = of_mixture(np.asarray(weights) @ MICRO, MICRO, shares, sizes)
    assert found.text.startswith(text)


def test_what_is_no_mixture_is_said_to_be_none() -> None:
    (found,) = of_mixture(EVEN @ MICRO + np.random.default_rng(1).standard_normal(40), MICRO, EVEN, (1, 1, 1))
    assert found.id == "no-mixture"


def test_right_gradient_has_no_suspect() -> None:
    assert not list(of_mixture(EVEN @ MICRO, MICRO, EVEN, (1, 1, 1)))


def test_explanation_must_come_much_nearer_than_the_expected_value() -> None:
    seen, expected = np.array([2.0]), np.array([1.0])
    assert explains(seen, expected, np.array([2.001]))
    assert not explains(seen, expected, np.array([1.9]))
    assert not explains(seen, seen, seen)


@pytest.mark.parametrize("names", [EXPLANATIONS, TEMPLATES], ids=["explanations", "templates"])
def test_tables_speak_of_registered_checks(names) -> None:
    assert set(names) <= set(all_checks())


def test_known_defects_speak_of_registered_checks_fields_and_explanations() -> None:
    checks = all_checks()
    ids = [defect.id for defect in known_defects()]
    assert len(ids) == len(set(ids))
    for defect in known_defects():
        assert defect.checks
        assert set(defect.checks) <= set(checks), defect.id
        assert defect.link.startswith("https://"), defect.id
        for name in defect.checks:
            fields = checks[name].case().to_json().keys()
            kinds = {kind for param in checks[name].params() for kind in param.as_dict()}
            assert defect.when.keys() <= {*fields, *kinds}, (defect.id, name)
        assert set(defect.suspects) <= {*OF_UPDATES, *OF_VALUES}, defect.id


def test_every_known_defect_of_the_releases_is_in_the_table() -> None:
    """Those that `ci/verify_known_releases.py` shows red on a release that had them."""
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[2] / "ci" / "verify_known_releases.py"
    spec = importlib.util.spec_from_file_location("verify_known_releases", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    owned = {check for defect in known_defects() for check in defect.checks}
    assert {defect.check for defect in module.FIXED} <= owned


def test_like_needs_check_condition_and_suspect() -> None:
    situation, here = {"optimizer": "sgd", "decay": "on"}, {"keras": "3.4.1"}
    check = "weight_decay_acts_once_per_update"
    assert like(check, situation, ["decay-per-micro-batch"], here) == (
        'known defect "decoupled weight decay on every micro-step" (fixed in 3.5.0); installed: 3.4.1'
    )
    assert like(check, situation, [], here) == ""
    assert like("metrics_equal_their_definition", situation, ["decay-per-micro-batch"], here) == ""
    r2 = "metrics_equal_their_definition"
    assert "(open)" in like(r2, {"metric": "R2Score", "variant": 3}, [], here)
    assert like(r2, {"metric": "R2Score", "variant": 2}, [], here) == ""


#: Checks whose failures have no stand-alone program, by what stands in the way.
WITHOUT_A_PROGRAM = {
    "statistics over many runs or an experiment": {
        "mean_loss_follows_the_moment_recursion", "mean_loss_of_shuffled_epochs_is_the_expected_one",
        "training_leaves_the_optimum_beyond_the_stability_threshold", "training_settles_at_the_stationary_loss",
        "noise_scale_estimator_is_unbiased", "fewer_updates_explain_the_higher_loss",
        "predictions_by_batch_size_are_reported", "escape_from_a_shallow_well_is_reported",
        "dropout_is_drawn_anew_for_every_example",
    },
    "pairs of timings": {
        "one_example_more_than_a_power_of_two_costs_one_example_more",
        "odd_batch_is_not_dearer_than_padding_to_the_next_power_of_two",
        "batch_is_not_dearer_than_the_parts_it_could_be_split_into",
        "no_batch_size_got_dearer_than_in_the_previous_record", "steps_do_not_slow_down_as_training_goes_on",
        "time_by_batch_size_is_reported",
    },
    "what a process holds after many steps": {
        "steps_leave_nothing_behind", "batch_sizes_seen_before_are_not_traced_again",
        "peak_memory_by_batch_size_is_reported",
    },
    "several devices, which a process has to set up first": {
        "replicas_make_the_updates_of_one_device", "replicas_report_the_history_of_one_device",
        "uneven_batch_averages_its_devices_equally", "synchronized_batch_statistics_are_those_of_the_whole_batch",
        "replicas_answer_as_one_device",
    },
    "a step or a twin that the case makes": {
        "steps_of_ones_own_make_the_updates_of_fit", "padding_does_not_change_the_output",
    },
}  # fmt: skip


def test_every_check_has_a_program_or_a_reason_for_none() -> None:
    without = [name for names in WITHOUT_A_PROGRAM.values() for name in names]
    assert sorted([*without, *TEMPLATES]) == sorted(all_checks())
