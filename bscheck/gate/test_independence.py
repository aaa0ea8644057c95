"""Independence: predictions, evaluation and history do not depend on the batch size or on other examples."""

from bscheck.gate import promise

predictions_do_not_depend_on_batch_size = promise("predictions_do_not_depend_on_batch_size")
examples_do_not_influence_each_other = promise("examples_do_not_influence_each_other")
padding_does_not_change_the_output = promise("padding_does_not_change_the_output")
evaluation_does_not_depend_on_batch_size = promise("evaluation_does_not_depend_on_batch_size")
evaluation_does_not_depend_on_steps_per_execution = promise("evaluation_does_not_depend_on_steps_per_execution")
output_losses_do_not_depend_on_batch_size = promise("output_losses_do_not_depend_on_batch_size")
history_of_fit_and_train_on_batch_report_the_batch = promise("history_of_fit_and_train_on_batch_report_the_batch")
layer_computes_its_definition = promise("layer_computes_its_definition")
metrics_equal_their_definition = promise("metrics_equal_their_definition")
sample_weights_count_examples = promise("sample_weights_count_examples")
masked_labels_do_not_count = promise("masked_labels_do_not_count")
reset_leaves_nothing_behind = promise("reset_leaves_nothing_behind")
merged_metrics_equal_one = promise("merged_metrics_equal_one")
metrics_of_tiny_batches_are_right_or_undefined = promise("metrics_of_tiny_batches_are_right_or_undefined")
metric_functions_give_each_example_its_own_value = promise("metric_functions_give_each_example_its_own_value")
evaluated_metrics_are_those_of_the_examples = promise("evaluated_metrics_are_those_of_the_examples")
metrics_of_flat_predictions_average_the_updates = promise("metrics_of_flat_predictions_average_the_updates")
