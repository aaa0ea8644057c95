"""Sound models of unusual kinds: no promise is called broken because bscheck has no formula or no signal for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bscheck


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


REPORTS = (
    "history_of_fit_and_train_on_batch_report_the_batch",
    "every_epoch_reports_its_own_and_the_held_out_examples",
)


@pytest.mark.parametrize(
    ("build", "data", "reason"),
    [
        (with_added_loss, vectors, "losses that the model adds itself"),
        (with_l1, vectors, "penalties other than L2"),
        (two_outputs, twice, "the outputs share one loss"),
    ],
    ids=["added loss", "L1", "one loss for two outputs"],
)
def test_a_report_without_a_formula_is_not_said_to_be_missing(build: Any, data: Any, reason: str) -> None:
    subject = bscheck.Subject("sound", build=build, data=data, loss="mse", batch_sizes=(1, 2), accumulation=(2,))
    asked = (*REPORTS, "evaluation_does_not_depend_on_steps_per_execution")
    *reports, evaluation = bscheck.run_checks(subject, checks=asked, profile="quick")
    assert [r.verdict for r in reports] == ["not applicable"] * len(REPORTS)
    assert all(reason in str(r) for r in reports)
    assert evaluation.verdict == "passed", str(evaluation)


def test_examples_that_weigh_nothing_have_no_noise_scale() -> None:
    subject = bscheck.Subject("weightless", build=dense, data=unweighted, loss="mse", batch_sizes=(1, 2))
    (result,) = bscheck.run_checks(subject, checks=["noise_scale_estimator_is_unbiased"], profile="quick")
    assert result.verdict != "failed", str(result)
    assert "every example's gradient is zero" in str(result)
