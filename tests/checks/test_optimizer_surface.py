"""Every optimizer, wrapper, schedule and option that the installed Keras exports is under test."""

import inspect

import keras
import pytest

from bscheck.cases import RecurrenceCase
from bscheck.checks import Param
from bscheck.checks.context import Context
from bscheck.checks.recurrence import _corners, _unwritten
from bscheck.oracles.schedules import knows
from bscheck.surface.optimizers import (
    COMMON_OPTIONS,
    OTHER_VALUES,
    WRAPPERS,
    exports,
    other_values,
    own_options,
    variant,
    variants,
)
from bscheck.surface.schedules import SETTINGS, options, schedules

EXPORTED = {name: c for name, c in vars(keras.optimizers).items() if inspect.isclass(c)}


def test_every_exported_class_is_an_optimizer_or_a_wrapper():
    known = {v.class_name for v in variants().values()} | {*WRAPPERS, "Optimizer"}
    assert set(EXPORTED) - known == set(), "a new kind of class: add it to WRAPPERS and write its check"


def test_what_is_no_wrapper_can_be_made_from_a_learning_rate():
    for v in variants().values():
        needed = [
            name
            for name, p in inspect.signature(EXPORTED[v.class_name].__init__).parameters.items()
            if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name != "self"
        ]
        assert needed == [], f"{v.class_name} wraps something: add it to WRAPPERS and write its check"


def test_every_wrapper_has_its_checks():
    owners = {
        "LossScaleOptimizer": "update_does_not_depend_on_the_loss_scale",
        "MultiOptimizer": "member_updates_its_own_variables_as_alone",
        "OptimizerMap": "member_updates_its_own_variables_as_alone",
    }
    assert set(WRAPPERS) == set(owners)


@pytest.mark.parametrize("name", variants())
def test_every_option_is_varied(name):
    own = own_options(variant(name))
    assert [o for o in own if o not in OTHER_VALUES] == [], "an option that nobody varies: add it to OTHER_VALUES"
    signature = inspect.signature(EXPORTED[variant(name).class_name].__init__).parameters
    for option in own:
        changed = other_values(variant(name), option)
        assert changed[option] != signature[option].default, f"{option} is at its default"


@pytest.mark.parametrize("name", variants())
def test_corners_vary_every_option(name):
    context = Context(Param.of(optimizer=name))
    if _unwritten(context):
        pytest.fail(_unwritten(context))
    varied = set()
    for case in _corners(context):
        given = other_values(variant(name), case.option)
        varied |= {option for option in given if case.option == "all" or option == case.option}
    varied |= set(variant(name).options)
    left = {
        option
        for option in own_options(variant(name))
        if option not in varied and not any(option in v.options for v in variants().values())
    }
    assert left == set()


def test_every_schedule_has_a_formula_and_settings():
    assert [name for name in schedules() if name not in SETTINGS or not knows(name)] == []


@pytest.mark.parametrize("name", schedules())
def test_every_option_of_a_schedule_is_varied(name):
    for option in options(name):
        values = {str(setting.get(option)) for setting in SETTINGS[name]}
        assert len(values) > 1, f"{name}: {option} has one value in all settings"


def test_common_options_are_every_optimizers():
    for v in variants().values():
        missing = COMMON_OPTIONS - set(inspect.signature(EXPORTED[v.class_name].__init__).parameters)
        assert missing == set(), v.class_name


def test_wrappers_are_known_by_name():
    assert exports("LossScaleOptimizer")
    assert not exports("Nonsense")
    assert RecurrenceCase().option == "none"
