"""Suspects: what may have gone wrong, tried out. Each explanation is carried out, and named if it gives what was seen.

An explanation is never inferred from a check's name: an update is made again with weight decay on every micro-batch,
with the micro-batches' sum, and so on, and the one that ends where Keras ended is the suspect. One that explains more
than `EXPLAINED` of the difference is told; two at a time are tried when no single one does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bscheck.errors import one_line
from bscheck.results.verdict import Reading

if TYPE_CHECKING:
    from bscheck.cases import (
        Case,
        GradientCase,
        InferenceCase,
        LossCase,
        LossScaleCase,
        MetricCase,
        TrajectoryCase,
        UpdateCase,
    )
    from bscheck.checks import Check
    from bscheck.checks.context import Context
    from bscheck.runtime.rig import Rig

Array = np.ndarray[Any, Any]

#: Share of the difference (rms) that an explanation may leave over: rounding, not a second defect.
LEFT_OVER = 0.02

#: Updates after which an explanation must still agree.
LEAST_UPDATES = 3


@dataclass(frozen=True)
class Suspect:
    """An explanation that agrees with what was seen.

    Attributes
    ----------
    id : str
        A short name, which the table of known defects asks for.
    text : str
        The explanation, for the reader.
    """

    id: str
    text: str


@dataclass(frozen=True)
class Findings:
    """What came of trying: the suspects, and whether gradient or application is at fault ("" if unknown)."""

    suspects: tuple[Suspect, ...] = ()
    cause: str = ""


def explains(seen: Array, expected: Array, alternative: Array) -> bool:
    """Whether an alternative lies so near to what was seen that it explains its distance from what was expected."""
    left, whole = float(np.linalg.norm(seen - alternative)), float(np.linalg.norm(seen - expected))
    return whole > 0 and math.isfinite(left) and left <= LEFT_OVER * whole


# Updates -----------------------------------------------------------------------------------------------

#: Explanations of an update from micro-batches that is not the update of their mean.
OF_UPDATES: Mapping[str, str] = {
    "decay-per-micro-batch": "weight decay acts on every micro-batch",
    "steps-per-micro-batch": "bias correction counts micro-batches for updates",
    "clip-per-micro-batch": "every micro-batch is clipped, not their mean",
    "average-per-micro-batch": "the moving average advances on every micro-batch",
    "constraint-per-micro-batch": "the constraint is applied on micro-batches that make no update",
    "sum": "the sum of the micro-batches in place of their mean",
    "divided-twice": "the mean is divided by the number of micro-batches once more",
    "last-alone": "the last micro-batch alone makes the update",
    "first-alone": "the first micro-batch alone makes the update",
    "last-missing": "the last micro-batch is missing",
    "last-twice": "the last micro-batch counts twice",
    "decay-of-excluded": "weights that are excluded from the decay decay as well",
    "no-decay": "weight decay does not act at all",
    "no-clip": "the clip does not act at all",
    "no-constraint": "the constraint does not act at all",
}
_WEIGHINGS: Mapping[str, Callable[[int], list[float]]] = {
    "sum": lambda k: [1.0] * k,
    "divided-twice": lambda k: [1 / k**2] * k,
    "last-alone": lambda k: [0.0] * (k - 1) + [1.0],
    "first-alone": lambda k: [1.0] + [0.0] * (k - 1),
    "last-missing": lambda k: [1 / (k - 1)] * (k - 1) + [0.0] if k > 1 else [0.0],
    "last-twice": lambda k: [1 / k] * (k - 1) + [2 / k],
}


def _of_update(context: Context, case: UpdateCase, reading: Reading) -> Findings:
    """Make the windows again under each explanation, and each pair of them."""
    from bscheck.checks.updates import OPTIONS, _options, _rig, accumulated, first_weights, micro_gradients

    name = context.param.get("optimizer")
    run = _rig(name, _options(case), case.micro_batches, case.mode, case.dtype)
    reference = _rig(name, _options(case), None, case.mode, case.dtype)
    start = first_weights(case)
    run.reset(start)
    reference.reset(start)
    # Beyond the first bad update too: at one update, several explanations may give the same.
    windows = [micro_gradients(case, update) for update in range(max(case.updates, LEAST_UPDATES))]
    seen, expected = _Trace(), _Trace()
    for window in windows:
        for gradients in window:
            run.apply(gradients)
        reference.apply(accumulated(window, case.mode, case.dtype))
        seen.add(run)
        expected.add(reference)

    def end(chosen: Sequence[str]) -> Array:
        on = dict(zip(OPTIONS, _options(case), strict=True))
        left_out = {name.removeprefix("no-") for name in chosen if name.startswith("no-")}
        if "clip-per-micro-batch" in chosen:
            left_out.add("clip")
        if "decay-of-excluded" in chosen:
            on["decay"] = "on"
        spared = ["none" if option in left_out else value for option, value in on.items()]
        rig, ended = _rig(name, tuple(spared), None, case.mode, case.dtype), _Trace()
        rig.reset(start)
        for update, window in enumerate(windows):
            _explained_update(rig, case, window, update, chosen)
            ended.add(rig)
        return ended.values()

    found = _tried(_applicable(case, reference), end, seen.values(), expected.values())
    return Findings(tuple(Suspect(id, OF_UPDATES[id]) for id in found))


def _tried(
    names: Sequence[str], end: Callable[[Sequence[str]], Array], seen: Array, expected: Array
) -> tuple[str, ...]:
    """Return the single explanations that agree with what was seen, else the first pair that does."""
    single = [name for name in names if _agrees(end, (name,), seen, expected)]
    if single:
        return tuple(single)
    return next((pair for pair in itertools.combinations(names, 2) if _agrees(end, pair, seen, expected)), ())


def _agrees(end: Callable[[Sequence[str]], Array], chosen: tuple[str, ...], seen: Array, expected: Array) -> bool:
    alternative = end(chosen)
    return alternative.shape == seen.shape and explains(seen, expected, alternative)


def _applicable(case: UpdateCase, rig: Rig) -> list[str]:
    """Return the explanations that the case's options leave open."""
    decays = bool(getattr(rig.optimizer, "weight_decay", None))
    left_out = {
        *(() if decays else ("decay-per-micro-batch", "no-decay")),
        *(() if case.clip != "none" else ("clip-per-micro-batch", "no-clip")),
        *(() if case.ema != "none" else ("average-per-micro-batch",)),
        *(() if case.constraint != "none" else ("constraint-per-micro-batch", "no-constraint")),
        *(() if case.decay == "exclude_bias" else ("decay-of-excluded",)),
        *(() if case.decay != "none" else ("no-decay",)),
    }
    return [name for name in OF_UPDATES if name not in left_out]


