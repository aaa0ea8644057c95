"""Independence, second half: evaluation reports the examples, not the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bscheck.cases import InferenceCase
from bscheck.checks import Param, check, subjects_of_the_gate
from bscheck.checks.context import Context, draw_sample_weights
from bscheck.checks.expected import (
    compare_values,
    expected_values,
    needs_a_mean,
    no_formula,
    output_loss_names,
    output_losses,
    ready_trainer,
    twin_values,
)
from bscheck.checks.history import EARLIER, history_reading, told_batch_by_batch
from bscheck.checks.independence import IN_FULL, batch_corners, in_full, inference_cases
from bscheck.checks.truth import trainer, truth
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.inference import ENDLESS


def evaluation_cases(context: Context) -> Any:
    """Draw batch sizes, tails, weights, sources and earlier calls for ``evaluate``."""
    from hypothesis import strategies as st

    return inference_cases(
        context,
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        source=st.sampled_from(["arrays", *context.sources()]),
        earlier=st.sampled_from(["nothing", *EARLIER] if in_full(context) else ["nothing", "test_on_batch"]),
        steps_per_execution=st.just(1),
    )


def evaluation_corners(context: Context) -> Sequence[InferenceCase]:
    """Return the batch shapes, with weights, each source once, and each earlier call once."""
    corners = [c for c in batch_corners(context) if c.steps_per_execution == 1]
    weighed = [replace(c, weights=("none", "unequal", "zeros")[i % 3]) for i, c in enumerate(corners)]
    ragged = InferenceCase(mode=context.runtime.modes[0], tail=1)
    if not in_full(context):
        return (*weighed, replace(ragged, weights="unequal", earlier="test_on_batch"))
    others = context.sources()[1:]
    given = [replace(ragged, source=source, weights="unequal") for source in others]
    # Batches of one size, and said to be: what needs only their size needs no data.
    given += [replace(ragged, batches=2, tail=0, source=source) for source in others if "unknown" in source]
    given += [replace(ragged, source=ENDLESS, weights="unequal")] if context.given is None else []
    after = [replace(ragged, earlier=earlier, weights="zeros") for earlier in EARLIER[1:]]
    return (*weighed, replace(ragged, weights="unequal"), *given, *after)


@check(
    family="independence",
    claims=("C8", "C13"),
    case=InferenceCase,
    cases=evaluation_cases,
    corners=evaluation_corners,
    applies=needs_a_mean,
    examples=(1, 1, 200),
    catches="a loss or metric averaged over batches instead of examples, a wrong denominator (counts, "
    "weights), a tail that counts as a full batch, a batch counted twice or not at all, a metric that an "
    "earlier call left filled",
    formula="|v - sum_i w_i l_i / N - penalties| <= 6 rms(shift) + 2 u sqrt(N+8) size, l_i by NumPy from "
    "the float64 twin's rows, one example at a time; a loss or metric with no formula: the twin's own over "
    "one full batch",
    source="keras.io/api/losses: 'sum_over_batch_size'; keras.io/api/metrics: weighted means; Higham and Mary 2019",
    example="evaluate gives loss = 1.31; over the examples it is 1.27",
)
def evaluation_does_not_depend_on_batch_size(context: Context, case: InferenceCase) -> Reading:
    """Evaluation reports the loss and metrics over all examples, whatever the batch size."""
    return _evaluation(context, case)


def _evaluation(context: Context, case: InferenceCase) -> Reading:
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    part = truth(context, case, sample_weight=w)
    model = ready_trainer(context, case, part.weights)
    # Twice: the first call must leave nothing behind that the second one counts.
    reports = [model.evaluate((part.x, part.y, part.w), case.batch_size, case.source) for _ in range(_repeats(case))]
    expected = expected_values(context, case, part, list(reports[0]))
    reported = worst([compare_values(report, expected, "evaluate") for report in reports])
    if not reported.share <= 1 or no_formula(context):
        # Without formulas the truth of every part would be an evaluation of its own.
        return reported
    return worst([reported, *told_batch_by_batch(context, case, part, model, False)])


def _repeats(case: InferenceCase) -> int:
    return 2 if case.earlier == "evaluate" else 1


# Several steps in one execution ------------------------------------------------------------------------


def step_params() -> list[Param]:
    """Return the reference subjects whose loops are compiled for several steps, which is dear."""
    return [p for p in subjects_of_the_gate() if p.get("subject") in IN_FULL]


def one_step_only(context: Context) -> str | None:
    """Return why there are no executions of several steps to hold to the promise."""
    if not context.runtime.joins_steps or context.runtime.compiles_per_shape:
        return "this backend runs the steps of an execution one by one, or compiles every number of them"
    return needs_a_mean(context)


def step_cases(context: Context) -> Any:
    """Draw executions of three steps over any number of batches."""
    from hypothesis import strategies as st

    return inference_cases(
        context,
        mode=st.just(context.runtime.modes[0]),
        weights=st.sampled_from(["none", "unequal", "zeros"]),
        source=st.sampled_from(context.sources()),
        steps_per_execution=st.just(3),
    )


def step_corners(context: Context) -> Sequence[InferenceCase]:
    """Return steps that fill an execution, leave a rest, and are fewer than one execution takes."""
    plain = InferenceCase(mode=context.runtime.modes[0], steps_per_execution=3)
    rest = replace(plain, batches=4, tail=1, weights="unequal")
    corners = (plain, replace(plain, batches=3), rest, replace(rest, earlier="evaluate"))
    # The history has no other oracle than the formulas: without them, evaluation alone is held to the promise.
    return corners if no_formula(context) else (*corners, replace(rest, path="fit"))


@check(
    family="independence",
    claims=("C8",),
    case=InferenceCase,
    cases=step_cases,
    corners=step_corners,
    params=step_params,
    applies=one_step_only,
    examples=(1, 2, 200),
    catches="steps of a compiled execution that are dropped, repeated or counted alone, above all where the "
    "steps of an epoch do not fill the last execution, or not even one",
    formula="as for evaluation",
    source="keras.io/api/models/model_training_apis: steps_per_execution is 'the number of batches to run "
    "during each compiled function call', a matter of speed",
    example="evaluate reports no loss",
)
def evaluation_does_not_depend_on_steps_per_execution(context: Context, case: InferenceCase) -> Reading:
    """Evaluation and history report every batch once, however many steps one execution takes."""
    return _evaluation(context, case) if case.path == "whole" else history_reading(context, case)


# Outputs -----------------------------------------------------------------------------------------------


def output_params() -> list[Param]:
    """Return the reference subjects with several outputs."""
    return [p for p in subjects_of_the_gate() if p.get("subject") == "two_outputs"]


def one_output(context: Context) -> str | None:
    """Return why there are no losses of several outputs to add up."""
    if reason := needs_a_mean(context):
        return reason
    if context.traits.outputs < 2:
        return "the model has one output"
    model = trainer(context.bench("float32"), context.runtime.modes[0], 1)
    x, y, w = context.bench("float32").cast(context.subject.draw(0, 2))
    reported = model.on_batch("test_on_batch", (x, y, w))
    unreported = not set(output_loss_names(context)) & set(reported)
    return "this Keras reports no losses of single outputs" if unreported else None


def output_corners(context: Context) -> Sequence[InferenceCase]:
    """Return half of the corners of evaluation, and half of the ragged ones without their tail."""
    corners = evaluation_corners(context)
    even = [replace(c, batches=2, tail=0) for c in corners if c.batches and c.tail]
    # The total of the same cases is held by the check of evaluation: every second one tells the outputs apart.
    return tuple(dict.fromkeys([*corners[::2], *even[1::2]]))


@check(
    family="independence",
    claims=("C8", "C13"),
    case=InferenceCase,
    cases=evaluation_cases,
    corners=output_corners,
    params=output_params,
    applies=one_output,
    examples=(2, 4, 200),
    catches="a model of several outputs whose losses, output by output, are averaged over batches, counted "
    "twice or left over from an earlier call, while their total is right",
    formula="as for evaluation: |v_t - sum_i w_i l_ti / N| <= 6 rms(shift) + 2 u sqrt(N+8) size for every output t",
    source="keras.io/guides/training_with_built_in_methods: the total is the sum of the outputs' losses",
    example="evaluate gives value_loss = 7.27; over the examples it is 4.74",
)
def output_losses_do_not_depend_on_batch_size(context: Context, case: InferenceCase) -> Reading:
    """The reported losses of several outputs are those over all examples, and add up to the total."""
    w = draw_sample_weights(case.seed, case.examples, case.weights)
    part = truth(context, case, sample_weight=w)
    model = ready_trainer(context, case, part.weights)
    report = model.evaluate((part.x, part.y, part.w), case.batch_size, case.source)
    names = output_loss_names(context)
    losses = output_losses(context, part)
    values = twin_values(context, case, part) if losses is None else dict(zip(names, losses, strict=True))
    return compare_values(report, {name: values[name] for name in names if name in values}, "evaluate")
