"""Data parallel work on two devices is the work of one: training, evaluation, prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import Case, ReplicaCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, require
from bscheck.oracles.replicas import DEVICES, Training, draw, evaluated, normalized, predicted, train
from bscheck.results.verdict import Reading, worst
from bscheck.runtime import current
from bscheck.runtime.replicas import STRATEGIES, Worker, WorkerError
from bscheck.tolerance import UNIT_ROUNDOFF, Array

FORMULA = (
    "elementwise, |seen - expected| <= 64 n u size in float64 (float32 on JAX), n the number of updates and size the "
    "largest weight, target or gradient: no more than 64 roundings of numbers of that size in an update of 12 examples"
)


def replica_params() -> list[Param]:
    """Return the backend's way to train on several devices."""
    return [Param.of(strategy=STRATEGIES.get(current().name, "none"))]


def has_strategy(context: Context) -> str | None:
    """Return why there is nothing to hold to the promise."""
    own = STRATEGIES.get(current().name)
    return first_reason(
        (own is None, "Keras on this backend has no data parallel training of its own"),
        (context.param.get("strategy") != own, f"on this backend it is {own}"),
    )


@dataclass(frozen=True)
class Seen:
    """What Keras did on two devices: weights, history, and the unit roundoff that it computed with."""

    weights: tuple[Array, Array]
    history: Mapping[str, list[float]]
    u: float


@cached_in_process
def _worker() -> Worker:
    return Worker()


def _request(case: ReplicaCase) -> dict[str, Any]:
    return {
        "seed": case.seed,
        "examples": case.examples,
        "batch_size": case.batch_size,
        "epochs": case.epochs,
        "weighted": case.weights == "unequal",
        "penalty": case.penalty == "l2",
        "k": case.micro_batches,
        "optimizer": case.optimizer,
        "steps_per_execution": case.steps_per_execution,
        "path": case.path,
    }


def _answer(case: ReplicaCase) -> Mapping[str, Any]:
    return _worker().ask(**_request(case))


def _begin(case: ReplicaCase) -> None:
    _worker().expect(**_request(case))


@cached_in_process
def _trained(case: ReplicaCase) -> Seen | str:
    """Return the training that Keras did on two devices, or the error it raised."""
    answer = _answer(case)
    if "error" in answer:
        return str(answer["error"])
    kernel, bias = (np.asarray(w) for w in answer["weights"])
    return Seen((kernel, bias), answer["history"], UNIT_ROUNDOFF[answer["dtype"]])


def _batches(case: ReplicaCase) -> list[list[int]]:
    rows = list(range(case.examples))
    return [rows[i : i + case.batch_size] for i in range(0, len(rows), case.batch_size)]


def _even(case: ReplicaCase) -> bool:
    """Whether every batch gives every device as many examples."""
    return all(len(batch) % DEVICES == 0 for batch in _batches(case))


def _expected(case: ReplicaCase, devices: int) -> Training:
    data = draw(case.seed, case.examples, case.weights == "unequal", case.optimizer == "overflow")
    return train(
        data,
        case.batch_size,
        case.epochs,
        penalty=case.penalty == "l2",
        k=case.micro_batches,
        devices=devices,
        optimizer=case.optimizer,
    )


def _bound(case: ReplicaCase, seen: Seen, expected: Training) -> float:
    updates = len(_batches(case)) * case.epochs
    return 64 * updates * seen.u * expected.size


