#!/usr/bin/env python3
"""Scale one row of each exported layer's output by 1 + 1e-4, in batches of three only, and print who notices.

    python tests/benchmarks/layer_faults.py [--scale 1e-4] [--layer NAME ...]

The fault is in the layer's `call`: its middle row, when the batch has three examples. Integer outputs are changed by
one. Each construction of a layer is held to `layer_output_of_an_example_is_its_own` and, in training, to
`layer_gradient_is_the_sum_over_micro_batches`, on the corners that the gate runs at every profile. Exit code 1 if a
fault in some layer is noticed by none.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from bscheck.checks import Param, all_checks, get_check
from bscheck.checks.context import Context, forget
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.known_issues import load_known_issues
from bscheck.runtime import keras_module
from bscheck.surface.layers import layer_classes, missing

CHECKS = ("layer_output_of_an_example_is_its_own", "layer_examples_do_not_mix_in_training")


def perturbed(keras: Any, tensor: Any, scale: float) -> Any:
    """Return a tensor whose middle row is off if it has three."""
    if "KerasTensor" in type(tensor).__name__ or not len(tensor.shape):
        return tensor
    ops = keras.ops
    rows = ops.shape(tensor)[0]
    there = ops.logical_and(ops.equal(ops.arange(rows), 1), ops.equal(rows, 3))
    there = ops.cast(ops.reshape(there, [-1] + [1] * (len(tensor.shape) - 1)), tensor.dtype)
    if "float" in str(tensor.dtype):
        return tensor * (1 + scale * there)
    return tensor + there


@contextmanager
def fault(layer: type, scale: float) -> Iterator[None]:
    """Plant the fault in a layer class."""
    keras = keras_module()
    sound = layer.call

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = sound(self, *args, **kwargs)
        if type(self) is not layer:
            return outputs
        return keras.tree.map_structure(lambda t: None if t is None else perturbed(keras, t, scale), outputs)

    faulty.__signature__ = inspect.signature(sound)
    with mock.patch.object(layer, "call", faulty):
        yield


def notices(name: str, layer: type, scale: float) -> list[str]:
    """Return the checks that break on the faulty layer."""
    found = []
    settings = RunSettings(max_examples=0, known_issues=load_known_issues(all_checks()))
    for check in CHECKS:
        forget()
        with fault(layer, scale):
            result = run_check(get_check(check), Context(Param.of(layer=name)), settings)
        if result.verdict == "failed":
            found.append(check)
            break
    forget()
    return found


def main() -> int:
    """Perturb each layer in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1e-4)
    parser.add_argument("--layer", action="append")
    options = parser.parse_args()
    noticed = unnoticed = 0
    for name, layer in layer_classes().items():
        if options.layer and name not in options.layer:
            continue
        if missing(name):
            print(f"{name:48} not made: {missing(name)}")
            continue
        found = notices(name, layer, options.scale)
        noticed, unnoticed = noticed + bool(found), unnoticed + (not found)
        print(f"{name:48} {', '.join(found) or 'NOT NOTICED'}", flush=True)
    print(f"{noticed} of {noticed + unnoticed} layers notice a fault of {options.scale:g} in one row of three")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
