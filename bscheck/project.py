"""What a project asks of bscheck in its pyproject.toml, in the table ``[tool.bscheck]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bscheck.errors import BscheckError, one_line, unknown
from bscheck.options import OPTIONS, parse
from bscheck.options import field as field_of
from bscheck.promises import PROMISES, check_promise

#: Options that say where or how one run is made, not what a project promises, are given to the run.
_OF_ONE_RUN = ("record", "check", "trait")

_TYPES: Mapping[str, tuple[type, ...]] = {"seed": (int,), "require_gpu": (bool,), "known_issues": (list,)}
_WORDS = {int: "an integer", bool: "true or false", list: "a list of strings", str: "a string"}


@dataclass(frozen=True)
class Project:
    """The table ``[tool.bscheck]``, validated.

    Attributes
    ----------
    options : mapping
        Fields of `bscheck.options.Options` that it sets.
    promises : mapping
        What is promised of subjects that say nothing else: fields of `bscheck.Subject`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    promises: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Return ``key=value`` for each setting, for the header."""
        return [f"{key}={_shown(value)}" for key, value in {**self.options, **self.promises}.items()]


def valid_keys() -> list[str]:
    """Return the keys of the table."""
    return [field_of(name) for name, *_ in OPTIONS if name not in _OF_ONE_RUN and field_of(name) not in PROMISES] + [
        *PROMISES
    ]


def read_project(start: Path) -> Project:
    """Return the settings of the nearest pyproject.toml in a folder or above it.

    Raises
    ------
    BscheckError
        With one line: the file is no TOML, a key is unknown (the valid ones are listed) or a value is wrong.
    """
    path = next((p for p in (f / "pyproject.toml" for f in (start, *start.parents)) if p.is_file()), None)
    return Project() if path is None else _read(path)


def _read(path: Path) -> Project:
    import tomllib

    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except OSError as error:
        raise BscheckError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from None
    except (ValueError, RecursionError) as error:
        raise BscheckError(f"{path}: is not valid TOML: {one_line(error)}") from None
    table = tool.get("bscheck", {}) if isinstance(tool, Mapping) else {}
    if not isinstance(table, Mapping):
        raise BscheckError(f"{path}: [tool.bscheck] must be a table, not {table!r}"[:200])
    options, promises = {}, {}
    for key, value in table.items():
        source = f"{path}: [tool.bscheck] {key}"
        if key not in valid_keys():
            raise BscheckError(f"{path}: {unknown('key of [tool.bscheck]', key, valid_keys())}")
        if key in PROMISES:
            promises[key] = check_promise(key, value, source)
        else:
            options[key] = _option(key, value, source, path.parent)
    return Project(options, promises)


def _option(key: str, value: Any, source: str, folder: Path) -> Any:
    """Return a run's option; files are named from the folder of the pyproject.toml."""
    kinds = _TYPES.get(key, (str,))
    good = type(value) in kinds and (kinds != (list,) or all(type(part) is str for part in value))
    if not good:
        raise BscheckError(f"{source}: must be {_WORDS[kinds[0]]}, not {value!r}"[:300])
    if key == "require_gpu":
        return value
    text = [str(folder / part) for part in value] if key == "known_issues" else str(value)
    return parse(key.replace("_", "-"), text, source)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return value.name if isinstance(value, Path) else str(value).lower() if isinstance(value, bool) else str(value)