def updates_reading(case: ReplicaCase, devices: int) -> Reading:
    """Hold the weights after a training on two devices against NumPy's."""
    seen = _ask(case)
    if isinstance(seen, Reading):
        return seen
    expected = _expected(case, devices)
    bound, readings = _bound(case, seen, expected), []
    for name, s, e in zip(("kernel", "bias"), seen.weights, expected.weights, strict=True):
        off = np.abs(s - e)
        at = np.unravel_index(int(np.argmax(np.where(np.isfinite(off), off, np.inf))), off.shape)
        moved = float(np.abs(e - draw(case.seed, case.examples, False).start[name == "bias"]).max())
        place = f"{name}[{','.join(map(str, at))}]"
        readings.append(
            Reading(
                float(off[at]) / bound if np.isfinite(off[at]) else np.inf,
                where=place,
                seen=f"after {case.epochs} epochs on {DEVICES} devices {place} is {s[at]:.9g}, on one {e[at]:.9g}: "
                f"off by {off[at] / moved:.2g} of what training moved",
                allowed=f"{bound / moved:.1g} of it",
            )
        )
    return worst(readings)


def history_reading(case: ReplicaCase, devices: int) -> Reading:
    """Hold the history of a training on two devices against NumPy's."""
    seen = _ask(case)
    if isinstance(seen, Reading):
        return seen
    expected = _expected(case, devices)
    readings = []
    for name, values in expected.history.items():
        if name not in seen.history:
            return Reading(np.inf, name, f"the history has no {name}, only {sorted(seen.history)}", "every metric")
        for epoch, (s, e) in enumerate(zip(seen.history[name], values, strict=True)):
            bound = _bound(case, seen, expected) * max(1.0, expected.size)  # squares of numbers of that size
            readings.append(
                Reading(
                    abs(s - e) / bound if np.isfinite(s) else np.inf,
                    where=f"{name}, epoch {epoch + 1}",
                    seen=f"on {DEVICES} devices the history gives {name} = {s:.9g} in epoch {epoch + 1}; "
                    f"over the examples it is {e:.9g}",
                    allowed=f"{bound:.1g} more or less",
                )
            )
    return worst(readings)


def _ask(case: ReplicaCase) -> Seen | Reading:
    """Return the training, or a broken promise where there was none."""
    try:
        seen = _trained(case)
    except WorkerError as error:
        return Reading(np.inf, seen=str(error), allowed="an answer")
    return Reading(np.inf, seen=f"Keras raised {seen}", allowed="no error") if isinstance(seen, str) else seen


def update_corners(context: Context) -> Sequence[Case]:
    """Return the corners of the history, accumulation, and what else an optimizer does; each way to clip is drawn."""
    names = ("adam", "global_clipnorm", "averaged", "scaled", "overflow")
    others = [ReplicaCase(optimizer=name, weights="unequal", seed=3) for name in names]
    joined = ReplicaCase(examples=16, weights="unequal", steps_per_execution=2, seed=4)
    return [*replica_corners(context), ReplicaCase(micro_batches=2), *others, joined]


def replica_corners(context: Context) -> Sequence[Case]:
    """Return full batches and an even tail, weighted and with a penalty."""
    rich = ReplicaCase(examples=6, epochs=2, weights="unequal", penalty="l2")
    corners = [rich, replace(rich, examples=8, weights="none", seed=1)]
    return [*corners, replace(rich, examples=2, batch_size=8, epochs=1, seed=2)]


def uneven_corners(context: Context) -> Sequence[Case]:
    """Return tails of one and of three examples, and batches that are all uneven."""
    rich = ReplicaCase(examples=7, epochs=2, weights="unequal", penalty="l2")
    return [rich, replace(rich, examples=5, seed=1), ReplicaCase(examples=6, batch_size=3)]


def even_cases(context: Context, **fields: Any) -> Any:
    """Draw seeds and sizes whose batches the devices share evenly."""
    from hypothesis import strategies as st

    return st.builds(
        ReplicaCase,
        seed=seeds(),
        examples=st.sampled_from([6, 10]),
        epochs=st.integers(1, 2),
        weights=st.just("unequal"),
        penalty=st.just("l2"),
        **fields,
    )


def update_cases(context: Context) -> Any:
    """Draw an optimizer and the steps of an execution too."""
    from hypothesis import strategies as st

    optimizers = st.sampled_from(ReplicaCase.CHOICES["optimizer"])
    return even_cases(context, optimizer=optimizers, steps_per_execution=st.sampled_from([1, 1, 2, 3]))


