"""Stand-alone programs: they fail with the defect, pass without it, and are offered only after they were tried out."""

import contextlib
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_failure_text import broken, load

from bscheck.checks import Param, get_check
from bscheck.checks.context import Context, forget
from bscheck.reproduce import NoScript, reproduced, write_script
from bscheck.reproduce.files import place, shown
from bscheck.reproduce.models import FUNCTIONAL, _source_of
from bscheck.reproduce.templates import source_of
from bscheck.results.verdict import Failure, Reading

#: A planted fault for each kind of program.
PLANTED = (
    "accumulation/decay_on_every_micro_batch",
    "accumulation/sparse_rows_added_twice",
    "accumulation/skipped_step_counts_as_finite",
    "accumulation/wrapper_ignores_accumulation",
    "accumulation/float8_scales_are_unscaled",
    "accumulation/last_micro_batch_counts_double",
    "accumulation/fit_shrinks_weights",
    "independence/rows_reversed_in_batches_of_three",
    "independence/evaluated_loss_is_a_mean_of_batches",
    "independence/masked_predictions_still_count",
    "independence/huber_loss_low_in_float32",
    "independence/half_before_the_square",
    "independence/class_weights_reach_the_next_example",
    "independence/activity_penalty_not_divided",
    "independence/average_pooling_counts_its_padding",
    "layers/single_examples_squeezed",
    "layers/state_broadcast_to_another_batch_size",
    "tiny_batches/bias_correction_one_update_late",
    "accumulation/boundary_belongs_to_the_next_interval",
    "accumulation/slope_without_smoothing",
    "independence/dice_squares_its_denominator",
    "independence/batch_statistics_used_at_inference",
    "independence/batches_shuffled_alike_in_every_epoch",
    "independence/class_weights_of_the_next_class",
    "independence/shuffling_shuffles_nothing",
    "layers/dropout_depends_on_the_other_examples",
    "layers/mask_ignored_in_one_merge_mode",
    "layers/state_not_reset",
    "layers/state_outlives_its_batch",
    "layers/statistics_move_at_inference",
    "independence/loss_weights_exchanged_in_a_list",
    "independence/metrics_forget_the_mask",
    "independence/second_metric_of_a_list_gets_no_weights",
    "independence/losses_by_name_exchanged_in_a_dict_of_outputs",
    "independence/generator_yields_its_second_batch_twice",
    "independence/metric_function_looks_at_its_neighbours",
    "accumulation/new_epoch_empties_the_window",
    "accumulation/execution_drops_the_steps_that_do_not_fill_it",
    "accumulation/every_epoch_counts_one_step_more",
    "accumulation/penalty_counted_in_every_micro_batch",
    "accumulation/masked_steps_are_counted_in_training",
    "accumulation/shrinkage_counted_once",
    "layers/last_example_has_no_gradient",
    "accumulation/decay_reads_the_next_rate",
    "accumulation/members_take_turns",
    "accumulation/integers_off_by_one_ulp",
    "accumulation/last_weights_are_updated_first",
    "independence/flat_predictions_get_an_axis",
    "independence/validation_forgets_its_weights",
    "layers/bias_forgotten_in_mixed_precision",
    "layers/variance_as_a_difference_of_squares",
    "independence/averages_replace_the_weights_after_every_epoch",
    "independence/averages_stay_in_after_validation",
    "independence/evaluation_by_the_weights_where_averages_were_asked_for",
    "independence/metrics_of_layers_are_not_reset",
    "independence/metrics_of_the_model_are_left_out",
    "independence/progress_bar_averages_means",
    "tiny_batches/batches_of_two_divided_by_one_less",
    "tiny_batches/last_example_of_three_left_out",
    "tiny_batches/worst_example_of_a_batch_trimmed",
    "independence/progress_bar_lags_one_batch",
    "independence/compiled_steps_take_a_thousandth_more",
    "accumulation/accumulators_are_taken_by_position",
    "accumulation/callable_rate_is_asked_once",
    "accumulation/wrapper_counts_no_updates",
    "accumulation/wrapper_forgets_the_last_slot",
    "independence/sequences_of_unknown_length_reversed",
    "layers/mask_by_keyword_ends_at_the_layer",
    "layers/mask_ends_at_one_merge",
    "layers/mask_ends_where_inputs_are_cast",
    "accumulation/accumulator_forgets_bits_of_half_precision",
    "accumulation/seventh_gradient_counts_a_thousandth_less",
    "accumulation/wide_variables_add_a_thousandth",
    "tiny_batches/masked_examples_still_update",
    "tiny_batches/variance_of_a_batch_of_one",
    "tiny_batches/weights_of_zero_divide_the_loss",
)


