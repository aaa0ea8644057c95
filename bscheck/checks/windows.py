"""Accumulation over whole trainings: which micro-batches make which update, whatever loop runs them.

The model is the ledger of `bscheck.oracles.ledger`, whose trajectory NumPy foretells to the last bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bscheck.cases import Case, StreamCase, WindowCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, require
from bscheck.checks.coverage import broken, rounding, stream_reading, trainee
from bscheck.oracles.ledger import IDS, Ledger, difference, draw, follow
from bscheck.results.verdict import Reading
from bscheck.runtime.ledger import CAPACITY, Trainee
from bscheck.runtime.loops import Step, own_loops, own_model_class, own_step
from bscheck.runtime.sources import cut, given, training_sources

Batches = list[list[int]]


def batches_of(case: WindowCase) -> list[Batches]:
    """Return the examples of each batch of each call."""
    calls = []
    for i, examples in enumerate(case.calls):
        (rows,) = zip(*cut((list(range(examples)),), case.batch_size), strict=True)
        epochs = 1 if case.mixed and i % 2 else case.epochs
        calls.append([list(r) for r in rows] * epochs)
    return calls


def _complete(case: WindowCase) -> bool:
    """Whether no call ends with an open window."""
    return all(len(batches) % case.micro_batches == 0 for batches in batches_of(case))


def _fits(case: WindowCase) -> bool:
    return sum(map(len, batches_of(case))) <= CAPACITY


def _ledger(case: WindowCase) -> Ledger:
    return draw(case.seed, max(case.calls), weighted=True)


def window_cases(context: Context, complete: bool) -> Any:
    """Draw calls whose windows are all complete, or that leave one open."""
    from hypothesis import strategies as st

    few = context.runtime.compiles_per_shape
    sizes = st.sampled_from([1, 2]) if few else st.integers(1, 3)
    drawn = st.builds(
        WindowCase,
        seed=seeds(),
        micro_batches=st.sampled_from([2, 3] if few else [2, 3, 4]),
        calls=st.lists(st.integers(1, IDS), min_size=1, max_size=3).map(tuple),
        batch_size=sizes,
        epochs=st.integers(1, 3),
        mixed=st.booleans(),
        mode=st.just(context.runtime.modes[0]),
    )
    made = drawn.map(_completed) if complete else drawn
    return made.filter(lambda case: _fits(case) and _complete(case) == complete)


def _completed(case: WindowCase) -> WindowCase:
    """Return the case with whole windows in each call: as many more examples as that takes, then epochs."""
    size = case.batch_size * case.micro_batches
    whole = tuple(min(IDS // size, -(-n // size)) * size for n in case.calls)
    # With k epochs every number of batches makes whole windows, most of which straddle epochs.
    straddling = replace(case, epochs=case.micro_batches, mixed=False)
    return straddling if case.seed % 2 else replace(case, calls=whole)


def complete_corners(context: Context) -> Sequence[Case]:
    """Return one window, several, several calls, another number of examples, and windows that straddle epochs."""
    plain = WindowCase(mode=context.runtime.modes[0])
    corners = [
        replace(plain, calls=(2,)),
        replace(plain, calls=(4, 8), seed=1),
        replace(plain, calls=(3,), epochs=2, seed=2),
        replace(plain, calls=(5, 7), epochs=2, batch_size=2, seed=3),
        replace(plain, calls=(4, 6, 4), mixed=True, seed=4),
        replace(plain, calls=(5,), micro_batches=3, epochs=3, batch_size=2, seed=5),
        replace(plain, calls=(4,), micro_batches=4, epochs=3, seed=6),
    ]
    if context.runtime.modes[0] != "eager":
        corners += [replace(plain, calls=(3, 6), epochs=2, mode="eager", seed=7)]
    return corners


def open_corners(context: Context) -> Sequence[Case]:
    """Return a tail window of each kind: followed by nothing, by a call that closes it, by one that does not."""
    plain = WindowCase(mode=context.runtime.modes[0])
    return [
        replace(plain, calls=(1,)),
        replace(plain, calls=(3,), seed=1),
        replace(plain, calls=(3, 3), seed=2),
        replace(plain, calls=(5, 4), batch_size=2, seed=3),
        replace(plain, calls=(3, 2, 4), mixed=True, seed=4),
        replace(plain, calls=(4, 5), micro_batches=3, seed=5),
        replace(plain, calls=(5, 2), micro_batches=4, epochs=1, seed=6),
    ]


def whole_params() -> list[Param]:
    """Return the one parameter: the check brings its own model."""
    return [Param.of(model="ledger")]


def train(student: Trainee, ledger: Ledger, case: WindowCase) -> None:
    """Make the case's calls one after the other."""
    for i, examples in enumerate(case.calls):
        parts = tuple(p[:examples].astype("float32") for p in (ledger.x, ledger.y, ledger.w))
        if case.mixed and i % 2:
            for x, y, w in cut(parts, case.batch_size):
                student.model.train_on_batch(x, y, sample_weight=w)
        else:
            student.fit(given(_quickest(), parts, case.batch_size), epochs=case.epochs, shuffle=False)