def _explained_update(rig: Rig, case: UpdateCase, window: Sequence[Sequence[Array]], update: int, chosen: Any) -> None:
    """Make one update of a window as the chosen explanations would have it."""
    from bscheck.runtime.probe import step_counter

    k = case.micro_batches
    if "steps-per-micro-batch" in chosen:
        step_counter(rig.optimizer).assign(k * (update + 1) - 1)
    weights = list(rig.weights().values())
    if "constraint-per-micro-batch" in chosen:
        weights = [np.asarray(rig.keras.ops.convert_to_numpy(v.constraint(v))) for v in rig.variables]
    if "decay-per-micro-batch" in chosen:
        rate = float(rig.keras.ops.convert_to_numpy(rig.optimizer.learning_rate)) * float(rig.optimizer.weight_decay)
        spared = "bias" if case.decay == "exclude_bias" else ""
        factors = [1.0 if spared == name else (1 - rate) ** (k - 1) for name in rig.names]
        weights = [w * f for w, f in zip(weights, factors, strict=True)]
    for variable, value in zip(rig.variables, weights, strict=True):
        variable.assign(value.astype(case.dtype))
    averages = _averages(rig) if "average-per-micro-batch" in chosen else []
    shares = next((_WEIGHINGS[name](k) for name in chosen if name in _WEIGHINGS), [1 / k] * k)
    given = [_clipped(g, case.clip) for g in window] if "clip-per-micro-batch" in chosen else window
    rig.apply([
        np.sum([s * g[i].astype(np.float64) for s, g in zip(shares, given, strict=True)], axis=0).astype(case.dtype)
        for i in range(len(rig.names))
    ])  # fmt: skip
    momentum = float(getattr(rig.optimizer, "ema_momentum", 0.0) or 0.0)
    for (variable, old), before, now in zip(averages, weights, rig.weights().values(), strict=False):
        still = momentum ** (k - 1)
        variable.assign((momentum * (still * old + (1 - still) * before) + (1 - momentum) * now).astype(case.dtype))


