"""Schedule formulae against values computed by hand."""

import pytest

from bscheck.oracles.schedules import jumps, rate, rounding


@pytest.mark.parametrize(
    ("name", "options", "step", "value"),
    [
        ("ExponentialDecay", {"initial_learning_rate": 0.8, "decay_steps": 2, "decay_rate": 0.25}, 1, 0.4),
        (
            "ExponentialDecay",
            {"initial_learning_rate": 0.8, "decay_steps": 2, "decay_rate": 0.25, "staircase": True},
            3,
            0.2,
        ),
        ("InverseTimeDecay", {"initial_learning_rate": 0.6, "decay_steps": 2, "decay_rate": 1.0}, 4, 0.2),
        ("PiecewiseConstantDecay", {"boundaries": [2, 4], "values": [1.0, 0.5, 0.25]}, 2, 1.0),
        ("PiecewiseConstantDecay", {"boundaries": [2, 4], "values": [1.0, 0.5, 0.25]}, 3, 0.5),
        ("PiecewiseConstantDecay", {"boundaries": [2, 4], "values": [1.0, 0.5, 0.25]}, 5, 0.25),
        ("PolynomialDecay", {"initial_learning_rate": 0.5, "decay_steps": 4, "end_learning_rate": 0.1}, 2, 0.3),
        ("PolynomialDecay", {"initial_learning_rate": 0.5, "decay_steps": 4, "end_learning_rate": 0.1}, 9, 0.1),
        (
            "PolynomialDecay",
            {"initial_learning_rate": 0.5, "decay_steps": 4, "end_learning_rate": 0.1, "power": 2.0, "cycle": True},
            6,
            0.125,
        ),
        ("CosineDecay", {"initial_learning_rate": 0.4, "decay_steps": 4}, 2, 0.2),
        ("CosineDecay", {"initial_learning_rate": 0.4, "decay_steps": 4, "alpha": 0.5}, 4, 0.2),
        (
            "CosineDecay",
            {"initial_learning_rate": 0.1, "decay_steps": 4, "warmup_target": 0.5, "warmup_steps": 4},
            2,
            0.3,
        ),
        (
            "CosineDecay",
            {"initial_learning_rate": 0.1, "decay_steps": 4, "warmup_target": 0.5, "warmup_steps": 4},
            6,
            0.25,
        ),
        ("CosineDecayRestarts", {"initial_learning_rate": 0.4, "first_decay_steps": 2, "m_mul": 0.5}, 2, 0.2),
        ("CosineDecayRestarts", {"initial_learning_rate": 0.4, "first_decay_steps": 2, "m_mul": 0.5}, 4, 0.1),
        ("CosineDecayRestarts", {"initial_learning_rate": 0.4, "first_decay_steps": 2, "t_mul": 1.0}, 5, 0.2),
    ],
)
def test_rates_are_those_computed_by_hand(name, options, step, value):
    assert rate(name, options, step) == pytest.approx(value, abs=1e-15)


def test_only_ends_of_runs_jump():
    options = {"initial_learning_rate": 0.4, "first_decay_steps": 3, "t_mul": 2.0}
    assert [step for step in range(25) if jumps("CosineDecayRestarts", options, step)] == [3, 9, 21]
    assert not jumps("CosineDecay", {"initial_learning_rate": 0.4, "decay_steps": 3}, 3)


def test_rounding_is_in_the_seventh_digit():
    bound = rounding("CosineDecay", {"initial_learning_rate": 0.4, "decay_steps": 10}, 2.0**-24)
    assert 1e-7 < bound < 1e-5
