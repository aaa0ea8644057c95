"""The pytest plugin: options, items, header, summary and record.

It acts on bscheck's items alone. Until one is collected nothing but the standard library and pytest is
imported, and nothing is printed: this plugin is loaded into every pytest run of every project around it.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import itertools
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bscheck.errors import EXIT_BAD_INPUT, BscheckError
from bscheck.guests import Guests, check_name, having
from bscheck.items import (
    CONFIG,
    CURRENT_ITEM,
    FOUND,
    MARKER,
    RESULTS,
    SESSION,
    KnownIssueItem,
    PromiseItem,
    marker_of,
    wordings,
)
from bscheck.project import Project

if TYPE_CHECKING:
    from bscheck.checks.run import RunSettings
    from bscheck.limits import Allowance
    from bscheck.options import Options
    from bscheck.results.known_issues import KnownIssue

_WORKER_KEY = "bscheck_exit"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; they are validated once pytest is configured."""
    from bscheck.options import OPTIONS, field, option, variable

    group = parser.getgroup("bscheck", "bscheck: does the batch size change what a Keras model learns?")
    for name, metavar, repeatable, text in OPTIONS:
        shared: dict[str, Any] = {"dest": f"bscheck_{field(name)}", "default": None}
        shared["help"] = f"{text} [{variable(name)}]"
        if metavar is None:
            group.addoption(option(name), action="store_true", **shared)
        else:
            action = "append" if repeatable else "store"
            group.addoption(option(name), action=action, metavar=metavar, **shared)


def pytest_configure(config: pytest.Config) -> None:
    """Validate what was given on the command line; the rest waits for the first item."""
    from bscheck.checks import FAMILIES

    config.addinivalue_line("markers", f"{MARKER}: a promise of bscheck, on one parameter")
    for family in FAMILIES:
        config.addinivalue_line("markers", f"{marker_of(family)}: a promise of bscheck's family {family!r}")
    session = Session(config)
    session.validate_command_line()
    config.stash[SESSION] = session
    CONFIG.set(config)
    config.pluginmanager.register(session, "bscheck-session")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[pytest.Item] | None:
    """Collect what `bscheck.gate.promise` returned: one item for each parameter."""
    gate = sys.modules.get("bscheck.gate")
    if gate is None or not isinstance(obj, (gate.Promise, gate.KnownIssues)):
        return None
    session = collector.config.stash[SESSION]
    try:
        session.start()
        return session.items_of(collector, obj)
    except BscheckError as error:
        session.stop = str(error)
        return []


@dataclass(frozen=True)
class Given:
    """The options' values as pytest parsed them, by field name."""

    values: Mapping[str, Any]

    @classmethod
    def to(cls, config: pytest.Config) -> Given:
        """Return what was given on the command line."""
        from bscheck.options import OPTIONS, field

        names = [field(name) for name, *_ in OPTIONS]
        return cls({name: config.getoption(f"bscheck_{name}") for name in names})


#: Where pytest finds its settings, and bscheck those of a project.
_SETTINGS = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


def _settings_were_found(config: pytest.Config) -> None:
    """Refuse a run whose settings pytest looked for in the wrong place.

    It looks before it knows a plugin's options, and takes an existing file after ``--option FILE`` for a test's place:
    a record of an earlier run, outside the project, would silently cost the project's own settings.
    """
    from bscheck.options import FILES, option

    here = config.invocation_params.dir
    found = config.inipath is not None and config.inipath.parent in (here, *here.parents)
    meant = next((f for at in (here, *here.parents) for name in _SETTINGS if (f := at / name).is_file()), None)
    if found or meant is None or config.option.rootdir or config.option.inifilename:
        return
    arguments = [str(a) for a in config.invocation_params.args]
    for given, value in itertools.pairwise(arguments):
        if given in map(option, FILES) and (here / value).exists():
            raise BscheckError(
                f"pytest takes the file after {given} for a test's place and does not see the settings in {meant}: "
                f"write {given}={value}"
            )


