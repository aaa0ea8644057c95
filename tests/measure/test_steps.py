"""Real training steps: what is on the clock, what is not, and whether the device was waited for."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bscheck.checks.timing import SIZES, measured_from
from bscheck.measure import steps
from bscheck.measure.steps import DUMMY_SIZES, FEWEST_ROUNDS, Plan, fitting_rounds, fresh_training_step
from bscheck.reference_subjects import TIMING_SUBJECTS
from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Bench, build_model
from bscheck.subject import Subject


class Watched:
    """A small subject that counts its draws and traces, and keeps its models."""

    def __init__(self, **options):
        self.draws, self.traces, self.models = [], 0, []
        self.subject = Subject("watched", build=self.build, data=self.data, loss=self.loss, **options)

    def build(self):
        keras = keras_module()
        self.models.append(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
        return self.models[-1]

    def data(self, seed, size):
        self.draws.append(size)
        rng = np.random.default_rng(seed)
        return rng.normal(size=(size, 4)), rng.normal(size=(size, 3))

    def loss(self, y_true, y_pred):
        self.traces += 1
        return keras_module().ops.mean((y_true - y_pred) ** 2, axis=-1)

    def weights(self):
        return [np.array(w) for w in self.models[-1].get_weights()]


@pytest.fixture
def runtime(monkeypatch):
    """The runtime, with what its steps were given and how often they were waited for."""
    real = current()
    seen = {"batches": [], "waits": 0}
    make_step, synchronize = real.training_step, real.synchronize

    def training_step(*arguments):
        step = make_step(*arguments)
        return lambda *batch: (seen["batches"].append(batch), step(*batch))[1]

    def counted(*arguments):
        seen["waits"] += 1
        synchronize(*arguments)

    monkeypatch.setattr(real, "training_step", training_step)
    monkeypatch.setattr(real, "synchronize", counted)
    return seen


def test_data_are_not_on_the_clock(runtime):
    watched = Watched()
    run = fresh_training_step(watched.subject, (2, 5))
    drawn = list(watched.draws)
    for size in (2, 5, 2):
        run(size)
    assert watched.draws == drawn
    assert [len(batch[0]) for batch in runtime["batches"]] == [2, 5, 2]
    assert not any(isinstance(part, np.ndarray) for batch in runtime["batches"] for part in batch)
    assert runtime["batches"][0][0] is runtime["batches"][2][0]


def test_every_step_is_waited_for(runtime):
    run = fresh_training_step(Watched().subject, (2, 5))
    before = runtime["waits"]
    for size in (2, 5, 5):
        run(size)
    assert runtime["waits"] - before == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adam", lambda: keras_module().optimizers.AdamW(0.1)])
def test_every_size_starts_from_the_same_weights(optimizer):
    watched = Watched(optimizer=optimizer)
    run = fresh_training_step(watched.subject, (2, 5))
    before = watched.weights()
    for size in (2, 5, 2):
        run(size)
    assert all(np.array_equal(a, b) for a, b in zip(before, watched.weights(), strict=True))


def test_a_schedule_keeps_its_rate():
    def optimizer():
        keras = keras_module()
        return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))

    watched = Watched(optimizer=optimizer)
    run = fresh_training_step(watched.subject, (2,))
    before = watched.weights()
    run(2)
    assert not np.array_equal(before[0], watched.weights()[0])


def test_nothing_is_traced_after_the_dummies():
    watched = Watched()
    run = fresh_training_step(watched.subject, (*SIZES, *DUMMY_SIZES), mode="graph")
    for size in DUMMY_SIZES:
        run(size)
    traced = watched.traces
    for size in (*SIZES, *SIZES):
        run(size)
    if current().compiles_per_shape:
        assert watched.traces == traced + len(SIZES)
    else:
        assert watched.traces == traced == 1


def test_instances_are_fresh():
    watched = Watched()
    first = fresh_training_step(watched.subject, (2,))
    second = fresh_training_step(watched.subject, (2,))
    first(2)
    second(2)
    a, b = ({id(v) for v in model.variables} for model in watched.models[-2:])
    assert not a & b


def test_a_step_of_the_subjects_own_gets_arrays():
    given = []
    watched = Watched(step=lambda model, optimizer, micro_batches: given.append(micro_batches))
    fresh_training_step(watched.subject, (2, 5))(5)
    assert [[len(x) for x, _, _ in batches] for batches in given] == [[5]]
    assert isinstance(given[0][0][0], np.ndarray)


@pytest.mark.parametrize("name", list(TIMING_SUBJECTS))
def test_timing_subjects_make_a_step(name):
    subject = TIMING_SUBJECTS[name]()
    fresh_training_step(subject, (2,))(2)
    loss, gradient = Bench(subject, "float32").gradient(subject.draw(0, 2), current().modes[0])
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert gradient.any(), "a step without a gradient would time nothing"


# Waiting for the device


class Background:
    """A device that works in the background: a step only hands its work over."""

    def __init__(self, seconds_per_example):
        self.worker = ThreadPoolExecutor(1)
        self.cost = seconds_per_example
        self.pending = []

    def training_step(self, *_):
        return lambda x, y, w: self.pending.append(self.worker.submit(time.sleep, self.cost * len(x)))

    def wait(self, *_):
        while self.pending:
            self.pending.pop().result()


@pytest.mark.parametrize("waits", [True, False])
def test_a_missing_synchronisation_is_noticed_because_time_does_not_grow_with_work(monkeypatch, waits):
    device = Background(2e-5)
    monkeypatch.setattr(current(), "training_step", device.training_step)
    monkeypatch.setattr(current(), "synchronize", device.wait if waits else lambda *_: None)
    samples = steps.sample_training_steps(Watched().subject, SIZES, plan=Plan(4, 20, 20.0))
    device.wait()
    assert samples.completed == 4
    assert measured_from(samples).grows is waits


# Plans


def test_a_budget_that_building_uses_up_leaves_no_instance():
    ticks = iter(range(0, 10**6, 100))
    samples = steps.sample_training_steps(
        Watched().subject, (2, 4), plan=Plan(3, 10, 50.0), clock=lambda: float(next(ticks))
    )
    assert samples.completed == 0
    assert samples.requested == 3


def test_the_first_instance_is_not_built_twice():
    watched = Watched()
    build_model(watched.subject, "float32")  # the first time it is also found out how to seed the subject
    before = len(watched.models)
    samples = steps.sample_training_steps(watched.subject, (2, 4), plan=Plan(3, 6, 60.0))
    assert samples.completed == 3
    assert len(watched.models) - before == 3


def test_all_rounds_are_run_where_they_fit():
    assert fitting_rounds(Plan(12, 50, 120.0), left=100.0, built=1.0, round_seconds=0.05) == 50


def test_rounds_give_way_before_instances():
    assert fitting_rounds(Plan(4, 50, 10.0), left=8.0, built=1.0, round_seconds=0.1) == 10


def test_few_rounds_are_run_even_where_none_fit():
    assert fitting_rounds(Plan(4, 50, 10.0), left=1.0, built=1.0, round_seconds=1.0) == FEWEST_ROUNDS
    assert fitting_rounds(Plan(4, 2, 10.0), left=1.0, built=1.0, round_seconds=1.0) == 2


@pytest.mark.parametrize("field", ["instances", "rounds", "seconds"])
def test_a_plan_of_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be positive"):
        Plan(**{field: 0})
