"""From records to what a report says."""

from __future__ import annotations

import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bscheck.results import summary
from bscheck.results.compare import Run, merged
from bscheck.results.coverage import Coverage, Wording, coverage, selection_of, wordings_of
from bscheck.results.curves import MAX_COLUMNS, MAX_ROWS, TOPICS, Curve, Point, Series, Table, point
from bscheck.results.failure import Place, one_line_environment, render
from bscheck.results.report.model import (
    CheckRow,
    FailureCard,
    FamilyRow,
    IssueRow,
    Picture,
    Report,
    Skipped,
    Source,
    State,
    Told,
)
from bscheck.results.summary import PINNED
from bscheck.results.verdict import Result

#: The family whose shares are ratios of times: they have pictures of their own.
TIMING = "timing"
#: Families that measure what has a topic of its own.
_MEASURING = {"time": TIMING, "memory": "memory"}
#: Shares of the bound up to which results are counted in the families' table.
NEARNESS = (0.1, 0.5, 1.0)
#: Pairs of batch sizes in one picture.
_PAIRS = 40


def build(records: Sequence[tuple[str, Mapping[str, Any]]], families: Iterable[str] = ()) -> Report:
    """Return what is told of the run that these records are.

    Parameters
    ----------
    records : sequence of (str, mapping)
        Names to show, and records as `bscheck.results.record.read_record` returns them.
    families : iterable of str, optional
        The order of the families; others follow.
    """
    documents = [document for _, document in records]
    run, covered = merged(documents), coverage(documents)
    told = _told(run, records)
    ordinary = [each for each in told if each.result.family != PINNED]
    wordings = {name: each for document in documents for name, each in wordings_of(document).items()}
    rows = _check_rows(ordinary, wordings)
    failures = _failures(told, wordings)
    issues = _issues(documents, told)
    state, headline, reasons = _headline(run, covered, told, failures)
    return Report(
        state=state,
        headline=headline,
        reasons=reasons,
        environment_line=one_line_environment(run.environment),
        results=len(told),
        cases=sum(each.result.cases for each in told),
        seconds=sum(each.result.seconds for each in told if math.isfinite(each.result.seconds)),
        families=tuple(_family_rows(ordinary, families)),
        failures=failures,
        checks=tuple(row for row in rows if row.family != TIMING and row.cases),
        timings=tuple(row for row in rows if row.family == TIMING and row.cases),
        pictures=_pictures(ordinary),
        unmeasured=_unmeasured(ordinary),
        issues=tuple(issue for issue in issues if issue.open),
        elsewhere=tuple(issue for issue in issues if not issue.open),
        exceptions=tuple(row for row in rows if row.documented),
        reported=tuple(each for each in ordinary if each.state == State.REPORTED and each.result.family != TIMING),
        skipped=tuple(_skipped(told)),
        coverage=covered,
        sources=tuple(_source(name, document) for name, document in records),
        environment=run.environment,
        version=" and ".join(sorted({str(document["version"]) for document in documents})),
    )


def _told(run: Run, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Told]:
    """Return the results in the order they ran, each with its place and the environment of its own record."""
    origins = {
        id(raw): (Place(name, number, subjects=str(raw.get("nodeid", "")).partition("::")[0]), document["environment"])
        for name, document in records
        for number, raw in enumerate(document["results"])
    }
    told = []
    for (_, param), raw in run.results.items():
        result = Result.from_json(raw)  # what a record of another hand leaves out is there from here on
        shown = "-".join(value for _, value in param)
        told.append(Told(result, shown, result.to_json(), *origins[id(raw)]))
    return told


