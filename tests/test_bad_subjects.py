"""Subjects that break their contract are told so in one line, before any promise is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bscheck import Subject
from bscheck.checks import Param, get_check
from bscheck.checks.context import Context
from bscheck.checks.run import RunSettings, run_check
from bscheck.errors import SubjectError


def net(features: int = 3) -> Any:
    import keras

    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(1)])


def data(seed: int, size: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 3)), rng.normal(size=(size, 1))


def shared() -> Callable[[], Any]:
    made: list[Any] = []

    def build() -> Any:
        if not made:
            made.append(net())
        return made[0]

    return build


def growing() -> Callable[[], Any]:
    import keras

    calls: list[int] = []

    def build() -> Any:
        calls.append(1)
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(len(calls)), keras.layers.Dense(1)])

    return build


def unseeded() -> Any:
    model = net()
    model.set_weights([np.random.default_rng().normal(size=w.shape) for w in model.get_weights()])
    return model


def raising() -> Any:
    raise RuntimeError("no such\nfile")


def vector_loss() -> Any:
    import keras

    class Vector(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return keras.ops.mean((y_true - y_pred) ** 2, axis=-1)

    return Vector(reduction=None)


def with_nan(seed: int, size: int) -> Any:
    x, y = data(seed, size)
    x[1, 0] = np.nan
    return x, y


def without_last_target(seed: int, size: int) -> Any:
    x, y = data(seed, size)
    return x, y[:-1]


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "shared instance": (lambda: {"build": shared()}, r"build\(\) returns the same model twice"),
    "other shapes": (lambda: {"build": growing()}, r"build\(\) makes different weights each time \(4 variables"),
    "other values": (
        lambda: {"build": unseeded},
        r"different initial weights each time although .* seeds are the same",
    ),
    "raises": (lambda: {"build": raising}, r"build\(\) raised RuntimeError: no such file$"),
    "no model": (lambda: {"build": lambda: 3}, r"build\(\) must return a keras.Model; got int$"),
    "not finite": (lambda: {"data": with_nan}, r"data\(\d+, \d+\) has a value that is not finite in x, example 1"),
    "unequal lengths": (lambda: {"data": without_last_target}, r"different length \(x 4, y 3\)"),
    "wrong input shape": (lambda: {"build": lambda: net(4)}, r"the loss cannot be computed on its data: ValueError"),
    "vector loss": (
        lambda: {"loss": vector_loss()},
        r"the loss is not one number but has shape \(4,\); use a reduction",
    ),
    "unknown loss": (lambda: {"loss": "no_such_loss"}, r"no_such_loss"),
    "unknown optimizer": (lambda: {"optimizer": "no_such"}, r"optimizer= cannot be made: ValueError: .*no_such"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_subject_is_told_in_one_line(name: str) -> None:
    changes, message = BAD[name]
    options = {"build": net, "data": data, "loss": "mean_squared_error", **changes()}
    subject = Subject("bad", **options)
    check = get_check("accumulated_training_matches_large_batches")
    with pytest.raises(SubjectError, match=message) as caught:
        run_check(check, Context.for_subject(subject, Param.of(subject="bad")), RunSettings())
    text = str(caught.value)
    assert text.startswith("Subject 'bad': ")
    assert "\n" not in text
    assert "\x1b" not in text
