"""Definitions of metrics against numbers worked out by hand, and against formulas of another form."""

import itertools

import numpy as np
import pytest

from bscheck.oracles.metrics import ROWS, counts, definition, mean, rows


def value(name, y, p, w=None, **options):
    found = definition(
        name, None if y is None else np.asarray(y), np.asarray(p), None if w is None else np.asarray(w), options
    )
    return found.value


def test_a_weighted_mean_divides_by_the_weights():
    assert value("Mean", None, [1.0, 3.0, 5.0, 7.0], [1, 1, 0, 0]) == 2.0
    assert value("Sum", None, [1.0, 3.0, 5.0, 7.0], [1, 1, 0, 0]) == 4.0


def test_the_mean_of_nothing_is_zero():
    assert value("MeanSquaredError", np.zeros((0, 2)), np.zeros((0, 2))) == 0.0
    assert value("MeanSquaredError", [[1.0]], [[3.0]], [0.0]) == 0.0


def test_weights_of_fewer_axes_are_spread_over_the_last_ones():
    y, p = np.zeros((2, 3)), np.arange(6.0).reshape(2, 3)
    by_row = value("MeanMetricWrapper", y, p, [1.0, 3.0])
    assert by_row == pytest.approx((p**2 * [[1], [3]]).sum() / 12)
    assert value("MeanMetricWrapper", y, p, [[1.0], [3.0]]) == by_row


@pytest.mark.parametrize(
    ("name", "y", "p", "expected"),
    [
        ("mean_squared_error", [[1.0, 2.0]], [[2.0, 4.0]], 2.5),
        ("mean_absolute_error", [[1.0, 2.0]], [[2.0, 4.0]], 1.5),
        ("mean_absolute_percentage_error", [[1.0, 2.0]], [[2.0, 4.0]], 100.0),
        ("mean_squared_logarithmic_error", [[0.0]], [[np.e - 1]], 1.0),
        ("huber", [[0.0, 0.0]], [[0.5, 3.0]], (0.125 + 2.5) / 2),
        ("log_cosh", [[0.0]], [[1.0]], np.log(np.cosh(1.0))),
        ("poisson", [[2.0]], [[1.0]], 1.0),
        ("kl_divergence", [[0.5, 0.5]], [[0.25, 0.75]], 0.5 * np.log(2) + 0.5 * np.log(2 / 3)),
        ("hinge", [[0.0, 1.0]], [[0.5, 0.25]], (1.5 + 0.75) / 2),
        ("squared_hinge", [[-1.0, 1.0]], [[0.5, 0.25]], (2.25 + 0.5625) / 2),
        ("categorical_hinge", [[0.0, 1.0, 0.0]], [[0.25, 0.5, 0.25]], 0.75),
        ("cosine_similarity", [[3.0, 4.0]], [[4.0, 3.0]], 24 / 25),
        ("pearson_correlation", [[1.0, 2.0, 3.0]], [[3.0, 5.0, 7.0]], 1.0),
        ("concordance_correlation", [[1.0, 2.0, 3.0]], [[2.0, 3.0, 4.0]], 2 * (2 / 3) / (4 / 3 + 1)),
        ("binary_crossentropy", [[1.0, 0.0]], [[0.5, 0.75]], (np.log(2) + np.log(4)) / 2),
        ("categorical_crossentropy", [[0.0, 1.0]], [[0.5, 0.5]], np.log(2)),
        ("sparse_categorical_crossentropy", [1], [[0.75, 0.25]], np.log(4)),
        ("binary_focal_crossentropy", [[1.0]], [[0.5]], 0.25 * np.log(2)),
        ("categorical_focal_crossentropy", [[0.0, 1.0]], [[0.5, 0.5]], 0.25 * 0.25 * np.log(2)),
        ("binary_accuracy", [[1.0, 0.0]], [[0.5, 0.5]], 0.5),
        ("categorical_accuracy", [[0.0, 1.0]], [[0.5, 0.25]], 0.0),
        ("sparse_categorical_accuracy", [[0]], [[0.5, 0.25]], 1.0),
        ("accuracy", [[1, 2]], [[1, 3]], 0.5),
    ],
)
def test_one_row_by_hand(name, y, p, expected):
    assert value(name, y, p) == pytest.approx(expected, rel=1e-12)


def test_logits_are_probabilities_before_their_softmax():
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(4, 3)), np.eye(3)[[0, 1, 2, 0]]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for name in ("categorical_crossentropy", "categorical_focal_crossentropy"):
        assert value(name, y, logits, from_logits=True) == pytest.approx(value(name, y, p), rel=1e-12)
    sigmoid = 1 / (1 + np.exp(-logits))
    for name in ("binary_crossentropy", "binary_focal_crossentropy"):
        assert value(name, y, logits, from_logits=True) == pytest.approx(value(name, y, sigmoid), rel=1e-12)


def test_an_ignored_class_does_not_count():
    p = np.asarray([[0.5, 0.5], [0.25, 0.75]])
    assert value("sparse_categorical_crossentropy", [0, 1], p, ignore_class=0) == pytest.approx(-np.log(0.75))


def test_labels_that_tie_at_the_border_are_in_the_top_k():
    p = [[0.5, 0.5, 0.5], [0.9, 0.5, 0.5]]
    assert value("sparse_top_k_categorical_accuracy", [2, 1], p, k=1) == 0.5
    assert value("sparse_top_k_categorical_accuracy", [2, 1], p, k=2) == 1.0


