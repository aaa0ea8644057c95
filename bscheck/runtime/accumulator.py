"""A gradient accumulator by itself, in any dtype."""

from __future__ import annotations

import numpy as np

from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, precision
from bscheck.runtime.probe import make_probe


def accumulate_in(dtype: str, gradients: Array, mode: str) -> tuple[Array, Array]:
    """Accumulate gradients of one weight that is kept in a dtype, without a model.

    Parameters
    ----------
    dtype : str
        Of the weight, so of its gradients and its accumulator.
    gradients : array, shape (k, n)
        Rounded to the dtype before they are given.
    mode : str
        Execution mode of ``apply``.

    Returns
    -------
    array, shape (k, n), and array, shape (n,)
        The gradients as they were given, and the one that reached the update, in float64.
    """
    keras, wide = keras_module(), "float64" if dtype == "float64" else "float32"
    ops = keras.ops
    with precision(wide):
        weight = keras.Variable(ops.zeros(gradients.shape[1:], dtype=dtype), dtype=dtype)
        probe = make_probe(len(gradients), len(gradients))
        probe.build([weight])
        apply = current().apply_function(probe, [weight], mode)
        given = [ops.cast(ops.convert_to_tensor(g, wide), dtype) for g in gradients]
        for gradient in given:
            apply([gradient])
        *micro, mean = [ops.convert_to_numpy(ops.cast(a, wide)) for a in [*given, probe.bscheck_applied[0]]]
    return np.stack(micro).astype(np.float64), mean.astype(np.float64)
