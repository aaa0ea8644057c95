"""From JSON back to frozen dataclasses, by their own annotations: anything else is refused in one line."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

_NOT_FINITE = ("nan", "inf", "-inf")


def decode(kind: Any, given: Any, name: str) -> Any:
    """Return a JSON value as what an annotation says it is.

    Parameters
    ----------
    kind : type
        ``str``, ``bool``, ``int``, ``float``, an enumeration, a dataclass, or tuples, mappings and unions of these.
    given : object
        As `json.loads` returns it.
    name : str
        What the value is called in an error.

    Raises
    ------
    ValueError
        In one line. Keys that a dataclass does not have are left aside, those that it has no default for are missed.
    """
    origin = typing.get_origin(kind)
    if kind is Any:
        return given
    if origin in (types.UnionType, typing.Union):
        return _one_of(typing.get_args(kind), given, name)
    if origin is tuple:
        return _tuple(typing.get_args(kind), given, name)
    if origin is not None:
        return _mapping(typing.get_args(kind)[1], given, name)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, given, name)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, given, name)
    return _float(given, name) if kind is float else _plain(kind, given, name)


def _one_of(kinds: tuple[Any, ...], given: Any, name: str) -> Any:
    """Return the value as the first kind that takes it."""
    if given is None and type(None) in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return decode(kind, given, name)
        except ValueError:
            continue
    return decode(last, given, name)


def _tuple(kinds: tuple[Any, ...], given: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(given, list):
        raise ValueError(f"{name!r} is not a list")
    if kinds[-1] is Ellipsis:
        return tuple(decode(kinds[0], each, name) for each in given)
    if len(given) != len(kinds):
        raise ValueError(f"{name!r} has {len(given)} entries where it needs {len(kinds)}")
    return tuple(decode(kind, each, name) for kind, each in zip(kinds, given, strict=True))


def _mapping(kind: Any, given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name!r} is not a table")
    return {str(key): decode(kind, value, f"{name}.{key}") for key, value in given.items()}


def _dataclass(kind: Any, given: Any, name: str) -> Any:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name!r} is not a table")
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise ValueError(f"{name!r} has no {field.name!r}")
    return kind(**{key: decode(hint, given[key], key) for key, hint in hints.items() if key in given})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _member(kind: type[Enum], given: Any, name: str) -> Enum:
    try:
        return kind(given)
    except ValueError:
        valid = ", ".join(str(member.value) for member in kind)
        raise ValueError(f"{name!r} is none of {valid}") from None


def _float(given: Any, name: str) -> float:
    """Return a number; infinities and NaN are strings in JSON."""
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number and not (isinstance(given, str) and given in _NOT_FINITE):
        raise ValueError(f"{name!r} is not a number")
    try:
        return float(given)
    except OverflowError:
        raise ValueError(f"{name!r} is too large for a number") from None


def _plain(kind: Any, given: Any, name: str) -> Any:
    words = {str: "text", bool: "true or false", int: "an integer"}
    if type(given) is not kind:
        raise ValueError(f"{name!r} is not {words[kind]}")
    return given
