#!/usr/bin/env python3
<<<<<<< HEAD
"""Scale one row of each exported layer's output by 1 + 1e-4, in batches of three only, and print who notices.

    python tests/benchmarks/layer_faults.py [--scale 1e-4] [--layer NAME ...]

The fault is in the layer's `call`: its middle row, when the batch has three examples. Integer outputs are changed by
one. Each construction of a layer is held to `layer_output_of_an_example_is_its_own` and, in training, to
`layer_gradient_is_the_sum_over_micro_batches`, on the corners that the gate runs at every profile. Exit code 1 if a
fault in some layer is noticed by none.
=======
"""Scale one row of each layer's output in turn and say which changes the check of layer values notices.

    python tests/benchmarks/layer_faults.py [--factor 1e-6] [--rows last|odd] [NAME ...]

The fault is planted in the layer's own ``__call__``, for batches of two and more, and the check runs at its default
settings. Exit code 1 if a layer's fault went unnoticed.
>>>>>>> layervalues
"""

from __future__ import annotations

import argparse
<<<<<<< HEAD
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
=======
import sys
import warnings
from typing import Any
from unittest import mock


def faulty(sound: Any, factor: float, rows: str) -> Any:
    """Return a layer's ``__call__`` with some rows of its floating outputs scaled by ``1 + factor``."""
    import keras
    import numpy as np

    def scaled(y: Any) -> Any:
        if not hasattr(y, "shape") or len(y.shape) < 2 or not y.shape[0] or y.shape[0] < 2:
            return y
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
            return y
        scale = np.ones(y.shape[0])
        scale[-1 if rows == "last" else slice(1, None, 2)] += factor
        column = scale.reshape(-1, *(1,) * (len(y.shape) - 1))
        return y * keras.ops.convert_to_tensor(column.astype(keras.backend.standardize_dtype(y.dtype)))

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return keras.tree.map_structure(scaled, sound(self, *args, **kwargs))

    return call


def noticed(name: str, factor: float, rows: str) -> str:
    """Return what is said of the layer with its fault."""
    import keras

    from bscheck.checks import Param, get_check
    from bscheck.checks.context import Context, forget
    from bscheck.checks.run import RunSettings, run_check
    from bscheck.surface.constructions import ACTIVATION

    exported = keras.layers.Activation if name.startswith(ACTIVATION) else getattr(keras.layers, name)
    forget()
    with mock.patch.object(exported, "__call__", faulty(exported.__call__, factor, rows)):
        result = run_check(get_check("layer_computes_its_definition"), Context(Param.of(layer=name)), RunSettings())
    forget()
    return str(result.verdict.value)


def main() -> int:
    """Plant each fault and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="layers (default: all that have a definition)")
    parser.add_argument("--factor", type=float, default=1e-6, help="relative error of the rows")
    parser.add_argument("--rows", choices=("last", "odd"), default="last")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from bscheck.surface.constructions import defined_layers

    names = options.names or defined_layers()
    verdicts = {name: noticed(name, options.factor, options.rows) for name in names}
    missed = [name for name, verdict in verdicts.items() if verdict != "failed"]
    print(f"{len(names) - len(missed)} of {len(names)} faults of {options.factor:g} in {options.rows} rows noticed")
    for name in missed:
        print(f"missed: {name} ({verdicts[name]})")
    return int(bool(missed))
>>>>>>> layervalues


if __name__ == "__main__":
    sys.exit(main())
