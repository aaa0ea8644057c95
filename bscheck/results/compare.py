"""Two runs side by side: what broke, what was fixed, what drifted towards its bound, and what was not run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bscheck.errors import RecordError
from bscheck.results.coverage import coverage
from bscheck.results.record import read_record
from bscheck.results.summary import is_expired

#: A share of the bound that grew by this factor, to at least this much, is told: it is inside still.
DRIFT_FACTOR, DRIFT_SHARE = 1.5, 0.25

#: Environment entries that differ between machines without being what was changed.
_SILENT = frozenset({"threads", "cores"})

EXIT_SAME, EXIT_REGRESSION, EXIT_LOST = 0, 1, 3


class Change(StrEnum):
    """What became of one check on one parameter, the gravest first."""

    REGRESSION = "regression"
    LOST = "coverage lost"
    FIXED = "fixed"
    NOT_RUN = "not run on both"
    DRIFT = "drift"
    TIMING = "timing"
    NO_CLAIM = "no claim"
    NEW = "new"
    SAME = "same"


#: The family of the pinned cases of known issues: one that passes fails the run, which is how a fix is told.
_PINNED = "known issues"

#: What a record's name ends in, in a folder of them.
_ENDS = (".json", ".json.gz", ".json.xz")

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Run:
    """One or several records read as one run.

    Attributes
    ----------
    environment : mapping
        What all records agree on; where they differ, both values.
    results : mapping
        Result by check and parameter; of one that several records hold, the gravest.
    known : frozenset of str
        Known issues that were in force: which cases they hold is a matter of what was drawn.
    interrupted : bool
        Whether any record was cut short.
    missing, collected : int
        Items that no record has a result of, and all that were collected: what a missing shard would have run, or what
        was deselected. 0 where the records do not say.
    """

    environment: Mapping[str, str]
    results: Mapping[Key, Mapping[str, Any]]
    known: frozenset[str]
    interrupted: bool
    missing: int = 0
    collected: int = 0


@dataclass(frozen=True)
class Row:
    """One line of a comparison."""

    change: Change
    name: str
    words: str


@dataclass(frozen=True)
class Comparison:
    """What is said of two runs.

    Attributes
    ----------
    rows : tuple of Row
        All that is not the same, the gravest first.
    same : int
        Number of checks on parameters that are.
    changed : tuple of str
        What differs between the environments, in words.
    """

    rows: tuple[Row, ...]
    same: int
    changed: tuple[str, ...]

    def count(self, change: Change) -> int:
        """Return how many rows say this."""
        return sum(row.change == change for row in self.rows)

    @property
    def exit_code(self) -> int:
        """1 for a regression, 3 for lost coverage alone, else 0."""
        if self.count(Change.REGRESSION):
            return EXIT_REGRESSION
        return EXIT_LOST if self.count(Change.LOST) else EXIT_SAME


#: Verdicts from the gravest to the best; what is lower in this list than it was got worse.
_GRAVITY = ("failed", "known issue", "inconclusive", "not applicable", "reported", "contract exception", "passed")


def read_run(given: str) -> Run:
    """Return the run that a file, several (separated by commas) or a folder of records hold.

    Raises
    ------
    RecordError
        When one cannot be read, or a folder holds none.
    """
    return merged([read_record(path) for part in given.split(",") for path in record_files(Path(part))])


def record_files(path: Path) -> list[Path]:
    """Return the records that a file or a folder of them is.

    Raises
    ------
    RecordError
        For a folder that holds none.
    """
    found = sorted(p for end in _ENDS for p in path.glob(f"*{end}")) if path.is_dir() else [path]
    if not found:
        raise RecordError(f"{path}: holds no record (*.json)")
    return found


def merged(records: Sequence[Mapping[str, Any]]) -> Run:
    """Return several records (shards, backends) as one run."""
    several = len({r["environment"].get("backend") for r in records}) > 1
    results: dict[Key, Mapping[str, Any]] = {}
    for record in records:
        for result in record["results"]:
            param = {str(k): str(v) for k, v in dict(result["param"]).items()}
            if several:
                param["backend"] = str(record["environment"].get("backend"))
            key = str(result["check"]), tuple(param.items())
            before = results.get(key)
            if before is None or _rank(result) < _rank(before):
                results[key] = result
    names = {name for record in records for name in record["environment"]}
    environment = {
        name: " and ".join(sorted({str(r["environment"].get(name, "none")) for r in records})) for name in sorted(names)
    }
    environment |= _called(records)
    known = frozenset(str(entry.get("id")) for r in records for entry in r["known_issues"] if isinstance(entry, dict))
    covered = coverage(records)
    interrupted = any(r["interrupted"] for r in records)
    return Run(environment, results, known, interrupted, covered.missing, covered.collected)


def _called(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what else must be the same for one thing alone to have changed: bscheck itself, the profile, the seed."""
    told = {"bscheck": {str(r["version"]) for r in records}}
    for name in ("profile", "seed"):
        told[name] = {str(r["options"][name]) for r in records if name in r["options"]}
    return {name: " and ".join(sorted(values)) for name, values in told.items() if values}


def _rank(result: Mapping[str, Any]) -> int:
    verdict = str(result["verdict"])
    return _GRAVITY.index(verdict) if verdict in _GRAVITY else 0


def compare_runs(old: Run, new: Run) -> Comparison:
    """Return what changed from one run to the other."""
    rows = []
    for key in [*old.results, *(k for k in new.results if k not in old.results)]:
        change, words = _judged(old.results.get(key), new.results.get(key), old, new)
        rows.append(Row(change, _name(key), words))
    rows += _not_run(old, new)
    order = list(Change)
    told = sorted((row for row in rows if row.change != Change.SAME), key=lambda row: order.index(row.change))
    return Comparison(tuple(told), sum(row.change == Change.SAME for row in rows), _differences(old, new))


