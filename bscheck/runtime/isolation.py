"""A subject's code runs as a guest: what it changes of the process is put back before the next check."""

from __future__ import annotations

import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.runtime import current, keras_module

#: What pytest and bscheck themselves set or clear while a check runs.
_OURS = ("PYTEST_CURRENT_TEST",)


@dataclass(frozen=True)
class Setting:
    """One piece of global state: how it is read, and put back.

    Attributes
    ----------
    name : str
        For the warning; "" where code may change it without being told so, as it may draw random numbers.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]


class DisturbedWarning(UserWarning):
    """A subject changed global state, which was put back, or left threads behind."""


@contextmanager
def undisturbed(subject: str) -> Iterator[None]:
    """Run a block of a subject's code, then put back what it changed of the process, with a warning that says what.

    Parameters
    ----------
    subject : str
        Its name, for the warnings.
    """
    before = [(setting, setting.read()) for setting in _settings()]
    threads = set(threading.enumerate())
    try:
        yield
    finally:
        changed = [_put_back(setting, value) for setting, value in before]
        said = [words for words in changed if words]
        left = [t.name for t in threading.enumerate() if t not in threads and not t.daemon]
        if left:
            said.append(f"{len(left)} thread{'s' if len(left) > 1 else ''} left running ({', '.join(left)})")
        if said:
            text = f"Subject {subject!r} changed the process: {'; '.join(said)}"
            warnings.warn(DisturbedWarning(text), stacklevel=2)


def _put_back(setting: Setting, value: Any) -> str:
    """Restore one setting and return what was changed, in words; "" where nothing was."""
    now = setting.read()
    if _same(now, value):
        return ""
    setting.write(value)
    return f"{setting.name} (put back)" if setting.name else ""


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)


def _settings() -> list[Setting]:
    """Return what a model's code is known to set, and forget to put back."""
    settings = [
        Setting("environment variables", _environment, _set_environment),
        Setting("working directory", os.getcwd, os.chdir),
        Setting("NumPy's handling of errors", np.geterr, _set_errors),
        Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("sys.path", lambda: list(sys.path), _set_path),
        Setting("standard output", lambda: sys.stdout, lambda value: setattr(sys, "stdout", value)),
        Setting("standard error", lambda: sys.stderr, lambda value: setattr(sys, "stderr", value)),
        Setting("", random.getstate, random.setstate),
        Setting("", np.random.get_state, np.random.set_state),
    ]
    return settings + _settings_of_keras() if "keras" in sys.modules else settings


def _settings_of_keras() -> list[Setting]:
    config = keras_module().config
    settings = [
        Setting("floatx", config.floatx, config.set_floatx),
        Setting("dtype policy", lambda: config.dtype_policy().name, config.set_dtype_policy),
        Setting("epsilon", config.epsilon, config.set_epsilon),
        Setting("image_data_format", config.image_data_format, config.set_image_data_format),
    ]
    return settings + [Setting(*parts) for parts in current().global_settings()]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _OURS}


def _set_environment(value: dict[str, str]) -> None:
    for key in _environment().keys() - value.keys():
        del os.environ[key]
    os.environ.update(value)


def _set_errors(value: dict[str, Any]) -> None:
    np.seterr(**value)


def _set_path(value: list[str]) -> None:
    sys.path[:] = value
