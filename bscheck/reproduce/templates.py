"""Which program shows the failure of which check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bscheck.reproduce import NoScript, calls, layers, models, reports, streams, training, twice, updates, values

if TYPE_CHECKING:
    from bscheck.cases import Case
    from bscheck.checks import Check
    from bscheck.checks.context import Context
    from bscheck.results.verdict import Reading

#: ``template(check, context, case, reading) -> source``, by the check's name. A test lists the checks without one.
TEMPLATES: Mapping[str, Callable[[Any, Any, Any, Any], str]] = {
    "bias_correction_counts_updates": updates.accumulation,
    "weight_decay_acts_once_per_update": updates.accumulation,
    "clipping_acts_on_the_accumulated_gradient": updates.accumulation,
    "moving_average_advances_once_per_update": updates.accumulation,
    "constraints_act_once_per_update": updates.accumulation,
    "accumulated_update_matches_large_batch": updates.accumulation,
    "sparse_and_dense_gradients_make_the_same_update": updates.rows,
    "update_does_not_depend_on_the_loss_scale": updates.loss_scale,
    "non_finite_micro_batch_leaves_nothing_behind": updates.loss_scale,
    "option_given_to_the_wrapper_acts_or_is_refused": updates.wrapper_option,
    "overwritten_variables_take_their_gradient_as_it_is": updates.overwritten,
    "accumulated_gradient_matches_large_batch": models.large_batch,
    "accumulated_training_matches_large_batches": training.accumulated,
    "micro_batch_gradients_average_to_the_large_batch": models.averaged,
    "accumulated_gradient_is_the_mean_of_what_was_accumulated": models.mean_of_micro_batches,
    "ragged_window_averages_its_micro_batches_equally": models.mean_of_micro_batches,
    "predictions_do_not_depend_on_batch_size": models.predictions,
    "evaluation_does_not_depend_on_batch_size": models.evaluation,
    "evaluation_does_not_depend_on_steps_per_execution": models.evaluation,
    "output_losses_do_not_depend_on_batch_size": models.evaluation,
    "history_of_fit_and_train_on_batch_report_the_batch": models.history,
    "training_follows_the_published_recurrence": models.trajectory,
    "metrics_equal_their_definition": values.metric,
    "sample_weights_count_examples": values.metric,
    "masked_labels_do_not_count": values.metric,
    "merged_metrics_equal_one": values.metric,
    "metrics_of_tiny_batches_are_right_or_undefined": values.metric,
    "reset_leaves_nothing_behind": values.reset_metric,
    "loss_equals_its_formula": values.loss,
    "loss_of_a_batch_is_the_combination_of_its_parts": values.loss,
    "loss_of_a_tiny_batch_is_finite": values.loss,
    "regularizer_equals_its_formula": values.regularizer,
    "constraint_equals_its_formula": values.constraint,
    "class_weight_weighs_each_example": values.class_weight,
    "penalties_count_once_whatever_the_batch_size": values.penalty,
    "layer_takes_tiny_batches": layers.tiny_batch,
    "layer_output_has_the_announced_shape": layers.announced_shape,
    "layer_output_of_an_example_is_its_own": layers.own_output,
    "stateful_layer_refuses_another_batch_size": layers.other_batch_size,
    "layer_computes_its_definition": layers.definition,
    "inference_leaves_nothing_behind": twice.inference,
    "layer_examples_do_not_mix_in_training": twice.training,
    "masked_steps_change_nothing": twice.masked_steps,
    "stateless_layer_forgets_between_batches": twice.forgetting,
    "stateful_layer_goes_on_where_it_stopped": twice.continued,
    "examples_do_not_influence_each_other": twice.influence,
    "loss_gradient_is_the_slope_of_its_formula": values.slope,
    "loss_over_a_batch_follows_its_formula": values.slope,
    "schedule_has_its_documented_values": values.schedule,
    "output_losses_add_up_with_their_weights": reports.heads,
    "masked_loss_is_the_mean_of_what_is_left_in_each_batch": reports.masked,
    "weighted_metrics_of_masked_steps_are_exact": reports.masked,
    "evaluated_metrics_are_those_of_the_examples": reports.metrics,
    "windows_run_on_across_epochs_and_calls": streams.windows,
    "open_window_waits_for_the_next_call": streams.windows,
    "updates_do_not_depend_on_steps_per_execution": streams.executions,
    "end_of_the_data_is_not_a_step": streams.executions,
    "accumulated_penalties_match_the_large_batch": reports.gradients,
    "accumulated_masked_gradient_is_the_mean_of_its_micro_batches": reports.gradients,
    "optimizer_follows_its_published_recurrence": updates.recurrence,
    "fit_leaves_the_state_of_train_on_batch": models.state,
    "compiled_step_leaves_the_state_of_the_same_step_op_by_op": models.compiled,
    "metric_functions_give_each_example_its_own_value": values.metric_function,
    "float32_layer_computes_in_float32": layers.near_float64,
    "mixed_precision_layer_stays_near_its_exact_self": layers.near_float64,
    "layer_gradient_is_the_sum_over_micro_batches": layers.gradient,
    "metrics_of_flat_predictions_average_the_updates": values.flat_metric,
    "accumulation_is_exact_on_integers": models.integers,
    "step_takes_its_gradients_before_it_updates": models.order,
    "schedules_count_micro_batches": updates.schedule,
    "callable_learning_rate_is_asked_at_every_update": updates.called_rate,
    "update_reaches_the_variables_its_gradients_are_for": updates.matching,
    "wrapper_keeps_the_state_of_its_optimizer": updates.wrapper_state,
    "unknown_lengths_change_nothing": layers.unknown_lengths,
    "accumulator_errs_no_more_than_its_precision": updates.accumulator,
    "training_at_the_edge_stays_finite": models.edge,
    "mask_goes_on_with_the_steps": layers.passed_mask,
    "member_updates_its_own_variables_as_alone": updates.members,
    "every_epoch_reports_its_own_and_the_held_out_examples": models.epochs,
    "every_source_trains_on_each_example_once_per_epoch": streams.trained,
    "every_epoch_is_shuffled_anew": streams.shuffled,
    "fit_ends_with_the_moving_averages": calls.ended,
    "averages_stand_in_for_the_weights_and_are_handed_back": calls.swapped,
    "own_metrics_start_anew_with_every_epoch_and_call": calls.own_metrics,
    "minibatch_gradient_is_unbiased": models.mini_batches,
    "minibatch_gradient_variance_follows_the_law": models.mini_batches,
    "printed_figures_are_those_of_the_examples_so_far": calls.printed,
}


def source_of(check: Check, context: Context, case: Case, reading: Reading) -> str:
    """Return the source of the program that shows a failure.

    Raises
    ------
    NoScript
        When there is none, with the reason.
    """
    template = TEMPLATES.get(check.name)
    if template is None:
        raise NoScript("this promise takes more than a short program to show")
    return template(check, context, case, reading)
