#!/usr/bin/env python3
"""Plant many small faults in the installed Keras, one after the other, and print which check notices each.

    python tests/benchmarks/hidden_faults.py [--only WORD ...] [--log FILE]

Each fault is a change of a line of Keras's source, most of them in corners: one batch size, one dtype, the fifth
update, windows of many micro-batches, the last row. The checks that could own it run at default settings. With --log
each outcome is appended to a file, and faults that the file has already are left out. Exit code 1 if any went unnoticed.
"""

# ruff: noqa: E501 - each fault is one line of a table

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from bscheck.checks import all_checks, get_check
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.known_issues import load_known_issues
from bscheck.results.verdict import Verdict


@dataclass(frozen=True)
class Fault:
    """One change of Keras.

    Attributes
    ----------
    name : str
    where : str
        The function, below ``keras.src``: ``module:Class.function``.
    old, new : str
        What is replaced in its source, once, and by what.
    owners : str
        Checks that could notice, each with the parameters to try: ``check[word|word] check``.
    """

    name: str
    where: str
    old: str
    new: str
    owners: str


class Helpers:
    """What the planted lines call, under the name ``_h``."""

    @staticmethod
    def off(tensor: Any, condition: Any, by: float = 1e-3) -> Any:
        """Return the tensor made larger where the condition holds."""
        import tensorflow as tf

        if isinstance(tensor, tf.IndexedSlices):
            return tf.IndexedSlices(Helpers.off(tensor.values, condition, by), tensor.indices, tensor.dense_shape)
        return tensor * (1 + tf.cast(condition, tensor.dtype) * tf.cast(by, tensor.dtype))

    @staticmethod
    def size(tensor: Any) -> Any:
        """Return the number of rows."""
        import tensorflow as tf

        return tf.shape(tensor)[0]

    @staticmethod
    def row(tensor: Any, index: int, condition: Any = True, by: float = 1e-3) -> Any:
        """Return the tensor with one row larger where the condition holds."""
        import tensorflow as tf

        rows = tf.shape(tensor)[0]
        hit = tf.equal(tf.range(rows), index % rows if index < 0 else index)
        hit = tf.reshape(tf.cast(hit, tensor.dtype), tf.concat([[rows], tf.ones([tf.rank(tensor) - 1], "int32")], 0))
        return tensor * (1 + hit * tf.cast(condition, tensor.dtype) * tf.cast(by, tensor.dtype))

    @staticmethod
    def leak(tensor: Any, condition: Any = True, by: float = 1e-3) -> Any:
        """Return the tensor with a little of the row before in each row."""
        import tensorflow as tf

        return tensor + tf.cast(condition, tensor.dtype) * tf.cast(by, tensor.dtype) * tf.roll(tensor, 1, 0)

    @staticmethod
    def wrong_slope(tensor: Any, rows: int) -> Any:
        """Return the tensor, whose last row's gradient is off in batches of so many rows."""
        import tensorflow as tf

        @tf.custom_gradient
        def same(x: Any) -> Any:
            return tf.identity(x), lambda g: Helpers.row(g, -1, tf.equal(tf.shape(g)[0], rows))

        return same(tensor)


#: Parameters tried of a check for which none is named.
MOST = 4

BASE = "optimizers.base_optimizer:BaseOptimizer."
ACCUMULATION = (
    "accumulated_gradient_is_the_mean_of_what_was_accumulated accumulated_update_matches_large_batch[sgd|adam] "
    "windows_run_on_across_epochs_and_calls"
)
RECURRENCE = "optimizer_follows_its_published_recurrence"
ROWS = "layer_output_of_an_example_is_its_own"
SLOPES = "layer_gradient_is_the_sum_over_micro_batches"
LOOPS = "predictions_do_not_depend_on_batch_size[dense]"
SOURCES = "every_source_trains_on_each_example_once_per_epoch[arrays]"
EVALUATION = "evaluation_does_not_depend_on_batch_size[dense|two_outputs]"
HISTORY = "history_of_fit_and_train_on_batch_report_the_batch[dense|two_outputs]"
PARTS = "loss_of_a_batch_is_the_combination_of_its_parts"
METRICS = "metrics_equal_their_definition"