@dataclass(eq=False)  # pluggy keeps its plugins in sets
class Session:
    """What one pytest session knows of bscheck: nothing, until the first of its items is collected."""

    config: pytest.Config
    started: str = field(default_factory=lambda: _now())
    options: Options | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    known_issues: tuple[KnownIssue, ...] = ()
    results: list[dict[str, Any]] = field(default_factory=list)
    checks: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    sent: bool = False
    stop: str = ""
    told: bool = False
    written: str = ""
    old_handler: Any = None
    collector: tuple[int, int, int] | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    project: Project = field(default_factory=Project)
    items: list[pytest.Item] = field(default_factory=list)
    running: pytest.Item | None = None
    dear: float = 0.0

    @functools.cached_property
    def explaining(self) -> Allowance:
        """What the run may still spend on its failures."""
        from bscheck.limits import Allowance

        return Allowance(self.read_options().explain)

    @functools.cached_property
    def guests(self) -> Guests:
        """Teams' own subjects."""
        return Guests(self)

    @property
    def is_worker(self) -> bool:
        """Whether this is a worker of pytest-xdist, whose controller tells and records."""
        return hasattr(self.config, "workerinput")

    def validate_command_line(self) -> None:
        """Raise a usage error for a bad option; environment variables are left alone until needed."""
        from bscheck.options import parse_given

        try:
            if not self.is_worker:
                _settings_were_found(self.config)
            record = parse_given(Given.to(self.config).values).get("record")
            if record is not None and not self.is_worker:
                from bscheck.results.record import check_writable

                check_writable(record)
                self._catch_sigterm()
        except BscheckError as error:
            raise pytest.UsageError(f"bscheck: {error}") from None

    def read_options(self) -> Options:
        """Return the options of command line and environment, read once."""
        if self.options is None:
            from bscheck.options import read
            from bscheck.project import read_project

            self.project = read_project(self.config.rootpath)
            self.options = read(Given.to(self.config).values, project=self.project.options)
        return self.options

    def start(self) -> None:
        """Read the options and look at the environment, before the first item; later calls do nothing."""
        if self.environment:
            return
        options = self.read_options()
        if options.timing_baseline is not None:
            from bscheck.results.record import read_record

            read_record(options.timing_baseline)
        if options.record is not None and not self.is_worker:
            from bscheck.results.record import check_writable

            check_writable(options.record)
            self._catch_sigterm()
        from bscheck.checks import all_checks
        from bscheck.results.known_issues import load_known_issues

        environment = describe_environment()
        if options.require_gpu and environment.get("device") != "gpu":
            raise BscheckError(f"--bscheck-require-gpu: {environment.get('backend', 'the backend')} sees no GPU here")
        self.known_issues = load_known_issues(all_checks(), *options.known_issues)
        self.environment = environment
        # Models and graphs are kept on purpose: looking through them for garbage costs a twentieth of a run.
        self.collector = gc.get_threshold()
        gc.set_threshold(100_000, 50, 100)

    def settings(self) -> RunSettings:
        """Return what the runner is told."""
        from bscheck.checks.run import RunSettings

        options = self.read_options()
        return RunSettings(
            profile=options.profile,
            seed=options.seed,
            known_issues=self.known_issues,
            timing=options.timing,  # type: ignore[arg-type]  # one of TIMINGS, or "auto"
            scripts=options.scripts,
            explaining=self.explaining,
        )

    def context_options(self) -> dict[str, str]:
        """Return the options that a check's context carries."""
        baseline = self.read_options().timing_baseline
        told = self.settings().context_options(self.environment)
        return told | ({"timing_baseline": str(baseline)} if baseline else {})

    def items_of(self, collector: pytest.Collector, obj: Any) -> list[pytest.Item]:
        """Return the items of a promise, or of the known issues."""
        from bscheck.checks import get_check

        gate = sys.modules["bscheck.gate"]
        if isinstance(obj, gate.KnownIssues):
            return [KnownIssueItem.of(collector, issue) for issue in self.known_issues]
        check = get_check(obj.check)
        chosen = self.read_options().check
        if chosen and check.name not in chosen:
            return []
        return [PromiseItem.of(collector, check, param) for param in check.params()]

    def pytest_collectreport(self) -> None:
        """Stop with one line where collecting found the environment or an option unusable."""
        if self.stop:
            self._exit(self.stop)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        """See what there is before anybody deselects, and the environment and the checks asked for after that."""
        collected = [(item.nodeid, check_name(item)) for item in items if _is_ours(item)]
        outcome = yield
        self._choose(items)
        chosen = self.read_options().check if collected and not self.stop else ()
        kept = [nodeid for nodeid, check in collected if not chosen or check in chosen]
        self.selection = _selection(kept, sum(map(_is_ours, items)), self.config)
        return outcome

    def _choose(self, items: list[pytest.Item]) -> None:
        """Look at the environment for a team's own tests too, and keep only the checks asked for."""
        try:
            if any(map(_is_ours, items)):
                self.start()
            chosen = self.read_options().check if self.environment or self._command_line("check") else ()
            if chosen:
                _refuse_unknown(chosen)
                self._keep(items, lambda item: check_name(item) in chosen)
            traits = self.read_options().trait if self.environment else ()
            if traits:
                self._keep(items, having(self, traits))
            self.items = items
        except BscheckError as error:
            self._exit(str(error))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what bscheck says of the checks that are to be run: the record's reader may have another release."""
        if self.environment:
            self.checks = wordings(map(check_name, filter(_is_ours, session.items)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Have other processes start on what will be asked of them: a run in one process leaves them a core.

        What is asked for after timings waits for them to end.
        """
        if not self.environment or self.is_worker or session.config.option.collectonly:
            return
        from bscheck.checks.run import TIMING

        ours = [item for item in session.items if isinstance(item, PromiseItem | KnownIssueItem)]
        for item in itertools.takewhile(lambda item: item.check.family != TIMING, ours):
            with suppress(Exception):  # met again, and told, when the item runs
                item.begin()

    def _command_line(self, name: str) -> Any:
        return self.config.getoption(f"bscheck_{name}")

    def _keep(self, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
        dropped = [item for item in items if _is_ours(item) and not wanted(item)]
        if dropped:
            self.config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]

    def _exit(self, line: str) -> None:
        """End the session with one line and the exit code for bad input; under xdist, the controller does."""
        if not self.is_worker:
            raise pytest.UsageError(f"bscheck: {line}")
        self.config.workeroutput[_WORKER_KEY] = line  # type: ignore[attr-defined]
        pytest.exit(line, returncode=EXIT_BAD_INPUT)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Stop for what a worker found unusable."""
        line = getattr(node, "workeroutput", {}).get(_WORKER_KEY)
        if line:
            raise pytest.UsageError(f"bscheck: {line}")

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Tell a bad subject or argument in a test module in one line, not in a traceback."""
        report = yield
        call: Any = getattr(report, "call", None)
        error = call.excinfo.value if call is not None and call.excinfo is not None else None
        if isinstance(error, BscheckError):
            report.longrepr = f"bscheck: {error}"
        return report

    def pytest_report_collectionfinish(self) -> list[str]:
        """Return the header, now that there is something to head."""
        return self._header() if self.environment else []

    def _header(self) -> list[str]:
        from bscheck.options import settings_in
        from bscheck.results.summary import header

        self.told = True
        lines = header(self.environment, self.read_options().to_json(), settings_in())
        words = self.project.words()
        return lines + ([f"pyproject.toml [tool.bscheck]: {' · '.join(words)}"] if words else [])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Keep the running item at hand for `bscheck.parametrize`."""
        token = CURRENT_ITEM.set(item)
        self.running = item
        try:
            return (yield)
        finally:
            self.running = None
            CURRENT_ITEM.reset(token)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the results travel with the report, from an xdist worker too."""
        report = yield
        if call.when == "call" and item.stash.get(FOUND, None):
            report.bscheck_found = item.stash[FOUND]  # type: ignore[attr-defined]
        if call.when == "call" and _is_ours(item):
            report.bscheck = item.stash.get(RESULTS, [])  # type: ignore[attr-defined]
            # The controller of xdist imports no test module, so it may not know a team's own check.
            report.bscheck_promise = getattr(getattr(item, "check", None), "promise", "")  # type: ignore[attr-defined]
            report.bscheck_environment = dict(self.environment)  # type: ignore[attr-defined]
            report.bscheck_selection = dict(self.selection)  # type: ignore[attr-defined]
            if self.is_worker and not self.sent:
                self.sent = True
                report.bscheck_checks = self.checks  # type: ignore[attr-defined]
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report's results, and tell a failure with its number in the record: only here is it known.

        What a worker found about a subject is told here too.
        """
        found: list[str] = getattr(report, "bscheck_found", [])
        if found and not self.is_worker:
            self.guests.tell(found[0].partition(":")[0], found)
        texts: list[str] = getattr(report, "bscheck", [])
        if texts and not self.environment:
            self.environment = getattr(report, "bscheck_environment", {})
        self.checks = getattr(report, "bscheck_checks", self.checks)
        self.selection = self.selection or getattr(report, "bscheck_selection", {})
        if hasattr(report, "bscheck") and not texts and report.skipped:
            self.skipped.append(report.nodeid)
        first = len(self.results)
        self.results += [{**json.loads(text), "nodeid": report.nodeid} for text in texts]
        if report.failed and not self.is_worker:
            told = [(n, r) for n, r in enumerate(self.results[first:], first) if r["verdict"] == "failed"]
            if told:
                self._tell_where(report, *told[-1])
        if texts:
            self._keep_record()

    def _tell_where(self, report: pytest.TestReport, number: int, result: dict[str, Any]) -> None:
        """Add what there is to run to a failure's text: whole for bscheck's own items, below a team's own lines."""
        from bscheck.results.failure import Place, labelled, render
        from bscheck.results.verdict import Result

        options = self.read_options()
        record = "" if options.record is None else _from_here(options.record)
        scripts = "" if options.scripts is None else _from_here(options.scripts)
        place = Place(record, number, scripts, report.nodeid.partition("::")[0])
        told = Result.from_json(result)
        if isinstance(report.longrepr, str):
            text = render(told, getattr(report, "bscheck_promise", ""), self.environment, place)
            report.longrepr = textwrap.dedent(text.partition("\n")[2])
        elif told.failure is not None and (lines := labelled(told.failure, place)):
            report.sections.append(("bscheck", textwrap.dedent("\n".join(lines))))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep what shares a model on one worker, where it is the gate that is run."""
        from bscheck.distribution import scheduler

        return scheduler(config, log)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """Record the check that ended a worker of pytest-xdist: it costs its own verdict only."""
        from bscheck.subject_runs import crashed

        self.results += [{**result.to_json(), "nodeid": crashitem} for result in crashed(crashitem)]

    def _keep_record(self) -> None:
        """Write the record so far, so that what was done outlives the interpreter; at most a twentieth of the time."""
        with suppress(BscheckError):
            options = self.read_options()
            if options.record is None or self.is_worker or time.monotonic() < self.dear:
                return
            started = time.monotonic()
            self.write(options, interrupted=True)
            self.dear = time.monotonic() + 20 * (time.monotonic() - started)
        self.written = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        """Leave what was kept to the system, which takes it back at once: to look through it takes ten seconds."""
        if self.collector:
            gc.freeze()

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the record, also of a run that was cut short."""
        if self.collector:
            gc.set_threshold(*self.collector)
        self._restore_sigterm()
        if self.is_worker:
            return
        try:
            options = self.read_options()
            if options.record is not None and (self.results or self._command_line("record")):
                self.write(options, interrupted=exitstatus == pytest.ExitCode.INTERRUPTED)
        except BscheckError as error:
            if self.results or self._command_line("record"):
                self.written = f"bscheck: {error}"
                session.exitstatus = exitstatus or EXIT_BAD_INPUT

    def write(self, options: Options, *, interrupted: bool) -> None:
        """Write the record of what was done so far."""
        from bscheck.checks import all_checks
        from bscheck.results.known_issues import load_known_issues
        from bscheck.results.record import write_record

        assert options.record is not None
        issues = self.known_issues
        if not issues:  # the controller of xdist has not read them; its workers have, and found them good
            with suppress(BscheckError):
                issues = load_known_issues(all_checks(), *options.known_issues)
        write_record(
            options.record,
            environment=self.environment,
            options=options.to_json(),
            started=self.started,
            finished=_now(),
            interrupted=interrupted,
            results=self.results,
            known_issues=[_issue_json(issue) for issue in issues],
            selection={**self.selection, "skipped": sorted(self.skipped)} if self.selection else None,
            checks=self.checks,
        )
        self.written = f"record: {options.record} ({len(self.results)} results)"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary, if any of bscheck's items ran."""
        if self.results:
            from bscheck.checks import FAMILIES
            from bscheck.results.summary import summary

            terminalreporter.section("bscheck", sep="-")
            for line in [*([] if self.told else self._header()), *summary(self.results, FAMILIES)]:
                terminalreporter.line(line)
        if self.written:
            terminalreporter.line(self.written)

    def _catch_sigterm(self) -> None:
        """Let a SIGTERM end the run as Ctrl-C does, so that the record that was asked for is written."""

        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        if self.old_handler is not None:
            return
        try:
            self.old_handler = signal.signal(signal.SIGTERM, interrupt)
        except ValueError:
            return  # pytest runs in a thread, where handlers cannot be set

    def _restore_sigterm(self) -> None:
        if self.old_handler is not None:
            signal.signal(signal.SIGTERM, self.old_handler)
            self.old_handler = None


def describe_environment() -> Mapping[str, str]:
    """Return versions and device, see `bscheck.runtime.environment.describe`."""
    from bscheck.runtime.environment import describe

    return describe()


def _is_ours(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None


def _selection(collected: Iterable[str], selected: int, config: pytest.Config) -> dict[str, Any]:
    """Return what was collected as the record has it: shards of one run have the same digest."""
    ids = sorted(set(collected))
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    shard = {"shard": _shard(config)} if _shard(config) else {}
    return {"collected": len(ids), "digest": digest, "selected": selected, **shard} if ids else {}


def _shard(config: pytest.Config) -> list[int] | None:
    """Return which group of how many this run is, as pytest-split was told."""
    group, splits = (config.getoption(name, None) for name in ("group", "splits"))
    return [group, splits] if type(group) is int and type(splits) is int else None


def _refuse_unknown(names: tuple[str, ...]) -> None:
    """Raise for the first name that is no check."""
    from bscheck.checks import get_check

    for name in names:
        get_check(name)


def _issue_json(issue: KnownIssue) -> dict[str, Any]:
    """Return a known issue for the record; where its file lay is nobody's business."""
    return {key: value for key, value in asdict(issue).items() if key != "source"}


def _from_here(path: Path) -> str:
    """Return a path as it is shortest to type: from the present folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