def _quickest() -> str:
    """Return the source that costs least: Keras makes a pipeline of arrays at every call, three times as dear."""
    return "dataset_dynamic" if "dataset_dynamic" in training_sources() else "arrays"


def window_reading(case: WindowCase) -> Reading:
    """Train as the case says and hold the journal against NumPy's."""
    ledger, k = _ledger(case), case.micro_batches
    student = trainee(k, case.mode, case.steps_per_execution)
    student.reset(ledger)
    train(student, ledger, case)
    steps = list(itertools.chain.from_iterable(batches_of(case)))
    share, wrong = difference(student.journal(), follow(ledger, steps, k), rounding(k))
    return Reading(share) if wrong is None else broken(wrong, f"windows of {k} micro-batches", share)


FORMULA = (
    "exact: w <- w - (g_1 + ... + g_k) / k after every k-th micro-batch and at no other time, the gradients at the "
    "weights of that moment; within 4 u n (|w|+|g|) where k is no power of 2; accumulators and iterations too"
)
SOURCE = (
    "keras.io/api/optimizers: with gradient_accumulation_steps variables 'will be updated every "
    "gradient_accumulation_steps steps, using the average value of the gradients since the last update'"
)


@check(
    family="accumulation",
    claims=("C4", "C14"),
    case=WindowCase,
    params=whole_params,
    cases=lambda context: window_cases(context, True),
    corners=complete_corners,
    examples=(2, 10, 300),
    per_subject=False,
    catches="a window that is cut at the end of an epoch or of a call, one that is applied early or twice, that leaks "
    "into the next, and accumulators or counts that a new call changes",
    formula=FORMULA,
    source=SOURCE,
    example="before step 3 the weight is 12 in column 4; allowed: -27.5",
)
def windows_run_on_across_epochs_and_calls(context: Context, case: WindowCase) -> Reading:
    """Every k micro-batches make one update and leave nothing behind, across epochs and calls."""
    require(_complete(case), "a call that leaves a window open has its own promise")
    require(_fits(case), "more steps than the journal holds")
    return window_reading(case)


@check(
    family="accumulation",
    claims=("C4", "C14"),
    case=WindowCase,
    params=whole_params,
    cases=lambda context: window_cases(context, False),
    corners=open_corners,
    examples=(2, 8, 300),
    per_subject=False,
    catches="an open window that is applied, dropped, emptied or divided otherwise than documented",
    formula=FORMULA,
    source=SOURCE,
    example="in the end the gradient accumulator holds 0 in column 2; allowed: -33",
    exception="a window that a call leaves open is neither applied nor dropped: the next call goes on with it "
    "(https://keras.io/api/optimizers/, gradient_accumulation_steps: 'since the last update')",
    excepts="windows_run_on_across_epochs_and_calls",
)
def open_window_waits_for_the_next_call(context: Context, case: WindowCase) -> Reading:
    """A window that a call leaves open waits in the accumulators until the next call completes it."""
    require(not _complete(case), "no window is left open")
    require(_fits(case), "more steps than the journal holds")
    return window_reading(case)


# Executions ---------------------------------------------------------------------------------------------


def execution_params() -> list[Param]:
    """Return sources that end by themselves, and one that goes on until ``steps_per_epoch`` are made."""
    return [Param.of(source=source) for source in ("arrays", "generator")]


def execution_corners(context: Context) -> Sequence[Case]:
    """Return 1, 2, 3 and too many steps in an execution, dividing and not, compiled, traced and eager."""
    plain = StreamCase(examples=9, mode=context.runtime.modes[0])
    if context.param.get("source") == "generator":
        endless = replace(plain, examples=6, epochs=2)
        return [
            replace(endless, steps=4, steps_per_execution=2),
            replace(endless, steps=3, steps_per_execution=3, micro_batches=2, seed=1),
            replace(endless, steps=3, steps_per_execution=2, seed=2),
            replace(endless, steps=2, steps_per_execution=5, micro_batches=2, seed=3),
        ]
    corners = [
        replace(plain, steps_per_execution=2),
        replace(plain, steps_per_execution=3, epochs=2, seed=1),
        replace(plain, steps_per_execution=7, epochs=2, seed=2),
        replace(plain, steps_per_execution=5, seed=3),
        replace(plain, steps_per_execution=2, micro_batches=2, epochs=2, seed=4),
        replace(plain, steps_per_execution=3, micro_batches=2, epochs=2, seed=5),
        replace(plain, steps_per_execution=7, micro_batches=3, epochs=2, seed=6),
    ]
    for mode in context.runtime.modes[1:]:
        joined = 3 if mode == "jit" else 2
        corners += [replace(plain, mode=mode, micro_batches=2, epochs=2, seed=7)]
        corners += [replace(plain, mode=mode, examples=8, steps_per_execution=joined, seed=8)]
    return corners


