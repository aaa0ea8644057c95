"""Masks that go with tensors from one layer to the next: read, attached, and made by a model's Masking layers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array, precision
from bscheck.runtime.layer_rig import Arguments, LayerRig
from bscheck.runtime.losses import with_mask

__all__ = ["mask_of", "masked_call", "with_mask"]


def mask_of(output: Any) -> Any:
    """Return the mask that Keras attached to an output, or None; since 3.6 it keeps those of JAX arrays in a table."""
    find = getattr(importlib.import_module("keras.src.backend"), "get_keras_mask", None)
    return find(output) if find else getattr(output, "_keras_mask", None)


def masked_call(rig: LayerRig, arguments: Arguments) -> list[Any]:
    """Return the outputs of the layer in a functional model, with a float32 Masking layer on every positional input.

    Steps all of whose features are 0 are masked.
    """
    keras = rig.keras
    leaves = keras.tree.flatten(list(arguments[0]))
    with precision("float32"):
        inputs = [keras.Input(leaf.shape[1:]) for leaf in leaves]
        masked = iter([keras.layers.Masking(0.0)(x) for x in inputs])
    with precision(rig.dtype):
        args = [_placed(part, masked) for part in arguments[0]]
        outputs = keras.tree.flatten(rig.layer(*args, **arguments[1]))
        model = keras.Model(inputs, outputs)
        found = model([keras_module().ops.convert_to_tensor(leaf) for leaf in leaves])
    return list(found) if isinstance(found, Sequence) else [found]


def _placed(part: Any, leaves: Any) -> Any:
    return [next(leaves) for _ in part] if isinstance(part, list) else next(leaves)


def attached(rig: LayerRig, arguments: Arguments, masks: dict[int, Array]) -> Arguments:
    """Return the arguments with each mask attached to the positional input of its number."""
    numbers = iter(range(len(rig.keras.tree.flatten(list(arguments[0])))))

    def one(leaf: Any) -> Any:
        number = next(numbers)
        tensor = rig.tensors(leaf)
        # A tensor of its own: arrays given twice are one tensor on some backends.
        return with_mask(tensor, masks[number]) if number in masks else tensor

    args = tuple([one(leaf) for leaf in part] if isinstance(part, list) else one(part) for part in arguments[0])
    return args, arguments[1]
