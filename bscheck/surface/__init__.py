"""What the installed Keras exports, enumerated: coverage is never left to luck."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any


def parameters(exported: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function, or of a class's constructor."""
    return inspect.signature(exported.__init__ if inspect.isclass(exported) else exported).parameters


def takes(exported: Any, options: Iterable[str]) -> bool:
    """Whether a function or a class's constructor takes all these options.

    One that a decorator made ``(*args, **kwargs)`` does not say what it takes, which is no reason to leave it out.
    """
    known = parameters(exported)
    kinds = {parameter.kind for name, parameter in known.items() if name != "self"}
    hidden = kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return hidden or all(option in known for option in options)