def _averages(rig: Rig) -> list[tuple[Any, Array]]:
    """Return the moving averages of the weights, with their values."""
    held = getattr(rig.optimizer, "_model_variables_moving_average", ())
    return [(v, np.array(rig.keras.ops.convert_to_numpy(v))) for v in held]


def _clipped(gradients: Sequence[Array], clip: str) -> list[Array]:
    """Return one micro-batch's gradients clipped, by the definition of each clip."""
    from bscheck.surface.optimizers import CLIPS

    (kind, limit), *_ = (*CLIPS[clip].items(), ("", 0.0))
    if kind == "clipvalue":
        return [np.clip(g, -limit, limit) for g in gradients]
    norms = [float(np.linalg.norm(g)) for g in gradients]
    if kind == "global_clipnorm":
        norms = [float(np.linalg.norm(norms))] * len(norms)
    return [g * min(1.0, limit / n) if n else g for g, n in zip(gradients, norms, strict=True)]


def _state(rig: Rig) -> Array:
    return np.concatenate([v.astype(np.float64).ravel() for v in (*rig.weights().values(), *rig.slots().values())])


class _Trace:
    """The states of an optimizer after each update."""

    def __init__(self) -> None:
        self.states: list[Array] = []

    def add(self, rig: Rig) -> None:
        """Keep the present state."""
        self.states.append(_state(rig))

    def values(self) -> Array:
        """Return all states as one array."""
        return np.concatenate(self.states)


# Gradients ---------------------------------------------------------------------------------------------


def _of_gradient(context: Context, case: GradientCase, reading: Reading) -> Findings:
    """Write the gradient that was applied as a mixture of the micro-batches' and read off how often each counts."""
    from bscheck.checks.gradients import gradients, run_window, shares

    bench, batches, window = run_window(context, case)
    if window.updates != 1:
        text = f"every micro-batch makes an update of its own ({window.updates} of {len(case.sizes)})"
        return Findings((Suspect("update-per-micro-batch", text),) if window.updates == len(case.sizes) else ())
    own = context.subject.step is not None
    exact = gradients(bench, batches, case.mode)
    micro = exact.micro if window.micro is None else window.micro
    p = np.asarray(shares(context, case.sizes, [b[2] for b in batches]))
    # Keras takes the mean of what it was given, a team's own step has to weigh ragged micro-batches itself.
    weighed = p if own else np.full(len(p), 1 / len(p))
    scale = 1.0 if own else float(len(p)) * p[0]
    suspects = tuple(of_mixture(window.applied, micro, weighed, case.sizes))
    expected, large = weighed @ micro, exact.large / scale
    tiny = 1e-5 * float(np.linalg.norm(expected)) + 1e-30
    accumulates = float(np.linalg.norm(window.applied - expected)) <= tiny
    if accumulates:
        cause = "the micro-batches' gradients are added up as they should be, but do not average to the large batch's"
        return Findings(suspects, cause)
    averages = float(np.linalg.norm(expected - large)) <= 10 * tiny
    return Findings(suspects, "the micro-batches' gradients are right; their accumulation is not" if averages else "")