def execution_cases(context: Context) -> Any:
    """Draw the corners' structures with other examples: another structure is another program."""
    from hypothesis import strategies as st

    structures = st.sampled_from(list(execution_corners(context)))
    return st.builds(lambda case, seed: replace(case, seed=seed), structures, seeds())


def joins_steps(context: Context) -> str | None:
    """Return why steps cannot be joined into one execution."""
    return first_reason((not context.runtime.joins_steps, "Keras on this backend takes no steps_per_execution above 1"))


@check(
    family="accumulation",
    claims=("C4", "C14"),
    case=StreamCase,
    params=execution_params,
    cases=execution_cases,
    corners=execution_corners,
    applies=joins_steps,
    examples=(1, 1, 200),
    per_subject=False,
    catches="an execution of several steps that drops the rest, makes a step too many, or applies its gradients "
    "together; a compiled step that accumulates otherwise",
    formula="as for the sources: the batches, the weights and the accumulators, exactly those of single steps",
    source="keras.io/api/models/model_training_apis: steps_per_execution runs batches 'during each tf.function call … "
    "the execution will be truncated to the size of the epoch'",
    example="the number of steps: 4 steps were made; allowed: 5",
)
def updates_do_not_depend_on_steps_per_execution(context: Context, case: StreamCase) -> Reading:
    """Steps joined into one execution, and compiled ones, make the updates of single steps."""
    return stream_reading(case, context.param.get("source"))


# Steps of one's own -------------------------------------------------------------------------------------


def loop_params() -> list[Param]:
    """Return the ways in which this backend's users write a training step."""
    return [Param.of(loop=loop) for loop in own_loops()]


def loop_corners(context: Context) -> Sequence[Case]:
    """Return single updates and windows, in each mode."""
    plain = WindowCase(mode=context.runtime.modes[0], calls=(5,), batch_size=2, micro_batches=1)
    corners = [plain, replace(plain, calls=(6, 5), micro_batches=2, seed=1)]
    if "jit" in context.runtime.modes and context.param.get("loop") == "apply":
        corners += [replace(plain, calls=(6,), micro_batches=2, mode="jit", seed=2)]
    return corners


def loop_cases(context: Context) -> Any:
    """Draw the corners' structures with other examples."""
    from hypothesis import strategies as st

    structures = st.sampled_from(list(loop_corners(context)))
    return st.builds(lambda case, seed: replace(case, seed=seed), structures, seeds())


@cached_in_process
def _own_trainee(k: int, mode: str) -> Trainee:
    return Trainee(k, mode, model_class=own_model_class())


@cached_in_process
def _own_step(loop: str, k: int, mode: str) -> tuple[Trainee, Step]:
    student = Trainee(k, mode)
    return student, own_step(loop, student.model, student.optimizer, mode)


@check(
    family="accumulation",
    claims=("C4", "C14"),
    case=WindowCase,
    params=loop_params,
    cases=loop_cases,
    corners=loop_corners,
    examples=(1, 2, 200),
    per_subject=False,
    catches="a loss, a gradient or an optimizer that gives a step of one's own something else than Keras's own step",
    formula=FORMULA,
    source="keras.io/guides: custom_train_step and writing_a_custom_training_loop, for each backend",
    example="in step 2 the gradient is -33 in column 3; allowed: -16.5",
)
def steps_of_ones_own_make_the_updates_of_fit(context: Context, case: WindowCase) -> Reading:
    """A ``train_step`` of one's own and a loop written by hand make the updates of Keras's own step."""
    ledger, loop = _ledger(case), context.param.get("loop")
    if loop == "train_step":
        student = _own_trainee(case.micro_batches, case.mode)
        student.reset(ledger)
        train(student, ledger, case)
    else:
        student, step = _own_step(loop, case.micro_batches, case.mode)
        student.reset(ledger)
        for batch in itertools.chain.from_iterable(batches_of(case)):
            step(*(p[batch].astype("float32") for p in (ledger.x, ledger.y, ledger.w)))
    steps = list(itertools.chain.from_iterable(batches_of(case)))
    expected = follow(ledger, steps, case.micro_batches)
    share, wrong = difference(student.journal(), expected, rounding(case.micro_batches))
    return Reading(share) if wrong is None else broken(wrong, f"the step written by hand ({loop})", share)
