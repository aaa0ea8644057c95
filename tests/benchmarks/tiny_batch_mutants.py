#!/usr/bin/env python3
"""Which faults of sampling, gradients and updates the laws of tiny batches tell, at default settings.

    python tests/benchmarks/tiny_batch_mutants.py

Every fault is planted in Keras's own functions, which are wrapped, not copied: ``fit`` draws examples otherwise, a loss
is reduced otherwise, an update is made otherwise. Printed are the checks of the variance law, the noise scale, the
expected loss, the stability threshold and the stationary loss that fail. A fault that none tells is missed, unless it
is listed with the reason why no such law can tell it.

    --only sum noise     faults whose name has one of these words
"""

import argparse
import contextlib
import sys
from datetime import date
from unittest import mock

import keras
import tensorflow as tf
from keras import ops
from keras.src.losses import loss as losses
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

from bscheck.checks import Param, all_checks, get_check
from bscheck.checks import run as runner
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.known_issues import load_known_issues
from bscheck.results.verdict import Verdict
from bscheck.runtime.environment import describe

CHECKS = (
    ("minibatch_gradient_is_unbiased", {"subject": "dense"}, "mean"),
    ("minibatch_gradient_variance_follows_the_law", {"subject": "dense"}, "variance"),
    ("noise_scale_estimator_is_unbiased", {"subject": "dense"}, "noise scale"),
    ("mean_loss_follows_the_moment_recursion", {"sampling": "with_replacement"}, "with replacement"),
    ("mean_loss_follows_the_moment_recursion", {"sampling": "without_replacement"}, "without"),
    ("mean_loss_of_shuffled_epochs_is_the_expected_one", {"sampling": "fit"}, "epochs"),
    ("training_leaves_the_optimum_beyond_the_stability_threshold", {"sampling": "without_replacement"}, "threshold"),
    ("training_settles_at_the_stationary_loss", {"sampling": "with_replacement"}, "stationary"),
)

#: Faults that no law of this family can tell, and why.
EQUIVALENT = {
    "fit never shuffles": "every run is given its examples in a new random order before each epoch, so Keras's own "
    "order changes no expected loss; every_epoch_is_shuffled_anew owns that promise",
    "sum for mean at batch 1": "the sum of one is its mean",
    "last example left out at batch 1": "a mean over nothing is left as it is",
}

# Sampling -----------------------------------------------------------------------------------------------


def drawn(change):
    """Return the fault that changes the order in which ``fit`` draws its examples."""
    sound = tf.random.shuffle

    def faulty(indices, *args, **kwargs):
        return change(sound(indices, *args, **kwargs))

    return mock.patch.object(tf.random, "shuffle", faulty)


def with_replacement(order):
    return tf.gather(order, tf.random.uniform(tf.shape(order), 0, tf.shape(order)[0], tf.int32))


def never_last(order):
    last = tf.cast(tf.shape(order)[0] - 1, order.dtype)
    return tf.where(order == last, tf.zeros_like(order), order)


def sometimes(change, share):
    return lambda order: tf.where(tf.random.uniform(()) < share, change(order), order)


def without_tail():
    sound = ArrayDataAdapter.get_tf_dataset

    def faulty(self):
        whole = tf.cast(self._batch_size, tf.int64)
        return sound(self).filter(lambda *data: tf.shape(tf.nest.flatten(data)[0], tf.int64)[0] == whole)

    return mock.patch.object(ArrayDataAdapter, "get_tf_dataset", faulty)


SAMPLING = {
    "fit draws with replacement": lambda: drawn(with_replacement),
    "fit draws with replacement in half of the epochs": lambda: drawn(sometimes(with_replacement, 0.5)),
    "fit never draws the last example": lambda: drawn(never_last),
    "fit leaves out the last example in half of the epochs": lambda: drawn(sometimes(never_last, 0.5)),
    "fit draws its first example twice": lambda: drawn(lambda order: tf.concat([order[:1], order[:-1]], 0)),
    "fit drops the tail": without_tail,
    "fit never shuffles": lambda: drawn(lambda order: tf.sort(order)),
}

# Gradients ----------------------------------------------------------------------------------------------


def reduced(change):
    """Return the fault that changes what a batch's losses are reduced to: ``change(reduced, values, n)``."""
    sound = losses.reduce_values

    def faulty(values, *args, **kwargs):
        n = ops.cast(ops.shape(values)[0], values.dtype)
        return change(sound(values, *args, **kwargs), values, n)

    return mock.patch.object(losses, "reduce_values", faulty)


def at(size, change):
    return lambda mean, values, n: ops.where(ops.equal(n, size), change(mean, values, n), mean)


def where(condition, factor):
    return lambda mean, values, n: mean * ops.where(condition(n), ops.cast(factor, mean.dtype), 1.0)


def total(mean, values, n):
    return mean * n


def without_last(mean, values, n):
    return ops.where(n > 1, (mean * n - ops.mean(values[-1])) / ops.maximum(n - 1, 1.0), mean)


def first_twice(mean, values, n):
    return (mean * n + ops.mean(values[0])) / (n + 1)


def without_largest(mean, values, n):
    return ops.where(n > 2, (mean * n - ops.max(values)) / ops.maximum(n - 1, 1.0), mean)


