"""Every exported layer has a definition or a reason for having none; the check reads what it is shown."""

import keras
import numpy as np
import pytest

from bscheck.cases import LayerValueCase
from bscheck.checks import Param, get_check
from bscheck.checks.context import Context
from bscheck.oracles.layers import formulas
from bscheck.oracles.layers.activations import ACTIVATIONS
from bscheck.surface.constructions import (
    AUGMENTATIONS,
    CONSTRUCTIONS,
    constructions,
    exported_activations,
    exported_layers,
)

#: Exported layers without a definition, with the reason. The list may only shrink: a new layer needs a definition.
_FOREIGN = "runs another framework's code: there is no definition of Keras's own"
_IMAGE = "image processing: no definition is documented that says which number comes out"
_HASH = "a hash: any function that spreads well is right"
_SIGNAL = "a chain of signal processing whose constants are not documented"
_ABSTRACT = "a base class: it computes nothing"
UNDEFINED = {
    "AutoContrast": _IMAGE,
    "ContrastLimitedAdaptiveHistogramEqualization": _IMAGE,
    "Equalization": _IMAGE,
    "FlaxLayer": _FOREIGN,
    "HashedCrossing": _HASH,
    "Hashing": _HASH,
    "InputLayer": "holds a model's input; it computes nothing",
    "JaxLayer": _FOREIGN,
    "Layer": _ABSTRACT,
    "MaxNumBoundingBoxes": "pads and cuts lists of boxes, which are no arrays",
    "MelSpectrogram": _SIGNAL,
    "Pipeline": "calls the layers it is given, one after the other",
    "RandomCrop": "at inference it resizes: " + _IMAGE,
    "Resizing": _IMAGE,
    "STFTSpectrogram": _SIGNAL,
    "StringLookup": "strings: the same table as IntegerLookup's, which has a definition",
    "TFSMLayer": _FOREIGN,
    "TextVectorization": "strings",
    "TorchModuleWrapper": _FOREIGN,
    "Wrapper": _ABSTRACT,
}
DEFINED = {*CONSTRUCTIONS, *AUGMENTATIONS, "Activation"}


def test_every_exported_layer_has_a_definition_or_a_reason_for_having_none():
    assert set(exported_layers()) - DEFINED - set(UNDEFINED) == set(), "a new layer needs a definition"
    assert set(UNDEFINED) & DEFINED == set(), "this layer has a definition now: delete its reason"
    assert all(reason.strip() for reason in UNDEFINED.values())


@pytest.mark.skipif(keras.__version__ != "3.15.1", reason="the list is of the release it was written for")
def test_no_reason_outlives_its_layer():
    assert set(UNDEFINED) - set(exported_layers()) == set()


def test_every_construction_has_a_formula_and_every_formula_a_construction():
    assert set(formulas()) == DEFINED


def test_every_exported_activation_has_a_definition():
    assert set(exported_activations()) - set(ACTIVATIONS) == set()


def test_every_construction_is_run_by_a_corner():
    check = get_check("layer_computes_its_definition")
    for param in check.params():
        context = Context(param)
        if check.applies(context) is None:
            ran = {case.construction for case in check.corners(context)}
            assert ran == set(range(len(constructions(param.get("layer"))))), param


def scaled_row(monkeypatch, layer, factor):
    """Make the layer's outputs differ by a factor in the last row of the batch."""
    sound = layer.__call__

    def faulty(self, *args, **kwargs):
        return keras.tree.map_structure(
            lambda y: keras.ops.concatenate([y[:-1], y[-1:] * keras.ops.cast(factor, y.dtype)]) if y.ndim else y,
            sound(self, *args, **kwargs),
        )

    monkeypatch.setattr(layer, "__call__", faulty)


@pytest.mark.parametrize("name", ["Dense", "GRU", "MultiHeadAttention", "AveragePooling2D", "LayerNormalization"])
def test_a_millionth_in_one_row_is_seen(name, monkeypatch):
    context = Context(Param.of(layer=name))
    check = get_check("layer_computes_its_definition")
    case = LayerValueCase(examples=3)
    assert check.function(context, case).holds
    scaled_row(monkeypatch, getattr(keras.layers, name), 1 + 1e-6)
    assert not check.function(context, case).holds


def test_masks_keep_one_step_of_every_row_but_the_first():
    from bscheck.checks.layer_values import MASKS, _mask

    for pattern in MASKS[1:]:
        for seed in range(50):
            mask = _mask(pattern, (4, 5), np.random.default_rng(seed))
            assert mask[1:].any(axis=-1).all()
            assert mask[0].any() == (pattern != "all")
