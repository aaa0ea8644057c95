"""The bound of a layer's rows: what rounding may do, and what it may not."""

import numpy as np
import pytest

from bscheck.cases import LayerCase
from bscheck.checks.layer_bench import LayerBench, joined, take
from bscheck.checks.layers import mixed_batch
from bscheck.tolerance import MOST_SENSITIVE, layer_rows, layer_sensitivity

U = 2.0**-53


def sensitivity(outputs, by=2.0**-24):
    return layer_sensitivity([outputs], [outputs * (1 + by)], 2.0**-24)


def test_rounding_passes_and_a_relative_error_of_1e_9_in_one_row_does_not():
    r = np.random.default_rng(0).standard_normal((5, 7))
    assert layer_rows([r * (1 + U)], [r], sensitivity(r), U).share < 1
    wrong = r.copy()
    wrong[3] *= 1 + 1e-9
    assert layer_rows([wrong], [r], sensitivity(r), U).share > 1


def test_float32_finds_1e_4_in_one_row():
    r = np.random.default_rng(0).standard_normal((5, 7))
    wrong = r.copy()
    wrong[3] *= 1 + 1e-4
    found = layer_rows([wrong], [r], sensitivity(r), 2.0**-24)
    assert found.share > 1
    assert found.index[0] == 3


def test_nan_is_never_within_the_bound():
    r = np.ones((2, 2))
    wrong = r.copy()
    wrong[0, 0] = np.nan
    assert layer_rows([wrong], [r], sensitivity(r), U).share == np.inf


def test_an_erratic_layer_does_not_excuse_itself():
    r = np.ones((2, 2))
    assert sensitivity(r, by=10.0).moved[0][0] == pytest.approx(MOST_SENSITIVE * (1 + 1e-3))


@pytest.mark.parametrize("change", ["none", "permuted", "changed", "huge"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_kept_examples_are_where_the_batch_has_them(change, n):
    bench = LayerBench("Dense", "plain")
    rows, places, batch = mixed_batch(bench, LayerCase(examples=n, change=change, seed=3))
    x, mixed = bench.arguments(3)[0][0], batch[0][0]
    assert len(mixed) == n
    np.testing.assert_array_equal(mixed[places], x[rows])
    if change in ("changed", "huge"):
        assert len(rows) == n - 1


def test_arguments_are_cut_and_joined_alike():
    bench = LayerBench("MultiHeadAttention", "mask")
    whole = bench.arguments(0)
    again = joined(take(whole, slice(0, 2)), take(whole, slice(2, 5)))
    np.testing.assert_array_equal(again[1]["query_mask"], whole[1]["query_mask"])
    np.testing.assert_array_equal(again[0][1], whole[0][1])
