"""Faults as a hostile planter would write them into Keras's source: the table of ``source_mutants.py``.

Each is one change of one file, most of them in a corner: one option, one call of several, the second output, a
graph but not an eager call, what a callback is told. Kept apart from the runner so that a line is all that one costs.
"""

# ruff: noqa: E501 - each fault is one line of a table

from __future__ import annotations

from dataclasses import dataclass

SRC = "every_source_trains_on_each_example_once_per_epoch"
EPO = "every_epoch_reports_its_own_and_the_held_out_examples"
HIS = "history_of_fit_and_train_on_batch_report_the_batch"
EVA = "evaluation_does_not_depend_on_batch_size"
EXE = "evaluation_does_not_depend_on_steps_per_execution"
OUT = "output_losses_do_not_depend_on_batch_size"
ADD = "output_losses_add_up_with_their_weights"
PRE = "predictions_do_not_depend_on_batch_size"
PTH = "fit_leaves_the_state_of_train_on_batch"
MET = "evaluated_metrics_are_those_of_the_examples"
DEF = "metrics_equal_their_definition"
PEN = "penalties_count_once_whatever_the_batch_size"
APEN = "accumulated_penalties_match_the_large_batch"
CLS = "class_weight_weighs_each_example"
DRO = "dropout_is_drawn_anew_for_every_example"
LAY = "layer_computes_its_definition"
REC = "optimizer_follows_its_published_recurrence"
TRA = "training_follows_the_published_recurrence"
WIN = "windows_run_on_across_epochs_and_calls"
EMA = "moving_average_advances_once_per_update"
OWN = "steps_of_ones_own_make_the_updates_of_fit"
MSK = "weighted_metrics_of_masked_steps_are_exact"
FRM = "loss_equals_its_formula"
LOOPS = f"{SRC} {EPO} {HIS} {EVA} {PTH}"


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes
    ----------
    name : str
    file : str
        Below ``keras/src``.
    old, new : str
        What is replaced, and by what; the occurrence of `old` is number `nth`, from 0.
    checks : str
        Those that could see it, the likeliest first.
    words : str
        What pytest's ``-k`` is given, so that only the likely parameters run; "" for all.
    nth : int
    """

    name: str
    file: str
    old: str
    new: str
    checks: str
    words: str = ""
    nth: int = 0


TF = "backend/tensorflow/trainer.py"
BASE = "optimizers/base_optimizer.py"
ARRAYS = "trainers/data_adapters/array_data_adapter.py"
COMPILED = "trainers/compile_utils.py"

#: Changes that no result can show, with the reason.
EQUIVALENT: dict[str, str] = {
    "shuffle_batch_shuffles_nothing": "it shuffles within batches, and no result depends on the order there",
    "validation_runs_on_from_epoch_to_epoch": "what runs on begins anew where the data end, as validation_steps fill them",
}

MUTANTS: tuple[Mutant, ...] = (
    # What fit, evaluate and predict are not always told
    Mutant("default_batch_of_33", ARRAYS, "if steps else 32", "if steps else 33", f"{PTH} {EVA} {HIS} {SRC}", "arrays or dense"),
    Mutant("steps_cut_the_tail", ARRAYS, "int(math.ceil(num_samples / steps)) if steps", "int(num_samples // steps) if steps", f"{SRC} {EVA}", "arrays or dense"),
    Mutant("evaluate_takes_one_step_more", TF, "steps_per_epoch=steps,\n                shuffle=False", "steps_per_epoch=steps and steps + 1,\n                shuffle=False", f"{EVA} {EPO}", "dense"),
    Mutant("predict_takes_one_step_less", TF, "steps_per_epoch=steps,\n            shuffle=False", "steps_per_epoch=steps and max(steps - 1, 1),\n            shuffle=False", PRE, "dense"),
    Mutant("validation_steps_one_less", TF, "steps_per_epoch=validation_steps,", "steps_per_epoch=validation_steps and max(validation_steps - 1, 1),", EPO),
    Mutant("validation_runs_on_from_epoch_to_epoch", TF, "        self._maybe_symbolic_build(iterator=epoch_iterator)\n        epoch_iterator.reset()\n\n        # Container that configures and calls callbacks.\n        if not isinstance(callbacks, callbacks_module.CallbackList):\n            callbacks = callbacks_module.CallbackList(\n                callbacks,\n                add_progbar", "        self._maybe_symbolic_build(iterator=epoch_iterator)\n        if not use_cached_eval_dataset:\n            epoch_iterator.reset()\n\n        # Container that configures and calls callbacks.\n        if not isinstance(callbacks, callbacks_module.CallbackList):\n            callbacks = callbacks_module.CallbackList(\n                callbacks,\n                add_progbar", EPO),
    Mutant("validation_frequency_one_epoch_early", "trainers/trainer.py", "return epoch % validation_freq == 0", "return validation_freq == 1 or epoch % validation_freq == validation_freq - 1", EPO),
    # What callbacks and callers are told
    Mutant("callbacks_hear_half_the_loss_of_odd_batches", TF, "callbacks.on_train_batch_end(end_step, logs)", "callbacks.on_train_batch_end(end_step, {**logs, 'loss': logs['loss'] * 0.5} if begin_step % 2 else logs)", f"{HIS} {EPO}", "dense"),
    Mutant("test_callbacks_hear_half_the_loss", TF, "callbacks.on_test_batch_end(end_step, logs)", "callbacks.on_test_batch_end(end_step, {**logs, 'loss': logs['loss'] * 0.5} if begin_step else logs)", f"{EVA} {HIS}", "dense"),
    Mutant("predict_callbacks_hear_the_wrong_rows", TF, '{"outputs": batch_outputs}', '{"outputs": tree.map_structure(lambda o: o[::-1], batch_outputs)}', PRE, "dense"),
    Mutant("lists_of_results_are_reversed", "trainers/trainer.py", "            return results[0]\n        return results", "            return results[0]\n        return results[::-1]", f"{HIS} {EVA} {MET}", "dense or two_outputs"),
    Mutant("class_weight_of_train_on_batch_ignored", TF, "sample_weight = data_adapter_utils.class_weight_to_sample_weights(\n                y, class_weight\n            )", "pass", CLS, "sparse"),
    Mutant("class_weight_of_single_rows_on_batch_ignored", TF, "sample_weight = data_adapter_utils.class_weight_to_sample_weights(\n                y, class_weight\n            )", "sample_weight = data_adapter_utils.class_weight_to_sample_weights(y, class_weight) if len(y) > 1 else None", CLS, "sparse"),
    Mutant("stopped_once_stopped_for_ever", TF, "self.stop_training = False\n        self.make_train_function()", "self.stop_training = getattr(self, 'stop_training', False)\n        self.make_train_function()", f"{SRC} {HIS}", "arrays or dense"),
    Mutant("pydatasets_are_not_told_of_an_epochs_end", "trainers/data_adapters/py_dataset_adapter.py", "self.py_dataset.on_epoch_end()", "pass", SRC, "pydataset"),
    Mutant("shuffle_batch_shuffles_nothing", ARRAYS, 'if shuffle == "batch":\n            indices', 'if shuffle == "never":\n            indices', f"{SRC} every_epoch_is_shuffled_anew", "arrays"),
    Mutant("finite_data_are_not_begun_anew_after_steps_per_epoch", "trainers/epoch_iterator.py", "            if self._num_batches and self._steps_seen >= self._num_batches:\n                self._current_iterator = iter(self._get_iterator())\n                self._steps_seen = 0", "            pass", SRC, "arrays or dataset"),
    # Several outputs
    Mutant("second_output_gets_the_weights_of_the_first", COMPILED, "_sample_weight = resolve_path(path, sample_weight)", "_sample_weight = resolve_path(self._flat_losses[0].path, sample_weight)", f"{MET} {OUT}", "keyed_outputs or two_outputs", 1),
    Mutant("weighted_metrics_exchange_the_weights_of_outputs", COMPILED, "sample_weight = self._flatten_y(sample_weight)", "sample_weight = self._flatten_y(sample_weight)[::-1]", MET, "keyed_outputs"),
    Mutant("weighted_metrics_of_the_second_output_go_unweighed", COMPILED, "[sample_weight[0] for _ in range(len(y_true))]", "[sample_weight[0]] + [None] * (len(y_true) - 1)", f"{EVA} {HIS} {MET}", "two_outputs"),
    Mutant("flat_targets_of_several_outputs_go_unweighed", ARRAYS, "lambda _: sample_weight, y\n", "lambda t: sample_weight if len(t.shape) > 1 else np.ones_like(sample_weight), y\n", f"{EPO} {HIS} {OUT}", "two_outputs"),
    Mutant("loss_weight_of_one_output_ignored", COMPILED, "value = ops.multiply(value, loss_weight)", "pass", f"{CLS} {ADD}", "sparse or strings"),
    Mutant("output_losses_unweighted_by_examples", COMPILED, "sample_weight=tree.flatten(y_p)[0].shape[0],", "sample_weight=None,", f"{OUT}", ""),
    # Metrics of compile
    Mutant("unweighted_metrics_are_not_reset", COMPILED, "for m in self._flat_metrics:\n            if m:\n                m.reset_state()", "pass", f"{MET} {HIS} {EVA} {EPO}", "dense or MeanAbs or Accuracy"),
    Mutant("weighted_metrics_are_not_reset", COMPILED, "for m in self._flat_weighted_metrics:\n            if m:\n                m.reset_state()", "pass", f"{HIS} {EVA} {EPO}", "dense"),
    Mutant("unweighted_metrics_see_sixteen_rows", COMPILED, "m.update_state(y_t, y_p)\n", "m.update_state(y_t[:16], y_p[:16])\n", MET, "one_output"),
    Mutant("metrics_of_layers_are_not_reset", "trainers/trainer.py", "for m in self.metrics:\n            m.reset_state()", "for m in self._get_own_metrics():\n            m.reset_state()", f"{HIS} {EPO} {MET}", "dense"),
    Mutant("weights_of_steps_are_summed", "metrics/reduction_metrics.py", "sample_weight = reduce_fn(\n                sample_weight, axis=list(range(1, weight_ndim))", "sample_weight = ops.max(\n                sample_weight, axis=list(range(1, weight_ndim))", f"{MSK} sample_weights_count_examples {DEF}", "Mean or MeanSquaredError or lstm or LSTM"),
    # Penalties
    Mutant("layer_called_twice_penalized_once", "layers/layer.py", "return self._losses[:]", "return self._losses[-1:]", f"{PEN} {APEN}", "shared"),
    Mutant("shared_regularizer_acts_on_one_weight", "layers/layer.py", "if variable.regularizer is None:\n                continue\n            if backend", "if variable.regularizer is None or any(variable.regularizer is w.regularizer for w in self.trainable_weights if id(w) < id(variable)):\n                continue\n            if backend", f"{PEN} {APEN}", "shared"),
    Mutant("penalties_of_nested_models_lost", "layers/layer.py", "for layer in self._flatten_layers(include_self=False):\n            losses.extend", "for layer in self._flatten_layers(include_self=False, recursive=False):\n            losses.extend", f"{PEN} {APEN}", "shared"),
    Mutant("penalty_on_frozen_weights", "layers/layer.py", "for variable in self.trainable_weights:\n            if variable.regularizer", "for variable in self.weights:\n            if variable.regularizer", f"{PEN} {APEN}", "shared"),
    # Chance
    Mutant("graphs_drop_alike_in_every_batch", "random/seed_generator.py", "np.array([0, 1]), dtype", "np.array([0, int(__import__('tensorflow').executing_eagerly())]), dtype", f"{DRO} {LAY}", "Dropout or Gaussian"),
    Mutant("batches_drop_alike", "random/seed_generator.py", "np.array([0, 1]), dtype", "np.array([0, 0]), dtype", f"{DRO} {LAY}", "Dropout or Gaussian"),
    Mutant("examples_drop_alike", "backend/tensorflow/random.py", "noise_shape = _get_concrete_noise_shape(inputs, noise_shape)", "noise_shape = _get_concrete_noise_shape(inputs, noise_shape or (1,) + (None,) * (len(inputs.shape) - 1))", f"{DRO} {LAY}", "Dropout"),
    Mutant("examples_get_the_same_noise", "layers/regularization/gaussian_noise.py", "shape=ops.shape(inputs)", "shape=(1, *ops.shape(inputs)[1:])", LAY, "GaussianNoise"),
    Mutant("pairs_drop_alike", "backend/tensorflow/random.py", "noise_shape = _get_concrete_noise_shape(inputs, noise_shape)", "noise_shape = _get_concrete_noise_shape(inputs, noise_shape or (((1,) + (None,) * (len(inputs.shape) - 1)) if inputs.shape[0] == 2 else None))", f"{DRO} {LAY}", "Dropout"),
    # Layers
    Mutant("lora_of_dense_off", "layers/core/dense.py", "(self.lora_alpha / self.lora_rank)", "(self.lora_alpha / (self.lora_rank + 1))", f"{LAY}", "Dense"),
    Mutant("lora_of_embedding_reads_one_row", "layers/core/embedding.py", "lora_outputs = ops.take(self.lora_embeddings_a, inputs, axis=0)", "lora_outputs = ops.take(self.lora_embeddings_a, inputs * 0, axis=0)", f"{LAY}", "Embedding"),
    Mutant("frozen_batch_normalization_uses_the_batch", "layers/normalization/batch_normalization.py", "if training and self.trainable:", "if training:", f"{LAY} {PTH}", "BatchNormalization or batch_norm"),
    Mutant("masked_moments_of_single_steps", "layers/normalization/batch_normalization.py", "mean = masked_input_sum / (sum_of_weights + backend.epsilon())", "mean = masked_input_sum / (sum_of_weights + backend.epsilon() + ops.cast(ops.shape(inputs)[0] == 3, inputs.dtype))", f"{LAY} masked_steps_change_nothing", "BatchNormalization"),
    Mutant("synchronized_moments_are_local", "layers/normalization/batch_normalization.py", "synchronized=self.synchronized,", "synchronized=False,", "synchronized_batch_statistics_are_those_of_the_whole_batch", ""),
    Mutant("unrolled_masks_are_not_reversed", "backend/tensorflow/rnn.py", "                mask_list.reverse()", "                pass", LAY, "SimpleRNN or LSTM"),
    Mutant("unrolled_masked_outputs_are_zero", "backend/tensorflow/rnn.py", "prev_output = successive_outputs[-1]", "prev_output = tf.zeros_like(output)", LAY, "SimpleRNN or LSTM"),
    Mutant("time_distributed_shifts_the_mask", "layers/rnn/time_distributed.py", 'kwargs["mask"] = mask[i]', 'kwargs["mask"] = mask[i - 1]', f"{LAY} masked_steps_change_nothing", "TimeDistributed"),
    Mutant("masking_wants_one_feature_masked", "layers/core/masking.py", "ops.any(ops.not_equal(inputs, self.mask_value), axis=-1)", "ops.all(ops.not_equal(inputs, self.mask_value), axis=-1)", f"{LAY} padding_does_not_change_the_output", "Masking or lstm"),
    Mutant("adapt_forgets_the_spread_between_batches", "layers/preprocessing/normalization.py", "batch_var + (batch_mean - new_total_mean) ** 2", "batch_var", f"{LAY}", "Normalization"),
    Mutant("recurrent_dropout_mask_kept_between_batches", "layers/rnn/dropout_rnn_cell.py", "self._dropout_mask = None", "pass", f"{LAY} stateless_layer_forgets_between_batches layer_takes_tiny_batches", "LSTM or GRU", 1),
    # Optimizers
    Mutant("average_of_a_single_epoch_is_not_written_back", TF, "and epochs > 0", "and epochs > 1", f"{EMA} fit_ends_with_the_moving_averages", "adam or sgd or dense"),
    Mutant("accumulators_taken_by_position", BASE, "self._accumulated_gradients[self._get_variable_index(v)]\n                for v in trainable_variables", "self._accumulated_gradients[i]\n                for i, v in enumerate(trainable_variables)", f"{APEN} {WIN}", "shared or arrays"),
    Mutant("empty_gradients_take_the_last_variable", BASE, "v = filtered_vars.pop(i)", "v = filtered_vars.pop(-1)", f"{APEN}", "shared"),
    Mutant("callable_rates_are_halved", BASE, "return self._learning_rate()", "return self._learning_rate() * 0.5", "callable_learning_rate_is_asked_at_every_update", "sgd or adam"),
    Mutant("assigned_rates_are_halved", BASE, "self._learning_rate.assign(learning_rate)", "self._learning_rate.assign(learning_rate * 0.5)", f"{REC} {TRA} schedules_count_micro_batches {WIN}", "sgd"),
    # Compiled steps
    Mutant("compiled_steps_of_three_lose_a_row", TF, "self.distribute_strategy.run(step_function, args=(data,))", "self.distribute_strategy.run(step_function, args=(tree.map_structure(lambda t: t[:-1] if self.jit_compile and t.shape[0] == 3 else t, data),))", f"{HIS} {PTH} {WIN} {EVA} updates_do_not_depend_on_steps_per_execution accumulated_training_matches_large_batches", "dense or sgd"),
    Mutant("eager_steps_of_three_lose_a_row", TF, "self.distribute_strategy.run(step_function, args=(data,))", "self.distribute_strategy.run(step_function, args=(tree.map_structure(lambda t: t[:-1] if self.run_eagerly and t.shape[0] == 3 else t, data),))", f"{HIS} {PTH} {SRC} {EVA} {WIN}", "dense or arrays"),
    # Loss
    Mutant("columns_of_weights_weigh_once", "losses/loss.py", "values = values * sample_weight", "values = values * (sample_weight if len(sample_weight.shape) < 3 else ops.ones_like(sample_weight))", "loss_of_a_batch_is_the_combination_of_its_parts", "MeanSquaredError or Huber"),
    Mutant("weights_of_steps_reach_the_first_step", "losses/loss.py", "values = values * sample_weight", "values = values * (sample_weight if len(sample_weight.shape) < 2 or sample_weight.shape[1] == 1 else sample_weight[:, :1])", f"loss_of_a_batch_is_the_combination_of_its_parts {MSK}", "MeanSquaredError or Huber"),
    Mutant("mean_with_weights_ignores_the_weights", "losses/loss.py", 'if reduction == "mean_with_sample_weight" and sample_weight is not None:', "if False:", "loss_of_a_batch_is_the_combination_of_its_parts", "MeanSquaredError"),
    Mutant("ignored_class_counts_in_the_divisor", "losses/losses.py", "valid_mask = ops.not_equal(y_true, ops.cast(ignore_class, y_pred.dtype))", "valid_mask = ops.not_equal(y_true, ops.cast(ignore_class + 1, y_pred.dtype))", f"{FRM} loss_of_a_batch_is_the_combination_of_its_parts", "SparseCategorical"),
)  # fmt: skip