def uneven_cases(context: Context) -> Any:
    """Draw seeds for tails that the devices cannot share evenly."""
    from hypothesis import strategies as st

    return st.builds(
        ReplicaCase,
        seed=seeds(),
        examples=st.sampled_from([5, 7, 9, 11]),
        epochs=st.integers(1, 2),
        weights=st.just("unequal"),
        penalty=st.just("l2"),
    )


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=ReplicaCase,
    params=replica_params,
    cases=update_cases,
    corners=update_corners,
    applies=has_strategy,
    begin=_begin,
    examples=(0, 0, 100),
    per_subject=False,
    catches="gradients that are summed over the devices, or those of one device alone; a penalty, a weight decay, a "
    "step or a moving average counted once a device; each device's gradient clipped where the whole one should be; a "
    "gradient that overflows on one device alone; a tail that is trained on twice or not at all; sample weights that "
    "go to the wrong device; steps of one execution that are lost",
    formula=FORMULA,
    source="keras.io/guides/distributed_training_with_tensorflow, …_with_jax: synchronous data parallelism 'keeps the "
    "model convergence behavior identical to what you would see for single-device training'",
    example="after 2 epochs on 2 devices kernel[0,1] is 0.41, on one 0.38: off by 0.12 of what training moved",
)
def replicas_make_the_updates_of_one_device(context: Context, case: ReplicaCase) -> Reading:
    """Training on two devices that share every batch evenly makes the updates of one device."""
    require(_even(case), "a batch that the devices cannot share evenly has a promise of its own")
    return updates_reading(case, 1)


@check(
    family="accumulation",
    claims=("C1",),
    case=ReplicaCase,
    params=replica_params,
    cases=even_cases,
    corners=replica_corners,
    applies=has_strategy,
    begin=_begin,
    examples=(0, 1, 100),
    per_subject=False,
    catches="a history that divides by the devices once too often or not at all, that is one device's, or that "
    "counts the penalty once a device",
    formula=FORMULA + "; the losses' bound times size once more, for squares",
    source="keras.io/guides/distributed_training_with_tensorflow: 'fit works as usual' within the strategy's scope",
    example="on 2 devices the history gives loss = 0.61 in epoch 1; over the examples it is 1.22",
)
def replicas_report_the_history_of_one_device(context: Context, case: ReplicaCase) -> Reading:
    """The history of training on two devices is that of the examples: loss, metrics and weighted metrics."""
    require(_even(case), "a batch that the devices cannot share evenly has a promise of its own")
    return history_reading(case, 1)


@check(
    family="accumulation",
    claims=("C1", "C4"),
    case=ReplicaCase,
    params=replica_params,
    cases=uneven_cases,
    corners=uneven_corners,
    applies=has_strategy,
    begin=_begin,
    examples=(0, 1, 100),
    per_subject=False,
    catches="a tail whose devices' means are weighed in any other way than documented, or that is padded or dropped",
    formula=FORMULA + "; g = (1/devices) sum of the devices' own means, 0 from one without examples",
    source="keras.io/guides/distributed_training_with_tensorflow: every replica computes the loss and the gradient of "
    "its own sub-batch",
    example="after 2 epochs on 2 devices bias[0] is 0.13, on one 0.11: off by 0.2 of what training moved",
    exception="of a batch that the devices cannot share evenly each takes the mean of its own examples, and these "
    "means count alike (https://keras.io/guides/distributed_training_with_tensorflow/); JAX refuses such a batch",
    excepts="replicas_make_the_updates_of_one_device",
)
def uneven_batch_averages_its_devices_equally(context: Context, case: ReplicaCase) -> Reading:
    """A batch that two devices cannot share evenly is the plain mean of what each makes of its part, or is refused."""
    require(not _even(case), "every batch is shared evenly")
    if context.param.get("strategy") == "DataParallel":
        return _refused(case)
    return worst([updates_reading(case, DEVICES), history_reading(case, DEVICES)])