def _check_rows(told: Iterable[Told], wordings: Mapping[str, Wording]) -> list[CheckRow]:
    """Return the checks, the nearest to its bound first; what was not run last."""
    groups: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for each in told:
        groups[each.result.check, each.result.family].append(each)
    rows = []
    for (name, family), group in groups.items():
        members = tuple(sorted(group, key=_rank, reverse=True))
        state = min((each.state for each in group), key=list(State).index)
        share = members[0].share if members[0].result.cases else 0.0
        said = wordings.get(name, Wording())
        rows.append(CheckRow(name, said.promise, said.exception, family, state, share, members))
    return sorted(rows, key=lambda row: (row.state == State.BROKEN, row.share), reverse=True)


def _rank(told: Told) -> tuple[bool, bool, float]:
    return told.state == State.BROKEN, told.result.cases > 0, told.share


def _family_rows(told: Iterable[Told], families: Iterable[str]) -> Iterable[FamilyRow]:
    groups: dict[str, list[Told]] = {family: [] for family in families}
    for each in told:
        groups.setdefault(each.result.family, []).append(each)
    for family, group in groups.items():
        raw = summary.asserted([each.raw for each in group])
        if not raw:
            continue
        asserted = [each for each in group if each.state not in (State.SKIPPED, State.DOCUMENTED)]
        yield FamilyRow(
            family,
            min((each.state for each in asserted), key=list(State).index),
            len(asserted),
            sum(each.result.cases for each in asserted),
            _nearness(asserted) if family != TIMING else (),
            _nearest(asserted),
            summary.family_verdict(raw),
        )


def _nearest(told: Sequence[Told]) -> str:
    """Return the largest share and the case it belongs to; of timings, what was measured."""
    top = max(told, key=_rank)
    if not top.result.cases:
        return ""
    if top.result.family == TIMING:
        return top.result.worst.seen
    return f"{top.shown_share} ({top.result.worst_case})" if top.result.worst_case else top.shown_share


def _nearness(told: Iterable[Told]) -> tuple[int, ...]:
    """Return how many results lie below each of `NEARNESS`, and how many beyond the bound."""
    counts = [0] * (len(NEARNESS) + 1)
    for each in told:
        if each.result.cases:
            counts[sum(each.share > limit for limit in NEARNESS)] += 1
    return tuple(counts)


def _failures(told: Iterable[Told], wordings: Mapping[str, Wording]) -> tuple[FailureCard, ...]:
    cards = []
    for number, each in enumerate(each for each in told if each.state == State.BROKEN):
        promise = wordings.get(each.result.check, Wording()).promise
        text = render(each.result, promise, each.environment, each.place)
        text = textwrap.dedent(text.partition("\n")[2])  # its first line is the card's head
        seen = each.result.failure.reading.seen if each.result.failure else each.result.reason
        cards.append(FailureCard(f"{each.result.check}[{each.param}]", f"failure-{number + 1}", seen, text))
    return tuple(cards)


def _headline(
    run: Run, covered: Coverage, told: Sequence[Told], failures: Sequence[FailureCard]
) -> tuple[State, str, tuple[str, ...]]:
    """Return the run's state, its headline, and what else must be said at once."""
    reasons = list(covered.told())
    if run.interrupted:
        reasons.insert(0, "the run was interrupted: results are missing")
    if covered.left_out:
        reasons.append(f"{covered.left_out} more were collected and deselected: this is a part of the gate")
    counts = Counter(each.state for each in told)
    if counts[State.INCONCLUSIVE]:
        reasons.append(f"{counts[State.INCONCLUSIVE]} inconclusive: measured, and nothing can be said")
    if failures:
        return State.BROKEN, _broken_headline(told), tuple(reasons)
    if not told:
        return State.INCOMPLETE, "Incomplete: nothing was run", tuple(reasons)
    if run.interrupted or not covered.complete:
        return State.INCOMPLETE, "Incomplete: nothing that ran is broken", tuple(reasons)
    if counts[State.HOLDS] + counts[State.KNOWN] + counts[State.DOCUMENTED] == 0:
        return State.INCOMPLETE, "Incomplete: no promise was held against anything", tuple(reasons)
    held = any(each.state == State.KNOWN and each.result.family != PINNED for each in told)
    which = "The selected promises hold" if covered.left_out else "The promises hold"
    return State.HOLDS, which + (", but for known issues" if held else ""), tuple(reasons)


