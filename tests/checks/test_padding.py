"""Padding and models that answer for every step: the steps of the sequence itself must not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bscheck
from bscheck.results.verdict import Result, Verdict

keras = pytest.importorskip("keras")


def data(seed: int, n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 20, (n, 7))
    for row in tokens:
        row[rng.integers(2, 8) :] = 0
    return tokens, rng.integers(0, 4, (n, 7))


def tagger() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(20, 6, mask_zero=True),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.Dense(4),
        ]
    )


def padded() -> Result:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    subject = bscheck.Subject("tagger", build=tagger, data=data, loss=loss, optimizer="adam")
    (found,) = bscheck.run_checks(subject, checks=["padding_does_not_change_the_output"], verbose=False)
    return found


def test_steps_of_the_sequence_are_compared() -> None:
    found = padded()
    assert found.verdict == Verdict.PASSED
    assert found.cases > 6


def test_a_layer_that_reads_its_padding_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = keras.layers.LSTM.call

    def unmasked(self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = False) -> Any:
        return sound(self, sequences, initial_state=initial_state, mask=None, training=training)

    monkeypatch.setattr(keras.layers.LSTM, "call", unmasked)
    found = padded()
    assert found.failure is not None
    assert "the output of example" in found.failure.reading.seen
