"""The ledger's NumPy side: it finds what is wrong with a journal, and foretells hand-computed trajectories."""

from dataclasses import replace

import numpy as np
import pytest

from bscheck.oracles.ledger import (
    CENTRE,
    FACTOR,
    IDS,
    OFFSET,
    Mismatch,
    counts,
    coverage,
    difference,
    draw,
    follow,
)

BATCHES = [[0, 1], [2, 3], [4]]


def test_gradient_is_the_sum_over_the_batch_by_hand():
    ledger = draw(0, 2, weighted=True)
    gradient = ledger.gradient([0, 1], ledger.start)
    expected = np.zeros_like(gradient)
    for i in range(2):
        pre = sum(float(a) * float(b) for a, b in zip(ledger.x[i], ledger.start, strict=True))
        slope = 1.0 if pre > 0 else 0.5
        expected += ledger.w[i] * FACTOR * (ledger.y[i, 0] - CENTRE) * slope * ledger.x[i]
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("seed", range(20))
def test_no_pre_activation_is_zero_and_all_is_exact_in_single_precision(seed):
    ledger = draw(seed, IDS, weighted=True)
    journal = follow(ledger, [[i] for i in range(IDS)] * 4, 4)
    for before in [*journal.before, journal.after]:
        pre = ledger.x @ before
        assert np.all(np.abs(pre) >= OFFSET)
        np.testing.assert_array_equal(before.astype(np.float32).astype(np.float64), before)


def test_windows_move_the_weights_at_every_kth_step_only():
    ledger = draw(1, 5, weighted=False)
    journal = follow(ledger, BATCHES, 2)
    np.testing.assert_array_equal(journal.before[1], ledger.start)
    np.testing.assert_array_equal(journal.before[2], ledger.start - (journal.gradients[0] + journal.gradients[1]) / 2)
    np.testing.assert_array_equal(journal.after, journal.before[2])
    np.testing.assert_array_equal(journal.accumulator, journal.gradients[2])
    assert journal.updates == 1


def test_counts_name_the_examples_of_each_step():
    ledger = draw(2, 5, weighted=True)
    seen = counts(ledger, follow(ledger, [[0, 1], [2, 2], [4]], 1))
    np.testing.assert_array_equal(seen, [[1, 1, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 0, 1]])


@pytest.mark.parametrize("change", ["y", "w", "x"])
def test_counts_find_what_belongs_to_another_example(change):
    ledger = draw(3, 4, weighted=True)
    values = getattr(ledger, change)
    values = values[[1, 0, 2, 3]] if change != "w" else values * [2.5, 1, 1, 1]
    if change == "x":
        values = ledger.x.copy()
        values[0, -2:] = values[0, -2:] + 1
    found = counts(ledger, follow(replace(ledger, **{change: values}), [[0, 1], [2, 3]], 1))
    assert isinstance(found, Mismatch)


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([[0, 1], [2, 3]], "2 steps were made"),
        ([[0, 1], [2, 3], [3]], "example 3 was trained on 2 times"),
        ([[0, 1], [2], [3, 4]], None),
        ([[0, 1, 2], [3], [4]], "the batches have"),
    ],
)
def test_coverage_of_shuffled_batches(steps, text):
    ledger = draw(4, 5, weighted=False)
    found = coverage(counts(ledger, follow(ledger, steps, 1)), [BATCHES], True)
    assert (found is None) if text is None else text in found.seen


def test_coverage_in_order_tells_the_step():
    ledger = draw(4, 5, weighted=False)
    found = coverage(counts(ledger, follow(ledger, [[2, 3], [0, 1], [4]], 1)), [BATCHES], False)
    assert found == Mismatch("step 1", "the batch is [2, 3]", "[0, 1]")


@pytest.mark.parametrize("k", [1, 2, 3])
def test_difference_sees_one_bit_where_all_is_exact_and_forgives_roundings_where_not(k):
    expected = follow(draw(5, 6, weighted=True), [[i] for i in range(6)], k)
    assert difference(expected, expected, 0.0) == (0.0, None)
    off = replace(expected, after=expected.after * (1 + 2.0**-23))
    assert difference(off, expected, 0.0)[1] is not None
    assert difference(off, expected, 2.0**-24)[1] is None
    assert difference(replace(expected, after=expected.after * (1 + 1e-4)), expected, 2.0**-24)[1] is not None


def test_difference_sees_counts_and_accumulators():
    expected = follow(draw(6, 6, weighted=True), [[i] for i in range(5)], 2)
    assert "iterations says 5" in difference(replace(expected, updates=5), expected, 0.0)[1].seen
    empty = replace(expected, accumulator=expected.accumulator * 0)
    assert "accumulator holds" in difference(empty, expected, 0.0)[1].seen
