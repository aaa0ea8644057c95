"""Independence: metrics that a model or a layer keeps as attributes are those of one epoch, and of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from packaging.version import Version

from bscheck.cases import OwnMetricCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason, random
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.bench import Array, precision
from bscheck.runtime.own_metrics import TRACKED, told
from bscheck.tolerance import UNIT_ROUNDOFF

#: The first Keras that reports the metrics of a model's layers.
LAYERS_REPORT = Version("3.3")


@cached_in_process
def _reports(case: OwnMetricCase) -> Sequence[tuple[str, Array, Mapping[str, float]]]:
    """Return what every call reports, and its examples; the same calls for each owner."""
    rng = random(case.seed, 16)
    x, held = (3.0 * rng.standard_normal((n, 1)) for n in (case.examples, case.held_out))
    with precision("float32"):
        return told(x.astype(np.float32), held.astype(np.float32), case.batch_size, case.mode)


def own_metric_params() -> list[Param]:
    """Return whose attribute the metric is."""
    return [Param.of(owner=owner) for owner in TRACKED]


def own_metric_cases(context: Context) -> Any:
    """Draw numbers of examples and batch sizes."""
    from hypothesis import strategies as st

    return st.builds(
        OwnMetricCase,
        examples=st.integers(2, 9),
        batch_size=st.sampled_from([1, 2, 3]),
        held_out=st.integers(1, 4),
        mode=st.just(context.runtime.modes[0]),
        seed=seeds(),
    )


def own_metric_corners(context: Context) -> Sequence[OwnMetricCase]:
    """Return a ragged epoch."""
    return (replace(OwnMetricCase(), mode=context.runtime.modes[0]),)


def unreported(context: Context) -> str | None:
    """Return why no metric of one's own is reported."""
    of_layer = context.param.get("owner") == "layer" and Version(context.environment["keras"]) < LAYERS_REPORT
    return first_reason(
        (context.runtime.name == "jax", "on JAX a metric is updated in a train_step of one's own alone"),
        (of_layer, "this Keras reports no metrics of layers (since 3.3)"),
    )


@check(
    family="independence",
    claims=("C8",),
    case=OwnMetricCase,
    cases=own_metric_cases,
    params=own_metric_params,
    corners=own_metric_corners,
    applies=unreported,
    examples=(0, 0, 20),
    per_subject=False,
    catches="a metric that is an attribute of the model or of a layer and is not reset, so that it counts the examples "
    "of an earlier epoch, of the validation or of an earlier call, or that is left out of a report",
    formula="|v - mean of f(x) over the examples of the epoch or call| <= (2N+4) u mean of f(x); f: x^2, |x|",
    source="keras.io/guides/custom_train_step_in_tensorflow: 'we list our Metric objects here so that reset_states() "
    "can be called automatically at the start of each epoch or at the start of evaluate()'",
    example="epoch 2 reports magnitude = 0.84; over its examples it is 0.97",
)
def own_metrics_start_anew_with_every_epoch_and_call(context: Context, case: OwnMetricCase) -> Reading:
    """A metric kept by the model or a layer is that of the examples of the epoch or call that reports it."""
    owner = context.param.get("owner")
    readings = []
    for what, rows, report in _reports(case):
        name = TRACKED[owner]
        if name not in report:
            readings.append(
                Reading(np.inf, seen=f"{what} does not report {name}", allowed=f"the metric of the {owner}")
            )
            continue
        exact = np.abs(rows.astype(np.float64)) ** (2 if owner == "model" else 1)
        expected = float(np.mean(exact))
        bound = (2 * len(rows) + 4) * UNIT_ROUNDOFF["float32"] * expected
        seen = f"{what} reports {name} = {report[name]:.6g}; over its examples it is {expected:.6g}"
        readings.append(Reading(abs(float(report[name]) - expected) / bound, name, seen, f"{bound:.2g} off"))
    return worst(readings)
