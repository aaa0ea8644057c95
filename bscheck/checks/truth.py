"""What Keras must give: a case's examples, and their outputs in float64, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.checks.context import Context, cached_in_process, draw_weights, first_reason, weighed
from bscheck.errors import SubjectError
from bscheck.results.verdict import Reading
from bscheck.runtime.bench import Array, Bench
from bscheck.runtime.inference import Trainer, forward_function
from bscheck.subject import map_leaves, take
from bscheck.tolerance import UNIT_ROUNDOFF, Deviation, rms, rows
from bscheck.traits import NO_TWIN

#: Calibration rows: enough that not all of them round well by luck, few enough to be given one at a time.
CALIBRATION = 16

#: Unit roundoff of the products where a GPU computes float32 ones in TF32: 10 bits of mantissa.
TF32_ROUNDOFF = 2.0**-11


@dataclass(frozen=True)
class Truth:
    """A case's examples and what they come to in float64, one example at a time.

    Attributes
    ----------
    x, y, w
        The examples: inputs, targets, sample weights or None.
    rows : list of array, each (examples, ...)
        The float64 outputs.
    calibration, rounding : list of array, each (CALIBRATION or more, ...)
        Float64 outputs of the same and further examples, and what the subject's precision does to them; the
        examples themselves once more where the case's execution mode has kernels of its own.
    targets : tree of array
        The targets of the calibration rows.
    u : float
        Unit roundoff.
    weights : array, shape (parameters,)
        The model's weights, flat.
    """

    x: Any
    y: Any
    w: Array | None
    rows: list[Array]
    calibration: list[Array]
    rounding: list[Array]
    targets: Any
    u: float
    weights: Array


@cached_in_process
def forward(bench: Bench, training: bool, mode: str) -> Callable[[Any], list[Array]]:
    """Return the bench's own model as a function of its inputs."""
    return forward_function(bench, bench.model, training, mode)


@cached_in_process
def trainer(bench: Bench, mode: str, steps_per_execution: int, size: int = 0) -> Trainer:
    """Return a compiled model of the bench's subject: one of its own for each `size` of batches that is told.

    A loop that was traced for batches of any size serves those of a known size too: nothing would be made for them.
    """
    return Trainer(bench, mode, steps_per_execution)


def unit_roundoff(context: Context, dtype: str) -> float:
    """Return the unit roundoff that a policy's products are computed with on this device."""
    u = UNIT_ROUNDOFF[dtype]
    return max(u, TF32_ROUNDOFF) if dtype == "float32" and context.environment.get("tf32") == "on" else u