def run_here(source: str) -> tuple[object, str]:
    """Run a program in this process, where a fault may be planted; return its exit code and what it printed."""
    import keras

    floatx, policy, printed = keras.config.floatx(), keras.config.dtype_policy(), io.StringIO()
    code: object = 0
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "program", "exec"), {"__name__": "program"})
    except SystemExit as end:
        code = end.code
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    return code, printed.getvalue()


def context_of(defect) -> Context:
    param = Param.of(**defect.PARAM)
    return Context.for_subject(defect.SUBJECT(), param) if hasattr(defect, "SUBJECT") else Context(param)


@pytest.mark.parametrize("name", PLANTED, ids=lambda name: name.rpartition("/")[2])
def test_program_fails_with_the_defect_and_passes_without(name: str) -> None:
    defect, result = load(name), broken(name)
    check, context = get_check(defect.CHECK), context_of(defect)
    forget()
    try:
        with defect.plant():
            case = check.case.from_json(dict(result.failure.case))
            source = source_of(check, context, case, result.failure.reading)
            code, printed = run_here(source)
    finally:
        forget()
    assert (code, printed[:6]) == (1, "FAILS:"), printed
    code, printed = run_here(source)
    assert code == 0, f"without the defect: {printed}\n{source}"
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    others = {line for line in imports if line.split()[1] not in sys.stdlib_module_names}
    assert others <= {"import keras", "import numpy as np", "import tensorflow as tf"}
    assert len(source.splitlines()) < 200


