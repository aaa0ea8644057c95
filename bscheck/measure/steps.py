"""Real training steps for the sampler: everything but the step itself is done before the clock starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bscheck.measure.sampler import INSTANCES, ROUNDS, Clock, Run, Samples, paired_sample
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Bench, precision
from bscheck.subject import Subject, map_leaves

#: Called first in each instance, never timed: see `paired_sample`.
DUMMY_SIZES = (3, 5)

#: A median of fewer rounds is one round's luck; rather fewer instances than that.
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Parameters
    ----------
    instances, rounds : int
        As `paired_sample` takes them. Rounds give way, down to `FEWEST_ROUNDS`, where all of them would not
        fit into `seconds`: instances, not rounds, buy certainty.
    seconds : float
        Budget for everything: builds, compilation, warm-up and timed rounds.

    Raises
    ------
    ValueError
        If a value is not positive.
    """

    instances: int = INSTANCES
    rounds: int = ROUNDS
    seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("instances", "rounds", "seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def fresh_training_step(
    subject: Subject, sizes: Iterable[int], *, dtype: str = "float32", mode: str = "graph", seed: int = 0
) -> Run:
    """Return ``run(size)``: one synchronised training step of a fresh model of the subject.

    Model, optimizer state and the data of every size are made here and lie on the device when this returns;
    one program, in the pinned execution mode, serves all sizes (XLA and JAX compile it once for each shape).
    The learning rate is 0, so that the whole update is computed and every step of every size starts from the
    same weights; an optimizer whose learning rate is a schedule keeps it, and its weights move.

    Parameters
    ----------
    subject : Subject
        Its own ``step``, where it has one, gets NumPy arrays, as everywhere in bscheck: taking them to the
        device is part of that step.
    sizes : iterable of int
        Every batch size (examples) that will be asked for, dummy sizes too.
    dtype, mode : str
        Dtype policy and execution mode. The caller runs the steps inside ``precision(dtype)``.
    seed : int
        Seeds the data.

    Returns
    -------
    callable of int
        Returns when the device has finished the step.
    """
    bench = Bench(subject, dtype)
    bench.set_weights(bench.initial)
    with precision(dtype):
        optimizer = _still(_optimizer(subject))
        optimizer.build(bench.model.trainable_variables)
        step, batches = _step(bench, optimizer, mode), {}
        for size in sizes:
            batch = bench.cast(subject.draw(seed, size))
            batches[int(size)] = batch if subject.step is not None else _on_device(batch)
    synchronize = bench.runtime.synchronize
    updated = [*bench.model.variables, *optimizer.variables]
    synchronize()

    def run(size: int) -> None:
        step(*batches[size])
        synchronize(updated)

    return run


def sample_training_steps(
    subject: Subject,
    sizes: Sequence[int],
    *,
    plan: Plan,
    dtype: str = "float32",
    mode: str = "graph",
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time the subject's training step at each batch size, see `paired_sample`.

    Parameters
    ----------
    subject, dtype, mode, seed
        As `fresh_training_step` takes them.
    sizes : sequence of int
        Batch sizes (examples); the first is also the A/A canary's.
    plan : Plan
        How much, and within which time.
    clock : callable returning float
        Seconds, monotonic.

    Returns
    -------
    Samples
        No instances at all where building and warming up one took the whole budget.
    """
    every = (*sizes, *DUMMY_SIZES)

    def fresh() -> Run:
        return fresh_training_step(subject, every, dtype=dtype, mode=mode, seed=seed)

    with precision(dtype):
        began = clock()
        pilot = fresh()
        for size in every:
            pilot(size)
        built = clock() - began
        round_seconds = _timed(lambda: [pilot(size) for size in (*sizes, sizes[0])], clock)
        left = plan.seconds - (clock() - began)
        if left <= 0:
            return Samples(tuple(sizes), (), plan.instances)
        return paired_sample(
            lambda k: pilot if k == 0 else fresh(),
            sizes,
            dummy_sizes=DUMMY_SIZES,
            seed=seed,
            instances=plan.instances,
            rounds=fitting_rounds(plan, left, built, round_seconds),
            budget_seconds=left,
            clock=clock,
        )


def fitting_rounds(plan: Plan, left: float, built: float, round_seconds: float) -> int:
    """Return how many rounds each instance can have so that all of the plan's instances fit.

    Parameters
    ----------
    plan : Plan
    left : float
        Seconds left.
    built : float
        Seconds to build an instance and call every size once; the pilot's, which is the first and slowest.
    round_seconds : float
        Seconds of one round; warming up takes two more of them.

    Returns
    -------
    int
        Between `FEWEST_ROUNDS` and ``plan.rounds`` (at least one).
    """
    others = (plan.instances - 1) * built
    affordable = (left - others) / (plan.instances * max(round_seconds, 1e-9)) - 2
    return max(min(FEWEST_ROUNDS, plan.rounds), min(plan.rounds, int(affordable)))


def _step(bench: Bench, optimizer: Any, mode: str) -> Callable[..., Any]:
    own = bench.subject.step
    if own is None:
        return bench.runtime.training_step(bench.model, bench.loss, optimizer, mode)
    return lambda x, y, w: own(bench.model, optimizer, [(x, y, w)])


def _optimizer(subject: Subject) -> Any:
    if callable(subject.optimizer):
        return subject.optimizer()
    return keras_module().optimizers.get(subject.optimizer)


def _still(optimizer: Any) -> Any:
    """Return the optimizer with a learning rate of 0, unless a schedule sets it."""
    with contextlib.suppress(TypeError):  # what Keras raises for a schedule
        optimizer.learning_rate = 0.0
    return optimizer


def _on_device(batch: Sequence[Any]) -> Any:
    convert = keras_module().ops.convert_to_tensor
    return tuple(None if part is None else map_leaves(convert, part) for part in batch)


def _timed(function: Callable[[], Any], clock: Clock) -> float:
    start = clock()
    function()
    return clock() - start