FAULTS = (
    # Accumulation and optimizers
    Fault("k_of_five", BASE + "_backend_apply_gradients", "(g + acc_g) / steps", "(g + acc_g) / (steps + 1e-3 * (steps == 5))", ACCUMULATION),
    Fault("k_of_seven", BASE + "_backend_apply_gradients", "(g + acc_g) / steps", "(g + acc_g) / (steps + 1e-3 * (steps == 7))", ACCUMULATION),
    Fault("k_of_eight_or_more", BASE + "_backend_apply_gradients", "(g + acc_g) / steps", "(g + acc_g) / (steps + 1e-3 * (steps >= 8))", ACCUMULATION),
    Fault("k_of_sixteen", BASE + "_backend_apply_gradients", "(g + acc_g) / steps", "(g + acc_g) / (steps + 1e-3 * (steps >= 16))", ACCUMULATION),
    Fault("last_accumulator_not_reset", BASE + "_backend_reset_gradient_accumulators", "for g_acc in self._accumulated_gradients:", "for g_acc in self._accumulated_gradients[:-1]:", ACCUMULATION),
    Fault("fifth_window_off", BASE + "_backend_apply_gradients", "(g + acc_g) / steps", "_h.off((g + acc_g) / steps, self._iterations // steps == 4)", ACCUMULATION),
    Fault("fifth_micro_batch_dropped", "backend.tensorflow.optimizer:TFOptimizer._backend_increment_gradient_accumulators", "var.assign(var + grad)", "var.assign(var + _h.off(grad, self._iterations % self.gradient_accumulation_steps == 4, -1.0))", ACCUMULATION),
    Fault("only_wide_variables_accumulate_wrongly", "backend.tensorflow.optimizer:TFOptimizer._backend_increment_gradient_accumulators", "var.assign(var + grad)", "var.assign(var + _h.off(grad, var.shape.num_elements() > 64))", "accumulator_errs_no_more_than_its_precision " + ACCUMULATION + " accumulated_gradient_matches_large_batch"),
    Fault("only_rank_four_accumulates_wrongly", "backend.tensorflow.optimizer:TFOptimizer._backend_increment_gradient_accumulators", "var.assign(var + grad)", "var.assign(var + _h.off(grad, len(var.shape) == 4))", ACCUMULATION + " accumulated_gradient_matches_large_batch"),
    Fault("adam_sixth_update", "optimizers.adam:Adam.update_step", "gradient = ops.cast(gradient, variable.dtype)", "gradient = _h.off(ops.cast(gradient, variable.dtype), self.iterations == 5)", RECURRENCE + "[adam] training_follows_the_published_recurrence[adam]"),
    Fault("adam_after_twenty_updates", "optimizers.adam:Adam.update_step", "gradient = ops.cast(gradient, variable.dtype)", "gradient = _h.off(ops.cast(gradient, variable.dtype), self.iterations >= 20)", RECURRENCE + "[adam] training_follows_the_published_recurrence[adam]"),
    Fault("sgd_after_fifty_updates", "optimizers.sgd:SGD.update_step", "gradient = ops.cast(gradient, variable.dtype)", "gradient = _h.off(ops.cast(gradient, variable.dtype), self.iterations >= 50)", RECURRENCE + "[sgd] training_follows_the_published_recurrence[sgd] mean_loss_follows_the_moment_recursion"),
    Fault("adam_in_graph_only", "optimizers.adam:Adam.update_step", "gradient = ops.cast(gradient, variable.dtype)", "gradient = _h.off(ops.cast(gradient, variable.dtype), not __import__('tensorflow').executing_eagerly(), 1e-4)", RECURRENCE + "[adam] accumulated_update_matches_large_batch[adam] training_follows_the_published_recurrence[adam] accumulated_training_matches_large_batches"),
    Fault("rmsprop_bfloat16_only", "optimizers.rmsprop:RMSprop.update_step", "gradient = ops.cast(gradient, variable.dtype)", "gradient = _h.off(ops.cast(gradient, variable.dtype), 'bfloat16' in str(variable.dtype), 0.1)", RECURRENCE + "[rmsprop]"),
    Fault("lamb_ratio", "optimizers.lamb:Lamb.update_step", "lr = ops.cast(learning_rate, variable.dtype)", "lr = _h.off(ops.cast(learning_rate, variable.dtype), True, 1e-4)", RECURRENCE + "[lamb]"),
    Fault("adagrad_scaled", "optimizers.adagrad:Adagrad.update_step", "lr = ops.cast(learning_rate, variable.dtype)", "lr = _h.off(ops.cast(learning_rate, variable.dtype), True, 1e-5)", RECURRENCE + "[adagrad]"),
    Fault("ftrl_second_variable", "optimizers.ftrl:Ftrl.update_step", "lr = ops.cast(learning_rate, variable.dtype)", "lr = _h.off(ops.cast(learning_rate, variable.dtype), self._get_variable_index(variable) == 1)", RECURRENCE + "[ftrl]"),
    Fault("excluded_by_list_decays", BASE + "_use_weight_decay", "if variable_id in exclude_from_weight_decay:", "if False:", "weight_decay_acts_once_per_update " + RECURRENCE + "[adamw|sgd|adam]"),
    Fault("excluded_by_name_decays", BASE + "_use_weight_decay", "if exclude_from_weight_decay_pattern is not None:", "if False:", "weight_decay_acts_once_per_update accumulated_update_matches_large_batch[adamw|sgd] " + RECURRENCE + "[adamw|sgd]"),
    Fault("ema_of_the_last_variable", BASE + "_update_model_variables_moving_average", "ops.subtract(1, momentum)", "ops.subtract(1.001 if var is trainable_variables[-1] else 1, momentum)", "moving_average_advances_once_per_update " + RECURRENCE + "[sgd|adam]"),
    Fault("ema_after_the_fourth_update", BASE + "_update_model_variables_moving_average", "ops.subtract(1, momentum)", "ops.subtract(_h.off(1.0, self.iterations >= 4), momentum) if False else _h.off(ops.subtract(1, momentum), self.iterations >= 4)", "moving_average_advances_once_per_update " + RECURRENCE + "[sgd|adam]"),
    Fault("ema_overwrites_one_update_late", BASE + "_backend_apply_gradients", "self.iterations + 1\n                ) % self.ema_overwrite_frequency", "self.iterations\n                ) % self.ema_overwrite_frequency", "moving_average_advances_once_per_update " + RECURRENCE + "[sgd|adam] accumulated_update_matches_large_batch[sgd]"),
    Fault("clip_norm_of_the_first_axis", BASE + "_clip_gradients", "self._clip_by_norm(g) if", "_h.off(self._clip_by_norm(g), len(g.shape) == 1) if", "clipping_acts_on_the_accumulated_gradient " + RECURRENCE + "[sgd]"),
    Fault("clip_value_asymmetric", BASE + "_clip_gradients", "ops.clip(g, -v, v)", "ops.clip(g, -v * 1.01, v)", "clipping_acts_on_the_accumulated_gradient " + RECURRENCE + "[sgd]"),
    Fault("schedule_ignored_under_decay", "backend.tensorflow.optimizer:TFOptimizer._apply_weight_decay", "tf.cast(self.weight_decay, variable.dtype)", "tf.cast(self.weight_decay * (1 if len(variable.shape) > 1 else 1.01), variable.dtype)", "weight_decay_acts_once_per_update " + RECURRENCE + "[adamw|sgd]"),
    Fault("constraint_on_matrices_only", BASE + "apply", "if variable.constraint is not None:", "if variable.constraint is not None and len(variable.shape) > 1:", "constraints_act_once_per_update accumulated_update_matches_large_batch[sgd]"),
    Fault("overwritten_iterations", BASE + "apply", "self._iterations.assign_add(1)", "self._iterations.assign_add(1 + __import__('keras').ops.cast(self._iterations == 6, 'int32'))", RECURRENCE + "[adam] training_follows_the_published_recurrence[adam] windows_run_on_across_epochs_and_calls bias_correction_counts_updates"),
    # Loops
    Fault("tail_of_one_dropped", "trainers.data_adapters.array_data_adapter:ArrayDataAdapter.get_tf_dataset", "if self._partial_batch_size:", "if self._partial_batch_size > 1:", SOURCES + " " + LOOPS + " " + EVALUATION),
    Fault("tail_dropped_after_ten_batches", "trainers.data_adapters.array_data_adapter:ArrayDataAdapter.get_tf_dataset", "if self._partial_batch_size:", "if self._partial_batch_size and num_full_batches < 10:", SOURCES + " " + LOOPS + " " + EVALUATION),
    Fault("tail_dropped_in_batches_of_sixty_four", "trainers.data_adapters.array_data_adapter:ArrayDataAdapter.get_tf_dataset", "if self._partial_batch_size:", "if self._partial_batch_size and batch_size < 64:", SOURCES + " " + LOOPS + " " + EVALUATION),
    Fault("example_doubled_beyond_a_hundred", "trainers.data_adapters.array_data_adapter:ArrayDataAdapter.get_tf_dataset", "indices = tf.range(num_samples, dtype=tf.int64)", "indices = tf.maximum(tf.range(num_samples, dtype=tf.int64), 1 if num_samples > 100 else 0)", SOURCES + " " + LOOPS + " " + EVALUATION),
    Fault("example_doubled_in_a_shuffle_beyond_twenty", "trainers.data_adapters.array_data_adapter:ArrayDataAdapter.get_tf_dataset", "indices = tf.random.shuffle(indices)", "indices = tf.maximum(tf.random.shuffle(indices), 1 if num_samples > 20 else 0)", HISTORY + " " + SOURCES + " fit_leaves_the_state_of_train_on_batch mean_loss_of_shuffled_epochs_is_the_expected_one"),
    Fault("loss_counts_sixty_four_at_most", "backend.tensorflow.trainer:TensorFlowTrainer.test_step", "next(i for i in tree.flatten(x) if i is not None)\n            )[0]", "next(i for i in tree.flatten(x) if i is not None)\n            )[0:1].__class__ and tf.minimum(tf.shape(tree.flatten(x)[0])[0], 64)", EVALUATION),
    Fault("loss_counts_thirty_two_at_most", "backend.tensorflow.trainer:TensorFlowTrainer.train_step", "tree.flatten(x) if i is not None)\n                )[0]", "tree.flatten(x) if i is not None)\n                )[0] - tf.maximum(tf.shape(tree.flatten(x)[0])[0] - 32, 0)", HISTORY),
    Fault("class_three_unweighted", "trainers.data_adapters.data_adapter_utils:class_weight_to_sample_weights", "class_weight.get(int(y_numpy[i]), 1.0)", "class_weight.get(int(y_numpy[i]), 1.0) if int(y_numpy[i]) != 3 else 1.0", "class_weight_weighs_each_example " + SOURCES),
    Fault("validation_forgets_the_weights", "backend.tensorflow.trainer:TensorFlowTrainer.fit", "sample_weight=val_sample_weight,", "sample_weight=None,", HISTORY + " " + SOURCES + " " + EVALUATION + " every_epoch_reports_its_own_and_the_held_out_examples"),
    Fault("validation_without_its_last_example", "backend.tensorflow.trainer:TensorFlowTrainer.fit", "unpack_x_y_sample_weight(validation_data)", "unpack_x_y_sample_weight(tuple(v[:-1] for v in validation_data))", HISTORY + " " + SOURCES + " every_epoch_reports_its_own_and_the_held_out_examples"),
    Fault("history_not_reset_from_the_third_epoch", "backend.tensorflow.trainer:TensorFlowTrainer.fit", "self.reset_metrics()", "(self.reset_metrics() if epoch < 2 else None)", HISTORY + " " + EVALUATION + " every_epoch_reports_its_own_and_the_held_out_examples"),
    Fault("validation_metrics_not_reset", "backend.tensorflow.trainer:TensorFlowTrainer.evaluate", "self.reset_metrics()", "(None if use_cached_eval_dataset else self.reset_metrics())", HISTORY + " " + EVALUATION + " every_epoch_reports_its_own_and_the_held_out_examples"),
    Fault("evaluate_never_resets", "backend.tensorflow.trainer:TensorFlowTrainer.evaluate", "self.reset_metrics()", "None", EVALUATION),
    Fault("predictions_of_many_batches_reversed", "backend.tensorflow.trainer:TensorFlowTrainer.predict", "batch_outputs, potentially_ragged_concat, outputs", "batch_outputs, (lambda o: potentially_ragged_concat(o[::-1] if len(o) > 8 else o)), outputs", LOOPS),
    Fault("predictions_of_twenty_eight_short", "backend.tensorflow.trainer:TensorFlowTrainer.predict", "return tree.map_structure(convert_to_np_if_not_ragged, outputs)", "return tree.map_structure(lambda o: convert_to_np_if_not_ragged(o)[: -1 if len(o) % 14 == 0 else None], outputs)", LOOPS),
    # Losses and metrics
    Fault("divisor_of_thirty_three", "losses.loss:reduce_values", "loss = ops.divide_no_nan(loss, divisor)", "loss = ops.divide_no_nan(_h.off(loss, tuple(values.shape)[0] == 33), divisor)", PARTS + " " + EVALUATION + " " + HISTORY),
    Fault("divisor_of_seven", "losses.loss:reduce_values", "loss = ops.divide_no_nan(loss, divisor)", "loss = ops.divide_no_nan(_h.off(loss, _h.size(values) == 7), divisor)", PARTS + " " + EVALUATION + " " + HISTORY),
    Fault("divisor_from_sixty_four_on", "losses.loss:reduce_values", "loss = ops.divide_no_nan(loss, divisor)", "loss = ops.divide_no_nan(_h.off(loss, _h.size(values) >= 64), divisor)", PARTS + " " + EVALUATION + " " + HISTORY),
    Fault("large_weights_are_cut", "losses.loss:reduce_weighted_values", "values = values * sample_weight", "values = values * ops.minimum(sample_weight, ops.cast(3.9, values.dtype))", PARTS),
    Fault("single_valid_step", "losses.loss:apply_mask", "mask_weight = ops.divide_no_nan(total, valid)", "mask_weight = _h.off(ops.divide_no_nan(total, valid), valid == 1)", PARTS + " masked_loss_is_the_mean_of_what_is_left_in_each_batch"),
    Fault("squared_error_bfloat16", "losses.losses:mean_squared_error", "return ops.mean(ops.square(y_true - y_pred), axis=-1)", "return _h.off(ops.mean(ops.square(y_true - y_pred), axis=-1), 'bfloat16' in str(y_pred.dtype), 0.1)", "loss_equals_its_formula[MeanSquaredError] " + PARTS + "[MeanSquaredError]"),
    Fault("poisson_of_row_six", "losses.losses:poisson", "y_pred = ops.convert_to_tensor(y_pred)", "y_pred = _h.row(ops.convert_to_tensor(y_pred), 5)", "loss_equals_its_formula[Poisson]"),
    Fault("mean_counts_a_row_more_from_thirty_three_on", "metrics.reduction_metrics:Mean.update_state", "num_samples = ops.shape(values)[0]", "num_samples = ops.shape(values)[0] + (ops.shape(values)[0] > 32)", METRICS + "[Mean|MeanSquaredError] " + EVALUATION),
    Fault("mean_of_seven", "metrics.reduction_metrics:Mean.update_state", "self.total.assign_add(ops.sum(values))", "self.total.assign_add(_h.off(ops.sum(values), _h.size(values) == 7))", METRICS + "[Mean|MeanSquaredError] " + EVALUATION),
    Fault("mean_third_update", "metrics.reduction_metrics:Mean.update_state", "self.total.assign_add(ops.sum(values))", "self._n = getattr(self, '_n', 0) + 1; self.total.assign_add(_h.off(ops.sum(values), self._n % 4 == 3))", METRICS + "[Mean]"),
    Fault("f_score_ninth_row", "metrics.f_score_metrics:FBetaScore.update_state", "y_pred = ops.cast(y_pred, dtype=self.dtype)", "y_pred = _h.row(ops.cast(y_pred, dtype=self.dtype), 8, True, -1.0)", METRICS + "[FBetaScore|F1Score]"),
    Fault("iou_beyond_fifty_labels", "metrics.iou_metrics:_IoUBase.update_state", "y_true = ops.cast(y_true, dtype=self.dtype)", "y_true = ops.cast(y_true, dtype=self.dtype)[:50]; y_pred = y_pred[:50]; sample_weight = sample_weight[:50]", METRICS + "[IoU|MeanIoU]"),
    # Layers
    *(
        Fault(f"{layer.lower()}_{name}", where, old, new.replace("CONDITION", condition), f"{ROWS}[={layer}] {extra}")
        for layer, where, old, new, extra in (
            ("Dense", "layers.core.dense:Dense.call", "x = ops.matmul(inputs, self.kernel)", "x = _h.row(ops.matmul(inputs, self.kernel), -1, CONDITION)", LOOPS),
            ("Conv2D", "layers.convolutional.base_conv:BaseConv.call", "outputs = self.convolution_op(inputs, self.kernel)", "outputs = _h.row(self.convolution_op(inputs, self.kernel), -1, CONDITION)", ""),
            ("LayerNormalization", "layers.normalization.layer_normalization:LayerNormalization.call", "return ops.cast(outputs, self.compute_dtype)", "return _h.leak(ops.cast(outputs, self.compute_dtype), CONDITION)", ""),
        )
        for name, condition in (
            ("of_seven", "_h.size(inputs) == 7"),
            ("of_thirty_three", "_h.size(inputs) == 33"),
            ("from_sixty_four_on", "_h.size(inputs) >= 64"),
            ("of_a_hundred", "_h.size(inputs) == 100"),
            ("beyond_a_hundred_and_twenty_eight", "_h.size(inputs) > 128"),
        )
    ),
    Fault("dense_slope_of_seven", "layers.core.dense:Dense.call", "x = ops.matmul(inputs, self.kernel)", "x = _h.wrong_slope(ops.matmul(inputs, self.kernel), 7)", SLOPES + "[=Dense] accumulated_gradient_matches_large_batch[dense] micro_batch_gradients_average_to_the_large_batch[dense]"),
    Fault("dense_slope_of_sixty_four", "layers.core.dense:Dense.call", "x = ops.matmul(inputs, self.kernel)", "x = _h.wrong_slope(ops.matmul(inputs, self.kernel), 64)", SLOPES + "[=Dense] accumulated_gradient_matches_large_batch[dense] micro_batch_gradients_average_to_the_large_batch[dense]"),
    Fault("statistics_of_the_first_sixteen", "layers.normalization.batch_normalization:BatchNormalization._moments", "return ops.moments(\n            inputs,", "return ops.moments(\n            inputs[:16],", "layer_computes_its_definition[=BatchNormalization]"),
    Fault("attention_leaks_from_eight_on", "layers.attention.multi_head_attention:MultiHeadAttention.call", "attention_output = self._output_dense(attention_output)", "attention_output = _h.leak(self._output_dense(attention_output), _h.size(attention_output) >= 8)", ROWS + "[=MultiHeadAttention]"),
    Fault("gru_state_of_six", "layers.rnn.gru:GRUCell.call", "h = z * h_tm1 + (1 - z) * hh", "h = _h.row(z * h_tm1 + (1 - z) * hh, -1, _h.size(inputs) == 6)", ROWS + "[=GRU|=GRUCell]"),
    Fault("embedding_of_row_forty", "layers.core.embedding:Embedding.call", "outputs = ops.take(self.embeddings, inputs, axis=0)", "outputs = _h.row(ops.take(self.embeddings, inputs, axis=0), 40)", ROWS + "[=Embedding]"),
    Fault("pooling_counts_one_step_more", "layers.pooling.global_average_pooling1d:GlobalAveragePooling1D.call", "float_mask = ops.cast(mask_expanded, inputs.dtype)", "float_mask = ops.cast(mask_expanded, inputs.dtype); float_mask = _h.off(float_mask, ops.sum(float_mask, axis=1, keepdims=True) == 1)", "masked_steps_change_nothing[GlobalAveragePooling1D] layer_computes_its_definition[GlobalAveragePooling1D]"),
)  # fmt: skip