def of_mixture(applied: Array, micro: Array, shares: Array, sizes: Sequence[int]) -> Iterator[Suspect]:
    """Yield what explains a gradient that is a mixture of micro-batch gradients, but not the mean.

    Parameters
    ----------
    applied : array, shape (parameters,)
        What reached the update.
    micro : array, shape (k, parameters)
        The micro-batches' own gradients.
    shares : array, shape (k,)
        The share that each should have.
    sizes : sequence of int
        Examples in each micro-batch.
    """
    k = len(micro)
    expected = shares @ micro
    residual = applied - expected
    if not np.isfinite(residual).all() or np.linalg.norm(residual) == 0:
        return
    parts = micro * shares[:, None]
    # Least squares on the residual: what each micro-batch counts beyond once.
    beyond, *_ = np.linalg.lstsq(parts.T, residual, rcond=1e-8)
    if np.linalg.norm(residual - parts.T @ beyond) > LEFT_OVER * np.linalg.norm(residual):
        text = "what differs is no mixture of the micro-batches' gradients: something else enters"
        yield Suspect("no-mixture", text)
        return
    yield _weighed(1 + beyond, shares, sizes, k)


def _weighed(counts: Array, shares: Array, sizes: Sequence[int], k: int) -> Suspect:
    """Return the words for how often each micro-batch counts (once is right)."""

    def near(wanted: Any) -> bool:
        return bool(np.allclose(counts, wanted, atol=0.02))

    told: list[tuple[bool, str, str]] = [
        (near(k), "sum", f"a sum in place of the mean: {k} times the expected gradient"),
        (near(1 / k), "divided-twice", f"divided by the {k} micro-batches once more"),
        (near(-1), "sign", "the sign is turned around"),
        (near(0), "nothing", "no micro-batch reaches the update"),
    ]
    for j in range(k):
        one = np.eye(k)[j]
        place = "the last micro-batch" if j == k - 1 else f"micro-batch {j + 1} of {k}"
        name = "last" if j == k - 1 else str(j + 1)
        told += [
            (near(k * one) or near(one / shares[j]), f"{name}-alone", f"{place} alone reaches the update"),
            (near(1 - one), f"{name}-missing", f"{place} is missing"),
            (near((1 - one) * k / (k - 1)), f"{name}-missing", f"{place} is missing, the mean is of the others"),
            (near(1 + one), f"{name}-twice", f"{place} counts twice"),
        ]
    alike = counts * shares
    ragged = len(set(sizes)) > 1 and not np.allclose(shares, shares[0])
    told += [(
        ragged and bool(np.allclose(alike, 1 / k, atol=0.02)), "weighed-alike",
        f"ragged micro-batches ({'+'.join(map(str, sizes))}) weigh alike, whatever their size",
    )]  # fmt: skip
    found = next(((id, text) for holds, id, text in told if holds), None)
    if found is None:
        words = ", ".join(f"{c:.4g}" for c in counts)
        alone = np.flatnonzero(np.abs(counts - 1) > 1e-6)
        found = ("scaled", f"every micro-batch counts {counts[0]:.6g} times") if near(counts[0]) else ("", "")
        if len(alone) == 1:
            found = "one-scaled", f"micro-batch {alone[0] + 1} of {k} counts {counts[alone[0]]:.6g} times"
        if not found[0]:
            found = "uneven", f"the micro-batches count {words} times"
    return Suspect(*found)


# Trajectories ------------------------------------------------------------------------------------------


