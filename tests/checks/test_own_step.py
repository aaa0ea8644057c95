"""A sound accumulation loop of a team's own passes the checks that its faulty siblings fail."""

from __future__ import annotations

import pytest

from bscheck import Subject
from bscheck.checks import Param, get_check
from bscheck.checks.context import Context, reference_subject
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.verdict import Verdict


def weighted_step(model, optimizer, micro_batches):
    """Add up the micro-batch gradients, each with its share of the examples, and apply them once."""
    import tensorflow as tf

    examples = sum(len(y) for _, y, _ in micro_batches)
    total = None
    for x, y, w in micro_batches:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=w)
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        gradients = [g * (len(y) / examples) for g in gradients]
        total = gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
    optimizer.apply(total, model.trainable_variables)


@pytest.mark.parametrize(
    "name", ["accumulated_gradient_matches_large_batch", "accumulated_training_matches_large_batches"]
)
def test_a_sound_step_passes(name):
    dense = reference_subject("dense")
    subject = Subject("sound", build=dense.build, data=dense.data, loss=dense.loss, step=weighted_step)
    result = run_check(get_check(name), Context.for_subject(subject, Param.of(subject="sound")), RunSettings())
    assert result.verdict == Verdict.PASSED, result.failure
    assert result.cases > 1


def test_what_cannot_be_seen_of_an_own_step_is_said():
    dense = reference_subject("dense")
    subject = Subject("sound", build=dense.build, data=dense.data, loss=dense.loss, step=weighted_step)
    check = get_check("accumulated_gradient_is_the_mean_of_what_was_accumulated")
    result = run_check(check, Context.for_subject(subject, Param.of(subject="sound")), RunSettings())
    assert result.verdict == Verdict.NOT_APPLICABLE
    assert result.reason == "the step's own micro-batch gradients cannot be seen"
