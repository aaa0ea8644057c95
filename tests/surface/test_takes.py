"""What a function takes, asked without calling it."""

import functools

import keras
import pytest

from bscheck.surface import layers, takes


def plain(x, *, rate=1.0):
    """Take an option by name."""


def passes_on(x, **kwargs):
    """Take its own parameter by name."""


def wrapper(*args, **kwargs):
    """Hide what it takes, as many decorators do."""


@functools.wraps(plain)
def wrapped(*args, **kwargs):
    """Say what it takes."""


class Made:
    """Take an option when made."""

    def __init__(self, rate=1.0):
        """Keep nothing."""


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (plain, ["rate"], True),
        (plain, ["rate", "other"], False),
        (plain, [], True),
        (passes_on, ["rate"], False),
        (wrapper, ["rate"], True),
        (wrapped, ["other"], False),
        (Made, ["rate"], True),
        (Made, ["self", "other"], False),
    ],
)
def test_takes(function, options, expected):
    assert takes(function, options) is expected


def test_a_constructor_that_a_decorator_hides_keeps_its_constructions(monkeypatch):
    sound = keras.layers.GroupNormalization.__init__
    expected = [c.name for c in layers.options("GroupNormalization")]
    monkeypatch.setattr(
        keras.layers.GroupNormalization, "__init__", lambda self, *args, **kwargs: sound(self, *args, **kwargs)
    )
    assert [c.name for c in layers.options.__wrapped__("GroupNormalization")] == expected
    assert "instance" in expected