def test_a_prediction_at_the_threshold_is_negative():
    c = counts(np.asarray([1.0, 1.0, 0.0]), np.asarray([0.5, 0.75, 0.5]), None, [0.5])
    assert [float(a[0]) for a in (c.tp, c.fp, c.fn, c.tn)] == [1, 0, 1, 1]


def test_precision_and_recall_by_hand():
    y, p = [0, 1, 1, 1], [1.0, 0.0, 1.0, 1.0]
    assert value("Precision", y, p) == pytest.approx(2 / 3)
    assert value("Recall", y, p) == pytest.approx(2 / 3)
    assert value("Precision", y, p, [0, 0, 1, 0]) == 1.0
    assert value("Precision", [[1, 0, 0]], [[0.1, 0.2, 0.3]], top_k=2) == 0.0
    assert value("Recall", [[1, 0, 1]], [[0.1, 0.2, 0.3]], top_k=2) == 0.5


def test_area_under_roc_is_the_share_of_ordered_pairs():
    """Mann and Whitney: with thresholds between all scores the trapezoids are exact."""
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 12), (rng.integers(0, 10, 12) + 0.5) / 10
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y == 1] for b in p[y == 0]]
    assert value("AUC", y, p, num_thresholds=11) == pytest.approx(np.mean(pairs))


def test_area_under_precision_recall_integrates_the_interpolated_curve():
    """Davis and Goadrich, by a fine sum of TP / (TP + FP) over TP in place of the logarithm."""
    y, p = np.asarray([1, 0, 1, 0, 1, 0, 0]), np.asarray([0.9, 0.9, 0.6, 0.6, 0.3, 0.3, 0.3])
    thresholds = [1.0, 0.75, 0.5, 0.0]
    points = [((p[y == 1] > t).sum(), (p[y == 0] > t).sum()) for t in thresholds]
    area = 0.0
    for (a, b), (c, d) in itertools.pairwise(points):
        share = (np.arange(200_000) + 0.5) / 200_000
        tp, fp = a + share * (c - a), b + share * (d - b)
        area += np.mean(tp / (tp + fp)) * (c - a)
    assert value("AUC", y, p, curve="PR", thresholds=[0.5, 0.75]) == pytest.approx(area / 3, rel=1e-6)


def test_gains_are_one_at_the_perfect_point():
    assert value("AUC", [1, 1, 0, 0], [0.9, 0.9, 0.1, 0.1], curve="PRGAIN", num_thresholds=5) == pytest.approx(1.0)


def test_the_best_rate_under_a_constraint():
    y, p = [0, 0, 0, 1, 1], [0.0, 0.3, 0.8, 0.3, 0.8]
    assert value("SensitivityAtSpecificity", y, p, specificity=0.5) == 0.5
    assert value("RecallAtPrecision", y, p, precision=0.8) == 0.0


def test_f_scores_are_the_harmonic_mean():
    y, p = (
        np.asarray([[1, 1, 1], [1, 0, 0], [1, 1, 0]]),
        np.asarray([[0.2, 0.6, 0.7], [0.2, 0.6, 0.6], [0.6, 0.8, 0.0]]),
    )
    assert value("F1Score", y, p, threshold=0.5) == pytest.approx([0.5, 0.8, 2 / 3])
    assert value("FBetaScore", y, p, threshold=0.5, beta=2.0)[0] == pytest.approx(5 * 1 / 3 / (4 + 1 / 3))


def test_iou_by_hand():
    assert value("MeanIoU", [0, 0, 1, 1], [0, 1, 0, 1], num_classes=2) == pytest.approx(1 / 3)
    weighted = value("MeanIoU", [0, 0, 1, 1], [0, 1, 0, 1], [0.3, 0.3, 0.3, 0.1], num_classes=2)
    assert weighted == pytest.approx((0.3 / 0.9 + 0.1 / 0.7) / 2)
    assert value("MeanIoU", [0, 0, 1, 1], [0, 1, 0, 1], num_classes=2, ignore_class=0) == pytest.approx(0.25)
    assert value("BinaryIoU", [0, 1, 0, 1], [0.1, 0.2, 0.4, 0.7], threshold=0.3) == pytest.approx(1 / 3)


def test_r2_by_hand_and_adjusted_for_examples():
    y, p = np.asarray([[1.0], [4.0], [3.0]]), np.asarray([[2.0], [4.0], [4.0]])
    assert value("R2Score", y, p) == pytest.approx(4 / 7)
    both = np.hstack([y, y]), np.hstack([p, p])
    assert value("R2Score", *both, num_regressors=1) == pytest.approx(1 - (3 / 7) * 2)
    assert np.isnan(value("R2Score", y[:1], p[:1]))


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_scaled_by_a_ten_thousandth_leaves_the_bound(name):
    """The bound of a mean over three rows in float32 is far below the effect that must be seen."""
    from bscheck.checks.metric_inputs import Shape, draw_inputs
    from bscheck.surface.metrics import CONSTRUCTIONS

    kind = CONSTRUCTIONS.get(name, CONSTRUCTIONS["MeanMetricWrapper" if name != "accuracy" else "Accuracy"]).inputs
    options = {"k": 1} if "top_k" in name else {}
    seen = []
    for seed in range(5):
        # Of three numbers the correlations are ill-conditioned: their bound is wide in float32.
        y, p = draw_inputs(kind, np.random.default_rng(seed), Shape(3, 0, False, False), options)
        found = rows(name, y, p, options)
        total = mean(found, None)
        largest = np.abs(found.values).max() / found.values.size
        seen.append(1e-4 * largest / (total.bound(2.0**-24) + 1e-37))
    assert max(seen) > (0.25 if "correlation" in name else 1)
