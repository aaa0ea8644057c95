"""Real training steps for the sampler: everything but the step itself is done before the clock starts."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.errors import unknown
from bscheck.measure.memory import is_out_of_memory
from bscheck.measure.sampler import INSTANCES, ROUNDS, Clock, Load, Run, Samples, Window, paired_sample
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Bench, precision
from bscheck.subject import Subject, leaves, map_leaves

#: Called first in each instance, never timed: see `paired_sample`.
DUMMY_SIZES = (3, 5)

#: The same for whole epochs, where a small batch would take long.
EPOCH_DUMMIES = (48, 63)

#: A median of fewer rounds is one round's luck; rather fewer instances than that.
FEWEST_ROUNDS = 5


#: What a step does with a batch of the size that is timed: trains on it, trains on `MICRO_BATCHES` of them
#: accumulated into one update, or predicts.
WORKS = ("training", "accumulated", "inference")
MICRO_BATCHES = 2


class StepOutOfMemoryError(MemoryError):
    """A step found no memory; ``str()`` says at which batch size."""

    def __init__(self, load: Load) -> None:
        super().__init__(f"out of memory at batch size {load}")


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


class Stepper:
    """A fresh model of a subject, whose steps are timed or weighed: build, `load` a size, then `run` it.

    One program, in the pinned execution mode, serves all sizes (XLA and JAX compile it once for each shape). The
    learning rate is 0, so that the whole update is computed and every step of every size starts from the same
    weights; an optimizer whose learning rate is a schedule keeps it, and its weights move.

    Parameters
    ----------
    subject : Subject
        Its own ``step``, where it has one, gets NumPy arrays, as everywhere in bscheck: taking them to the
        device is part of that step.
    work : str
        One of `WORKS`: what a batch size stands for.
    dtype, mode : str
        Dtype policy and execution mode. The caller runs the steps inside ``precision(dtype)``.
    seed : int
        Seeds the data.

    Attributes
    ----------
    bench : Bench
    """

    def __init__(
        self, subject: Subject, *, work: str = "training", dtype: str = "float32", mode: str = "graph", seed: int = 0
    ) -> None:
        if work not in WORKS:
            raise ValueError(unknown("work", work, WORKS))
        self.subject, self.work, self.mode, self.seed = subject, work, mode, seed
        self.bench = Bench(subject, dtype)
        self._programs: dict[int, _Program] = {}
        self._batches: dict[int, Any] = {}

    def load(self, load: Load) -> None:
        """Lay the data of a size ready on the device; a window's micro-batches are one and the same batch."""
        size, k = self._parts(load)
        self._program(k)
        if size not in self._batches:
            with precision(self.bench.dtype):
                batch = self.bench.cast(self.subject.draw(self.seed, size))
                given = batch if self.subject.step is not None and self.work != "inference" else _on_device(batch)
                self._batches[size] = given
        self.bench.runtime.synchronize()

    def drop(self, load: Load) -> None:
        """Forget the data of a size."""
        self._batches.pop(self._parts(load)[0], None)

    def run(self, load: Load) -> None:
        """Make one step of a size that was loaded; return when the device has finished it.

        Raises
        ------
        StepOutOfMemoryError
            When there was no memory for it.
        """
        size, k = self._parts(load)
        program = self._program(k)
        try:
            outputs = program.step(*self._batches[size])
            self.bench.runtime.synchronize(program.updated or leaves(outputs))
        except Exception as error:
            if is_out_of_memory(error):
                raise StepOutOfMemoryError(load) from error
            raise

    def held(self) -> int:
        """Return the bytes of the model's variables and of the optimizer's."""
        programs = self._programs.values()
        variables = {id(v): v for v in [*self.bench.model.variables, *(v for p in programs for v in p.updated)]}
        itemsize = self.bench.keras.backend.standardize_dtype
        return sum(int(np.prod(v.shape)) * _bytes_of(itemsize(v.dtype)) for v in variables.values())

    def compiled_memory(self, load: Load) -> int | None:
        """Return the bytes of the step's compiled program, see `Runtime.compiled_memory`."""
        size, k = self._parts(load)
        return self.bench.runtime.compiled_memory(self._program(k).one, self._batches[size])

    def _parts(self, load: Load) -> tuple[int, int]:
        """Return the micro-batch size, and how many of them make a step."""
        if isinstance(load, Window):
            return load.size, load.micro_batches
        return int(load), MICRO_BATCHES if self.work == "accumulated" else 1

    def _program(self, k: int) -> _Program:
        if k not in self._programs:
            with precision(self.bench.dtype):
                self._programs[k] = _program(self.bench, self.work, k, self.mode)
        return self._programs[k]


