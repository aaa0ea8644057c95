"""The table of metrics is complete: a metric that Keras adds fails here, and says what is missing."""

import inspect

import pytest

from bscheck.checks import Param, get_check
from bscheck.checks.context import Context
from bscheck.checks.metrics import function_params, metric_params
from bscheck.oracles.metrics import DEFINITIONS, MEANS, ROWS
from bscheck.surface import metrics as surface

#: Constructor arguments that change no number.
IDLE = {"self", "args", "kwargs", "name", "dtype", "fn", "y_true", "y_pred", "num_labels"}


def test_every_exported_metric_has_a_construction():
    missing = surface.without_construction()
    assert not missing, f"say in bscheck.surface.metrics.CONSTRUCTIONS how to make and feed {missing}"


def test_every_exported_metric_is_a_parameter():
    named = {p.get("metric") for p in (*metric_params(), *function_params())}
    assert named == set(surface.exported())


@pytest.mark.parametrize("name", sorted(surface.CONSTRUCTIONS))
def test_every_metric_has_a_definition(name):
    assert name in MEANS or name in ROWS or name in DEFINITIONS or name in ("Mean", "Sum")


@pytest.mark.parametrize("name", sorted(surface.exported()))
def test_every_option_is_under_test(name):
    offered = set(inspect.signature(surface.exported()[name]).parameters) - IDLE
    tried = {option for options in surface.CONSTRUCTIONS[name].variants for option in options}
    # Focal losses share their axis and smoothing with cross-entropy; R2's and IoU's axis is the last one only.
    assert offered - tried <= {"axis", "label_smoothing", "sparse_y_true"}, f"{name} has an option without a variant"


def test_a_metric_without_construction_does_not_apply(monkeypatch):
    monkeypatch.delitem(surface.CONSTRUCTIONS, "Hinge")
    check = get_check("metrics_equal_their_definition")
    reason = check.applies(Context(Param.of(metric="Hinge")))
    assert reason is not None
    assert reason.startswith("no construction")


def test_options_that_this_keras_lacks_are_left_out():
    assert not surface.usable("AUC", {"curve": "unheard of"})
    assert not surface.usable("Mean", {"axis": 1})
    assert surface.usable("Mean", {})
