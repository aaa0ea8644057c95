"""Bad input: one clear line that says what is wrong, where, and what would be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bscheck
from bscheck.errors import BscheckError, SubjectError, one_line, unknown

X, Y = np.zeros((6, 2)), np.zeros(6)


class FakeModel:
    """Looks like a Keras model."""

    trainable_variables = ()

    def __call__(self) -> None: ...

    def predict(self) -> None: ...


class FakeOptimizer:
    """Looks like a Keras optimizer."""

    def __call__(self) -> None: ...

    def apply_gradients(self) -> None: ...

    def update_step(self) -> None: ...


def subject(**changes: Any) -> bscheck.Subject:
    """Return a subject that is right but for the changes."""
    options = {"build": lambda: None, "data": (X, Y), "loss": "mse"} | changes
    name = options.pop("name", "churn")
    return bscheck.Subject(name, **options)


def with_nan() -> np.ndarray[Any, Any]:
    """Return inputs whose fourth example is not a number."""
    x = X.copy()
    x[3, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"name": "my model"},
            "Subject name 'my model': use a letter followed by letters, digits, '_' or '.'",
        ),
        (
            {"build": FakeModel()},
            "build= must be a factory, a function that returns a new keras.Model; got FakeModel",
        ),
        ({"build": 3}, "build= must be a factory, a function that returns a new keras.Model; got 3"),
        ({"loss": None}, "loss= is None; give what Model.compile(loss=...) takes"),
        ({"optimizer": FakeOptimizer()}, "optimizer= is an optimizer instance, which carries state"),
        (
            {"optimizer": 0.1},
            "optimizer= must be a Keras optimizer's name or a factory that returns a new one; got",
        ),
        ({"step": "fit"}, "step= must be a function step(model, optimizer, micro_batches); got 'fit'"),
        (
            {"batch_size": 2},
            "unknown argument 'batch_size'; did you mean 'batch_sizes'? valid: accumulation, ",
        ),
        ({"batch_sizes": ()}, "batch_sizes= must be a non-empty tuple of integers >= 1; got ()"),
        ({"batch_sizes": (0, 1)}, "batch_sizes= must be a non-empty tuple of integers >= 1; got (0, 1)"),
        ({"batch_sizes": (True,)}, "batch_sizes= must be a non-empty tuple of integers >= 1; got (True,)"),
        ({"accumulation": (1,)}, "accumulation= must be a non-empty tuple of integers >= 2; got (1,)"),
        ({"data": X}, "data= must be a tuple (x, y) or (x, y, sample_weight); got ndarray"),
        ({"data": (X, Y[:5])}, "data= has parts of different length (x 6, y 5); every part needs one row"),
        ({"data": (X, Y, Y[:2])}, "data= has parts of different length (x 6, y 6, sample_weight 2)"),
        ({"data": ({"a": X, "b": X[:3]}, Y)}, "data= has parts of different length (x uneven, y 6)"),
        (
            {"data": (with_nan(), Y)},
            "data= has a value that is not finite in x, example 3; clean the data first",
        ),
        ({"data": (X[:0], Y[:0])}, "data= has no examples"),
        ({"data": (X, 3.0)}, "data= has y that is not an array of examples: 3.0"),
    ],
)
def test_bad_argument_of_subject_is_refused_before_anything_is_built(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SubjectError) as error:
        subject(**changes)
    text = str(error.value)
    assert text.startswith(line if "name" in changes else f"Subject 'churn': {line}")
    assert "\n" not in text


@pytest.mark.parametrize("missing", ["build", "data", "loss"])
def test_missing_argument_of_subject_is_named(missing: str) -> None:
    options = {"build": lambda: None, "data": (X, Y), "loss": "mse"}
    del options[missing]
    with pytest.raises(SubjectError, match=f"Subject 'churn': the argument {missing}= is missing"):
        bscheck.Subject("churn", **options)


def boom(seed: int, size: int) -> Any:
    """Fail as a data function might."""
    raise FileNotFoundError("articles.npz\nnot found")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (boom, "data(1, 4) raised FileNotFoundError: articles.npz not found"),
        (lambda seed, size: (X, Y), "data(1, 4) returned 6 examples where 4 were asked for"),
        (
            lambda seed, size: (X[:4] * np.inf, Y[:4]),
            "data(1, 4) has a value that is not finite in x, example 0",
        ),
        (lambda seed, size: None, "data(1, 4) must be a tuple (x, y) or (x, y, sample_weight); got None"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_data_function_is_told_when_it_is_called(data: Callable[..., Any], line: str) -> None:
    with pytest.raises(SubjectError) as error:
        subject(data=data).draw(1, 4)
    assert str(error.value).startswith(f"Subject 'churn': {line}")


def test_unknown_name_lists_what_is_valid_nearest_first() -> None:
    assert unknown("dtype", "flaot32", ["float64", "float32"]) == (
        "unknown dtype 'flaot32'; did you mean 'float32'? valid: float32, float64"
    )
    assert unknown("dtype", "x", []) == "unknown dtype 'x'; valid: none"


def test_exception_is_told_in_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_public_name_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(AttributeError, match="module 'bscheck' has no attribute 'subject_'; it has BscheckError, "):
        bscheck.subject_  # noqa: B018


@pytest.mark.parametrize(
    ("docstring", "claims", "line"),
    [
        ("", (), "the docstring's first line must state the promise"),
        ("It holds.", ("C15",), "unknown claim 'C15'; .*valid: C1, "),
    ],
)
def test_bad_registration_is_refused(docstring: str, claims: tuple[str, ...], line: str) -> None:
    def holds(context: Any, case: Any) -> Any: ...

    holds.__doc__ = docstring
    with pytest.raises(BscheckError, match=line):
        bscheck.check(family="f", case=object, cases=lambda context: None, claims=claims)(holds)  # type: ignore[arg-type,return-value]
