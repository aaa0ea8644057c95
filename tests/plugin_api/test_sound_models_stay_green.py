"""Sound models of unusual kinds: no promise is called broken because bscheck has no formula or no signal for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bscheck
from bscheck.errors import SubjectError


def dense(**options: Any) -> Any:
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="tanh", **options)])


def with_added_loss() -> Any:
    import keras

    class Activity(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(0.01 * keras.ops.mean(x**2))
            return x

    return keras.Sequential([dense(), Activity()])


def with_l1() -> Any:
    return dense(kernel_regularizer="l1")


def two_outputs() -> Any:
    import keras

    given = keras.Input((4,))
    return keras.Model(given, [keras.layers.Dense(3)(given), keras.layers.Dense(3)(given)])


def vectors(seed: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 4)), rng.normal(size=(size, 3))


def twice(seed: int, size: int) -> tuple[Any, Any]:
    x, y = vectors(seed, size)
    return x, [y, y]


def unweighted(seed: int, size: int) -> tuple[Any, Any, Any]:
    return *vectors(seed, size), np.zeros(size)


HISTORY = "history_of_fit_and_train_on_batch_report_the_batch"
EXECUTIONS = "evaluation_does_not_depend_on_steps_per_execution"


@pytest.mark.parametrize(
    ("build", "data", "reason"),
    [
        (with_l1, vectors, "penalties other than L2"),
        (two_outputs, twice, "the outputs share one loss"),
    ],
    ids=["L1", "one loss for two outputs"],
)
def test_a_report_without_a_formula_is_not_said_to_be_missing(build: Any, data: Any, reason: str) -> None:
    subject = bscheck.Subject("sound", build=build, data=data, loss="mse", batch_sizes=(1, 2))
    (report,) = bscheck.run_checks(subject, checks=[HISTORY], profile="quick")
    assert report.verdict == "not applicable"
    assert reason in str(report)


def attending() -> Any:
    import keras

    x = keras.Input((6, 8))
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.MultiHeadAttention(2, 8)(x, x)))


def normalizing() -> Any:
    import keras

    layers = [keras.layers.Dense(7), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 8)), *layers])


def steps(seed: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 6, 8)), rng.normal(size=(size, 6, 3))


@pytest.mark.parametrize("build", [attending, normalizing])
def test_a_gradient_that_sums_to_zero_has_no_size_to_be_held_to(build: Any) -> None:
    # A softmax does not see what is added to all scores (key biases), nor a mean that is taken off what is added.
    subject = bscheck.Subject("cancels", build=build, data=steps, loss="mse", batch_sizes=(1, 2))
    (report,) = bscheck.run_checks(
        subject, checks=["compiled_step_leaves_the_state_of_the_same_step_op_by_op"], profile="quick"
    )
    assert report.verdict == "passed", str(report)


def test_without_a_formula_evaluation_alone_is_held() -> None:
    subject = bscheck.Subject("adds_a_loss", build=with_added_loss, data=vectors, loss="mse", batch_sizes=(1, 2))
    (evaluation,) = bscheck.run_checks(subject, checks=[EXECUTIONS], profile="quick")
    assert evaluation.verdict == "passed", str(evaluation)


def test_examples_that_weigh_nothing_have_no_noise_scale() -> None:
    subject = bscheck.Subject("weightless", build=dense, data=unweighted, loss="mse", batch_sizes=(1, 2))
    (result,) = bscheck.run_checks(subject, checks=["noise_scale_estimator_is_unbiased"], profile="quick")
    assert result.verdict != "failed", str(result)
    assert "every example's gradient is zero" in str(result)


def test_outputs_that_keras_named_are_reported_under_one_name_in_every_build() -> None:
    subject = bscheck.Subject("unnamed", build=two_outputs, data=twice, loss=["mse", "mae"], batch_sizes=(1, 2))
    (result,) = bscheck.run_checks(subject, checks=["output_losses_do_not_depend_on_batch_size"], profile="quick")
    assert result.verdict in ("passed", "known issue"), str(result)


def built_by_shape() -> Any:
    import keras

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.out(x)

    model = Own()
    model.build((None, 4))  # which builds nothing: the class has no build() of its own
    return model


def frozen() -> Any:
    model = dense()
    model.trainable = False
    return model


def test_a_class_that_is_built_by_its_shape_alone_has_its_layers_built() -> None:
    subject = bscheck.Subject("by_shape", build=built_by_shape, data=vectors, loss="mse", batch_sizes=(1, 2))
    (result,) = bscheck.run_checks(subject, checks=["predictions_do_not_depend_on_batch_size"], profile="quick")
    assert result.verdict == "passed", str(result)


def test_a_model_without_trainable_weights_is_refused_in_one_line() -> None:
    subject = bscheck.Subject("frozen", build=frozen, data=vectors, loss="mse")
    with pytest.raises(SubjectError, match="a model without trainable weights"):
        bscheck.inspect(subject)


def recognizer() -> Any:
    import keras

    return keras.Sequential([keras.Input((5, 2)), keras.layers.Dense(4)])


def spoken(seed: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 5, 2)), rng.integers(1, 4, (size, 2))


def test_a_loss_that_computes_in_float32_has_no_float64_twin() -> None:
    import keras

    subject = bscheck.Subject("speech", build=recognizer, data=spoken, loss=keras.losses.CTC(), batch_sizes=(1, 2))
    asked = ("minibatch_gradient_is_unbiased", "accumulated_gradient_matches_large_batch")
    unbiased, accumulated = bscheck.run_checks(subject, checks=asked, profile="quick")
    assert "its loss computes in fewer bits" in str(unbiased)
    assert accumulated.verdict in ("passed", "not applicable"), str(accumulated)


def sequences(seed: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 5, 2)), rng.normal(size=(size, 5, 4))


def test_weights_that_keras_cannot_take_are_not_held_against_a_model_of_sequences(
    capsys: pytest.CaptureFixture[str],
) -> None:
    subject = bscheck.Subject("sequences", build=recognizer, data=sequences, loss="mse", batch_sizes=(1, 2))
    asked = ("accumulated_gradient_matches_large_batch", "evaluation_does_not_depend_on_batch_size")
    for result in bscheck.run_checks(subject, checks=asked, profile="quick"):
        assert result.verdict in ("passed", "known issue"), str(result)
    assert "cannot weigh by one number for each example" in " ".join(capsys.readouterr().out.split())


def test_a_sum_over_a_ragged_window_is_divided_by_the_micro_batches() -> None:
    import keras

    loss = keras.losses.MeanSquaredError(reduction="sum")
    subject = bscheck.Subject("summed", build=dense, data=vectors, loss=loss, batch_sizes=(1, 2))
    asked = "ragged_window_averages_its_micro_batches_equally"
    (result,) = bscheck.run_checks(subject, checks=[asked], profile="quick")
    assert result.verdict == "contract exception", str(result)


@pytest.mark.parametrize("overwrite", [None, 3])
def test_averages_that_end_a_training_are_not_taken_for_its_updates(overwrite: int | None) -> None:
    import keras

    def averaged() -> Any:
        return keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_overwrite_frequency=overwrite)

    subject = bscheck.Subject("averaged", build=dense, data=vectors, loss="mse", optimizer=averaged, batch_sizes=(1, 2))
    asked = "accumulated_training_matches_large_batches"
    (result,) = bscheck.run_checks(subject, checks=[asked], profile="quick")
    assert result.verdict == "passed", str(result)


def test_an_optimizer_inside_a_loss_scale_accumulates() -> None:
    import keras

    def scaled() -> Any:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))

    subject = bscheck.Subject("scaled", build=dense, data=vectors, loss="mse", optimizer=scaled, batch_sizes=(1, 2))
    asked = "accumulated_training_matches_large_batches"
    (result,) = bscheck.run_checks(subject, checks=[asked], profile="quick")
    assert result.verdict == "passed", str(result)


def test_one_number_for_a_batch_is_not_weighed_example_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    def squares(y: Any, p: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y - p))

    subject = bscheck.Subject("one_number", build=dense, data=vectors, loss=squares, batch_sizes=(1, 2, 3))
    asked = ("accumulated_gradient_matches_large_batch", "evaluation_does_not_depend_on_batch_size")
    for result in bscheck.run_checks(subject, checks=asked, profile="quick"):
        assert result.verdict in ("passed", "known issue"), str(result)
    assert "cannot weigh by one number for each example" in " ".join(capsys.readouterr().out.split())


def contrasted(y: Any, p: Any) -> Any:
    """Return how far each example's nearest prediction is from being its own (InfoNCE)."""
    from keras import ops

    alike = ops.matmul(p, ops.transpose(y))
    return -ops.mean(ops.log_softmax(alike) * ops.eye(ops.shape(p)[0]), axis=-1)


def test_a_loss_across_examples_is_told_and_not_held_to_a_sum_over_them(capsys: pytest.CaptureFixture[str]) -> None:
    subject = bscheck.Subject("contrasted", build=dense, data=vectors, loss=contrasted, batch_sizes=(1, 2, 3))
    asked = ("accumulated_gradient_matches_large_batch", "minibatch_gradient_is_unbiased")
    for result in bscheck.run_checks(subject, checks=asked, profile="quick"):
        assert result.verdict == "not applicable", str(result)
        assert "neither a mean nor a sum over its examples" in str(result)
    assert "a loss that is neither a mean nor a sum" in " ".join(capsys.readouterr().out.split())