def noisy(size, share=1.0):
    def change(mean, values, n):
        noise = tf.random.normal((), dtype=mean.dtype) * tf.cast(tf.random.uniform(()) < share, mean.dtype)
        return mean * (1 + size * noise)

    return change


GRADIENTS = {
    "sum for mean": lambda: reduced(total),
    **{f"sum for mean at batch {n}": lambda n=n: reduced(at(n, total)) for n in (1, 2, 3)},
    "division by B - 1": lambda: reduced(lambda mean, values, n: mean * n / ops.maximum(n - 1, 1.0)),
    **{
        f"factor 1.005 at batch {n}": lambda n=n: reduced(at(n, lambda m, v, k: 1.005 * m)) for n in (1, 2, 3, 5, 7, 16)
    },
    "factor 1.005 at odd batches": lambda: reduced(where(lambda n: ops.equal(n % 2, 1), 1.005)),
    "factor 1.005 above batch 4": lambda: reduced(where(lambda n: n > 4, 1.005)),
    "last example left out": lambda: reduced(without_last),
    "last example left out at batch 1": lambda: reduced(at(1, without_last)),
    "last example left out at batch 3": lambda: reduced(at(3, without_last)),
    "first example counts twice": lambda: reduced(first_twice),
    "worst example left out": lambda: reduced(without_largest),
    **{
        f"noise of {size:g} of the gradient": lambda s=size: reduced(noisy(s))
        for size in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
    },
    "noise of 0.001 in a tenth of the gradients": lambda: reduced(noisy(1e-3, 0.1)),
    "noise of 0.0001 at batch 1": lambda: reduced(at(1, noisy(1e-4))),
}

# Updates ------------------------------------------------------------------------------------------------


def updated(change):
    """Return the fault that changes the gradient an update of SGD is made from: ``change(gradient, iterations)``."""
    sound = keras.optimizers.SGD.update_step

    def faulty(self, gradient, variable, learning_rate):
        sound(self, change(gradient, ops.convert_to_tensor(self.iterations)), variable, learning_rate)

    return mock.patch.object(keras.optimizers.SGD, "update_step", faulty)


def shaken(size):
    return lambda gradient, t: gradient + size * tf.random.normal(tf.shape(gradient), dtype=gradient.dtype)


def when(condition, change):
    return lambda gradient, t: ops.where(condition(t), change(gradient, t), gradient)


def scaled(factor):
    return lambda gradient, t: factor * gradient


UPDATES = {
    **{f"noise of {size:g} in every update": lambda s=size: updated(shaken(s)) for size in (1e-3, 1e-6, 1e-9)},
    "noise of 0.001 in every other update": lambda: updated(when(lambda t: t % 2 == 1, shaken(1e-3))),
    "noise of 0.001 in the first update": lambda: updated(when(lambda t: t == 0, shaken(1e-3))),
    "every other update larger by 1.005": lambda: updated(when(lambda t: t % 2 == 1, scaled(1.005))),
    "first update larger by 1.005": lambda: updated(when(lambda t: t == 0, scaled(1.005))),
    "one update in a hundred skipped": lambda: updated(when(lambda t: tf.random.uniform(()) < 0.01, scaled(0.0))),
    "tenth update skipped": lambda: updated(when(lambda t: t == 9, scaled(0.0))),
    "updates clipped at a rate above the threshold": lambda: updated(lambda g, t: ops.clip(g, -0.05, 0.05)),
}

FAULTS = {**SAMPLING, **GRADIENTS, **UPDATES}


def provenance(script):
    """Return what was run, when and on what."""
    told = [f"{key} {describe()[key]}" for key in ("keras", "backend", "backend_version", "device")]
    return " · ".join([*told, str(date.today()), " ".join(["python", script, *sys.argv[1:]])])


def tellers(settings):
    """Return the checks that fail on Keras as it is now."""
    forget()
    told = []
    for name, members, label in CHECKS:
        result = run_check(get_check(name), Context(Param.of(**members)), settings)
        if result.verdict == Verdict.FAILED:
            told.append(label)
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[""])
    asked = parser.parse_args()
    print(provenance("tests/benchmarks/tiny_batch_mutants.py"), flush=True)
    settings = RunSettings(known_issues=load_known_issues(all_checks()))
    counts = {"told": 0, "equivalent": 0, "missed": 0}
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(runner, "SHRINK_SECONDS", 0.0))
        patches.enter_context(mock.patch.object(runner, "ablate", return_value=()))
        if sound := tellers(settings):
            raise SystemExit(f"without a fault these fail already: {', '.join(sound)}")
        for name, plant in FAULTS.items():
            if not any(word in name for word in asked.only):
                continue
            with plant():
                found = tellers(settings)
            verdict = "told" if found else "equivalent" if name in EQUIVALENT else "missed"
            counts[verdict] += 1
            because = ", ".join(found) or EQUIVALENT.get(name, "")
            print(f"{verdict:<10}  {name:<55}  {because}", flush=True)
    forget()
    print(", ".join(f"{n} {what}" for what, n in counts.items()))


if __name__ == "__main__":
    main()