@dataclass(frozen=True)
class _Program:
    """``step(x, y, sample_weight)``, the step of one micro-batch that it repeats, and the variables it updates."""

    step: Callable[..., Any]
    one: Callable[..., Any]
    updated: Sequence[Any]


def _program(bench: Bench, work: str, k: int, mode: str) -> _Program:
    if work == "inference":
        call = bench.runtime.inference(bench.model, mode)
        return _Program(lambda x, y, w: call(x), call, ())
    optimizer = _still(_optimizer(bench.subject))
    own = bench.subject.step
    if own is None:
        # Whatever the subject's optimizer accumulates by itself: k micro-batches make the update here.
        optimizer.gradient_accumulation_steps = k if k > 1 else None
    optimizer.build(bench.model.trainable_variables)
    updated = [*bench.model.variables, *optimizer.variables]
    if own is not None:
        step = functools.partial(_own_step, own, bench.model, optimizer, k)
        return _Program(step, step, updated)
    one = bench.runtime.training_step(bench.model, bench.loss, optimizer, mode)
    return _Program(functools.partial(_repeated, one, k), one, updated)


def _own_step(own: Callable[..., Any], model: Any, optimizer: Any, k: int, *batch: Any) -> None:
    own(model, optimizer, [batch] * k)


def _repeated(one: Callable[..., Any], k: int, *batch: Any) -> None:
    for _ in range(k):
        one(*batch)


def _bytes_of(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def fresh_training_step(subject: Subject, sizes: Iterable[Load], **options: Any) -> Run:
    """Return ``run(size)``: one synchronised step of a fresh model of the subject, all of its data lying ready.

    Parameters
    ----------
    subject : Subject
    sizes : iterable of int or Window
        Everything that will be asked for, dummy sizes too.
    **options
        As `Stepper` takes them.

    Returns
    -------
    callable of int or Window
        Returns when the device has finished the step.
    """
    stepper = Stepper(subject, **options)
    for size in sizes:
        stepper.load(size)
    return stepper.run


def sample_training_steps(
    subject: Subject,
    sizes: Sequence[Load],
    *,
    plan: Plan,
    work: str = "training",
    dtype: str = "float32",
    mode: str = "graph",
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time the subject's step at each batch size, see `paired_sample`.

    Parameters
    ----------
    subject, work, dtype, mode, seed
        As `Stepper` takes them.
    sizes : sequence of int or Window
        Batch sizes (examples) or windows; the first is also the A/A canary's.
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
        return fresh_training_step(subject, every, work=work, dtype=dtype, mode=mode, seed=seed)

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


def sample_epochs(
    subject: Subject, sizes: Sequence[int], examples: int, *, plan: Plan, dtype: str = "float32", mode: str = "graph"
) -> Samples:
    """Time one epoch of ``fit`` at each batch size, input pipeline and callbacks included, see `paired_sample`."""

    def fresh(_: int) -> Run:
        bench = Bench(subject, dtype)
        x, y, w = bench.cast(subject.draw(0, examples))
        bench.compile_model(bench.model, _still(_optimizer(subject)), **bench.runtime.compile_options(mode))

        def run(size: int) -> None:
            bench.model.fit(x, y, sample_weight=w, batch_size=size, epochs=1, verbose=0)
            bench.runtime.synchronize(bench.model.variables)

        return run

    with precision(dtype):
        return paired_sample(
            fresh, sizes, dummy_sizes=EPOCH_DUMMIES, seed=0, instances=plan.instances, rounds=plan.rounds,
            budget_seconds=plan.seconds,
        )  # fmt: skip


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