def one_at_a_time(function: Callable[[Any], list[Array]], x: Any, count: int) -> list[Array]:
    """Return the outputs of the first `count` examples, each given alone."""
    parts = [function(take(x, slice(i, i + 1))) for i in range(count)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def truth(context: Context, case: Any, *, training: bool = False, sample_weight: Array | None = None) -> Truth:
    """Draw a case's examples and weights and compute what Keras must give.

    Parameters
    ----------
    context : Context
    case : Case
        With ``examples``, ``dtype``, ``scale`` and ``seed``.
    training : bool
        Whether the outputs are those of a training call.
    sample_weight : array, optional
        Shape ``(examples,)``; multiplied with the subject's own.
    """
    single = context.bench(case.dtype)
    count, total = case.examples, max(case.examples, CALIBRATION)
    x, y, own = context.subject.draw(case.seed, total)
    x, y, own = single.cast((x, y, own))
    weights = _stored(draw_weights(context.bench("float64"), case.seed, case.scale), case.dtype)
    exact, rounding = _outputs(context, (case.dtype, case.seed, case.scale, training, total), weights, x)
    calibration = exact
    if case.mode != "graph":
        # Other modes take other kernels: an unfused tanh has erred five times as far as the fused one on one row.
        seen = _mode_rounding(context, case, training, weights, x, exact)
        calibration = [np.concatenate([e, e[:count]]) for e in exact]
        rounding = [np.concatenate(pair) for pair in zip(rounding, seen, strict=True)]
        y = map_leaves(lambda a: np.concatenate([a, a[:count]]), y)
    sample_weight = weighed(context, None if own is None else own[:count], sample_weight)
    return Truth(
        x=take(x, slice(0, count)),
        y=take(y, slice(0, count)),
        w=None if sample_weight is None else single.cast((None, None, sample_weight))[2],
        rows=[e[:count] for e in exact],
        calibration=calibration,
        rounding=rounding,
        targets=y,
        u=unit_roundoff(context, case.dtype),
        weights=weights,
    )


#: Truths kept for each subject: corners share theirs, and shrinking comes back to them.
KEPT = 64


@cached_in_process
def _kept(bench: Bench) -> dict[Any, tuple[list[Array], list[Array]]]:
    return {}


def _outputs(context: Context, key: Any, weights: Array, x: Any) -> tuple[list[Array], list[Array]]:
    """Return the float64 outputs of single examples and the policy's rounding of them, kept for a while."""
    dtype, _, _, training, total = key
    double = context.bench("float64")
    kept = _kept(double)
    if key not in kept:
        # The twin sees exactly the inputs that the subject sees, rounded already.
        x64, _, _ = double.cast((x, None, None))
        double.set_weights(weights)
        exact = one_at_a_time(forward(double, training, "graph"), x64, total)
        if len(kept) >= KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = exact, _rounding(context, dtype, training, weights, x, exact)
    return kept[key]


def _rounding(
    context: Context, dtype: str, training: bool, weights: Array, x: Any, exact: Sequence[Array]
) -> list[Array]:
    """Return what the policy's arithmetic does to each row given alone.

    Nothing is more precise than the float64 twin, so its own rounding is float32's scaled by 2**-29, the
    ratio of the two roundoffs, with a factor 64 for ill-conditioned subjects (as in
    `bscheck.tolerance.mathematics`).
    """
    bench = context.bench("float32" if dtype == "float64" else dtype)
    bench.set_weights(weights)
    x, _, _ = bench.cast((x, None, None))
    seen = one_at_a_time(forward(bench, training, "graph"), x, len(exact[0]))
    factor = 64 * 2.0**-29 if dtype == "float64" else 1.0
    return [factor * (f - e) for f, e in zip(seen, exact, strict=True)]


def _mode_rounding(
    context: Context, case: Any, training: bool, weights: Array, x: Any, exact: Sequence[Array]
) -> list[Array]:
    """Return what the case's own execution mode does to its rows given alone."""
    bench = context.bench(case.dtype)
    bench.set_weights(weights)
    seen = one_at_a_time(forward(bench, training, case.mode), x, case.examples)
    return [f - e[: case.examples] for f, e in zip(seen, exact, strict=True)]


def _stored(flat: Array, dtype: str) -> Array:
    """Return weights as the policy stores them, so that the twin computes with the same ones."""
    return flat if dtype == "float64" else flat.astype(np.float32).astype(np.float64)


def compare_rows(seen: Sequence[Array], expected: Truth, what: str) -> Reading:
    """Hold rows of outputs against the float64 ones: number, shape, order, values."""
    for t, (s, r) in enumerate(zip(seen, expected.rows, strict=True)):
        if s.shape != r.shape:
            return Reading(
                np.inf,
                where=f"output {t + 1} of {len(seen)}",
                seen=f"{what} has {len(s)} rows of shape {s.shape[1:]} for {len(r)} examples of shape {r.shape[1:]}",
                allowed="a row for each example",
                cause="examples are dropped or repeated" if len(s) != len(r) else "the shape is another",
            )
    found = rows(seen, expected.rows, expected.rounding, expected.calibration, expected.u)
    return _told(found, seen, expected, what)


def _told(found: Deviation, seen: Sequence[Array], expected: Truth, what: str) -> Reading:
    row = found.index[0] if found.index else 0
    size = rms(expected.calibration[found.tensor])
    relative, allowed = (v / size if size else np.inf for v in (found.difference, found.bound))
    output = f", output {found.tensor + 1}" if len(seen) > 1 else ""
    return Reading(
        found.share,
        where=f"example {row}{output}",
        seen=f"{what} of example {row} is off by {found.difference:.2g}: {relative:.2g} of the outputs' rms",
        allowed=f"{allowed:.1g} of the outputs' rms",
        cause=_row_cause(seen, expected, found.bound) if found.share > 1 else "",
    )


def _row_cause(seen: Sequence[Array], expected: Truth, near: float) -> str:
    """Return what can be said of wrong rows: out of order, a neighbour's, or which ones they are."""
    n = len(expected.rows[0])
    p, r = (np.concatenate([np.reshape(o, (n, -1)) for o in part], axis=1) for part in (seen, expected.rows))
    distance = np.abs(p[:, None] - r[None]).max(axis=2)
    nearest = distance.argmin(axis=1)
    wrong = [i for i in range(n) if not distance[i, i] <= near]
    if wrong and all(distance[i, nearest[i]] <= near for i in wrong):
        if sorted(nearest) == list(range(n)):
            return f"the rows are in another order: {', '.join(map(str, nearest))}"
        return f"row {wrong[0]} holds the output of example {nearest[wrong[0]]}"
    return f"wrong in {len(wrong)} of {n} rows" if wrong else ""


def no_twin(context: Context) -> str | None:
    """Return why the promise does not apply to a subject without a float64 twin or with state."""
    try:
        traits = context.traits
    except SubjectError as error:
        if context.given is not None:
            raise
        # A reference subject is sound: Keras before 3.5 cannot compute every loss in float64.
        return f"this Keras cannot compute the float64 twin: {error}"
    return first_reason(
        (not traits.double, NO_TWIN),
        (bool(traits.stateful), "stateful recurrent layers carry one batch into the next"),
    )
