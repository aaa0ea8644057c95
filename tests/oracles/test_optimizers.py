"""Each NumPy recurrence beside the installed Keras optimizer, one step at a time from drawn states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bscheck.oracles.optimizers import (
    RECURRENCES,
    Recurrence,
    hyperparameters,
    keras_slots,
    rounding_bound,
    with_weight_decay,
)
from bscheck.oracles.optimizers.held import _slot_variables

keras = pytest.importorskip("keras")

DRAWS = int(os.environ.get("BSCHECK_TEST_OPTIMIZER_DRAWS", "25"))
SHAPES = ((7,), (3, 4))
# A share of the bound that no draw reaches would say that the bound is slack; see test_bound_is_tight.
SLACKEST = 1 / 50

OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.3},
    "nesterov": {"momentum": 0.999},
    "adam": {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-3},
    "amsgrad": {"beta_1": 0.3, "beta_2": 0.9, "epsilon": 1e-10},
    "adamw": {"weight_decay": 0.3, "beta_1": 0.99},
    "rmsprop": {"rho": 0.1, "epsilon": 1e-2},
    "rmsprop_centered": {"rho": 0.99, "epsilon": 1e-3},
    "rmsprop_momentum": {"rho": 0.5, "momentum": 0.2},
    "adagrad": {"epsilon": 1e-1},
    "adadelta": {"rho": 0.2, "epsilon": 1e-3},
    "adamax": {"beta_1": 0.2, "beta_2": 0.4, "epsilon": 1e-3},
    "nadam": {"beta_1": 0.5, "beta_2": 0.9},
    "lion": {"beta_1": 0.2, "beta_2": 0.1},
    "ftrl": {
        "learning_rate_power": -0.7,
        "l1_regularization_strength": 0.3,
        "l2_regularization_strength": 0.2,
        "l2_shrinkage_regularization_strength": 0.1,
        "beta": 0.4,
    },
    "lamb": {"beta_1": 0.3, "beta_2": 0.9, "epsilon": 1e-3},
    "adafactor": {"clip_threshold": 0.5, "beta_2_decay": -0.3, "epsilon_2": 0.1, "relative_step": False},
}
#: Optimizers whose weights are a known issue of Keras (`bscheck/data/known_issues.toml`); their slots are not.
HELD_WEIGHTS = {"schedulefreeadamw": keras.backend.backend() != "jax"}
DECAYED = [with_weight_decay(RECURRENCES[name], 0.02) for name in ("sgd", "rmsprop", "lion", "ftrl", "lamb")]


@dataclass
class Outcome:
    """One tensor after one step: Keras's, the oracle's, and what rounding may do."""

    where: str
    keras: np.ndarray
    oracle: np.ndarray
    bound: np.ndarray

    @property
    def share(self) -> float:
        error = np.abs(self.keras - self.oracle)
        shares = np.where(np.isinf(self.bound), 0.0, error / self.bound)
        return float(np.max(shares))


def build(recurrence: Recurrence, dtype: str, **options: Any) -> tuple[Any, list[Any]]:
    kind = getattr(keras.optimizers, recurrence.keras_class, None)
    if kind is None:
        pytest.skip(f"Keras {keras.__version__} has no {recurrence.keras_class}")
    variables = [keras.Variable(np.zeros(shape), dtype=dtype, name="kernel") for shape in SHAPES]
    if str(keras.ops.convert_to_numpy(variables[0].value).dtype) != dtype:
        pytest.skip(f"{keras.backend.backend()} holds no {dtype} here (on JAX: JAX_ENABLE_X64=1)")
    if recurrence.name == "muon" and dtype == "float64" and keras.backend.backend() == "tensorflow":
        # With floatx float32, Keras multiplies float64 weights by a float32 root, which TensorFlow refuses.
        options = {"rms_rate": None, **options}
    optimizer = kind(**{**recurrence.options, **options})
    optimizer.build(variables)
    return optimizer, variables


def draw_slot(name: str, shape: tuple[int, ...], scale: float, update: int, rng: Any) -> np.ndarray:
    if name == "u_product":
        return np.array(0.9**update if update > 1 else 1.0)
    if update == 1 and name not in ("accumulator",):
        return np.zeros(shape)
    values = scale * rng.standard_normal(shape)
    if name in ("momentum", "average_gradient", "linear"):
        return values
    return np.square(values) if name != "norm" else np.abs(values)


def assign_state(optimizer: Any, recurrence: Recurrence, index: int, update: int, scale: float, rng: Any) -> None:
    variables = _slot_variables(optimizer, index, recurrence)
    drawn = {name: draw_slot(name, tuple(v.shape), scale, update, rng) for name, v in variables.items()}
    if "average_gradient" in drawn:  # a mean square is never below the squared mean
        drawn["velocity"] = drawn["velocity"] + np.square(drawn["average_gradient"])
    for name, variable in variables.items():
        if variable.shape == drawn[name].shape and "int" not in str(variable.dtype):
            variable.assign(drawn[name].astype(str(variable.dtype)))


def steps(recurrence: Recurrence, dtype: str, draws: int, seed: int, **options: Any) -> Iterator[Outcome]:
    """Draw a state, let Keras and the oracle take one step from it, and compare every tensor."""
    optimizer, variables = build(recurrence, dtype, **options)
    hyper = hyperparameters(optimizer, recurrence, dtype)
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        update = 1 if draw == 0 else int(rng.integers(1, 401))
        weight_scale, scale, slot_ratio = 10.0 ** rng.uniform(-3, 3, 3)
        optimizer.learning_rate = float(10.0 ** rng.uniform(-4, 0))
        optimizer.iterations.assign(update - 1)
        for index, variable in enumerate(variables):
            variable.assign((weight_scale * rng.standard_normal(variable.shape)).astype(dtype))
            assign_state(optimizer, recurrence, index, update, scale * slot_ratio**0.5, rng)
        gradients = [(scale * rng.standard_normal(v.shape)).astype(dtype) for v in variables]
        before = [(read(v), keras_slots(optimizer, i, recurrence)) for i, v in enumerate(variables)]
        now = {"update": update, "learning_rate": float(read(optimizer.learning_rate)), "hyper": hyper}
        optimizer.apply([keras.ops.convert_to_tensor(g, dtype=dtype) for g in gradients])
        for index, ((weight, slots), gradient) in enumerate(zip(before, gradients, strict=True)):
            state = (weight, slots, gradient.astype(np.float64))
            new_weight, new_slots = recurrence.step(*state, **now)
            bound, slot_bounds = rounding_bound(recurrence, *state, **now, dtype=dtype)
            where = f"{recurrence.name} {dtype} draw {draw} shape {SHAPES[index]} update {update}"
            if not HELD_WEIGHTS.get(recurrence.name, False):
                yield Outcome(f"{where}: weight", read(variables[index]), new_weight, bound)
            for name, value in keras_slots(optimizer, index, recurrence).items():
                yield Outcome(f"{where}: {name}", value, new_slots[name], slot_bounds[name])


def read(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable), dtype=np.float64)


def assert_all_within(outcomes: Iterator[Outcome]) -> float:
    worst = 0.0
    for outcome in outcomes:
        assert outcome.share <= 1.0, (
            f"{outcome.where}: {outcome.share:.3g} of the bound; "
            f"Keras {outcome.keras}, oracle {outcome.oracle}, bound {outcome.bound}"
        )
        worst = max(worst, outcome.share)
    return worst


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_keras_step_is_the_recurrence_to_rounding(name: str, dtype: str) -> None:
    worst = assert_all_within(steps(RECURRENCES[name], dtype, DRAWS, seed=0))
    print(f"{name} {dtype}: worst share of the bound {worst:.3f}")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_other_options_too(name: str, dtype: str) -> None:
    assert_all_within(steps(RECURRENCES[name], dtype, DRAWS, seed=1, **OTHER_OPTIONS[name]))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("recurrence", DECAYED, ids=lambda recurrence: recurrence.name)
def test_weight_decay_composes_with_every_optimizer(recurrence: Recurrence, dtype: str) -> None:
    assert_all_within(steps(recurrence, dtype, DRAWS, seed=2))


@pytest.mark.parametrize("name", RECURRENCES)
def test_bound_is_tight(name: str) -> None:
    worst = max(outcome.share for outcome in steps(RECURRENCES[name], "float32", DRAWS, seed=3))
    assert worst >= SLACKEST, f"{name}: the worst draw reaches only {worst:.4f} of the bound"


@pytest.mark.parametrize(
    ("name", "hyper", "factor"),
    [
        ("momentum", "momentum", 1 + 1e-6),
        ("nesterov", "momentum", 1 + 1e-6),
        ("adam", "beta_1", 1 - 1e-6),
        ("adam", "beta_2", 1 - 1e-6),
        ("adam", "epsilon", 1.01),
        ("adamw", "weight_decay", 1 + 1e-5),
        ("rmsprop", "rho", 1 - 1e-6),
        ("adadelta", "rho", 1 - 1e-6),
        ("lion", "beta_2", 1 - 1e-6),
        ("ftrl", "beta", 2.0),
    ],
)
def test_a_slightly_wrong_hyperparameter_is_seen(name: str, hyper: str, factor: float) -> None:
    """The bound has teeth: in float64 it tells apart hyperparameters that differ in the sixth digit."""
    if name == "adamw" and keras.backend.backend() == "torch":
        factor = 1 + 1e-3  # Keras on torch rounds the decay's factor to float32, and the bound allows for it
    wrong = Recurrence(**{**vars(RECURRENCES[name]), "step": perturbed(RECURRENCES[name], hyper, factor)})
    options = OTHER_OPTIONS[name] if name == "ftrl" else {}
    outcomes = steps(wrong, "float64", DRAWS, seed=4, **options)
    assert any(outcome.share > 1.0 for outcome in outcomes)


def perturbed(recurrence: Recurrence, hyper: str, factor: float) -> Any:
    def step(*state: Any, **now: Any) -> Any:
        both = {key: now["hyper"][key] * factor for key in (hyper, f"cast_{hyper}") if key in now["hyper"]}
        now["hyper"] = {**now["hyper"], **both}
        return recurrence.step(*state, **now)

    return step


@pytest.mark.parametrize("name", RECURRENCES)
def test_step_changes_nothing_in_place(name: str) -> None:
    recurrence = RECURRENCES[name]
    optimizer, variables = build(recurrence, "float32")
    state = (read(variables[1]) + 1.0, keras_slots(optimizer, 1, recurrence), np.ones(SHAPES[1]))
    copies = (state[0].copy(), {key: value.copy() for key, value in state[1].items()}, state[2].copy())
    hyper = hyperparameters(optimizer, recurrence, "float32")
    weight, slots = recurrence.step(*state, update=1, learning_rate=0.5, hyper=hyper)
    assert weight.dtype == np.float64
    assert set(slots) == set(state[1])
    np.testing.assert_array_equal(state[0], copies[0])
    np.testing.assert_array_equal(state[2], copies[2])
    for key, value in state[1].items():
        np.testing.assert_array_equal(value, copies[1][key])


def test_slots_of_an_unbuilt_optimizer_are_an_error() -> None:
    with pytest.raises(LookupError, match=r"no slot 'momentum' for variable 0; build it first"):
        keras_slots(keras.optimizers.Adam(), 0, RECURRENCES["adam"])


def test_decay_does_not_compose_twice() -> None:
    with pytest.raises(ValueError, match="decays already"):
        with_weight_decay(RECURRENCES["adamw"])


def test_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="no unit roundoff known for dtype 'int8'"):
        hyperparameters(keras.optimizers.Adam(), RECURRENCES["adam"], "int8")


def test_repeated_gradients_leave_centered_rmsprop_undecided() -> None:
    """In float32 the rounding of v - mean^2 exceeds it: the bound says so instead of blaming Keras."""
    recurrence = RECURRENCES["rmsprop_centered"]
    gradient = np.full(3, 100.0)
    slots = {"velocity": np.square(gradient), "average_gradient": gradient}
    hyper = {"rho": 0.9, "epsilon": 1e-7}
    now: dict[str, Any] = {"update": 50, "learning_rate": 1e-3, "hyper": hyper}
    bound, slot_bounds = rounding_bound(recurrence, np.ones(3), slots, gradient, **now, dtype="float32")
    assert np.all(np.isinf(bound))
    assert np.all(np.isfinite(slot_bounds["velocity"]))


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (5, 1)])
def test_newton_schulz_acts_on_the_singular_values(shape: tuple[int, int]) -> None:
    """Jordan et al. 2024: the iteration leaves singular vectors alone and sends each value through the quintic."""
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal(shape)
    hyper = {"muon_a": 3.4445, "muon_b": -4.775, "muon_c": 2.0315, "ns_steps": 5, "momentum": 0.0, "nesterov": False}
    hyper |= {"rms_rate": 0.0, "weight_decay": 0.0}
    now: dict[str, Any] = {"update": 1, "learning_rate": 1.0, "hyper": hyper}
    weight, _ = RECURRENCES["muon"].step(np.zeros(shape), {"momentum": np.zeros(shape)}, gradient, **now)
    left, values, right = np.linalg.svd(gradient, full_matrices=False)
    values = values / (np.sqrt(np.square(values).sum()) + 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    np.testing.assert_allclose(weight, -(left * values) @ right, atol=1e-13)


def test_schedule_free_average_is_the_mean_of_the_iterates() -> None:
    """Defazio et al. 2024, equation 5 at a constant rate: x is the plain mean of z_1 ... z_t."""
    rng = np.random.default_rng(1)
    hyper = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8, "warmup_steps": 0}
    weight = rng.standard_normal(4)
    slots = {"momentum": weight, "velocity": np.zeros(4)}
    iterates = []
    for update in range(1, 7):
        now: dict[str, Any] = {"update": update, "learning_rate": 0.1, "hyper": hyper}
        weight, slots = RECURRENCES["schedulefreeadamw"].step(weight, slots, rng.standard_normal(4), **now)
        iterates.append(slots["momentum"])
        average = np.mean(iterates, axis=0)
        np.testing.assert_allclose(weight, 0.1 * slots["momentum"] + 0.9 * average, atol=1e-13)