def _of_trajectory(context: Context, case: TrajectoryCase, reading: Reading) -> Findings:
    """Hold the first bad update against the published one, scaled, skipped, or counted one too many or too few."""
    from bscheck.checks.context import draw_weights
    from bscheck.checks.trajectory import _batches, _gradients, _rates, _read, _training, variable_steps
    from bscheck.oracles.optimizers import RECURRENCES, hyperparameters

    recurrence = RECURRENCES[context.param.get("optimizer")]
    training = _training(recurrence.name, case.model, case.dtype, case.mode)
    bench, batches, rates = training.bench, _batches(training.bench, case), _rates(case)
    states = training.follow(
        draw_weights(bench, case.seed), batches, rates, case.path, lambda: _read(training, recurrence)
    )
    if len(states) != len(rates) + 1:
        return Findings()
    hyper = hyperparameters(training.optimizer, recurrence, case.dtype)
    gradients = _gradients(case, states[:-1], batches, bench)

    def after(first: int) -> list[Any]:
        return [
            step
            for i, given in enumerate(gradients)
            for step in variable_steps(recurrence, states, i, given, rates, hyper, case.dtype, first)
            if step.part == "weight"
        ]

    found = after(1)
    bad = np.flatnonzero([any(not (s.shares()[t] <= 1).all() for s in found) for t in range(case.updates)])
    if not bad.size:
        return Findings()
    t = int(bad[0])
    seen, expected, before = (
        np.concatenate([np.ravel(getattr(s, part)[t]) for s in found]) for part in ("keras", "oracle", "before")
    )
    for id, first, text in (("one-late", 2, "one update too many"), ("one-early", 0, "one update too few")):
        other = np.concatenate([np.ravel(s.oracle[t]) for s in after(first)])
        if explains(seen, expected, other):
            return Findings((Suspect(id, f"the optimizer counts {text}"),))
    moved = expected - before
    factor = float((seen - before) @ moved / (moved @ moved)) if moved.any() else 1.0
    if not explains(seen, expected, before + factor * moved):
        return Findings()
    if abs(factor) < LEFT_OVER:
        return Findings((Suspect("skipped", f"update {t + 1} is skipped"),))
    return Findings((Suspect("scaled", f"the whole update is {factor:.6g} times the published one"),))


# Values ------------------------------------------------------------------------------------------------


def _of_evaluation(context: Context, case: InferenceCase, reading: Reading) -> Findings:
    """Evaluate each batch alone and combine the batches in ways that an implementation might."""
    from bscheck.checks.context import draw_sample_weights
    from bscheck.checks.expected import ready_trainer
    from bscheck.checks.truth import truth
    from bscheck.subject import take

    name, figures = reading.where, reading.figures
    if "seen" not in figures or len(case.edges) < 2:
        return Findings()
    part = truth(context, case, sample_weight=draw_sample_weights(case.seed, case.examples, case.weights))
    model = ready_trainer(context, case, part.weights)
    cuts = [slice(a, b) for a, b in case.edges]
    alone = [
        model.alone("test_on_batch", (take(part.x, c), take(part.y, c), None if part.w is None else part.w[c]))
        for c in cuts
    ]
    if any(name not in report for report in alone):
        return Findings()
    values, sizes = np.array([r[name] for r in alone]), np.array([b - a for a, b in case.edges], float)
    totals = values * sizes
    told = {
        "mean-of-batches": ("a mean of the batches' values: a ragged last batch weighs as a full one", values.mean()),
        "sum-of-batches": ("a sum over the batches in place of the mean over the examples", values.sum()),
        "last-alone": ("the last batch alone is reported", values[-1]),
        "first-alone": ("the first batch alone is reported", values[0]),
        "last-missing": ("the last batch is missing", totals[:-1].sum() / sizes[:-1].sum()),
        "first-twice": ("the first batch counts twice", (totals.sum() + totals[0]) / (sizes.sum() + sizes[0])),
    }
    return Findings(tuple(_matching(told, figures["seen"], figures["expected"])))


def _matching(told: Mapping[str, tuple[str, float]], seen: float, expected: float) -> Iterator[Suspect]:
    """Yield the explanations whose value is the one that was seen."""
    for id, (text, value) in told.items():
        if explains(np.array([seen]), np.array([expected]), np.array([float(value)])):
            yield Suspect(id, text)