def _not_run(old: Run, new: Run) -> Iterable[Row]:
    """Yield what neither the rows of single checks nor the old run account for."""
    rest = new.missing - sum(key not in new.results for key in old.results)
    both = min(rest, old.missing)
    if both > 0:
        yield Row(Change.NOT_RUN, f"{both} of {new.collected} collected", "deselected, or in a shard that is not here")
    if rest > max(both, 0):
        why = "the new run was interrupted" if new.interrupted else "a shard is missing, or they were deselected"
        yield Row(
            Change.LOST, f"{rest - max(both, 0)} of {new.collected} collected", f"in no record of the new run: {why}"
        )


def _name(key: Key) -> str:
    check, param = key
    return f"{check}[{'-'.join(value for _, value in param)}]"


def _judged(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, old_run: Run, new_run: Run
) -> tuple[Change, str]:
    if new is None:
        why = "the new run was interrupted" if new_run.interrupted else "not in the new run"
        return Change.LOST, f"was {old['verdict'] if old else ''}, {why}"
    if old is None:
        broken = new["verdict"] == "failed"
        return (Change.REGRESSION if broken else Change.NEW), f"{new['verdict']}, not in the old run"
    before, after = str(old["verdict"]), str(new["verdict"])
    if str(new.get("family")) == "timing":
        return _timing(old, new)
    if after == "failed" and before != "failed":
        fixed = before == "known issue" and str(new.get("family")) == _PINNED and not is_expired(new)
        change = Change.FIXED if fixed else Change.REGRESSION
        return change, str(new.get("reason")) if fixed else f"{before} -> failed: {_seen(new)}"
    if after == "not applicable" and before != "not applicable":
        return Change.LOST, f"{before} -> not applicable: {new.get('reason', '')}"
    if before == "failed" and after != "failed":
        return Change.FIXED, f"{before} -> {after}"
    unknown_before = [issue for issue in dict(new.get("held") or {}) if issue not in old_run.known]
    if before == "passed" and after == "known issue" and unknown_before:
        return Change.REGRESSION, f"passed -> known issue: {', '.join(unknown_before)}"
    return _drift(old, new)


def _timing(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, str]:
    """Tell a change of a ratio only where the two intervals do not meet."""
    if new["verdict"] == "failed" and old["verdict"] != "failed":
        return Change.REGRESSION, f"{old['verdict']} -> failed: {_seen(new)}"
    a, b = (_interval(r) for r in (old, new))
    if a is None or b is None:
        return Change.SAME, ""
    apart = a[2] < b[1] or b[2] < a[1]
    words = "{:.2f} [{:.2f}, {:.2f}]".format(*a) + " -> " + "{:.2f} [{:.2f}, {:.2f}]".format(*b)
    return (Change.TIMING, words) if apart else (Change.NO_CLAIM, f"{words}: the intervals meet")


def _interval(result: Mapping[str, Any]) -> tuple[float, float, float] | None:
    figures = dict(dict(result.get("worst") or {}).get("figures") or {})
    try:
        values = tuple(float(figures[key]) for key in ("ratio", "low", "high"))
    except (KeyError, TypeError, ValueError):
        return None
    return (values[0], values[1], values[2]) if all(map(math.isfinite, values)) else None


def _drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, str]:
    before, after = _share(old), _share(new)
    if after >= DRIFT_SHARE and after > DRIFT_FACTOR * before:
        return Change.DRIFT, f"{before:.0%} -> {after:.0%} of the bound, not blocking"
    return Change.SAME, ""


def _share(result: Mapping[str, Any]) -> float:
    try:
        share = float(dict(result.get("worst") or {})["share"])
    except (KeyError, TypeError, ValueError):
        return 0.0
    return share if math.isfinite(share) else 0.0


def _seen(result: Mapping[str, Any]) -> str:
    failure = result.get("failure") or {}
    return str(dict(dict(failure).get("reading") or {}).get("seen", ""))


def _differences(old: Run, new: Run) -> tuple[str, ...]:
    names = sorted({*old.environment, *new.environment} - _SILENT)
    pairs = [(name, old.environment.get(name, "none"), new.environment.get(name, "none")) for name in names]
    return tuple(f"{name} {a} -> {b}" for name, a, b in pairs if a != b)


def headline(comparison: Comparison) -> str:
    """Return the first line: whether to hold the release, how much of what, and what may have done it."""
    counts = [f"{comparison.count(c)} {c}" for c in Change if c != Change.SAME and comparison.count(c)]
    coverage = "coverage incomplete" if comparison.count(Change.LOST) else "coverage complete"
    changed = comparison.changed
    cause = "nothing changed" if not changed else f"only {changed[0]}" if len(changed) == 1 else "; ".join(changed)
    verdict = {EXIT_SAME: "GO", EXIT_REGRESSION: "HOLD", EXIT_LOST: "INCOMPLETE"}[comparison.exit_code]
    return f"{verdict}: " + " · ".join([*counts, f"{comparison.same} same", coverage, cause])


def as_text(comparison: Comparison) -> Iterable[str]:
    """Yield the comparison as lines of text."""
    yield headline(comparison)
    for row in comparison.rows:
        yield f"{row.change.upper():14} {row.name}"
        yield f"{'':14} {row.words}"


def as_markdown(comparison: Comparison) -> Iterable[str]:
    """Yield the comparison as Markdown, for a job summary."""
    yield f"**{headline(comparison)}**"
    if comparison.rows:
        yield ""
        yield "| change | check | |"
        yield "| --- | --- | --- |"
    for row in comparison.rows:
        yield f"| {row.change} | `{row.name}` | {_escaped(row.words)} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
