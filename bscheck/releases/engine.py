"""The gate on every combination: what is finished is kept, the rest is run, and each has its verdict."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bscheck.errors import BscheckError, RecordError, one_line
from bscheck.releases import uv
from bscheck.releases.cache import Tell, digest, locked, made, read_json, snapshot, write_json
from bscheck.releases.combination import Combination
from bscheck.releases.environments import (
    Environment,
    ImportFailedError,
    Resolved,
    environment,
    resolve,
    same_version,
)
from bscheck.releases.processes import Processes, killed_by, last_words
from bscheck.results.record import read_record

EXIT_GREEN, EXIT_BROKEN, EXIT_NOT_RUN = 0, 1, 3


class Status(StrEnum):
    """What became of one combination."""

    RUN = "run"
    KEPT = "kept"
    NOT_INSTALLED = "cannot be installed"
    NOT_IMPORTED = "cannot be imported"
    NOT_RUN = "could not be run"


@dataclass(frozen=True)
class Outcome:
    """What is said of one combination.

    Attributes
    ----------
    name : str
        Of its record, or what was asked for where no version was settled.
    status : Status
    reason : str
        Why there is no record.
    record : mapping, optional
        As `bscheck.results.record.read_record` gives it.
    """

    name: str
    status: Status
    reason: str = ""
    record: Mapping[str, Any] | None = None

    @property
    def words(self) -> str:
        """What is said where there is no record."""
        return f"{self.status}: {self.reason}"


@dataclass(frozen=True)
class Settings:
    """How a set of combinations is run.

    Attributes
    ----------
    out : Path
        Folder of the records; logs and states below it.
    cache : Path
        Folder of the environments.
    jobs : int
        How many gates at a time.
    again : bool
        Whether what is finished is run again.
    arguments : tuple of str
        Further arguments of pytest.
    tests : tuple of str
        What pytest collects in place of the gate: a team's own tests, run where the command was called.
    variables : tuple of (str, str)
        Environment variables of the gates, beside those of the caller.
    """

    out: Path
    cache: Path
    jobs: int = 1
    again: bool = False
    arguments: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


@dataclass
class Session:
    """One call: its settings, what it says, and the processes it started."""

    settings: Settings
    tell: Tell
    processes: Processes = field(default_factory=Processes)
    source: Path = field(init=False)

    def __post_init__(self) -> None:
        self.source = snapshot(made(self.settings.cache), self.tell)

    def run_all(self, combinations: Sequence[Combination]) -> list[Outcome]:
        """Return the outcome of every combination, in the order given.

        On Ctrl-C and SIGTERM the gates that run are told to stop, and the rest are not begun; what is finished is kept
        for the next call.
        """
        made(self.settings.out / "logs")
        made(self.settings.out / ".state")
        outcomes: dict[int, Outcome] = {}
        with ThreadPoolExecutor(max_workers=self.settings.jobs) as pool:
            futures = {pool.submit(self.outcome, one): i for i, one in enumerate(combinations)}
            try:
                for done in as_completed(futures):
                    outcome = outcomes[futures[done]] = done.result()
                    said = outcome.status if outcome.record is not None else outcome.words
                    self.tell(f"[{len(outcomes)}/{len(combinations)}] {outcome.name}: {said}")
            except BaseException:
                for future in futures:
                    future.cancel()
                self.processes.stop()
                raise
        return [outcomes[i] for i in range(len(combinations))]

    def outcome(self, combination: Combination) -> Outcome:
        """Return the outcome of one combination; nothing that is its own is raised."""
        name, status = combination.request, Status.NOT_INSTALLED
        try:
            resolved = resolve(combination, self.settings.cache)
            name = resolved.name
            self.tell(f"{name}: {resolved.words}{f', {resolved.note}' if resolved.note else ''}")
            with locked(self.settings.out / ".state" / f"{name}.lock", self.tell):
                return self._resolved(resolved)
        except ImportFailedError as error:
            return Outcome(name, Status.NOT_IMPORTED, str(error))
        except uv.ReleaseError as error:
            return Outcome(name, status, str(error))
        except (BscheckError, OSError) as error:
            return Outcome(name, Status.NOT_RUN, str(error) if isinstance(error, BscheckError) else one_line(error))

    def _resolved(self, resolved: Resolved) -> Outcome:
        kept = self._kept(resolved)
        if kept is not None:
            return Outcome(resolved.name, Status.KEPT, record=kept)
        found = environment(resolved, self.settings.cache, self.source, self.tell)
        return Outcome(resolved.name, Status.RUN, record=self._run(found))

    def _paths(self, name: str) -> tuple[Path, Path, Path]:
        """Return where record, log and state of a combination are."""
        out = self.settings.out
        return out / f"{name}.json", out / "logs" / f"{name}.log", out / ".state" / f"{name}.json"

    def _key(self, resolved: Resolved) -> dict[str, str]:
        """Return what a finished record must have been made with to be kept, by what it is called."""
        settings = {k: v for k, v in os.environ.items() if k.startswith("BSCHECK_")} | dict(self.settings.variables)
        return {
            "versions": digest(resolved.pins),
            "arguments": shlex.join([*self.settings.tests, "--", *self.settings.arguments]),
            "settings": digest(*(f"{k}={v}" for k, v in sorted(settings.items()))),
            "bscheck": self.source.name,
        }

    def _kept(self, resolved: Resolved) -> Mapping[str, Any] | None:
        """Return the finished record of an earlier call, if it says what a new one would."""
        path, _, state = self._paths(resolved.name)
        before = read_json(state)
        if self.settings.again or not isinstance(before, dict):
            return None
        other = [what for what, value in self._key(resolved).items() if before.get(what) != value]
        if other:
            self.tell(f"{resolved.name}: there is a record with other {', '.join(other)}; it is run again")
            return None
        try:
            return read_record(path)
        except RecordError:
            return None

    def _run(self, found: Environment) -> Mapping[str, Any]:
        """Run the gate and return its record, which is put in place once it is whole.

        Raises
        ------
        UnavailableError
            When there is no whole record, with what pytest said last.
        """
        path, log, state = self._paths(found.resolved.name)
        running = path.with_name(f".{path.stem}.running")
        running.unlink(missing_ok=True)
        started = time.monotonic()
        self.tell(f"{found.resolved.name}: the gate runs, log {log}")
        code = self.processes.run(
            found,
            "pytest",
            self._pytest(found, running),
            folder=Path.cwd() if self.settings.tests else found.source,
            log=log,
            tell=self.tell,
            variables=self._variables(),
        )
        record = _whole_record(code, running, log, found.resolved)
        running.replace(path)
        write_json(state, {**self._key(found.resolved), "seconds": round(time.monotonic() - started, 1)})
        return record

    def _pytest(self, found: Environment, record: Path) -> list[str]:
        tests = list(self.settings.tests) or ["--pyargs", "bscheck.gate", "-c", str(found.source / "pytest.ini")]
        quiet = ["-q", "-p", "bscheck.plugin", "-p", "no:cacheprovider"]
        return [*tests, *quiet, "--bscheck-record", str(record), *self.settings.arguments]

    def _variables(self) -> dict[str, str]:
        """Return what gates that run side by side are told: a share of the cores each, and no timings."""
        given = dict(self.settings.variables)
        if self.settings.jobs == 1:
            return given
        threads = str(max(1, (os.cpu_count() or 1) // self.settings.jobs))
        wanted = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "BSCHECK_TIMING": "off"}
        return {key: value for key, value in wanted.items() if key not in os.environ} | given


def _whole_record(code: int, path: Path, log: Path, resolved: Resolved) -> Mapping[str, Any]:
    """Return the record of a gate that ended, or raise with the reason that there is none."""
    if code in (-signal.SIGTERM, -signal.SIGINT, 2):
        raise uv.UnavailableError("the gate was interrupted; run the same command again to go on")
    if code < 0:
        raise uv.UnavailableError(f"the gate was {killed_by(code)}")
    if code == 5:
        raise uv.UnavailableError("nothing was selected: pytest collected no test")
    if code not in (0, 1):
        raise uv.UnavailableError(f"the gate ended with exit code {code}: {last_words(log)} (log {log})")
    try:
        record = read_record(path)
    except RecordError as error:
        raise uv.UnavailableError(f"the gate left no record behind: {error} (log {log})") from None
    seen = record["environment"]
    for what, wanted in (("keras", resolved.keras), ("backend_version", resolved.backend)):
        if not same_version(str(seen.get(what)), wanted):
            raise uv.UnavailableError(f"the gate ran on {what} {seen.get(what)}, not on {wanted}")
    return record


def exit_code(outcomes: Sequence[Outcome], failed: Callable[[Mapping[str, Any]], bool]) -> int:
    """Return 1 where a promise broke, 3 where something could not be run, else 0."""
    if any(o.record is not None and failed(o.record) for o in outcomes):
        return EXIT_BROKEN
    return EXIT_NOT_RUN if any(o.record is None for o in outcomes) else EXIT_GREEN
