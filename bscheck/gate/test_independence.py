"""Independence: predictions, evaluation and history do not depend on the batch size or on other examples."""

from bscheck.gate import promise

predictions_do_not_depend_on_batch_size = promise("predictions_do_not_depend_on_batch_size")
examples_do_not_influence_each_other = promise("examples_do_not_influence_each_other")
padding_does_not_change_the_output = promise("padding_does_not_change_the_output")
evaluation_does_not_depend_on_batch_size = promise("evaluation_does_not_depend_on_batch_size")
evaluation_does_not_depend_on_steps_per_execution = promise("evaluation_does_not_depend_on_steps_per_execution")
output_losses_do_not_depend_on_batch_size = promise("output_losses_do_not_depend_on_batch_size")
history_of_fit_and_train_on_batch_report_the_batch = promise("history_of_fit_and_train_on_batch_report_the_batch")
layer_output_of_an_example_is_its_own = promise("layer_output_of_an_example_is_its_own")
layer_examples_do_not_mix_in_training = promise("layer_examples_do_not_mix_in_training")
layer_takes_tiny_batches = promise("layer_takes_tiny_batches")