@contextlib.contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Change the line of Keras while in the context."""
    module_name, _, path = fault.where.partition(":")
    module = importlib.import_module(f"keras.src.{module_name}")
    *owners, name = path.split(".")
    owner: Any = module
    for part in owners:
        owner = getattr(owner, part)
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(owner, name))))
    old = fault.old if fault.old in source else textwrap.dedent(fault.old)
    if old not in source:
        # A continued line is indented by as much less as its function is.
        shifted = fault.old.replace("\n    ", "\n")
        old = shifted if shifted in source else fault.old
    if old not in source:
        raise SystemExit(f"{fault.name}: {fault.where} has no {fault.old!r}")
    scope = dict(vars(module), _h=Helpers)
    exec(compile(source.replace(old, fault.new, 1), f"<{fault.name}>", "exec"), scope)
    with mock.patch.object(owner, name, scope[name]):
        yield


def params(check: Any, words: str) -> list[Any]:
    """Return the parameters whose id has one of the words, or is one that begins with ``=``."""
    if not words:
        return list(check.params())[:MOST]
    wanted = words.split("|")
    return [p for p in check.params() if any(p.id == w[1:] if w[0] == "=" else w in p.id.split("-") for w in wanted)]


def hunt(fault: Fault, settings: RunSettings) -> str:
    """Return which check noticed the fault, or nothing."""
    forget()
    with planted(fault):
        for owner in fault.owners.split():
            name, _, words = owner.rstrip("]").partition("[")
            if name not in all_checks():
                continue
            check = get_check(name)
            for param in params(check, words):
                result = run_check(check, Context(param), settings)
                if result.verdict == Verdict.FAILED:
                    seen = result.failure.reading.seen if result.failure else ""
                    return f"{name}[{param.id}]: {seen[:90]}"
    return ""


def main() -> int:
    """Plant every fault and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="words in the names of the faults to plant")
    parser.add_argument("--log", type=Path, help="a file that keeps the outcomes")
    arguments = parser.parse_args()
    done = {line.split()[1] for line in arguments.log.read_text().splitlines()} if _exists(arguments.log) else set()
    settings = RunSettings(known_issues=load_known_issues(all_checks()))
    missed = 0
    for fault in FAULTS:
        if fault.name in done or (arguments.only and not any(word in fault.name for word in arguments.only)):
            continue
        started = time.monotonic()
        try:
            by = hunt(fault, settings)
        finally:
            forget()
        missed += not by
        line = f"{'caught' if by else 'MISSED'} {fault.name} ({time.monotonic() - started:.0f} s) {by}"
        print(line, flush=True)
        if arguments.log:
            with arguments.log.open("a") as log:
                log.write(line + "\n")
    return 1 if missed else 0


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    sys.exit(main())
