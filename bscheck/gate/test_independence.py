"""Independence: predictions, evaluation and history do not depend on the batch size or on other examples."""

from bscheck.gate import promise

predictions_do_not_depend_on_batch_size = promise("predictions_do_not_depend_on_batch_size")
examples_do_not_influence_each_other = promise("examples_do_not_influence_each_other")
padding_does_not_change_the_output = promise("padding_does_not_change_the_output")
evaluation_does_not_depend_on_batch_size = promise("evaluation_does_not_depend_on_batch_size")
evaluation_does_not_depend_on_steps_per_execution = promise("evaluation_does_not_depend_on_steps_per_execution")
output_losses_do_not_depend_on_batch_size = promise("output_losses_do_not_depend_on_batch_size")
history_of_fit_and_train_on_batch_report_the_batch = promise("history_of_fit_and_train_on_batch_report_the_batch")
loss_equals_its_formula = promise("loss_equals_its_formula")
loss_of_a_batch_is_the_combination_of_its_parts = promise("loss_of_a_batch_is_the_combination_of_its_parts")
loss_over_a_batch_follows_its_formula = promise("loss_over_a_batch_follows_its_formula")
loss_of_a_tiny_batch_is_finite = promise("loss_of_a_tiny_batch_is_finite")
