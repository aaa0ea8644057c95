"""Every exported layer has a construction; what is known of the layers of Keras holds for the installed release."""

import inspect

import keras
import numpy as np
import pytest

from bscheck.surface import layers as surface

CURRENT = tuple(int(part) for part in keras.__version__.split(".")[:2]) >= (3, 15)


def test_every_exported_layer_has_a_construction():
    unknown = set(surface.layer_classes()) - set(surface.constructions()) - set(surface.NOT_MADE)
    assert not unknown, f"new layers: add a construction of {sorted(unknown)} to bscheck/surface/layers.py"


@pytest.mark.skipif(not CURRENT, reason="an older release exports fewer layers")
def test_no_construction_is_left_over():
    assert set(surface.constructions()) | set(surface.NOT_MADE) == set(surface.layer_classes())


@pytest.mark.skipif(not CURRENT, reason="an older release takes fewer options")
@pytest.mark.parametrize("name", sorted(surface.constructions()))
def test_the_current_release_takes_every_construction(name):
    backend = keras.backend.backend()
    expected = [c.name for c in surface.constructions()[name] if not c.backends or backend in c.backends]
    assert [c.name for c in surface.options(name)] == expected
    assert len(set(expected)) == len(expected)


def test_aliases_are_folded():
    classes = surface.layer_classes()
    assert len(set(classes.values())) == len(classes)
    assert "Conv2D" in classes
    assert "Convolution2D" not in classes
    assert "MaxPooling2D" in classes
    assert "MaxPool2D" not in classes


#: Layers that take a mask but have no time steps to skip: what the mask says to them instead.
NO_STEPS = {
    "Lambda": "hands the mask to the function",
    "Pipeline": "hands the mask to its layers",
    "Softmax": "masks entries, not steps",
    "ReversibleEmbedding": "makes a mask",
    "Masking": "makes a mask",
}


def test_every_layer_that_takes_a_mask_is_masked():
    takes = [
        name
        for name, layer in surface.layer_classes().items()
        if any(part == "mask" or part.endswith("_mask") for part in inspect.signature(layer.call).parameters)
    ]
    masked = {name for name, made in surface.constructions().items() if any(c.steps for c in made)}
    assert set(takes) - masked - set(NO_STEPS) == set()


def test_every_stateful_layer_can_be_made_stateful():
    assert [name for name in surface.stateful_layers() if surface.stateful(name, True) is None] == []


def test_documented_couplings_exist():
    assert set(surface.COUPLED) <= set(surface.constructions())


@pytest.mark.parametrize("kind", ["normal", "positive", "unit", "image", "int", "mask", "tokens", "text"])
def test_a_feature_draws_what_it_says(kind):
    values = surface.Feature((3, 2), kind).draw(np.random.default_rng(0), 4)
    assert values.shape == (4, 3, 2)
    if kind == "mask":
        assert values.reshape(4, -1).any(axis=1).all()
    if values.dtype.kind == "f":
        assert values.dtype == np.float32
    assert surface.Feature((3,), kind).draw(np.random.default_rng(0), 0).shape == (0, 3)
