"""Independence, fourth part: every source trains on each example once an epoch, with its own target and weight.

The model is the ledger of `bscheck.oracles.ledger`: its gradients name the examples they came from, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import Case, StreamCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, require
from bscheck.oracles.ledger import IDS, Journal, Ledger, Mismatch, counts, coverage, difference, draw, follow
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array, seeded
from bscheck.runtime.ledger import CAPACITY, Trainee
from bscheck.runtime.sources import cut, given, takes, training_sources
from bscheck.tolerance import UNIT_ROUNDOFF

HELD_OUT = {"none": 0.0, "quarter": 0.25, "half": 0.5}

#: Fewest batches of one example whose order is asked to differ: by chance it does not once in 12! (4.8e8) times.
ENOUGH_TO_SHUFFLE = 12


@cached_in_process
def trainee(k: int, mode: str, steps_per_execution: int) -> Trainee:
    """Return the compiled ledger model; compiled once in a process."""
    return Trainee(k, mode, steps_per_execution)


def rounding(k: int) -> float:
    """Return the unit roundoff where a window's division rounds: a compiled program may multiply by 1/k instead."""
    return 0.0 if k & (k - 1) == 0 else UNIT_ROUNDOFF["float32"]


def source_params() -> list[Param]:
    """Return a parameter for each source of this backend."""
    return [Param.of(source=source) for source in training_sources()]


def stream_corners(context: Context) -> Sequence[Case]:
    """Return the smallest stream, then each option once where the source takes it."""
    plain = StreamCase(mode=context.runtime.modes[0])
    twice = replace(plain, epochs=2, seed=1)
    corners = [
        replace(plain, examples=1, batch_size=1),
        plain,
        replace(plain, examples=6, seed=2),
        replace(plain, examples=2, batch_size=5, weights="none"),
        twice,
        replace(twice, examples=8, shuffle="yes", seed=3),
        replace(twice, examples=12, batch_size=1, shuffle="yes", seed=4),
        replace(twice, shuffle="batch", seed=5),
        replace(plain, epochs=5, first_epoch=3, seed=6),
        replace(plain, weights="class", seed=7),
        replace(twice, weights="class", shuffle="yes", seed=8),
        replace(plain, weights="class_partly", seed=9),
        replace(twice, examples=8, held_out="quarter", seed=10),
        replace(twice, examples=8, held_out="half", shuffle="yes", batch_size=3, seed=11),
        replace(plain, examples=8, epochs=4, steps=2, seed=12),
        replace(twice, steps=3, seed=18),
        replace(plain, examples=8, epochs=4, steps=2, shuffle="yes", seed=13),
    ]
    if context.runtime.joins_steps:
        corners += [replace(twice, steps_per_execution=2, seed=15), replace(plain, steps_per_execution=7, seed=16)]
    if context.runtime.modes[0] != "eager":
        corners += [replace(twice, mode="eager", seed=17)]
    source = context.param.get("source")
    fit = [case for case in corners if _unfit(case, source) is None]
    # Threads load what the same source loads without them, and take a quarter of a second to begin and end; a dataset
    # that does not tell its batches' size, or its length, differs in little from one that does.
    if source == "pydataset_threads":
        return fit[1::2]
    return fit[::2] if source == "dataset_unknown" else fit


def stream_cases(context: Context) -> Any:
    """Draw sizes and options that the source takes."""
    from hypothesis import strategies as st

    source, few = context.param.get("source"), context.runtime.compiles_per_shape
    shapes = (
        st.sampled_from([(5, 2), (6, 2), (8, 2), (1, 1)]) if few else st.tuples(st.integers(1, 12), st.integers(1, 5))
    )
    spans = st.sampled_from([1, 1, 3] if context.runtime.joins_steps and not few else [1])
    drawn = st.builds(
        lambda shape, **fields: StreamCase(examples=shape[0], batch_size=shape[1], **fields),
        shapes,
        seed=seeds(),
        epochs=st.integers(1, 3),
        first_epoch=st.integers(0, 2),
        steps=st.sampled_from([0, 0, 0, 1, 2, 3]),
        shuffle=st.sampled_from(["no", "yes", "yes", "batch"]),
        held_out=st.sampled_from(["none", "none", *HELD_OUT]),
        weights=st.sampled_from(["sample", "sample", "class", "none"]),
        steps_per_execution=spans,
        mode=st.just(context.runtime.modes[0]),
    )
    return drawn.map(lambda case: _fitted(case, source))


