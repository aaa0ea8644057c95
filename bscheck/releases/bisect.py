"""The release that changed a verdict, in the fewest runs: as ``git bisect``, over releases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from bscheck.errors import BscheckError
from bscheck.releases import uv
from bscheck.releases.cache import Tell, digest, locked, made, read_json, snapshot, write_json
from bscheck.releases.combination import KERAS, NEWEST, Combination
from bscheck.releases.environments import ImportFailedError, environment, interpreter, resolve
from bscheck.releases.processes import Processes, killed_by, last_words
from bscheck.releases.trial import MARK

GOOD, BAD, SKIP = "good", "bad", "skip"


@dataclass(frozen=True)
class Question:
    """What is looked for.

    Attributes
    ----------
    check : str
        Name of the promise.
    package : str
        What is bisected: ``keras``, ``keras-nightly``, or the backend.
    good, bad : str
        A release where the promise holds and one where it is broken; the fix is looked for where the good is newer.
    combination : Combination
        What is beside it; the package's own release is filled in.
    param : mapping
        Members of the parameter; empty for all.
    case : mapping, optional
        The case to run; where there is none, the smallest that breaks on the bad end is found first.
    profile, seed
        How cases are drawn for that.
    """

    check: str
    package: str
    good: str
    bad: str
    combination: Combination
    param: Mapping[str, str] = field(default_factory=dict)
    case: Mapping[str, Any] | None = None
    profile: str = "quick"
    seed: int = 0

    @property
    def fix(self) -> bool:
        """Whether the first good release is looked for."""
        return Version(self.good) > Version(self.bad)

    @property
    def states(self) -> tuple[str, str]:
        """The state at the old end and at the new one."""
        return (BAD, GOOD) if self.fix else (GOOD, BAD)

    def at(self, release: str) -> Combination:
        """Return the combination with this release of the package."""
        if self.package in KERAS:
            return replace(self.combination, keras=f"{self.package}=={release}")
        return replace(self.combination, backend_release=release)

    @property
    def distribution(self) -> str:
        """What the bisected package is called in the index."""
        return self.package if self.package in KERAS else self.combination.backend_distribution


@dataclass(frozen=True)
class Found:
    """The answer.

    Attributes
    ----------
    last, first : str
        The last release in the old state and the first in the new one.
    between : tuple of (str, str)
        Releases between them that could not be tried, and why.
    """

    last: str
    first: str
    between: tuple[tuple[str, str], ...] = ()


Seen = Mapping[str, Mapping[str, Any]]


def bounds(releases: Sequence[str], seen: Seen, states: tuple[str, str]) -> tuple[int, int]:
    """Return the indices of the newest release known in the old state and the oldest one after it in the new."""
    low = max((i for i, r in enumerate(releases) if _state(seen, r) == states[0]), default=0)
    later = (i for i, r in enumerate(releases) if i > low and _state(seen, r) == states[1])
    return low, min(later, default=len(releases) - 1)


def following(releases: Sequence[str], seen: Seen, states: tuple[str, str]) -> str | None:
    """Return the release to try next: the untried one nearest to the middle; None once there is none."""
    low, high = bounds(releases, seen, states)
    untried = [i for i in range(low + 1, high) if releases[i] not in seen]
    middle = (low + high) / 2
    return releases[min(untried, key=lambda i: (abs(i - middle), i))] if untried else None


def runs_needed(releases: Sequence[str], seen: Seen, states: tuple[str, str]) -> int:
    """Return the number of runs to come, if no release has to be skipped."""
    low, high = bounds(releases, seen, states)
    return math.ceil(math.log2(high - low)) if high > low else 0


def answer(releases: Sequence[str], seen: Seen, states: tuple[str, str]) -> Found:
    """Return the answer, once nothing is left to try."""
    low, high = bounds(releases, seen, states)
    skipped = tuple((r, str(seen[r].get("reason", ""))) for r in releases[low + 1 : high])
    return Found(releases[low], releases[high], skipped)


def _what(error: uv.ReleaseError) -> str:
    return "imported" if isinstance(error, ImportFailedError) else "installed"


def _state(seen: Seen, release: str) -> str:
    return str(seen[release]["state"]) if release in seen else ""


@dataclass
class Search:
    """A search that goes on where it was stopped: what was seen is written down after every run."""

    question: Question
    cache: Path
    tell: Tell
    trust_ends: bool = False
    again: bool = False
    processes: Processes = field(default_factory=Processes)
    document: dict[str, Any] = field(default_factory=dict)
    source: Path = field(default_factory=Path)

    def run(self) -> Found:
        """Return the answer.

        Raises
        ------
        BscheckError
            When an end is not what it was said to be, or something is missing.
        """
        asked = self.question
        self.source = snapshot(self.cache, self.tell)
        key = digest(repr(asked), self.source.name)
        folder = made(self.cache / "bisect")
        path = folder / f"{asked.check}-{key}.json"
        with locked(path.with_suffix(".lock"), self.tell):
            kept = None if self.again else read_json(path)
            self.document = kept if isinstance(kept, dict) else {"releases": self._releases(), "seen": {}, "case": None}
            self._search(lambda: write_json(path, self.document))
        return answer(self.releases, self.seen, asked.states)

    @property
    def releases(self) -> list[str]:
        """The releases, oldest first."""
        return list(self.document["releases"])

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """What was seen, by release."""
        seen: dict[str, dict[str, Any]] = self.document["seen"]
        return seen

    @property
    def runs(self) -> int:
        """How many releases were tried."""
        return sum(not one.get("trusted") for one in self.seen.values())

    def _releases(self) -> list[str]:
        asked = self.question
        low, high = sorted((asked.good, asked.bad), key=Version)
        if Version(low) == Version(high):
            raise BscheckError(f"--good and --bad are the same release, {low}")
        try:
            found = uv.versions_between(asked.distribution, low, high, interpreter(asked.combination), self.cache)
        except uv.ReleaseError as error:
            raise BscheckError(str(error)) from None
        for end in (low, high):
            if Version(end) not in map(Version, found):
                shown = ", ".join(found[-12:])
                raise BscheckError(f"{asked.distribution} has no release {end} here; from {low} to {high}: {shown}")
        return found

    def _search(self, save: Callable[[], None]) -> None:
        asked, states = self.question, self.question.states
        ends = [] if self.trust_ends else [e for e in self._ends() if e not in self.seen]
        if self.trust_ends:
            for end, state in zip((self.releases[0], self.releases[-1]), states, strict=True):
                self.seen.setdefault(end, {"state": state, "trusted": True})
        self._settle_the_rest()
        save()
        needed = runs_needed(self.releases, {r: s for r, s in self.seen.items() if s["state"] != SKIP}, states)
        kept = f", {self.runs} done before" if self.runs else ""
        self.tell(
            f"{asked.check}: {len(self.releases)} releases of {asked.distribution}, {self.releases[0]} to "
            f"{self.releases[-1]}, {self.document['beside']}: {len(ends) + needed} runs "
            f"({len(ends)} ends + {needed}){kept}"
        )
        for end in ends:
            self._try(end, save)
            self._check_end(end)
        while (release := following(self.releases, self.seen, states)) is not None:
            self._try(release, save)

    def _ends(self) -> list[str]:
        """Return the ends, the bad one first: it tells the case that the others are asked about."""
        old, new = self.releases[0], self.releases[-1]
        return [old, new] if self.question.fix else [new, old]

    def _settle_the_rest(self) -> None:
        """Settle what is beside the package, once: only the package may differ between the runs.

        The backend is the newest that works with the oldest Keras; Keras is the newest that works with the newest
        backend.
        """
        if "beside" in self.document:
            return
        asked = self.question
        keras = asked.package in KERAS
        try:
            resolved = resolve(asked.at(self.releases[0 if keras else -1]), self.cache)
        except uv.ReleaseError as error:
            raise BscheckError(f"{asked.at(self.releases[0]).request} cannot be installed: {error}") from None
        one = resolved.combination
        beside = f"{one.backend_distribution} {resolved.backend}" if keras else f"Keras {resolved.keras}"
        self.document["beside"] = f"beside {beside}"
        self.document["keras"] = one.keras if keras else f"{one.keras_distribution}=={resolved.keras}"
        nightly = one.backend_release not in (NEWEST, resolved.backend)
        self.document["backend"] = one.backend_release if nightly else resolved.backend

    def _at(self, release: str) -> Combination:
        one = self.question.at(release)
        if self.question.package in KERAS:
            return replace(one, backend_release=self.document["backend"])
        return replace(one, keras=self.document["keras"])

    def _check_end(self, end: str) -> None:
        """Raise unless the end is what it was said to be."""
        wanted = self.question.states[0 if end == self.releases[0] else 1]
        seen = self.seen[end]
        if seen["state"] == wanted:
            return
        why = str(seen.get("reason") or seen.get("seen") or "the promise holds there")
        del self.seen[end]
        raise BscheckError(f"--{wanted} {end} is not {wanted}: {why}")

    def _try(self, release: str, save: Callable[[], None]) -> None:
        """Try one release and write down what was seen."""
        combination = self._at(release)
        try:
            seen = self._tried(combination)
        except uv.ReleaseError as error:
            seen = {"state": SKIP, "reason": f"cannot be {_what(error)}: {error}"}
        self.seen[release] = seen
        if seen["state"] == BAD and self.document["case"] is None and seen.get("case"):
            self.document["case"], self.document["param"] = seen["case"], seen["param"]
        save()
        words = {GOOD: "good", BAD: f"bad: {seen.get('seen', '')}", SKIP: f"skipped: {seen.get('reason', '')}"}
        self.tell(f"{self.question.distribution} {release}: {words[seen['state']]}")

    def _tried(self, combination: Combination) -> dict[str, Any]:
        """Return what the trial says in one environment.

        Raises
        ------
        ReleaseError
            When it cannot be made or imported.
        UnavailableError
            When the trial ended without a word.
        """
        asked = self.question
        found = environment(resolve(combination, self.cache), self.cache, self.source, self.tell)
        pinned = asked.case if asked.case is not None else self.document["case"]
        param = dict(self.document["param"] if pinned is self.document["case"] and pinned else asked.param)
        wanted = {"check": asked.check, "param": param, "case": pinned, "profile": asked.profile, "seed": asked.seed}
        log = made(self.cache / "bisect") / f"{found.resolved.name}.log"
        code = self.processes.run(
            found, "bscheck.releases.trial", [json.dumps(wanted)], folder=found.home, log=log, tell=self.tell
        )
        text = log.read_text(errors="replace")
        line = next((line for line in text.splitlines() if line.startswith(MARK)), "")
        if not line:
            how = killed_by(code) if code < 0 else f"ended with exit code {code}"
            raise uv.UnavailableError(f"the trial on {found.resolved.name} {how}: {last_words(log)} (log {log})")
        result: dict[str, Any] = json.loads(line.removeprefix(MARK))
        return result