def _of_metric(context: Context, case: MetricCase, reading: Reading) -> Findings:
    """Compute the metric's definition over what an implementation might have counted instead."""
    from bscheck.checks.metrics import situation

    figures = reading.figures
    if "seen" not in figures:
        return Findings()
    of = situation(context, case)
    chunks = [c for c in of.cut(case.chunks) if len(c.p)]
    others = {
        "weights-ignored": ("the sample weights do not count", None if of.w is None else replace(of, w=None)),
        "mask-ignored": ("the mask does not count", None if of.mask is None else replace(of, mask=None)),
        "last-alone": ("only the last update counts", chunks[-1] if len(chunks) > 1 else None),
        "first-alone": ("only the first update counts", chunks[0] if len(chunks) > 1 else None),
        "last-row-missing": ("the last example is missing", of.rows(slice(0, -1)) if len(of.p) > 1 else None),
    }
    told = {id: (text, _value(other, figures)) for id, (text, other) in others.items() if other is not None}
    if len(chunks) > 1:
        mean = float(np.mean([_value(chunk, figures) for chunk in chunks]))
        told["mean-of-updates"] = "a mean of the updates' values, whatever their sizes", mean
    return Findings(tuple(_matching(told, figures["seen"], figures["expected"])))


def _value(of: Any, figures: Mapping[str, float]) -> float:
    """Return a situation's value by definition; of several, the one nearest to what was seen."""
    values = np.ravel(of.expected().value)
    return float(values[int(np.argmin(np.abs(values - figures["seen"])))]) if values.size else math.nan


def _of_loss(context: Context, case: LossCase, reading: Reading) -> Findings:
    """Combine the losses of the examples with what an implementation might have counted instead."""
    from bscheck.checks.loss_truth import loss_truth, weigh

    figures = reading.figures
    if "seen" not in figures or case.reduction == "none":
        return Findings()
    truth = loss_truth(context, case)
    usual = weigh(truth, case)

    def total(coefficients: Array) -> float:
        return float((coefficients * truth.values * np.ones(coefficients.shape)).sum())

    told: dict[str, tuple[str, float]] = {}
    if truth.mask is not None:
        told["mask-ignored"] = "the mask does not count", total(weigh(replace(truth, mask=None, kept=None), case))
        share = float(np.mean(truth.kept if truth.kept is not None else truth.mask))
        told["masked-in-count"] = "what is masked counts in the denominator", share * total(usual)
    if truth.w is not None:
        told["weights-ignored"] = "the sample weights do not count", total(weigh(replace(truth, w=None), case))
        mean = float(np.mean(truth.w))
        told["divided-by-weights"] = "divided by the weights in place of their number", total(usual) / (mean or 1.0)
        told["divided-by-number"] = "divided by the number of weights in place of their sum", total(usual) * mean
    return Findings(tuple(_matching(told, figures["seen"], figures["expected"])))


def _of_history(context: Context, case: InferenceCase, reading: Reading) -> Findings:
    """Average what each batch reports alone over the batches so far, by examples and by weights.

    What was reported first may go back to calls before the case, so the batches are given once more from the start.
    """
    from bscheck.checks.context import draw_sample_weights
    from bscheck.checks.expected import ready_trainer
    from bscheck.checks.truth import truth
    from bscheck.subject import take

    name, figures = reading.where, reading.figures
    if "seen" not in figures or case.path == "fit":
        return Findings()
    part = truth(context, case, sample_weight=draw_sample_weights(case.seed, case.examples, case.weights))
    model = ready_trainer(context, case, part.weights)
    cuts = [slice(a, b) for a, b in case.edges]
    batches = [(take(part.x, c), take(part.y, c), None if part.w is None else part.w[c]) for c in cuts]
    alone = [model.alone(case.path, batch) for batch in batches]
    model.model.reset_metrics()
    again = [model.on_batch(case.path, batch) for batch in batches]
    if len(alone) < 2 or any(name not in report for report in alone):
        return Findings()
    values, sizes = np.array([r[name] for r in alone]), np.array([b - a for a, b in case.edges], float)
    weights = sizes if part.w is None else np.array([float(np.sum(part.w[c])) for c in cuts])
    reported = np.array([r[name] for r in again])
    for by in (sizes, weights):
        means = np.cumsum(values * by) / np.maximum(np.cumsum(by), 1e-30)
        if explains(reported, values, means):
            text = "the mean over this and the earlier batches, not the batch's own value"
            return Findings((Suspect("running-mean", text),))
    return Findings()