def _refused(case: ReplicaCase) -> Reading:
    """Return a broken promise unless the batch was refused, with a word on why."""
    try:
        seen = _trained(case)
    except WorkerError as error:
        return Reading(np.inf, seen=str(error), allowed="an answer")
    if isinstance(seen, str) and "divisible" in seen.lower():
        return Reading(0.0)
    text = f"Keras raised {seen}" if isinstance(seen, str) else "a batch that cannot be shared evenly was trained on"
    return Reading(np.inf, seen=text, allowed="an error that says that the batch is not divisible")


# Answers -----------------------------------------------------------------------------------------------


def answer_corners(context: Context) -> Sequence[Case]:
    """Return batches with an even tail and, where devices may share unevenly, with one that leaves a device idle."""
    tails = (6,) if context.param.get("strategy") == "DataParallel" else (6, 5)
    asked = [("evaluate", n) for n in tails] + [("predict", n) for n in tails] + [("predict_on_batch", 4)]
    return [ReplicaCase(path=path, examples=n, weights="unequal", seed=i) for i, (path, n) in enumerate(asked)]


def answer_cases(context: Context) -> Any:
    """Draw what is asked, and sizes."""
    from hypothesis import strategies as st

    even = context.param.get("strategy") == "DataParallel"
    return st.builds(
        ReplicaCase,
        seed=seeds(),
        path=st.sampled_from(ReplicaCase.CHOICES["path"][1:]),
        # A first batch of uneven parts is refused or not by what was asked before; `uneven_corners` have it.
        examples=st.integers(2, 6).map(lambda n: 2 * n) if even else st.integers(4, 12),
        batch_size=st.sampled_from([2, 4]),
        weights=st.sampled_from(ReplicaCase.CHOICES["weights"]),
    )


@check(
    family="independence",
    claims=("C8", "C13"),
    case=ReplicaCase,
    params=replica_params,
    cases=answer_cases,
    corners=answer_corners,
    applies=has_strategy,
    begin=_begin,
    examples=(0, 0, 100),
    per_subject=False,
    catches="predictions that are repeated, lost or out of order because several devices made them, and losses or "
    "metrics that weigh the devices instead of the examples",
    formula="elementwise, |seen - expected| <= 64 u size in float64 (float32 on JAX), size as in `train`; of losses "
    "and metrics times size once more, for squares",
    source="keras.io/guides/distributed_training_with_tensorflow: 'fit', 'evaluate' and 'predict' work as usual within "
    "the strategy's scope",
    example="predict_on_batch returns (8, 2) for 4 examples",
)
def replicas_answer_as_one_device(context: Context, case: ReplicaCase) -> Reading:
    """On two devices predictions and evaluations are those of one."""
    require(case.path != "fit", "training has promises of its own")
    try:
        answer = _answer(case)
    except WorkerError as error:
        return Reading(np.inf, seen=str(error), allowed="an answer")
    if "error" in answer:
        return Reading(np.inf, seen=f"Keras raised {answer['error']}", allowed="no error")
    data = draw(case.seed, case.examples, case.weights == "unequal")
    size = max(1.0, *(float(np.abs(a).max()) for a in (data.y, *data.start, predicted(data))))
    bound = 64 * UNIT_ROUNDOFF[answer["dtype"]] * size
    if case.path != "evaluate":
        return _predictions(case, np.asarray(answer["predicted"]), predicted(data), bound)
    readings = []
    for name, e in evaluated(data).items():
        s = answer["evaluated"].get(name, np.nan)
        share = abs(s - e) / (bound * size)
        text = f"evaluate on {DEVICES} devices gives {name} = {s:.9g}; over the examples it is {e:.9g}"
        readings.append(
            Reading(share if np.isfinite(share) else np.inf, name, text, f"{bound * size:.1g} more or less")
        )
    return worst(readings)


