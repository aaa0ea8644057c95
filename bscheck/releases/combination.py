"""What is asked for: a release of Keras, a backend's release, a Python."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bscheck.errors import BscheckError

BACKENDS = ("tensorflow", "jax", "torch")
NIGHTLY, NEWEST = "nightly", ""
KERAS = ("keras", "keras-nightly")

#: The oldest Keras that bscheck supports.
OLDEST_KERAS = Version("3.1")


@dataclass(frozen=True)
class Combination:
    """One Keras on one backend.

    Attributes
    ----------
    keras : str
        A requirement: ``keras==3.14.1``, ``keras-nightly``.
    backend : str
        One of `BACKENDS`.
    backend_release : str
        Its version, `NIGHTLY`, or `NEWEST`: the newest that works with this Keras.
    python : str
        A version such as ``3.12``; empty for the one that runs.
    extras : tuple of str
        Further requirements of the environment.
    gpu : bool
        Whether the backend's build for GPUs is wanted.
    """

    keras: str
    backend: str = "tensorflow"
    backend_release: str = NEWEST
    python: str = ""
    extras: tuple[str, ...] = ()
    gpu: bool = False

    @property
    def keras_distribution(self) -> str:
        """The distribution that ``import keras`` must come from."""
        return canonicalize_name(Requirement(self.keras).name)

    @property
    def backend_distribution(self) -> str:
        """The distribution that the backend must come from."""
        return canonicalize_name(Requirement(self.backend_requirement()).name)

    def backend_requirement(self) -> str:
        """Return the backend's requirement, as its package is called on this platform."""
        name = _distribution(self.backend, nightly=self.backend_release == NIGHTLY, gpu=self.gpu)
        pinned = self.backend_release not in (NIGHTLY, NEWEST)
        return f"{name}=={self.backend_release}" if pinned else name

    def requirements(self) -> tuple[str, ...]:
        """Return what is installed, bscheck's own dependencies aside."""
        return (self.keras, self.backend_requirement(), *self.extras)

    def excluded(self) -> tuple[str, ...]:
        """Return the distributions that would bring a second package of Keras's import name."""
        return tuple(name for name in KERAS if name != self.keras_distribution)

    @property
    def request(self) -> str:
        """What is asked for, in words, before the versions are known."""
        release = f"{self.backend}=={self.backend_release}" if self.backend_release else self.backend
        return " + ".join(filter(None, (self.keras, release, self.python and f"Python {self.python}")))

    def name(self, versions: Mapping[str, str]) -> str:
        """Return what its record is called: ``keras-3.15.1+tensorflow-2.21.0``.

        Parameters
        ----------
        versions : mapping
            Version by distribution, as resolved.
        """
        nightly = f"-{NIGHTLY}" if self.backend_release == NIGHTLY else ""
        parts = [
            f"{self.keras_distribution}-{versions[self.keras_distribution]}",
            f"{self.backend}{nightly}-{versions[self.backend_distribution]}",
        ]
        if self.python:
            parts.append(f"python-{self.python}")
        return re.sub(r"[^\w.+-]", "_", "+".join(parts))


def _distribution(backend: str, *, nightly: bool, gpu: bool) -> str:
    """Return what a backend's package is called."""
    if backend != "tensorflow":
        return "jax[cuda12]" if gpu and backend == "jax" else backend
    if gpu:
        return "tf-nightly[and-cuda]" if nightly else "tensorflow[and-cuda]"
    slim = "-cpu" if sys.platform == "linux" and platform.machine() == "x86_64" else ""
    return f"tf-nightly{slim}" if nightly else f"tensorflow{slim}"


def keras_requirement(text: str) -> str:
    """Return the SPEC, validated.

    Raises
    ------
    BscheckError
        With one line that says what would be right.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        raise BscheckError(f"{text!r} is no release; give keras==3.15.1, keras-nightly, or the like") from None
    if canonicalize_name(requirement.name) not in KERAS:
        raise BscheckError(
            f"{text!r} is not a release of Keras; give keras==VERSION or keras-nightly, and the backend's by "
            "--tensorflow, --jax or --torch"
        )
    if requirement.url:
        raise BscheckError(f"{text!r} is not a release but a place; give keras==VERSION or keras-nightly")
    pins = [Version(s.version) for s in requirement.specifier if s.operator == "==" and "*" not in s.version]
    if any(pin < OLDEST_KERAS for pin in pins):
        raise BscheckError(f"{text!r} is too old; bscheck supports Keras {OLDEST_KERAS} and later")
    return text.strip()


def backend_release(text: str, backend: str) -> str:
    """Return a version given for a backend, validated; ``nightly`` is one for TensorFlow.

    Raises
    ------
    BscheckError
        With one line that says what would be right.
    """
    if text == NIGHTLY and backend == "tensorflow":
        return NIGHTLY
    try:
        return str(Version(text.removeprefix("==")))
    except InvalidVersion:
        allowed = "a version or nightly" if backend == "tensorflow" else "a version"
        raise BscheckError(f"--{backend}: {text!r} is not {allowed}") from None


def python_release(text: str) -> str:
    """Return a Python version, validated.

    Raises
    ------
    BscheckError
        When it is none.
    """
    if not re.fullmatch(r"3\.\d+(\.\d+)?", text):
        raise BscheckError(f"--python: {text!r} is no version of Python; give 3.12 or the like")
    return text


def crossed(
    specs: Iterable[str],
    backends: Mapping[str, Sequence[str] | None],
    *,
    python: str = "",
    extras: Sequence[str] = (),
    gpu: bool = False,
) -> list[Combination]:
    """Return every Keras on every backend's release; each once, in the order given.

    Parameters
    ----------
    specs : iterable of str
        Requirements of Keras.
    backends : mapping
        Releases asked for by backend: None where it was not named, an empty list for the newest that works. TensorFlow
        where none is named.
    """
    named = {name: list(given or [NEWEST]) for name, given in backends.items() if given is not None}
    chosen = named or {"tensorflow": [NEWEST]}
    listed = [keras_requirement(spec) for spec in specs]
    combinations = [
        Combination(
            spec,
            backend,
            backend_release(release, backend) if release else NEWEST,
            python_release(python) if python else "",
            tuple(extras),
            gpu,
        )
        for spec in listed
        for backend, releases in chosen.items()
        for release in releases
    ]
    return list(dict.fromkeys(combinations))