def _of_penalty(context: Context, case: InferenceCase, reading: Reading) -> Findings:
    """Count the penalties of a linear model otherwise: activity not divided by the batch size, all of them twice."""
    from bscheck.checks.context import draw_sample_weights
    from bscheck.checks.penalties import _cut, _examples, _penalized_weights
    from bscheck.oracles.linear import penalized_loss

    kind, figures = context.param.get("penalty"), reading.figures
    if "seen" not in figures:
        return Findings()
    weights, (x, y) = _penalized_weights(case.seed), _examples(case.seed, case.examples)
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    cuts = [slice(a, b) for a, b in case.edges]

    def loss(of: str, cut: slice) -> float:
        return penalized_loss(of, weights, x[cut], y[cut], _cut(w, cut))[0]

    totals = np.array([loss(kind, c) for c in cuts])
    bare, sizes = np.array([loss("none", c) for c in cuts]), np.array([b - a for a, b in case.edges], float)
    activity = np.array([loss("activity", c) for c in cuts]) - bare
    others = {
        "activity-undivided": (
            "the activity penalty is not divided by the batch size",
            totals + activity * (sizes - 1),
        ),
        "penalties-twice": ("the penalties count twice", 2 * totals - bare),
        "penalties-missing": ("the penalties do not count", bare),
    }
    one_batch = case.path in ("train_on_batch", "test_on_batch")
    told = {}
    for id, (text, values) in others.items():
        candidates = values if one_batch else [np.average(values, weights=sizes)]
        told[id] = text, float(min(candidates, key=lambda value: abs(value - figures["seen"])))
    if kind not in ("activity", "all"):
        told.pop("activity-undivided")
    return Findings(tuple(_matching(told, figures["seen"], figures["expected"])))


def _of_overwritten(context: Context, case: LossScaleCase, reading: Reading) -> Findings:
    """Hold the ratio of what was written to what was given against the loss scale."""
    seen, expected = reading.figures.get("seen", math.nan), reading.figures.get("expected", math.nan)
    told = {
        "divided-by-scale": (
            "divided by the loss scale, which it never was multiplied with",
            expected / 2.0**case.exponent,
        ),
        "multiplied-by-scale": ("multiplied by the loss scale", expected * 2.0**case.exponent),
    }
    return Findings(tuple(_matching(told, seen, expected)))


# Sizes -------------------------------------------------------------------------------------------------

#: What a ratio of seen to expected says, by the quantity of the case that it equals at every size tried.
_RATIOS: Mapping[str, tuple[str, Callable[[float], float]]] = {
    "sum": ("a sum over the {n} examples in place of their mean", lambda n: n),
    "divided-twice": ("divided by the {n} examples once more", lambda n: 1 / n),
    "one-too-few": ("the denominator counts one example too few", lambda n: n / (n - 1) if n > 1 else math.nan),
    "one-too-many": ("the denominator counts one example too many", lambda n: n / (n + 1)),
    "doubled": ("counted twice", lambda n: 2.0),
    "halved": ("counted half", lambda n: 0.5),
    "nothing": ("nothing is counted", lambda n: 0.0),
    "sign": ("the sign is turned around", lambda n: -1.0),
}


