"""The equivalence test of equal updates tells a batch size that changes more than their number."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from bscheck.cases import LearningCase
from bscheck.checks import Param, equal_updates
from bscheck.checks.context import Context, forget
from bscheck.checks.equal_updates import ALPHA, RUNS, SMALL, Pair, compared, fewer_updates_explain_the_higher_loss
from bscheck.measure.equivalence import equivalence
from bscheck.runtime.learners import Trained


def pair(seed: int, larger: float = 1.0, spread: float = 0.01) -> Pair:
    """Losses that fall with the number of updates alone, those of the larger batch times a factor."""
    noise = np.exp(spread * np.random.default_rng(seed).standard_normal())
    runs, losses = {}, {}
    for size, per_epoch, epochs in ((16, 32, 15), (160, 4, 150)):
        updates = per_epoch * np.arange(1, epochs + 1)
        runs[size] = Trained(((),) * epochs, tuple(map(int, updates)), tuple(0.01 * updates))
        losses[size] = np.exp(-updates / 400) * (larger * noise if size == 160 else 1.0)
    return Pair(runs, losses)


@pytest.fixture
def judged(monkeypatch):
    """Return what the check says of pairs."""

    def judge(runs, optimizer="sgd", **changes):
        monkeypatch.setattr(equal_updates, "pair", lambda name, seed: pair(seed, **changes))
        return fewer_updates_explain_the_higher_loss(Context(Param.of(optimizer=optimizer)), LearningCase(runs=runs))

    return judge


def test_losses_that_fall_with_the_updates_alone_are_equivalent(judged):
    assert judged(RUNS).holds
    assert judged(RUNS, "rmsprop").holds


def test_a_larger_batch_that_ends_higher_at_equal_updates_is_told(judged):
    found = judged(RUNS, larger=1.06)
    assert not found.holds
    assert "after 480 updates batch 160 ends +" in found.seen
    assert "within 5% either way, over 12 pairs" in found.allowed


def test_a_difference_within_the_margin_but_as_large_as_the_noise_is_not_proven(judged):
    assert not judged(RUNS, spread=0.1).holds


def test_few_pairs_are_held_to_the_ordering_alone(judged):
    assert judged(1, larger=1.06).holds


def test_the_last_row_makes_as_many_updates_as_the_first(judged):
    table = judged(2).tables[0]
    assert [row[1:4] for row in table.rows] == [(15, 16, 480), (15, 160, 60), (150, 160, 600), (120, 160, 480)]
    assert pair(0).updates(SMALL) == 480


def test_keras_with_a_slower_large_batch_ends_beyond_the_margin():
    from keras import ops
    from keras.src.losses import loss

    sound = loss.reduce_values

    def faulty(values, *args, **kwargs):
        large = ops.greater(ops.shape(values)[0], 100)
        return sound(values, *args, **kwargs) * ops.where(large, 0.25, 1.0)

    forget()
    try:
        with mock.patch.object(loss, "reduce_values", faulty):
            differences, margin = compared([equal_updates.pair("sgd", seed) for seed in range(3)], True)
    finally:
        forget()
    assert min(differences) > margin
    assert equivalence(differences, margin, ALPHA).share > 1
