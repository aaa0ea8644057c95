"""`bscheck.run_checks` and `bscheck.inspect`: what scripts get, and what is found out about a subject first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bscheck
from bscheck.errors import BscheckError, SubjectError

GRADIENT = "accumulated_gradient_matches_large_batch"


def vectors(seed: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 4)), rng.normal(size=(size, 1))


def tokens(seed: int, size: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 6, (size, 5)), rng.normal(size=(size, 5, 1))


def weighed_tokens(seed: int, size: int) -> tuple[Any, Any, Any]:
    """Return tokens, targets and a weight for each step, as a causal language model has them."""
    x, y = tokens(seed, size)
    return x, y, (x > 0).astype("float32")


def stack(*names: str, shape: tuple[int, ...] = (4,), dtype: str = "float32") -> Callable[[], Any]:
    """Return a factory of a stack of layers by name."""

    def build() -> Any:
        import keras

        layers = {
            "norm": lambda: keras.layers.BatchNormalization(name="norm"),
            "drop": lambda: keras.layers.Dropout(0.5, name="drop"),
            "hidden": lambda: keras.layers.Dense(3, activation="tanh", kernel_regularizer="l2"),
            "tokens": lambda: keras.layers.Embedding(6, 3, name="tokens"),
            "masked": lambda: keras.layers.Embedding(6, 3, mask_zero=True),
            "steps": lambda: keras.layers.LSTM(2, return_sequences=True),
            "out": lambda: keras.layers.Dense(1),
        }
        return keras.Sequential([keras.Input(shape, dtype=dtype), *(layers[name]() for name in names)])

    return build


def scheduled() -> Any:
    import keras

    return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))


def summed() -> Any:
    import keras

    return keras.losses.MeanSquaredError(reduction="sum")


def picky() -> Any:
    """Return a model whose own loops take arrays and datasets only, as those of some libraries do."""
    import keras

    class Picky(keras.Sequential):
        def predict(self, x: Any, **options: Any) -> Any:
            import tensorflow as tf

            if not isinstance(x, (np.ndarray, tf.data.Dataset)):
                raise TypeError("arrays or a dataset, please")
            return super().predict(x, **options)

    return Picky([keras.Input((4,)), keras.layers.Dense(1)])


def make(name: str = "churn", **options: Any) -> bscheck.Subject:
    usual = {"build": stack("out"), "data": vectors, "loss": "mse", "batch_sizes": (1, 3), "accumulation": (2,)}
    return bscheck.Subject(name, **{**usual, **options})


TOKENS = {"shape": (5,), "dtype": "int32"}
FOUND: dict[str, tuple[dict[str, Any], str, str]] = {
    "batch statistics": ({"build": stack("norm", "out")}, "batch_statistics", "batch statistics in norm"),
    "dropout": ({"build": stack("drop", "out")}, "stochastic", "randomness in training (drop)"),
    "penalties": ({"build": stack("hidden", "out")}, "penalties", "penalties beside the loss"),
    "sum": ({"loss": summed}, "sum_loss", "a loss that is a sum over its examples"),
    "schedule": ({"optimizer": scheduled}, "schedule", "a learning rate schedule"),
    "embedding": (
        {"build": stack("tokens", "out", **TOKENS), "data": tokens}, "sparse_gradients",
        "sparse gradients (an embedding)",
    ),
    "mask": (
        {"build": stack("masked", "steps", "out", **TOKENS), "data": tokens}, "masked_loss",
        "a mask that reaches the loss",
    ),
    "own loops": ({"build": picky}, "own_loops", "loops that refuse generator, pydataset"),
    "own step": ({"step": lambda model, optimizer, micro_batches: None}, "own_step", "a step of its own"),
}  # fmt: skip


@pytest.mark.parametrize("feature", FOUND)
def test_what_a_subject_has_is_found(feature: str) -> None:
    options, trait, words = FOUND[feature]
    options = {**options, "loss": options["loss"]()} if "loss" in options else options
    found = bscheck.inspect(make(**options), checks=[GRADIENT, "minibatch_gradient_is_unbiased"])
    assert trait in found.traits
    assert words in found.found
    assert len(found.applies) + len(found.not_applicable) == 2
    assert (found.seconds > 0) is bool(found.applies)


def test_inspection_says_what_applies_what_does_not_and_how_long_it_takes() -> None:
    lines = str(bscheck.inspect(make(build=stack("norm", "drop", "out")))).splitlines()
    assert lines[0].startswith("churn: found 13 parameters; a loss that is a mean over its examples; batch statistics")
    told = " ".join(" ".join(lines).split())
    assert re.search(r"\d+ of \d+ promises apply, estimated to take ", told)
    assert "(a rough guess from one build and one step)" in told
    assert "accumulated_training_matches_large_batches" in told
    assert "training calls are random (dropout or noise): two runs differ by design" in told


def test_a_broken_promise_is_a_result_with_its_text() -> None:
    def twice(model: Any, optimizer: Any, micro_batches: Any) -> None:
        """Step the optimizer on every micro-batch."""
        import tensorflow as tf

        for x, y, w in micro_batches:
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=w)
            gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
            optimizer.apply(gradients, model.trainable_variables)

    results = bscheck.run_checks(make(step=twice), checks=[GRADIENT], profile="quick", verbose=False)
    assert isinstance(results, tuple)
    (result,) = results
    assert result.verdict == "failed"
    assert "Seen        2 micro-batches made 2 updates of the weights (allowed: exactly one)" in str(result)
    assert "text" not in result.to_json()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.verdict = "passed"  # type: ignore[misc]


def test_it_says_what_it_finds_then_each_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    bscheck.run_checks(make(), checks=["minibatch_gradient_is_unbiased"], profile="quick")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "churn: found 5 parameters; a loss that is a mean over its examples"
    assert lines[-1] == "passed minibatch_gradient_is_unbiased[churn]"


def test_a_subject_that_hangs_while_it_is_built_fails_every_check() -> None:
    def build() -> Any:
        import time

        time.sleep(60)

    results = bscheck.run_checks(make(build=build, time_budget=0.5), family="tiny batches", verbose=False)
    assert {r.verdict for r in results} == {"failed"}
    assert len(results) == 3
    assert "it did not end within its time budget of 0.5 s (time_budget=), while it was built" in " ".join(
        str(results[0]).split()
    )


def test_weights_of_steps_and_a_loss_without_a_formula_go_through() -> None:
    def cubic(y_true: Any, y_pred: Any) -> Any:
        import keras

        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3, axis=-1)

    subject = make(build=stack("tokens", "out", **TOKENS), data=weighed_tokens, loss=cubic, optimizer="adam")
    checks = [
        GRADIENT,
        "accumulated_training_matches_large_batches",
        "evaluation_does_not_depend_on_steps_per_execution",
    ]
    results = bscheck.run_checks(subject, checks=checks, profile="quick", verbose=False)
    assert [r.verdict for r in results] == ["passed", "known issue", "passed"], "\n".join(map(str, results))
    assert list(results[1].held) == ["embedding-rows-of-large-batches"]


def test_sources_that_a_models_own_loops_refuse_are_not_held_against_the_batch_size() -> None:
    checks = ["predictions_do_not_depend_on_batch_size"]
    (result,) = bscheck.run_checks(make(build=picky), checks=checks, profile="quick", verbose=False)
    assert result.verdict == "passed", result


def test_the_environment_goes_before_arguments_and_they_before_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bscheck.api import _terms

    (tmp_path / "pyproject.toml").write_text("[tool.bscheck]\nseed = 1\nprofile = 'quick'\nbatch_sizes = [5]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BSCHECK_SEED", "3")
    terms = _terms("thorough", 2, (), "off")
    assert (terms.settings.profile, terms.settings.seed, terms.settings.timing) == ("thorough", 3, "off")
    assert terms.promises == {"batch_sizes": (5,)}


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: bscheck.run_checks(3), "a check takes a bscheck.Subject, not int"),
        (lambda: bscheck.run_checks(make(), checks=["nosuch"]), "unknown check 'nosuch'; "),
        (lambda: bscheck.run_checks(make(), family="timin"), "unknown family 'timin'; did you mean 'timing'?"),
        (lambda: bscheck.run_checks(make(), profile="fast"), "profile=: unknown profile 'fast'; valid: default, "),
        (lambda: bscheck.run_checks(make(), seed=-1), "seed=: the seed must be an integer >= 0, not '-1'"),
        (lambda: bscheck.run_checks(make(), known_issues=["no.toml"]), "known_issues=: there is no file "),
        (
            lambda: bscheck.run_checks(make(build=lambda: 3)),
            "Subject 'churn': build() must return a keras.Model; got int",
        ),
    ],
)
def test_bad_input_is_one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(BscheckError) as raised:
        call()
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ([], "data= gives no batches"),
        ([np.zeros((2, 4))], "each batch of data= must be a tuple (x, y) or (x, y, sample_weight); got ndarray"),
        ([({"a": np.zeros(2)}, np.zeros(2)), ({"b": np.zeros(2)}, np.zeros(2))], "data= gives batches that do not fit"),
        ((1 / 0 for _ in range(2)), "data= cannot be read batch by batch: ZeroDivisionError"),
    ],
)
def test_batches_that_cannot_be_used_are_one_line(data: Any, line: str) -> None:
    with pytest.raises(SubjectError) as raised:
        make(data=data).draw(0, 2)
    assert line in str(raised.value)


def test_the_documented_check_of_ones_own_runs_end_to_end() -> None:
    from bscheck import checks

    def soft() -> Any:
        import keras

        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])

    try:

        @bscheck.check(family="churn", examples=(3, 3, 3))
        def probabilities_sum_to_one(context: Any, case: Any) -> bscheck.Reading:
            """The predicted probabilities of an example sum to one, whatever the batch size."""
            x, _, _ = context.subject.draw(case.seed, case.batch_size)
            off = abs(context.subject.build().predict(x, verbose=0).sum(axis=1) - 1).max()
            return bscheck.Reading(off / 1e-5, seen=f"a sum is off by {off:.2g}", allowed="1e-5")

        (sound,) = bscheck.run_checks(make(build=soft), family="churn", verbose=False)
        (broken,) = bscheck.run_checks(make(), family="churn", verbose=False)
    finally:
        checks._REGISTRY.pop("probabilities_sum_to_one", None)
    assert (sound.verdict, broken.verdict) == ("passed", "failed")
    assert "Promise     The predicted probabilities of an example sum to one, whatever the batch size" in str(broken)


def test_global_state_of_keras_and_its_backend_is_put_back() -> None:
    import keras

    from bscheck.runtime import current
    from bscheck.runtime.isolation import DisturbedWarning

    before = (
        keras.config.floatx(),
        keras.config.dtype_policy().name,
        [read() for _, read, _ in current().global_settings()],
    )

    def careless(seed: int, size: int) -> tuple[Any, Any]:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.set_epsilon(1e-3)
        np.random.seed(3)
        return vectors(seed, size)

    np.random.seed(11)
    expected = np.random.random()
    np.random.seed(11)
    with pytest.warns(
        DisturbedWarning, match=r"changed the process: .*dtype policy \(put back\); epsilon \(put back\)"
    ):
        bscheck.run_checks(make(data=careless), family="tiny batches", profile="quick", verbose=False)
    after = (
        keras.config.floatx(),
        keras.config.dtype_policy().name,
        [read() for _, read, _ in current().global_settings()],
    )
    assert after == before
    assert keras.config.epsilon() == 1e-7
    assert np.random.random() == expected


def test_a_still_subject_has_its_dropout_switched_off_and_is_held_to_the_promises_about_training() -> None:
    def build() -> Any:
        import keras

        return keras.Sequential(
            [
                keras.Input((5, 2)),
                keras.layers.LSTM(3, dropout=0.4, recurrent_dropout=0.3),
                keras.layers.GaussianNoise(0.5),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(1),
            ]
        )

    def sequences(seed: int, size: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(size, 5, 2)), rng.normal(size=(size, 1))

    (noisy,) = bscheck.run_checks(make(build=build, data=sequences), checks=[GRADIENT], verbose=False)
    assert (noisy.verdict, noisy.reason[:28]) == ("not applicable", "training calls are random (d")
    still = make(build=build, data=sequences, still=True)
    assert "dropout and noise switched off (still=True)" in bscheck.inspect(still, checks=[GRADIENT]).found
    (result,) = bscheck.run_checks(still, checks=[GRADIENT], profile="quick", verbose=False)
    assert result.verdict == "passed", result