def _broken_headline(told: Iterable[Told]) -> str:
    """Return how much is broken; a known issue that is fixed fails the run too, and asks for something else."""
    failed = [each for each in told if each.state == State.BROKEN]
    stale = sum(each.result.family == PINNED for each in failed)
    broken = [each.result.check for each in failed if each.result.family != PINNED]
    parts = [f"{_count(len(broken), 'result')} of {_count(len(set(broken)), 'check')}"] if broken else []
    parts += [f"{_count(stale, 'known issue')} fixed here, delete the entry"] if stale else []
    return f"Broken: {'; '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# Pictures -----------------------------------------------------------------------------------------------


def _pictures(told: Iterable[Told]) -> dict[str, tuple[Picture, ...]]:
    """Return curves and tables by topic; a title that several results have is told apart by their parameters."""
    given = [(each, exhibit) for each in told for exhibit in _exhibits(each)]
    alike: dict[Any, list[tuple[Told, Curve | Table]]] = defaultdict(list)
    for each, exhibit in given:
        columns = exhibit.columns if isinstance(exhibit, Table) else None
        alike[exhibit.topic, exhibit.title, columns].append((each, exhibit))
    found: dict[str, list[Picture]] = {topic: [] for topic in TOPICS}
    pairs = _timing_pairs(told)
    if pairs is not None:
        found["time"].append(Picture(pairs.title, pairs))
    for (topic, title, _), group in alike.items():
        table = _one_table(group)
        if table is not None:
            found[topic].append(Picture(title, table))
            continue
        for each, exhibit in group:
            found[topic].append(Picture(f"{title} — {each.param}" if len(group) > 1 and each.param else title, exhibit))
    return {topic: tuple(sorted(shown, key=lambda p: isinstance(p.exhibit, Table))) for topic, shown in found.items()}


def _one_table(group: Sequence[tuple[Told, Curve | Table]]) -> Table | None:
    """Return tables of several parameters as one, None where that cannot be: it says in each row which it is of."""
    tables = [(each.param, table) for each, table in group if isinstance(table, Table)]
    rows = [(param, row) for param, table in tables for row in table.rows]
    if len(tables) < 2 or len(rows) > MAX_ROWS or len(tables[0][1].columns) == MAX_COLUMNS:
        return None
    notes = " ".join(dict.fromkeys(table.note for _, table in tables if table.note))
    first = replace(tables[0][1], note=notes)
    if all(param in row for param, row in rows):
        return replace(first, rows=tuple(row for _, row in rows))
    return replace(first, columns=("on", *first.columns), rows=tuple((param, *row) for param, row in rows))


def _exhibits(told: Told) -> list[Curve | Table]:
    return [*told.result.exhibits.curves, *told.result.exhibits.tables]


def _timing_pairs(told: Iterable[Told]) -> Curve | None:
    """Return the compared batch sizes with their intervals, from the figures of the timing checks' worst pairs."""
    names: list[str] = []
    ratios: list[Point] = []
    bounds: list[Point] = []
    for each in told:
        figures = each.result.worst.figures
        needed = [figures.get(key, math.nan) for key in ("ratio", "low", "high", "allowed")]
        if each.result.family != TIMING or not each.result.cases or not all(map(math.isfinite, needed)):
            continue
        ratio, low, high, allowed = needed
        label = each.result.worst.seen.partition(":")[0]
        names.append(f"{each.param}: {label}" if label else each.param)
        ratios.append(point(len(ratios), ratio, low, high))
        bounds.append(point(len(bounds), allowed))
    if not names:
        return None
    series = (
        Series("measured, 95 % interval", tuple(ratios[:_PAIRS]), "points"),
        Series("allowed", tuple(bounds[:_PAIRS]), "points"),
    )
    return Curve(
        "time",
        "Seconds of one batch size against another",
        "compared",
        "ratio of seconds",
        series,
        ticks=tuple(names[:_PAIRS]),
        note="Of each timing check the pair that came nearest to what is allowed: an interval right of it is slower, "
        "one that reaches over it says nothing.",
    )


