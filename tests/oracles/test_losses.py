"""The loss formulas against values worked out by hand, against SciPy, and against their own differences."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import special

from bscheck.oracles.losses import OPEN, ROWS, coefficients, jacobian, of_loss
from bscheck.oracles.penalties import REGULARIZERS, slope
from bscheck.surface.losses import CONSTRUCTIONS, draw_predictions, draw_targets

RNG = np.random.default_rng(0)

#: Worked out on paper: (loss, options, y, p, value).
BY_HAND = [
    ("MeanSquaredError", {}, [[0, 2]], [[1, 0]], 2.5),
    ("MeanAbsoluteError", {}, [[0, 2]], [[1, 0]], 1.5),
    ("MeanAbsolutePercentageError", {}, [[1, 2]], [[2, 1]], 75.0),
    ("MeanSquaredLogarithmicError", {}, [[1]], [[3]], np.log(2) ** 2),
    ("Huber", {}, [[0, 0]], [[0.5, 3]], (0.125 + 2.5) / 2),
    ("Huber", {"delta": 0.5}, [[0]], [[2]], 0.5 * 2 - 0.125),
    ("LogCosh", {}, [[0]], [[1]], np.log(np.cosh(1))),
    ("CosineSimilarity", {}, [[3, 4]], [[1, 0]], -0.6),
    ("CosineSimilarity", {}, [[0, 0]], [[1, 0]], 0.0),
    ("Poisson", {}, [[2]], [[1]], 1.0),
    ("Hinge", {}, [[-1, 1]], [[0.5, 0.5]], 1.0),
    ("Hinge", {}, [[0, 1]], [[0.5, 0.5]], 1.0),
    ("SquaredHinge", {}, [[-1, 1]], [[0.5, 0.5]], (2.25 + 0.25) / 2),
    ("CategoricalHinge", {}, [[0, 1]], [[0.6, 0.4]], 1.2),
    ("KLDivergence", {}, [[0.5, 0.5]], [[0.25, 0.75]], 0.5 * np.log(2) + 0.5 * np.log(2 / 3)),
    ("BinaryCrossentropy", {}, [[1, 0]], [[0.5, 0.75]], (np.log(2) + np.log(4)) / 2),
    ("BinaryCrossentropy", {"from_logits": True}, [[1]], [[0]], np.log(2)),
    ("BinaryCrossentropy", {"label_smoothing": 0.5}, [[1]], [[0.25]], 0.75 * np.log(4) - 0.25 * np.log(0.75)),
    ("BinaryFocalCrossentropy", {}, [[1]], [[0.5]], 0.25 * np.log(2)),
    ("BinaryFocalCrossentropy", {"apply_class_balancing": True}, [[0]], [[0.5]], 0.75 * 0.25 * np.log(2)),
    ("CategoricalCrossentropy", {}, [[0, 1]], [[0.75, 0.25]], np.log(4)),
    ("CategoricalCrossentropy", {"label_smoothing": 0.5}, [[0, 1]], [[0.5, 0.5]], np.log(2)),
    ("CategoricalFocalCrossentropy", {}, [[0, 1]], [[0.5, 0.5]], 0.25 * 0.25 * np.log(2)),
    ("CategoricalFocalCrossentropy", {"alpha": [1, 4], "gamma": 1}, [[0, 1]], [[0.5, 0.5]], 2 * np.log(2)),
    ("SparseCategoricalCrossentropy", {}, [1], [[0.75, 0.25]], np.log(4)),
    ("SparseCategoricalCrossentropy", {"ignore_class": 1}, [1], [[0.75, 0.25]], 0.0),
    ("SparseCategoricalFocalCrossentropy", {"gamma": 1}, [1], [[0.75, 0.25]], 0.25 * 0.75 * np.log(4)),
    ("CategoricalGeneralizedCrossEntropy", {}, [1], [[0.75, 0.25]], 1.0),
    ("Dice", {"axis": -1}, [[1, 0]], [[0.5, 0.5]], 0.5),
    ("Tversky", {"alpha": 1.0, "beta": 0.0, "axis": -1}, [[1, 0]], [[0.5, 0.25]], 1 - 0.5 / 0.75),
    ("Tversky", {"alpha": 0.0, "beta": 1.0, "axis": -1}, [[1, 0]], [[0.5, 0.25]], 0.5),
]


@pytest.mark.parametrize(("name", "options", "y", "p", "value"), BY_HAND)
def test_a_formula_gives_what_paper_gives(name, options, y, p, value):
    y = np.asarray(y) if "Sparse" in name or "Generalized" in name else np.asarray(y, float)
    assert ROWS[name](y, np.asarray(p, float), **options)[0] == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_every_construction_has_a_formula_and_a_value_on_paper_or_an_oracle():
    assert set(CONSTRUCTIONS) == set(ROWS)
    assert {name for name, *_ in BY_HAND} | {"CTC", "Circle"} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_complex_steps_agree_with_central_differences(name):
    known = CONSTRUCTIONS[name]
    for variant in known.variants.values():
        shape = (3, 2, 3) if variant.moved else (3, 3)
        p, y = draw_predictions(variant.predictions, RNG, shape), draw_targets(known.targets, RNG, shape)
        if variant.moved:
            p, y = np.moveaxis(p, -1, 1), np.moveaxis(y, -1, 1)
        values = lambda p: ROWS[name](y, p, **variant.options)  # noqa: B023, E731
        steps = jacobian(values, p, coupled=True)
        for j in range(p.size):
            h = np.zeros(p.size)
            h[j] = 1e-6
            h = h.reshape(p.shape)
            difference = (values(p + h) - values(p - h)) / 2e-6
            np.testing.assert_allclose(steps[..., j], difference, rtol=1e-5, atol=2e-6 * (1 + np.abs(steps).max()))


def test_softmax_cross_entropy_agrees_with_scipy():
    p, y = RNG.normal(size=(5, 3)), RNG.integers(0, 3, 5)
    expected = -special.log_softmax(p, axis=-1)[np.arange(5), y]
    np.testing.assert_allclose(ROWS["SparseCategoricalCrossentropy"](y, p, from_logits=True), expected, rtol=1e-13)


def test_ctc_adds_up_the_paths_that_collapse_to_the_labels():
    p, labels = RNG.normal(size=(4, 3)), [1, 2]
    q = special.softmax(p, axis=-1)
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        collapsed = [c for c, _ in itertools.groupby(path) if c]
        total += np.prod(q[np.arange(4), path]) if collapsed == labels else 0.0
    assert ROWS["CTC"](np.array([[1, 2, 0]]), p[None])[0] == pytest.approx(-np.log(total), rel=1e-12)


def test_circle_adds_up_all_pairs_of_pairs():
    p = draw_predictions("embeddings", RNG, (5, 3))
    y, gamma, margin = np.array([0, 0, 1, 1, 2]), 5.0, 0.2
    seen = ROWS["Circle"](y, p, gamma=gamma, margin=margin)
    for i in range(5):
        total = 0.0
        for j, k in itertools.product(range(5), repeat=2):
            if j != i and y[j] == y[i] and y[k] != y[i]:
                sp, sn = p[i] @ p[j], p[i] @ p[k]
                ap, an = max(1 + margin - sp, 0), max(sn + margin, 0)
                total += np.exp(gamma * (an * (sn - margin) - ap * (sp - 1 + margin)))
        assert seen[i] == pytest.approx(np.log1p(total), rel=1e-12)


def test_coefficients_of_the_reductions():
    w, mask = np.array([1.0, 3.0, 0.0]), np.array([True, True, False])
    assert coefficients("sum", (3,), w, None).tolist() == [1, 3, 0]
    assert coefficients("mean", (3,), w, None).tolist() == pytest.approx([1 / 3, 1, 0])
    assert coefficients("sum_over_batch_size", (3,), w, mask).tolist() == [0.5, 1.5, 0]
    assert coefficients("mean_with_sample_weight", (3,), w, mask).tolist() == [0.25, 0.75, 0]
    assert coefficients("mean", (3,), None, ~np.ones(3, bool)).tolist() == [0, 0, 0]
    assert coefficients("mean", (2, 2), np.array([1.0, 2.0]), None).tolist() == [[0.25, 0.25], [0.5, 0.5]]


def test_penalties_on_paper():
    w = np.array([[3.0, 4.0], [4.0, -3.0], [0.0, 2.0]])
    assert REGULARIZERS["L1L2"](w, l1=1.0, l2=0.5) == 16 + 0.5 * 54
    assert REGULARIZERS["OrthogonalRegularizer"](w, factor=3.0) == pytest.approx(0 + 0.8 + 0.6)
    np.testing.assert_allclose(slope(lambda z: REGULARIZERS["L2"](z, l2=0.5), w), w)


def test_a_cross_entropy_of_probabilities_bounds_what_its_definition_settles() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(5) % 3
    logits = rng.normal(size=(5, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for loss, y in (("sparse_categorical_crossentropy", labels), ("categorical_crossentropy", np.eye(3)[labels])):
        formula = of_loss(loss)
        assert formula is not None
        np.testing.assert_allclose(formula.values(y, p), -np.log(p[np.arange(5), labels]), rtol=1e-12)
        assert formula.sizes(y, p).max() < 10


@pytest.mark.parametrize(
    ("loss", "y", "p"),
    [
        pytest.param("sparse_categorical_crossentropy", [0], [[1e-9, 1 - 1e-9]], id="clipped"),
        pytest.param("categorical_crossentropy", [[1, 0]], [[0.9, 0.9]], id="no distribution"),
        pytest.param("binary_crossentropy", [[1.0]], [[0.0]], id="certain and wrong"),
        pytest.param("binary_crossentropy", [[1.0, 0.0]], [[0.5, 0.5]], id="perhaps a softmax"),
    ],
)
def test_what_a_cross_entropy_leaves_open_is_not_bounded(loss: str, y: Any, p: Any) -> None:
    formula = of_loss(loss)
    assert formula is not None
    assert formula.sizes(np.array(y), np.array(p)).min() >= OPEN / 2
