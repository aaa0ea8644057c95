"""Source text: arrays, Keras objects and functions as expressions, and the frame that every program has."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bscheck.reproduce import NoScript
from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array

#: Numbers that a readable program may hold.
MOST_NUMBERS = 600

_WIDTH = 110

#: What programs compare with, and how they say what they saw.
COMPARE = """
def compare(what, seen, expected, bound):
    seen, expected = np.asarray(seen, "float64"), np.asarray(expected, "float64")
    if seen.shape != expected.shape:
        fail(f"{what} has the shape {seen.shape}, not {expected.shape}")
    wrong = ~((np.abs(seen - expected) <= bound) | (seen == expected))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        fail(f"{what}{list(at) if at else ''} is {seen[at]:.9g}; it must be {expected[at]:.9g}")
"""
_FAIL = """
def fail(text):
    print("FAILS:", text)
    sys.exit(1)
"""


def program(what: str, body: str, *, imports: Sequence[str] = (), dtype: str = "float32", raised: bool = False) -> str:
    """Return a whole program: what it shows, its imports, and a body that calls ``fail`` or ``compare``.

    Parameters
    ----------
    what : str
        What is shown, for the docstring.
    body : str
        Statements.
    imports : sequence of str
        Import lines beyond Keras and NumPy.
    dtype : str
        Keras's float type or dtype policy.
    raised : bool
        Whether the failure is an exception, which the program then reports as one.
    """
    from bscheck import __version__

    keras = keras_module()
    backend = current().name
    versions = f"Written by bscheck {__version__} for keras {keras.__version__} on {backend}"
    head = [f'"""{_wrapped(what)}', "", f"{versions}.", "Exit code 1: the failure is there; 0: it is not.", '"""', ""]
    head += ["import os", "import sys", "", f'os.environ.setdefault("KERAS_BACKEND", "{backend}")']
    head += ["import keras", "import numpy as np", *dict.fromkeys(imports)]
    if dtype == "float64":
        head += ["", 'keras.config.set_floatx("float64")', 'keras.config.set_dtype_policy("float64")']
    elif dtype != "float32":
        head += ["", f'keras.config.set_dtype_policy("{dtype}")']
    body = textwrap.dedent(body).strip("\n")
    if raised:
        body = "try:\n" + textwrap.indent(body, "    ")
        body += '\nexcept Exception as error:\n    text = " ".join(str(error).split())'
        body += '\n    fail(f"raised {type(error).__name__}: {text[:150]}")'
    tools = [part for part, used in ((_FAIL, True), (COMPARE, "compare(" in body)) if used]
    return "\n".join([*head, "", *(part + "" for part in tools), "", body, 'print("holds")', ""])


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text.replace('"""', "'''").replace("\\", "/"), _WIDTH - 3))


def array(value: Any) -> str:
    """Return an array as an expression that gives back the same bits.

    Raises
    ------
    NoScript
        When it is too large to be read, or of a dtype that NumPy alone does not know.
    """
    a = np.asarray(value)
    if a.size > MOST_NUMBERS:
        raise NoScript(f"its arrays are too large to be written down ({a.size} numbers)")
    if a.dtype == object and all(isinstance(value, (str, bytes)) for value in a.flat):
        return f"np.array({a.tolist()!r}, dtype=object)"
    if a.dtype.kind not in "fiubUS":
        raise NoScript(f"NumPy alone does not know the dtype {a.dtype}")
    dtype = f', "{a.dtype}"' if a.dtype.kind in "fiub" else ""
    if a.size == 0:
        return f"np.zeros({a.shape}{dtype})"
    # Many axes make many short lines.
    folded = a.ndim > 2 and a.size > 24
    text = np.array2string(
        a.ravel() if folded else a,
        separator=", ",
        floatmode="unique",
        max_line_width=_WIDTH,
        threshold=sys.maxsize,
        suppress_small=False,
    )
    text = re.sub(r"\b(nan|inf)\b", r"np.\1", text)
    return f"np.array({text}{dtype}){f'.reshape{a.shape}' if folded else ''}"