def _unmeasured(told: Sequence[Told]) -> dict[str, str]:
    """Return, for the topics that a family measures, why it did not, where it says so."""
    found = {}
    for topic, family in _MEASURING.items():
        skipped = [each for each in told if each.result.family == family and each.state == State.SKIPPED]
        reasons = Counter(each.result.reason for each in skipped if each.result.reason)
        if reasons:
            found[topic] = "; ".join(reason for reason, _ in reasons.most_common(3))
    return found


# What is not asserted, and why --------------------------------------------------------------------------

FIXED, STILL_FAILS = "fixed here: delete the entry", "still fails on its pinned case"


def _issues(documents: Iterable[Mapping[str, Any]], told: Sequence[Told]) -> list[IssueRow]:
    """Return the known issues that were in force, those that need something done first."""
    entries = {str(entry.get("id")): entry for document in documents for entry in document["known_issues"]}
    held = summary.held_cases([each.raw for each in told])
    pinned: dict[str, list[Told]] = defaultdict(list)
    for each in told:
        if each.result.family == PINNED:
            pinned[each.result.param.get("issue", "")].append(each)
    rows = [_issue(name, entries.get(name, {}), pinned.get(name, []), held) for name in {**entries, **pinned, **held}]
    return sorted(rows, key=lambda row: (row.state != FIXED, row.state != STILL_FAILS, row.state))


def _issue(
    name: str, entry: Mapping[str, Any], pinned: Sequence[Told], held: Mapping[str, tuple[int, int, tuple[str, ...]]]
) -> IssueRow:
    count, of, _ = held.get(name, (0, 0, ()))
    words = f"{count} of {of} cases ({100 * count / of:.1f} %)" if of else ""
    check = str(entry.get("check", pinned[0].result.check if pinned else ""))
    state, is_open = _issue_state(name, pinned, count)
    return IssueRow(name, check, str(entry.get("reason", "")), str(entry.get("link", "")), state, words, is_open)


def _issue_state(name: str, pinned: Sequence[Told], held: int) -> tuple[str, bool]:
    """Return what became of an entry, by its pinned case or the cases it held, and whether that matters here."""
    if not pinned:
        return ("holds cases; its pinned case was not run", True) if held else ("not run", False)
    each = min(pinned, key=lambda told: list(State).index(told.state))
    if each.state == State.BROKEN:
        return FIXED, True
    if each.state == State.KNOWN:
        return STILL_FAILS, True
    reason = each.result.reason.removeprefix(f"{name}: ")
    return (f"not applicable: {reason}" if each.state == State.SKIPPED else reason), held > 0


def _skipped(told: Iterable[Told]) -> Iterable[Skipped]:
    """Yield the reasons for what does not apply, the commonest first."""
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for each in told:
        if each.state == State.SKIPPED:
            reasons[each.result.reason or "no reason given"][each.result.check].append(each.param)
    ordered = sorted(reasons.items(), key=lambda item: -sum(map(len, item[1].values())))
    for reason, checks in ordered:
        pairs = tuple((check, tuple(params)) for check, params in checks.items())
        yield Skipped(reason, sum(len(params) for _, params in pairs), pairs)


def _source(name: str, document: Mapping[str, Any]) -> Source:
    selection = selection_of(document)
    shard = selection.shard if selection else None
    given = {key: value for key, value in document["options"].items() if value not in ([], False)}
    options = ", ".join(f"{key} {_option(value)}" for key, value in given.items())
    return Source(
        name,
        document["started"],
        document["finished"],
        document["interrupted"],
        len(document["results"]),
        options,
        f"{shard[0]} of {shard[1]}" if shard else "",
    )


def _option(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