def test_program_is_tried_out_in_a_fresh_process(tmp_path: Path) -> None:
    shown(tmp_path / "good.py", 'import sys\nprint("FAILS: 1")\nsys.exit(1)\n', "tensorflow")
    assert (tmp_path / "good.py").exists()
    assert os.listdir(tmp_path) == ["good.py"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('print("holds")', "in a fresh process, without bscheck, the same case does not fail"),
        ("1 / 0", r"could not be run in a fresh process \(ZeroDivisionError: division by zero\)"),
        ("raise SystemExit(1)", r"could not be run in a fresh process \(exit code 1\)"),
        ("(", "could not be run in a fresh process"),
    ],
)
def test_program_that_does_not_show_the_failure_is_not_offered(tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(NoScript, match=reason):
        shown(tmp_path / "deeper" / "bad.py", source, "tensorflow")
    assert os.listdir(tmp_path / "deeper") == []


def test_planted_fault_cannot_be_shown_in_a_fresh_process_and_the_failure_says_so(tmp_path: Path) -> None:
    name = "accumulation/decay_on_every_micro_batch"
    defect, result = load(name), broken(name)
    check = get_check(defect.CHECK)
    case = check.case.from_json(dict(result.failure.case))
    told = reproduced(check, context_of(defect), case, result.failure, tmp_path)
    assert told.script == ""
    assert told.no_script == "in a fresh process, without bscheck, the same case does not fail"
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_written() -> None:
    failure = Failure({}, "", Reading(2.0))
    assert reproduced(None, None, None, failure, None) is failure


def test_promise_without_a_program_says_so(tmp_path: Path) -> None:
    check = get_check("noise_scale_estimator_is_unbiased")
    with pytest.raises(NoScript, match="takes more than a short program"):
        write_script(check, Context(Param.of(subject="dense")), check.case(), Reading(2.0), tmp_path)


@pytest.mark.parametrize("param", ["../../../etc/x", "/abs", "a\0b", "..", "", "x" * 500, "a/b", "a b;rm -rf"])
def test_files_stay_in_their_folder(tmp_path: Path, param: str) -> None:
    path = place(tmp_path, "../check", param)
    assert path.parent == tmp_path
    assert path.resolve().parent == tmp_path.resolve()
    assert path.suffix == ".py"
    assert len(path.name) < 200


def test_names_that_are_cleaned_alike_get_files_of_their_own(tmp_path: Path) -> None:
    assert place(tmp_path, "check", "a/b") != place(tmp_path, "check", "a_b")


@pytest.mark.parametrize("name", ["dense", "convolution", "lstm", "gru", "attention", "embedding", "two_outputs"])
def test_models_in_programs_are_the_gates(name: str) -> None:
    import keras

    model = Context(Param.of(subject=name)).bench("float32").model
    space = {"keras": keras}
    exec(_source_of(name, model), space)
    copy = space["build"]()
    assert [tuple(v.shape) for v in copy.variables] == [tuple(v.shape) for v in model.variables]
    kinds = [[type(layer) for layer in m.layers if type(layer).__name__ != "InputLayer"] for m in (copy, model)]
    assert kinds[0] == kinds[1]
    assert name in FUNCTIONAL or [_config(x) for x in copy.layers] == [_config(x) for x in model.layers]


def _config(layer) -> dict:
    return {key: str(value) for key, value in layer.get_config().items() if key != "name"}


TEAM = """
import bscheck, keras, numpy as np

def build():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

def sample(seed, size):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 2)), rng.normal(size=(size, 1))

def step(model, optimizer, micro_batches):
    import tensorflow as tf
    total = None
    for x, y, w in micro_batches:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        found = tape.gradient(loss, model.trainable_variables)
        total = found if total is None else [a + b for a, b in zip(total, found)]
    optimizer.apply(total, model.trainable_variables)

churn = bscheck.Subject("churn", build=build, data=sample, loss="mean_squared_error", step=step)
nested = bscheck.Subject("nested", build=lambda: build(), data=sample, loss="mean_squared_error", step=step)
"""


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a team's module, importable by nobody else."""
    (tmp_path / "team_of_churn.py").write_text(TEAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    module = importlib.import_module("team_of_churn")
    yield module
    sys.modules.pop("team_of_churn")


def own(subject, folder: Path):
    from bscheck.checks.run import RunSettings, run_check

    check = get_check("accumulated_gradient_matches_large_batch")
    context = Context.for_subject(subject, Param.of(subject=subject.name))
    return run_check(check, context, RunSettings(max_examples=0, scripts=folder)).failure


def test_teams_own_step_is_imported_by_a_program_that_runs_anywhere(team, tmp_path: Path) -> None:
    failure = own(team.churn, tmp_path / "repro")
    assert failure.own_subject
    assert failure.no_script == ""
    assert "a sum in place of the mean: 2 times the expected gradient" in failure.suspects
    source = (tmp_path / "repro" / failure.script).read_text()
    assert "step=team_of_churn.step" in source
    done = subprocess.run(
        [sys.executable, str(tmp_path / "repro" / failure.script)], capture_output=True, text=True, cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )  # fmt: skip
    assert (done.returncode, done.stdout[:6]) == (1, "FAILS:"), done.stderr


def test_team_whose_functions_cannot_be_imported_is_told_why(team, tmp_path: Path) -> None:
    failure = own(team.nested, tmp_path / "repro")
    assert failure.script == ""
    assert failure.no_script == "the subject's build= of 'nested' is a lambda: no program can import it"


def test_source_is_quoted_so_that_names_cannot_break_out() -> None:
    from bscheck.reproduce.text import program

    source = program('a """ b \\" c', "pass")
    compile(source, "program", "exec")
    assert textwrap.dedent(source) == source