def tree(value: Any) -> str:
    """Return a (nested) dict, list or tuple of arrays as an expression."""
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {tree(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(tree, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    return array(value)


def keras_object(value: Any) -> str:
    """Return an expression that makes a Keras object anew: its class, and what is not at its default.

    Raises
    ------
    NoScript
        When its class is none that Keras exports, or cannot be made from its configuration.
    """
    place = _exported(type(value))
    config = {k: v for k, v in value.get_config().items() if k not in ("name", "build_config")}
    needed = _reduced(type(value), config)
    return f"{place}({', '.join(f'{key}={_argument(v)}' for key, v in needed.items())})"


def _exported(kind: type) -> str:
    keras = keras_module()
    for space in ("layers", "losses", "metrics", "optimizers", "regularizers", "initializers", "constraints"):
        if getattr(getattr(keras, space), kind.__name__, None) is kind:
            return f"keras.{space}.{kind.__name__}"
    raise NoScript(f"{kind.__name__} is no class of Keras's own")


def _reduced(kind: type, config: dict[str, Any]) -> dict[str, Any]:
    """Return as little of a configuration as gives the same object."""
    whole = _config_of(kind, config)
    if whole is None:
        raise NoScript(f"{kind.__name__} cannot be made from its configuration")
    for key in list(config):
        fewer = {k: v for k, v in config.items() if k != key}
        if _config_of(kind, fewer) == whole:
            config = fewer
    return config


def _config_of(kind: Any, config: Mapping[str, Any]) -> Any:
    try:
        made = kind.from_config(dict(config)).get_config()
    except Exception:
        return None
    return {k: repr(v) for k, v in made.items() if k not in ("name", "build_config")}


def _argument(value: Any) -> str:
    """Return a value of a configuration as an expression."""
    if isinstance(value, Mapping) and value.get("class_name") == "DTypePolicy":
        return repr(value["config"]["name"])
    if isinstance(value, Mapping) and "class_name" in value:
        keras = keras_module()
        return keras_object(keras.saving.deserialize_keras_object(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_argument(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_argument, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise NoScript(f"an option of type {type(value).__name__} cannot be written down")


def options(values: Mapping[str, Any]) -> str:
    """Return keyword arguments as text."""
    return ", ".join(f"{key}={_argument(value)}" for key, value in values.items())


def imported(function: Callable[..., Any], what: str) -> tuple[str, str]:
    """Return the lines that import a function of the user's, and the expression that is it.

    Raises
    ------
    NoScript
        When another program cannot import it: a lambda, a nested function, a partial, the main program's.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module or not name:
        raise NoScript(f"{what} is no function that another program could import")
    if "<lambda>" in name or "<locals>" in name:
        raise NoScript(f"{what} is a {'lambda' if 'lambda' in name else 'nested function'}: no program can import it")
    if module == "__main__":
        raise NoScript(f"{what} is defined in the main program: no other program can import it")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        found = None
    if found is not function:
        raise NoScript(f"{what} is not what {module}.{name} gives when it is imported")
    root = _root(module)
    lines = f"import {module}" if root is None else f"sys.path.insert(0, {str(root)!r})\nimport {module}"
    return lines, f"{module}.{name}"


def _root(module: str) -> Path | None:
    """Return the folder from which a module is imported; None where Python finds it by itself."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None or "site-packages" in file:
        return None
    path = Path(file).resolve()
    depth = module.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def assigned(name: str, values: Sequence[Array]) -> str:
    """Return the statement that lists arrays, one a line."""
    return "\n".join([f"{name} = [", *(f"    {array(v)},".replace("\n", "\n    ") for v in values), "]"])


def what(check: Any, context: Any, case: Any) -> str:
    """Return what a program shows, for its docstring."""
    from bscheck.checks.run import describe

    return f"{check.promise}: not here ({describe(context, case)})."


def raised(reading: Any) -> bool:
    """Whether a failure is an exception."""
    return " raised " in reading.seen and not np.isfinite(reading.share)
