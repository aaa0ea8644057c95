"""Tiny batches: what the gradients of batches of 1, 2, 3 … are worth, and what updates come of them."""

from bscheck.gate import promise

minibatch_gradient_is_unbiased = promise("minibatch_gradient_is_unbiased")
minibatch_gradient_variance_follows_the_law = promise("minibatch_gradient_variance_follows_the_law")
training_follows_the_published_recurrence = promise("training_follows_the_published_recurrence")
mean_loss_follows_the_moment_recursion = promise("mean_loss_follows_the_moment_recursion")
mean_loss_of_shuffled_epochs_is_the_expected_one = promise("mean_loss_of_shuffled_epochs_is_the_expected_one")
training_leaves_the_optimum_beyond_the_stability_threshold = promise(
    "training_leaves_the_optimum_beyond_the_stability_threshold"
)
training_settles_at_the_stationary_loss = promise("training_settles_at_the_stationary_loss")
noise_scale_estimator_is_unbiased = promise("noise_scale_estimator_is_unbiased")
fewer_updates_explain_the_higher_loss = promise("fewer_updates_explain_the_higher_loss")
predictions_by_batch_size_are_reported = promise("predictions_by_batch_size_are_reported")
escape_from_a_shallow_well_is_reported = promise("escape_from_a_shallow_well_is_reported")
training_at_the_edge_stays_finite = promise("training_at_the_edge_stays_finite")
