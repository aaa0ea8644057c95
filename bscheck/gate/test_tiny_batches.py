"""Tiny batches: what the gradients of batches of 1, 2, 3 … are worth, and what updates come of them."""

from bscheck.gate import promise

minibatch_gradient_is_unbiased = promise("minibatch_gradient_is_unbiased")
minibatch_gradient_variance_follows_the_law = promise("minibatch_gradient_variance_follows_the_law")
training_follows_the_published_recurrence = promise("training_follows_the_published_recurrence")
