"""Every kind of model, data and loop that a team may bring goes through the gate; its faulty sibling does not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bscheck

CHECKS = ("accumulated_gradient_matches_large_batch", "predictions_do_not_depend_on_batch_size")

Rows = tuple[Any, Any]


def vectors(seed: int, size: int) -> Rows:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 4)), rng.normal(size=(size, 1))


def sequential() -> Any:
    import keras

    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="tanh"), keras.layers.Dense(1)])


def compiled() -> Any:
    model = sequential()
    model.compile(optimizer="rmsprop", loss="mae")
    return model


def functional() -> Any:
    """Return a model of nested inputs and two outputs, by name."""
    import keras

    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    number = keras.Input((), dtype="int32", name="number")
    embedded = keras.layers.Embedding(5, 2)(number)
    joined = keras.layers.Concatenate()([left, right, embedded])
    value, kind = keras.layers.Dense(1, name="value")(joined), keras.layers.Dense(3, name="kind")(joined)
    return keras.Model({"sides": [left, right], "number": number}, {"value": value, "kind": kind})


def nested(seed: int, size: int) -> Rows:
    rng = np.random.default_rng(seed)
    sides = [rng.normal(size=(size, 3)), rng.normal(size=(size, 2))]
    targets = {"value": rng.normal(size=(size, 1)), "kind": rng.integers(0, 3, size)}
    return {"sides": sides, "number": rng.integers(0, 5, size)}, targets


def kind_loss(y_true: Any, y_pred: Any) -> Any:
    """Return a loss of the team's own, a value for each example."""
    import keras

    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


def subclass(*, train_step: Callable[..., Any] | None = None) -> Any:
    """Return a model written as a class, with a layer of its own, and maybe a train_step."""
    import keras

    class Scale(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.factor

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.dense = Scale(), keras.layers.Dense(1)

        def call(self, x: Any, training: bool = False) -> Any:
            return self.dense(self.scale(x))

    if train_step is not None:
        Model.train_step = train_step
    return Model()


def sound_train_step(self: Any, data: Any) -> Any:
    """Do what Keras's own does, by hand."""
    import keras
    import tensorflow as tf

    x, y, w = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=w)
    gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
    self.optimizer.apply(gradients, self.trainable_variables)
    return {"loss": loss}


def doubling_train_step(self: Any, data: Any) -> Any:
    """Give the optimizer twice the gradient."""
    import keras
    import tensorflow as tf

    x, y, w = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        loss = 2 * self.compute_loss(x=x, y=y, y_pred=self(x, training=True), sample_weight=w)
    gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
    self.optimizer.apply(gradients, self.trainable_variables)
    return {"loss": loss}


def a_tf_dataset() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(vectors(0, 40)).shuffle(40, seed=1).batch(8)


def a_pydataset() -> Any:
    import keras

    class Data(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return vectors(index, 8)

    return Data()


def reader() -> Any:
    """Return a model that takes sentences."""
    import keras

    words = keras.layers.TextVectorization(8, output_sequence_length=3, vocabulary=list("abcde"))
    pooled = [keras.layers.Embedding(8, 3), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((), dtype="string"), words, *pooled])


def sentences(seed: int, size: int) -> Rows:
    rng = np.random.default_rng(seed)
    return np.array([" ".join(rng.choice(list("abcde"), 3)) for _ in range(size)]), rng.normal(size=(size, 1))


def sentences_as_tensors(seed: int, size: int) -> Rows:
    import tensorflow as tf

    x, y = sentences(seed, size)
    return tf.constant(x), y


SUBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    "sequential": lambda: {"build": sequential},
    "compiled": lambda: {"build": compiled},
    "nested_inputs_and_two_outputs": lambda: {
        "build": functional, "data": nested, "loss": {"value": "mse", "kind": kind_loss},
    },
    "subclass_with_a_layer_of_its_own": lambda: {"build": subclass},
    "train_step_of_its_own": lambda: {"build": lambda: subclass(train_step=sound_train_step)},
    "tf_dataset": lambda: {"build": sequential, "data": a_tf_dataset()},
    "pydataset": lambda: {"build": sequential, "data": a_pydataset()},
    "list_of_batches": lambda: {"build": sequential, "data": [vectors(i, 8) for i in range(3)]},
    "arrays": lambda: {"build": sequential, "data": vectors(0, 12)},
    "strings": lambda: {"build": reader, "data": sentences},
    "tensors_of_strings": lambda: {"build": reader, "data": sentences_as_tensors},
}  # fmt: skip


#: Those whose structure goes through Keras's loops too.
IN_LOOPS = ("nested_inputs_and_two_outputs", "subclass_with_a_layer_of_its_own", "strings")


def make(name: str, **options: Any) -> bscheck.Subject:
    """Return the subject of a kind, with few sizes."""
    usual = {"data": vectors, "loss": "mse", "batch_sizes": (1, 4), "accumulation": (2, 3)}
    return bscheck.Subject(name, **{**usual, **options})


