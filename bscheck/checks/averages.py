"""Independence: moving averages of the weights stand in for them when they should, and take over at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bscheck.cases import AverageCase, SwapCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, draw_weights
from bscheck.checks.paths import compare
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.averages import AveragingLearner, swaps
from bscheck.runtime.bench import Array, Bench


@cached_in_process
def _averaging(bench: Bench, mode: str, every: int) -> AveragingLearner:
    return AveragingLearner(bench, mode, every)


def average_corners(context: Context) -> Sequence[AverageCase]:
    """Return one epoch and three, the averages taking over at the end, or every two updates too; and two trainings."""
    plain = AverageCase(mode=context.runtime.modes[0])
    longer = replace(plain, batches=3, epochs=3, seed=1)
    return (plain, longer, replace(longer, every=2, seed=2), replace(plain, calls=2, seed=3))


def average_cases(context: Context) -> Any:
    """Draw epochs and batches."""
    from hypothesis import strategies as st

    return st.builds(
        AverageCase,
        seed=seeds(),
        batch_size=st.just(2),
        batches=st.integers(1, 3),
        epochs=st.integers(1, 3),
        calls=st.integers(1, 2),
        every=st.sampled_from([0, 2]),
        mode=st.just(context.runtime.modes[0]),
    )


@check(
    family="independence",
    claims=("C14", "C9"),
    case=AverageCase,
    params=lambda: [Param.of(subject="dense")],
    cases=average_cases,
    corners=average_corners,
    examples=(0, 0, 100),
    per_subject=False,
    catches="moving averages that replace the weights after an epoch instead of after the last one, or never, or at "
    "another update than ema_overwrite_frequency says, or from which no further training can go on",
    formula="float64, each variable of model and optimizer: rms(a-b) <= 1e-10 (rms(b) + rms(b - start)); b: "
    "train_on_batch on the same batches, then finalize_variable_values()",
    source="keras.io/api/optimizers: ema_overwrite_frequency, 'if None, … you need to explicitly overwrite the "
    "variables at the end of training by calling optimizer.finalize_variable_values() … When using the built-in fit() "
    "training loop, this happens automatically after the last epoch'",
    example="fit from arrays leaves dense/kernel[0,1] off by 0.004: 0.2 of what training moved",
)
def fit_ends_with_the_moving_averages(context: Context, case: AverageCase) -> Reading:
    """Averages of the weights take their place after the last epoch of ``fit``, and not before."""
    bench = context.bench("float64")
    batch = context.subject.draw(case.seed, case.batch_size * case.batches)
    # A learner that could not train again (Keras on JAX) is of no use to other cases.
    learner = (AveragingLearner if case.calls > 1 else _averaging)(bench, case.mode, case.every)
    ends = []
    for source in ("arrays", "on_batch"):
        learner.reset(draw_weights(bench, case.seed, "usual"))
        before = learner.state()
        for _ in range(case.calls):
            learner.learn(batch, case.batch_size, source, case.epochs)
            if source == "on_batch":
                learner.finalize()
        ends.append(learner.state())
    cause = "fit, not the step: train_on_batch was given the same batches"
    return compare("fit from arrays leaves", cause, before, *ends)


# In their place -------------------------------------------------------------------------------------------


def swap_corners(context: Context) -> Sequence[SwapCase]:
    """Return every way to let the averages stand in."""
    mode = context.runtime.modes[0]
    once = [SwapCase(path=path, mode=mode) for path in ("evaluate", "predict")]
    return [*once, *(SwapCase(path=path, epochs=2, mode=mode, seed=1) for path in ("fit", "epoch"))]


def swap_cases(context: Context) -> Any:
    """Draw a way, epochs and batches."""
    from hypothesis import strategies as st

    return st.builds(
        SwapCase,
        seed=seeds(),
        path=st.sampled_from(SwapCase.CHOICES["path"]),
        batch_size=st.just(2),
        batches=st.integers(1, 3),
        epochs=st.integers(1, 3),
        mode=st.just(context.runtime.modes[0]),
    )


def _no_swap(context: Context) -> str | None:
    return None if swaps() else "this Keras has no SwapEMAWeights"


@check(
    family="independence",
    claims=("C14", "C9"),
    case=SwapCase,
    params=lambda: [Param.of(subject="dense")],
    cases=swap_cases,
    corners=swap_corners,
    applies=_no_swap,
    examples=(0, 0, 100),
    per_subject=False,
    catches="an evaluation or a prediction by the weights where the averages were asked for, weights or averages that "
    "are not handed back, training that goes on from the averages",
    formula="float64, elementwise: |seen - expected| <= 1e-10 (size + 1), size the largest expected; expected: the "
    "model given the average a_t = a_{t-1} / 2 + w_t / 2, a_1 = w_1, of its weights after each train_on_batch",
    source="keras.io/api/callbacks/swap_ema_weights: it 'replaces the model's weight values with the values of the "
    "optimizer's EMA weights … before model evaluation, and restores the previous weights after evaluation'",
    example="after predict the weights are off by 0.04: the averages were not taken out again",
)
def averages_stand_in_for_the_weights_and_are_handed_back(context: Context, case: SwapCase) -> Reading:
    """Where SwapEMAWeights lets the averages stand in for the weights, both are handed back unchanged."""
    bench = context.bench("float64")
    learner, start = _averaging(bench, case.mode, 0), draw_weights(bench, case.seed, "usual")
    batch = context.subject.draw(case.seed, case.batch_size * case.batches)
    learner.reset(start)
    ends = learner.follow(batch, case.batch_size, case.epochs)
    if case.path in ("evaluate", "predict"):
        return _asked(learner, case, batch, *ends[-1])
    learner.reset(start)
    losses, found = learner.validated(batch, case.batch_size, case.epochs, case.path == "epoch")
    readings = [_held("after fit the weights", learner.weights(), ends[-1][1])]
    for epoch, (seen, loss, (weights, average)) in enumerate(zip(found, losses, ends, strict=True), 1):
        expected = average if case.path == "epoch" else weights
        readings.append(_held(f"at the end of epoch {epoch} the weights", seen, expected))
        learner.reset(average)
        told = learner.evaluated(batch, case.batch_size)[0][:1]
        readings.append(_held(f"the validation loss of epoch {epoch}", np.array([loss]), told))
    return worst(readings)


def _asked(learner: AveragingLearner, case: SwapCase, batch: Any, weights: Array, average: Array) -> Reading:
    """Hold one evaluation or prediction, and what it leaves behind."""
    ask = learner.evaluated if case.path == "evaluate" else learner.predicted
    seen = ask(batch, case.batch_size, swapped=True)
    handed_back = _held(f"after {case.path} the weights", learner.weights(), weights)
    if not handed_back.holds:
        return handed_back
    learner.finalize()
    readings = [handed_back, _held(f"after {case.path} the averages", learner.weights(), average)]
    learner.reset(average)
    expected = ask(batch, case.batch_size)
    readings += [_held(f"what {case.path} returns", s, e) for s, e in zip(seen, expected, strict=True)]
    return worst(readings)


def _held(what: str, seen: Array, expected: Array) -> Reading:
    """Hold numbers against others, up to the rounding of a swap by sums and differences."""
    off = float(np.abs(seen - expected).max(initial=0.0))
    bound = 1e-10 * (1 + float(np.abs(expected).max(initial=0.0)))
    share = off / bound
    return Reading(share if np.isfinite(share) else np.inf, what, f"{what}: off by {off:.2g}", f"{bound:.1g}")
