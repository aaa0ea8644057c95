#!/usr/bin/env python3
"""Scale one row of each layer's output in turn and say which changes the check of layer values notices.

    python tests/benchmarks/layer_definition_faults.py [--factor 1e-6] [--rows last|odd] [NAME ...]

The fault is planted in the layer's own ``__call__``, for batches of two and more, and the check runs at its default
settings. Exit code 1 if a layer's fault went unnoticed.
"""

from __future__ import annotations

import argparse
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


if __name__ == "__main__":
    sys.exit(main())