def _predictions(case: ReplicaCase, seen: Array, expected: Array, bound: float) -> Reading:
    """Hold rows against rows."""
    if seen.shape != expected.shape:
        text = f"{case.path} returns {seen.shape} for {case.examples} examples on {DEVICES} devices"
        return Reading(np.inf, "shape", text, str(expected.shape))
    off = np.abs(seen - expected)
    row = int(np.argmax(off.max(axis=1)))
    text = f"{case.path} on {DEVICES} devices is off by {off.max():.2g} in row {row}"
    share = float(off.max()) / bound
    return Reading(share if np.isfinite(share) else np.inf, f"row {row}", text, f"{bound:.1g}")


# Batch statistics --------------------------------------------------------------------------------------


@cached_in_process
def _normalized(case: ReplicaCase) -> Mapping[str, Any]:
    """Return what the process with two devices says of a batch normalization."""
    return _worker().ask(**_normalization(case))


def _normalization(case: ReplicaCase) -> dict[str, Any]:
    return {"normalize": True, "seed": case.seed, "examples": case.examples}


def _begin_normalization(case: ReplicaCase) -> None:
    _worker().expect(**_normalization(case))


def statistics_corners(context: Context) -> Sequence[Case]:
    """Return one example a device, where a device alone has no variance at all, and several."""
    return [ReplicaCase(examples=2), ReplicaCase(examples=8, seed=1)]


def statistics_cases(context: Context) -> Any:
    """Draw seeds and even batches."""
    from hypothesis import strategies as st

    return st.builds(ReplicaCase, seed=seeds(), examples=st.sampled_from([2, 4, 6, 10]))


@check(
    family="accumulation",
    claims=("C1", "C8"),
    case=ReplicaCase,
    params=replica_params,
    cases=statistics_cases,
    corners=statistics_corners,
    applies=has_strategy,
    begin=_begin_normalization,
    examples=(0, 0, 50),
    per_subject=False,
    catches="a synchronized batch normalization whose statistics are those of a device's own examples, so that the "
    "number of devices changes what is learned",
    formula="elementwise, |seen - expected| <= 64 u size, size the larger of 1 and the largest input squared; "
    "expected: mean and variance of the whole batch, and what they make of gamma and beta in a step of SGD",
    source="Ioffe and Szegedy 2015, algorithm 1; keras.io/api/layers/normalization_layers/batch_normalization: "
    "synchronized, 'synchronizes the global batch statistics (mean and variance) for the layer across all devices at "
    "each training step'",
    example="a batch of 8 on 2 devices leaves moving_variance[1] = 0.91; of the whole batch it is 0.98",
)
def synchronized_batch_statistics_are_those_of_the_whole_batch(context: Context, case: ReplicaCase) -> Reading:
    """A synchronized batch normalization on two devices takes mean and variance over the whole batch."""
    require(case.examples % DEVICES == 0, "a batch that the devices cannot share evenly has a promise of its own")
    try:
        answer = _normalized(case)
    except WorkerError as error:
        return Reading(np.inf, seen=str(error), allowed="an answer")
    if "error" in answer:
        return Reading(np.inf, seen=f"Keras raised {answer['error']}", allowed="no error")
    data = draw(case.seed, case.examples, False)
    bound = 64 * UNIT_ROUNDOFF[answer["dtype"]] * max(1.0, float(np.square(data.x).max()))
    readings = []
    for name, expected in normalized(data).items():
        seen = np.asarray(answer["variables"][name])
        off = np.abs(seen - expected)
        at = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
        readings.append(
            Reading(
                float(off[at]) / bound if np.isfinite(off[at]) else np.inf,
                where=f"{name}[{at}]",
                seen=f"a batch of {case.examples} on {DEVICES} devices leaves {name}[{at}] = {seen[at]:.9g}; "
                f"of the whole batch it is {expected[at]:.9g}",
                allowed=f"{bound:.1g} more or less",
            )
        )
    return worst(readings)