def end_corners(context: Context) -> Sequence[Case]:
    """Return an epoch and two, with an open window and without one."""
    plain = StreamCase(examples=3, batch_size=1, mode=context.runtime.modes[0])
    corners = [
        plain,
        replace(plain, epochs=2, seed=1),
        replace(plain, micro_batches=2, seed=2),
        replace(plain, examples=5, micro_batches=2, epochs=2, seed=3),
    ]
    return [case for case in corners if _unfit(case, context.param.get("source")) is None]


def end_cases(context: Context) -> Any:
    """Draw the corners' structures with other examples."""
    from hypothesis import strategies as st

    structures = st.sampled_from(list(end_corners(context)))
    return st.builds(lambda case, seed: replace(case, seed=seed), structures, seeds())


def _fitted(case: StreamCase, source: str) -> StreamCase:
    """Return the case without the options that its source does not take."""
    for name in ("shuffle", "held_out", "steps", "weights", "steps_per_execution", "first_epoch", "epochs"):
        if _unfit(case, source) is None:
            break
        case = replace(case, **{name: getattr(StreamCase(), name)})
    return case if _unfit(case, source) is None else StreamCase(seed=case.seed, mode=case.mode)


def _unfit(case: StreamCase, source: str) -> str | None:
    """Return why the source cannot be given so, or why what it then does is not promised."""
    trained, held = _split(case)
    batches = -(-trained // case.batch_size)
    passes = case.epochs - case.first_epoch
    if passes < 1 or trained < 1 or case.examples > IDS:
        return "there is nothing to train on"
    steps = passes * (case.steps or batches)
    if steps > CAPACITY:
        return "more steps than the journal holds"
    if case.held_out != "none" and (not takes(source, "examples") or held != HELD_OUT[case.held_out] * case.examples):
        return "validation_split is for arrays, and which example a broken one falls on is not promised"
    if not takes(source, {"yes": "shuffle", "batch": "examples", "no": ""}[case.shuffle]):
        return "Keras does not shuffle this source"
    if case.weights.startswith("class") and not takes(source, "class_weight"):
        return "Keras takes no class_weight for this source"
    if case.weights == "class_partly" and trained < 2:
        return "one class cannot be weighed in part"
    if case.steps and not takes(source, "endless") and (batches % case.steps or steps % batches):
        return "examples that end within an epoch of steps_per_epoch interrupt the training, as Keras warns"
    told = case.steps or (batches if source == "generator" and passes > 1 else 0)
    if told % case.steps_per_execution:
        return "steps_per_epoch that fills no executions has a promise of its own"
    if case.steps and source == "dataset_unknown":
        return "of an endless stream the number of batches is known to be unknown"
    return None


def _split(case: StreamCase) -> tuple[int, int]:
    """Return how many examples are trained on, the first ones, and how many are held out, the last ones."""
    trained = math.floor(case.examples * (1 - HELD_OUT[case.held_out]))
    return trained, case.examples - trained


@check(
    family="independence",
    claims=("C14", "C8"),
    case=StreamCase,
    params=source_params,
    cases=stream_cases,
    corners=stream_corners,
    examples=(1, 1, 300),
    per_subject=False,
    catches="a last batch that is dropped, a batch seen twice, targets or weights shuffled otherwise than inputs, "
    "held-out examples that are trained on, an epoch too many, a stream that is cut or peeked at and not restored",
    formula="exact: the gradient's element i is (number of times example i is in the batch) x (its weight) x (its "
    "target) x (the slope there); then weights and accumulators to the last bit, within 4 u n (|w|+|g|) where k is no "
    "power of 2",
    source="keras.io/api/models/model_training_apis: fit's epochs, initial_epoch, shuffle, sample_weight, "
    "class_weight, validation_split ('from the last samples', 'the model will not train on it'), steps_per_epoch",
    example="pass 2 over the examples: example 4 was trained on 0 times; allowed: 1 times",
)
def every_source_trains_on_each_example_once_per_epoch(context: Context, case: StreamCase) -> Reading:
    """Every source trains on each example once per epoch, with its own target and weight; so all sources agree."""
    source = context.param.get("source")
    require(source in training_sources(), "Keras on this backend has no such source here")
    unfit = _unfit(case, source)
    require(unfit is None, unfit or "")
    return stream_reading(case, source, counted=False)


def stream_reading(case: StreamCase, source: str, *, counted: bool = True) -> Reading:
    """Train on the case's examples from the source and hold the journal against the ledger.

    Without `counted`, what the optimizer counts is passed over: one defect, one promise broken.
    """
    ledger = weighed(draw(case.seed, case.examples, case.weights != "none"), case)
    student = trainee(case.micro_batches, case.mode, case.steps_per_execution)
    student.reset(ledger)
    _train(student, ledger, case, source)
    return judge(ledger, student.journal(), passes(case), case, counted)


def weighed(ledger: Ledger, case: StreamCase) -> Ledger:
    """Return the ledger, the largest class without a weight of its own where the case says so."""
    if case.weights != "class_partly":
        return ledger
    w = ledger.w.copy()
    w[int(np.argmax(ledger.y[:, 0]))] = 1.0
    return replace(ledger, w=w)


def _train(student: Trainee, ledger: Ledger, case: StreamCase, source: str) -> None:
    parts = [ledger.x.astype("float32"), ledger.y.astype("float32")]
    if case.weights == "sample":
        parts.append(ledger.w.astype("float32"))
    options = options_of(ledger, case, source)
    arguments = given(source, tuple(parts), case.batch_size, endless="steps_per_epoch" in options)
    if source == "arrays" and case.steps and -(-_split(case)[0] // case.steps) == case.batch_size:
        del arguments["batch_size"]  # as many steps make batches of this size
    student.fit(arguments, **options)


def options_of(ledger: Ledger, case: StreamCase, source: str) -> dict[str, Any]:
    """Return the options of ``fit`` that a case gives beside its examples."""
    options: dict[str, Any] = {"epochs": case.epochs, "initial_epoch": case.first_epoch, "shuffle": False}
    if case.weights.startswith("class"):
        named = {int(label): float(w) for label, w in zip(ledger.y[:, 0], ledger.w, strict=True)}
        if case.weights == "class_partly":
            del named[max(named)]
        options["class_weight"] = named
    if case.shuffle != "no":
        options["shuffle"] = True if case.shuffle == "yes" else "batch"
    if case.held_out != "none":
        options["validation_split"] = HELD_OUT[case.held_out]
    batches = -(-case.examples // case.batch_size)
    if case.steps or (source == "generator" and case.epochs - case.first_epoch > 1):
        options["steps_per_epoch"] = case.steps or batches
    return options


def passes(case: StreamCase) -> list[list[list[int]]]:
    """Return the examples of each batch of each pass over them, unshuffled; the last pass may be cut short."""
    trained, _ = _split(case)
    (rows,) = zip(*cut((list(range(trained)),), case.batch_size), strict=True)
    steps = (case.epochs - case.first_epoch) * (case.steps or len(rows))
    stream = [list(rows[i % len(rows)]) for i in range(steps)]
    return [stream[i : i + len(rows)] for i in range(0, steps, len(rows))]


def judge(
    ledger: Ledger, journal: Journal, expected: list[list[list[int]]], case: StreamCase, counted: bool
) -> Reading:
    """Return what a journal says of the batches that were due."""
    seen = counts(ledger, journal)
    if isinstance(seen, Mismatch):
        return broken(seen, "the gradient of a batch is not that of its examples")
    shuffled = case.shuffle != "no"
    wrong = coverage(seen, expected, shuffled)
    if wrong is not None:
        return broken(wrong, "which examples are trained on, not how")
    if case.shuffle == "yes" and _in_order(seen):
        return broken(Mismatch("the order", "shuffled examples came in their own order", "another"), "not shuffled")
    due = follow(ledger, [np.flatnonzero(row).tolist() for row in seen], case.micro_batches)
    made = journal if counted else replace(journal, counted=due.counted, updates=due.updates)
    share, wrong = difference(made, due, rounding(case.micro_batches))
    return Reading(share) if wrong is None else broken(wrong, "the right examples; not what is made of them", share)


def _in_order(seen: Array) -> bool:
    """Whether single examples came in their own order, where there are enough of them to tell."""
    return seen.shape[1] >= ENOUGH_TO_SHUFFLE and np.array_equal(seen[: len(seen[0])], np.eye(len(seen[0])))


def broken(wrong: Mismatch, cause: str, share: float = np.inf) -> Reading:
    """Return a mismatch as a reading."""
    return Reading(share, where=wrong.where, seen=f"{wrong.where}: {wrong.seen}", allowed=wrong.wanted, cause=cause)


@check(
    family="accumulation",
    claims=("C4", "C14"),
    case=StreamCase,
    params=source_params,
    cases=end_cases,
    corners=end_corners,
    examples=(0, 1, 200),
    per_subject=False,
    catches="an epoch whose end counts as a step: schedules and bias corrections then run ahead, and the last window "
    "is taken for full",
    formula="exact: as many steps counted as batches given, and accumulators with just what is open",
    source="keras.io/api/optimizers: iterations counts the training steps run; gradient_accumulation_steps averages "
    "over the gradients 'since the last update'",
    example="the count of steps: the optimizer counts 4; allowed: 3 steps",
)
def end_of_the_data_is_not_a_step(context: Context, case: StreamCase) -> Reading:
    """The optimizer counts and accumulates the batches it was given; that a source has ended changes nothing."""
    source = context.param.get("source")
    require(source in training_sources(), "Keras on this backend has no such source here")
    unfit = _unfit(case, source)
    require(unfit is None, unfit or "")
    return stream_reading(case, source)


def shuffled_params() -> list[Param]:
    """Return a parameter for each source that Keras shuffles."""
    return [Param.of(source=source) for source in training_sources() if takes(source, "shuffle")]


def shuffled_corners(context: Context) -> Sequence[Case]:
    """Return two epochs of as many examples as there can be."""
    return [StreamCase(examples=IDS, batch_size=1, epochs=2, shuffle="yes", mode=context.runtime.modes[0])]


def shuffled_cases(context: Context) -> Any:
    """Draw seeds."""
    (case,) = shuffled_corners(context)
    return seeds().map(lambda seed: StreamCase(**{**case.to_json(), "seed": seed}))


@check(
    family="independence",
    claims=("C14", "C11"),
    case=StreamCase,
    params=shuffled_params,
    cases=shuffled_cases,
    corners=shuffled_corners,
    examples=(0, 0, 100),
    per_subject=False,
    catches="an order that is drawn once and then repeated, in every epoch and every call of fit",
    formula="the orders of 12 examples in two epochs after set_random_seed are not alike (by chance: 1 in 12!)",
    source="keras.io/api/models/model_training_apis: shuffle, 'whether to shuffle the training data before each "
    "epoch'; keras.io/api/utils/python_utils: set_random_seed makes a run reproducible, not its epochs alike",
    example="epochs 1 and 2: both took the examples in the order [6, 4, 7, 3, 2, 1, 5, 0]",
)
def every_epoch_is_shuffled_anew(context: Context, case: StreamCase) -> Reading:
    """With a random seed set, shuffled epochs still differ from one another."""
    source = context.param.get("source")
    require(takes(source, "shuffle") and case.shuffle == "yes", "nothing is shuffled")
    require(case.examples >= ENOUGH_TO_SHUFFLE and case.batch_size == 1, "too few batches to tell")
    ledger = draw(case.seed, case.examples, case.weights != "none")
    student = trainee(case.micro_batches, case.mode, case.steps_per_execution)
    student.reset(ledger)
    with seeded(case.seed):
        _train(student, ledger, case, source)
    seen = counts(ledger, student.journal())
    if isinstance(seen, Mismatch):
        return broken(seen, "the gradient of a batch is not that of its examples")
    orders = seen.argmax(axis=1).reshape(-1, case.examples).tolist()
    for i, order in enumerate(orders):
        if order in orders[:i]:
            place = f"epochs {orders.index(order) + 1} and {i + 1}"
            text = f"both took the examples in the order {order}"
            return broken(Mismatch(place, text, "another order in each epoch"), "the order is drawn once")
    return Reading(0.0)