def _of_ratio(check: Check, context: Context, case: Any, reading: Reading) -> Findings:
    """Break the promise again with other numbers and numbers of examples, and look at seen / expected."""
    from bscheck.diagnose import attempt

    pairs: list[tuple[int, float]] = []
    variation: Any
    for variation in _variations(case):
        again = reading if variation == case else attempt(check, context, variation)
        expected = again.figures.get("expected", 0.0)
        if again.holds or not expected or "seen" not in again.figures:
            continue
        pairs.append((variation.examples, again.figures["seen"] / expected))
    if len(pairs) < 2 or not all(math.isfinite(r) for _, r in pairs):
        return Findings()
    for id, (text, ratio) in _RATIOS.items():
        if all(abs(r - ratio(n)) <= LEFT_OVER * abs(r - 1) for n, r in pairs):
            return Findings((Suspect(id, text.format(n=case.examples)),))
    ratios = [r for _, r in pairs]
    # Far from 1 by the same factor, whatever the numbers: a scale, not a coincidence.
    if max(ratios) - min(ratios) <= LEFT_OVER * abs(ratios[0] - 1):
        return Findings((Suspect("scaled", f"{ratios[0]:.6g} times what it should be, whatever the numbers are"),))
    return Findings()


def _variations(case: Any) -> Iterator[Case]:
    """Yield the case, then with other numbers, then with more examples."""
    yield case
    yield replace(case, seed=case.seed + 1)
    for name, more in (("chunks", (3, 2)), ("sizes", (2, 2)), ("batches", case.__dict__.get("batches", 0) + 1)):
        if hasattr(case, name):
            yield replace(case, **{name: more})


_UPDATES = (
    "bias_correction_counts_updates", "weight_decay_acts_once_per_update", "clipping_acts_on_the_accumulated_gradient",
    "moving_average_advances_once_per_update", "constraints_act_once_per_update",
    "accumulated_update_matches_large_batch",
)  # fmt: skip
_GRADIENTS = ("accumulated_gradient_is_the_mean_of_what_was_accumulated", "accumulated_gradient_matches_large_batch")
_METRICS = (
    "metrics_equal_their_definition", "sample_weights_count_examples", "masked_labels_do_not_count",
    "merged_metrics_equal_one",
)  # fmt: skip
_EVALUATION = ("evaluation_does_not_depend_on_batch_size", "evaluation_does_not_depend_on_steps_per_execution")

#: What is tried out for a check, by its name; a self-test holds the names to be those of checks.
EXPLANATIONS: Mapping[str, Callable[[Any, Any, Reading], Findings]] = {
    **dict.fromkeys(_UPDATES, _of_update),
    **dict.fromkeys(_GRADIENTS, _of_gradient),
    "training_follows_the_published_recurrence": _of_trajectory,
    **dict.fromkeys(_METRICS, _of_metric),
    "loss_of_a_batch_is_the_combination_of_its_parts": _of_loss,
    "history_of_fit_and_train_on_batch_report_the_batch": _of_history,
    "penalties_count_once_whatever_the_batch_size": _of_penalty,
    "overwritten_variables_take_their_gradient_as_it_is": _of_overwritten,
    **dict.fromkeys(_EVALUATION, _of_evaluation),
}


def suspects(check: Check, context: Context, case: Case, reading: Reading) -> Findings:
    """Return what explains a failure; nothing where no explanation was found.

    Parameters
    ----------
    check, context, case
        What failed.
    reading : Reading
        How.
    """
    try:
        with np.errstate(all="ignore"):
            own = EXPLANATIONS.get(check.name)
            found = own(context, case, reading) if own else Findings()
            if not found.suspects and hasattr(case, "examples") and "seen" in reading.figures:
                ratio = _of_ratio(check, context, case, reading)
                found = Findings(ratio.suspects, found.cause)
        return found
    except Exception as error:
        # The failure itself stands, whatever happens while it is explained; but it is not passed over in silence.
        return Findings((Suspect("none", f"none: looking for them raised {one_line(error)}"),))
