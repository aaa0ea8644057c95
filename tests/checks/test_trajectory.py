"""The trajectory check's own arithmetic: updates at once are updates one by one; reports name the place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bscheck.cases import TrajectoryCase
from bscheck.checks import trajectory
from bscheck.checks.trajectory import OPTIONS, WHOLE_VARIABLE, State, Step, steps
from bscheck.oracles.gradient import Approximate
from bscheck.oracles.optimizers import RECURRENCES, Recurrence

SHAPES = ((3, 2), (2,))
RATES = [0.1, 0.1, 0.03, 0.2]


def hyper(recurrence: Recurrence) -> dict[str, float]:
    given = {"schedule_decay": 0.96, "momentum": 0.9, "weight_decay": 0.1, "relative_step": True, "warmup_steps": 0}
    return {**given, **OPTIONS[recurrence.keras_class]}


def states(recurrence: Recurrence) -> list[State]:
    """States that no training has linked: every step starts from its own."""
    rng = np.random.default_rng(0)

    def slot(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name == "u_product":
            return np.array(0.3)
        if name in ("r", "c"):
            return np.array(0.0)
        values = rng.uniform(-1, 1, size=shape)
        return values if name in ("momentum", "linear", "average_gradient") else np.square(values) + 3

    return [
        State(
            [rng.normal(size=shape) for shape in SHAPES],
            [{name: slot(name, shape) for name in recurrence.slots} for shape in SHAPES],
        )
        for _ in range(len(RATES) + 1)
    ]


@pytest.mark.parametrize("name", sorted(set(RECURRENCES) - WHOLE_VARIABLE))
def test_all_updates_at_once_are_the_updates_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recurrence = RECURRENCES[name]
    rng = np.random.default_rng(1)
    gradients = [Approximate(g := rng.normal(size=(len(RATES), *shape)), 1e-6 * np.abs(g)) for shape in SHAPES]
    arguments = (states(recurrence), gradients, RATES, hyper(recurrence), "float32")
    at_once = steps(recurrence, *arguments)
    monkeypatch.setattr(trajectory, "WHOLE_VARIABLE", frozenset({name}))
    one_by_one = steps(recurrence, *arguments)
    for a, b in zip(at_once, one_by_one, strict=True):
        assert (a.part, a.variable) == (b.part, b.variable)
        np.testing.assert_allclose(np.squeeze(a.oracle), np.squeeze(b.oracle), rtol=1e-13)
        np.testing.assert_allclose(np.squeeze(a.bound), np.squeeze(b.bound), rtol=1e-6)


def step(part: str, off: dict[tuple[int, ...], float]) -> Step:
    before, oracle = np.zeros((3, 2)), np.ones((3, 2))
    kept = oracle.copy()
    for at, amount in off.items():
        kept[at] += amount
    return Step(part, 0, kept, oracle, np.full((3, 2), 1e-3), before)


CASE = TrajectoryCase(batch_size=16, updates=3)


def test_the_first_broken_update_is_told_not_the_worst() -> None:
    reading = trajectory._reading([step("weight", {(1, 0): 0.01, (2, 1): 0.5})], CASE, ["kernel"])
    assert reading.where == "kernel[0] after update 2, batch of 16"
    assert reading.seen == "after update 2, kernel[0] is off by 0.01: 0.01 of its update"
    assert reading.allowed == "0.001 of its update"
    assert reading.share == pytest.approx(10)


def test_the_cause_names_what_follows_the_recurrence() -> None:
    found = [step("weight", {(0, 0): 0.01}), step("velocity", {})]
    assert trajectory._reading(found, CASE, ["kernel"]).cause == "velocity as published; weight not"


def test_a_weight_that_is_not_a_number_breaks_the_promise_even_where_rounding_decides() -> None:
    undecided = replace(step("weight", {(0, 0): np.nan}), bound=np.full((3, 2), np.inf))
    assert not trajectory._reading([undecided], CASE, ["kernel"]).holds


def test_weights_that_rounding_leaves_open_are_counted() -> None:
    open_sign = step("weight", {})
    open_sign.bound[2] = 2.0
    reading = trajectory._reading([open_sign], CASE, ["kernel"])
    assert reading.holds
    assert reading.figures["undecided"] == 2


def test_a_ragged_tail_has_its_own_size() -> None:
    assert [trajectory._size(replace(CASE, batch_size=17), t) for t in range(4)] == [17, 17, 15, 17]