@pytest.mark.parametrize("kind", SUBJECTS)
def test_every_kind_of_subject_goes_through(kind: str) -> None:
    subject = make(kind, **SUBJECTS[kind]())
    checks = CHECKS if kind in IN_LOOPS else CHECKS[:1]
    results = bscheck.run_checks(subject, checks=checks, profile="quick", verbose=False)
    assert [(r.verdict, r.cases > 3) for r in results] == [("passed", True)] * len(checks), "\n".join(map(str, results))


def test_a_train_step_that_doubles_the_gradient_is_red() -> None:
    subject = make("doubling", build=lambda: subclass(train_step=doubling_train_step))
    (result,) = bscheck.run_checks(subject, checks=CHECKS[:1], profile="quick", verbose=False)
    assert result.verdict == "failed"
    assert "Accumulated micro-batches reproduce the large batch's gradient" in str(result)
    assert "path=loop: passes" in str(result)


def test_windows_of_more_micro_batches_than_the_gate_has_are_asked_for() -> None:
    subject = make("large_windows", build=sequential, accumulation=(12,), batch_sizes=(2,))
    results = bscheck.run_checks(
        subject, checks=["accumulated_gradient_is_the_mean_of_what_was_accumulated"], profile="quick", verbose=False
    )
    assert [r.verdict for r in results] == ["passed"]
    assert results[0].worst_case.startswith("large_windows, k=12, micro-batches 2+2+2")


def test_promised_sizes_are_those_that_the_cases_have() -> None:
    seen: set[tuple[int, ...]] = set()

    def step(model: Any, optimizer: Any, micro_batches: Any) -> None:
        seen.add(tuple(len(y) for _, y, _ in micro_batches))
        weighted_step(model, optimizer, micro_batches)

    subject = make("spied", build=sequential, step=step, batch_sizes=(5, 9), accumulation=(3, 6))
    (result,) = bscheck.run_checks(subject, checks=CHECKS[:1], verbose=False)
    assert result.verdict == "passed", result
    assert {(5, 5, 5), (9, 9, 9), (9,) * 6} <= seen
    assert {len(sizes) for sizes in seen} == {3, 6}
    assert {size for sizes in seen for size in sizes[:-1]} == {5, 9}


def weighted_step(model: Any, optimizer: Any, micro_batches: Any) -> None:
    """Make one update of micro-batches in TensorFlow, each with its share of the examples."""
    import tensorflow as tf

    count, total = sum(len(y) for _, y, _ in micro_batches), None
    for x, y, w in micro_batches:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=w) * (len(y) / count)
        parts = tape.gradient(loss, [v.value for v in model.trainable_variables])
        total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
    optimizer.apply(total, model.trainable_variables)


#: A loop by hand on each of the other backends, run in a process of its own: Keras's backend is chosen at its import.
LOOPS = {
    "jax": """
import jax, jax.numpy as jnp
def step(model, optimizer, micro_batches):
    count, total = sum(len(y) for _, y, _ in micro_batches), None
    others = [v.value for v in model.non_trainable_variables]
    for x, y, w in micro_batches:
        def loss(weights):
            out, _ = model.stateless_call(weights, others, jnp.asarray(x), training=True)
            return SCALE * model.compute_loss(x=x, y=jnp.asarray(y), y_pred=out, sample_weight=w)
        parts = jax.grad(loss)([v.value for v in model.trainable_variables])
        total = parts if total is None else [a + b for a, b in zip(total, parts)]
    optimizer.apply(total, model.trainable_variables)
""",
    "torch": """
import torch
def step(model, optimizer, micro_batches):
    count = sum(len(y) for _, y, _ in micro_batches)
    model.zero_grad()
    for x, y, w in micro_batches:
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        w = None if w is None else torch.as_tensor(w)
        (SCALE * model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=w)).backward()
    optimizer.apply([v.value.grad for v in model.trainable_variables], model.trainable_variables)
""",
}

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import bscheck, test_kinds_of_subjects as kinds
{loop}
subject = kinds.make("loop", build=kinds.sequential, step=step, batch_sizes=(1, 2), accumulation=(2,))
for result in bscheck.run_checks(subject, checks=kinds.CHECKS, profile="quick", verbose=False):
    print(result)
"""


@pytest.mark.parametrize(("scale", "verdict"), [("(len(y) / count)", "passed"), ("1 / len(micro_batches)", "FAILED")])
@pytest.mark.parametrize("backend", LOOPS)
def test_loops_by_hand_on_other_backends(backend: str, scale: str, verdict: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed here: pip install 'bscheck[{backend}]'")
    script = SCRIPT.format(folder=os.path.dirname(__file__), loop=LOOPS[backend].replace("SCALE", f"({scale})"))
    environment = {**os.environ, "KERAS_BACKEND": backend}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first = ran.stdout.splitlines()[0]
    assert first == f"{verdict} accumulated_gradient_matches_large_batch[loop]"
    assert "passed predictions_do_not_depend_on_batch_size[loop]" in ran.stdout
