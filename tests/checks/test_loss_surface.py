"""Every loss and regularizer of the installed Keras is under test; one that is not known yet says so."""

import inspect
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from bscheck.cases import LossCase
from bscheck.checks import Param, get_check
from bscheck.checks.context import Context
from bscheck.oracles.constraints import CONSTRAINTS
from bscheck.oracles.losses import ROWS
from bscheck.oracles.penalties import REGULARIZERS
from bscheck.surface import losses, penalties

REPRODUCTIONS = sorted((Path(__file__).parents[2] / "fixtures" / "reproductions").glob("*.py"))
#: Options that are not a loss's own.
COMMON = {"self", "reduction", "name", "dtype", "fn", "kwargs"}


@pytest.mark.parametrize("name", losses.loss_classes())
def test_every_loss_class_can_be_drawn_for(name):
    assert name in losses.CONSTRUCTIONS, f"say in bscheck.surface.losses how to draw targets and predictions for {name}"
    assert name in ROWS, f"write the formula of {name} in bscheck.oracles.losses"


@pytest.mark.parametrize("name", losses.loss_functions())
def test_every_loss_function_belongs_to_a_class(name):
    assert losses.class_of(name), f"name the function {name} in bscheck.surface.losses.CONSTRUCTIONS"


@pytest.mark.parametrize("name", losses.loss_classes())
def test_every_option_of_a_loss_is_varied(name):
    taken = set(inspect.signature(getattr(keras.losses, name).__init__).parameters) - COMMON
    varied = {option for variant in losses.construction(name).variants.values() for option in variant.options}
    if name in ("SparseCategoricalCrossentropy", "SparseCategoricalFocalCrossentropy"):
        taken -= {"axis"}  # TensorFlow takes the last one only
    assert taken - varied == set(), f"vary these options of {name} in bscheck.surface.losses"


def test_variants_are_choices_of_a_case():
    names = {variant for known in losses.CONSTRUCTIONS.values() for variant in known.variants}
    assert names <= set(LossCase.CHOICES["variant"])


@pytest.mark.parametrize("name", penalties.regularizers())
def test_every_regularizer_can_be_made(name):
    assert name in penalties.REGULARIZER_OPTIONS, f"give options of {name} in bscheck.surface.penalties"
    assert name in REGULARIZERS, f"write the formula of {name} in bscheck.oracles.penalties"


@pytest.mark.parametrize("name", penalties.constraints())
def test_every_constraint_can_be_made(name):
    assert name in penalties.CONSTRAINT_OPTIONS, f"give options of {name} in bscheck.surface.penalties"
    assert name in CONSTRAINTS, f"write the formula of {name} in bscheck.oracles.constraints"


def test_a_loss_of_tomorrow_is_not_applicable():
    check = get_check("loss_equals_its_formula")
    assert "no construction" in check.applies(Context(Param.of(loss="LossOfTomorrow")))


@pytest.mark.parametrize("path", REPRODUCTIONS, ids=lambda path: path.stem)
def test_a_reproduction_stands_alone(path):
    text = path.read_text()
    assert len(text.splitlines()) < 30
    assert "bscheck" not in text
    assert subprocess.run([sys.executable, path], capture_output=True, check=False).returncode in (0, 1)
