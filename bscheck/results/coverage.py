"""What was collected beside what gave a verdict, over one record or the several that make up a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bscheck.results.decode import decode

#: A record that claims to be one of more is damaged.
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Wording:
    """What a run's bscheck said of a check: its promise, and what Keras documents where that is checked instead."""

    promise: str = ""
    exception: str = ""


@dataclass(frozen=True)
class Selection:
    """What a run collected.

    Attributes
    ----------
    collected : int
        Items, before any was deselected.
    digest : str
        Of their ids: alike in all shards of one run.
    skipped : tuple of str
        Ids of items that ended without a result.
    selected : int or None
        Items left to run; None in records that do not say.
    shard : (int, int) or None
        Which part of how many pytest-split made this run.
    """

    collected: int
    digest: str
    skipped: tuple[str, ...]
    selected: int | None = None
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1] <= MOST_SHARDS:
            raise ValueError(f"'shard' is {self.shard[0]} of {self.shard[1]}")


@dataclass(frozen=True)
class Coverage:
    """How much of a run is there.

    Attributes
    ----------
    known : bool
        Whether all records say what was collected; those of schema 1 do not.
    collected, missing : int
        Items collected, and those of them that no record has: lost or left out.
    expected, lost : int
        Items that were to give a verdict, and those of them that no record has.
    shards : tuple of str
        Shards of which there is no record, in words.
    """

    known: bool = False
    collected: int = 0
    missing: int = 0
    expected: int = 0
    lost: int = 0
    shards: tuple[str, ...] = ()

    @property
    def left_out(self) -> int:
        """Items that were deselected on purpose."""
        return self.collected - self.expected

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be lost."""
        return not self.lost and not self.shards

    def told(self) -> Iterator[str]:
        """Yield what is lost, in words."""
        yield from self.shards
        if self.lost:
            yield f"no verdict on {self.lost} of {self.expected} that were to be run"


def selection_of(record: Mapping[str, Any]) -> Selection | None:
    """Return what a record says was collected, None where it says nothing.

    Raises
    ------
    ValueError
        In one line, where it says something else.
    """
    given = record.get("selection")
    return decode(Selection, given, "selection") if given else None


def wordings_of(record: Mapping[str, Any]) -> dict[str, Wording]:
    """Return what a record says of the checks.

    Raises
    ------
    ValueError
        In one line, where it says something else.
    """
    found: dict[str, Wording] = decode(Mapping[str, Wording], record.get("checks", {}), "checks")
    return found


def coverage(records: Sequence[Mapping[str, Any]]) -> Coverage:
    """Return how much of the run the records are, read together.

    One record is held to what it selected: leaving tests out is its user's choice. Several that hold different items
    are parts of a whole, so they are held to all that was collected. Runs that collected something else, as on another
    backend, are wholes of their own.

    Parameters
    ----------
    records : sequence of mapping
        As `bscheck.results.record.read_record` returns them.
    """
    groups: dict[tuple[str, str], list[tuple[Selection, set[str]]]] = defaultdict(list)
    silent = 0
    for record in records:
        selection = selection_of(record)
        if selection is None:
            silent += 1
        else:
            ran = {str(result["nodeid"]) for result in record["results"] if "nodeid" in result}
            group = selection.digest, str(record["environment"].get("backend", ""))
            groups[group].append((selection, ran.union(selection.skipped)))
    backends = {backend for _, backend in groups}
    wholes = [_whole(backend if len(backends) > 1 else "", parts) for (_, backend), parts in groups.items()]
    return Coverage(
        not silent and bool(records),
        sum(whole.collected for whole in wholes),
        sum(whole.missing for whole in wholes),
        sum(whole.expected for whole in wholes),
        sum(whole.lost for whole in wholes),
        tuple(shard for whole in wholes for shard in whole.shards),
    )


def _whole(backend: str, parts: Sequence[tuple[Selection, set[str]]]) -> Coverage:
    """Return how much is there of what these records collected alike."""
    collected = max(selection.collected for selection, _ in parts)
    done = len(set().union(*(ran for _, ran in parts)))
    several = any(selection.shard for selection, _ in parts) or any(ran != parts[0][1] for _, ran in parts)
    selected = [collected if selection.selected is None else selection.selected for selection, _ in parts]
    expected = collected if several else max(selected)
    shards = tuple(_absent((selection.shard for selection, _ in parts), backend))
    return Coverage(True, collected, max(0, collected - done), expected, max(0, expected - done), shards)


def _absent(shards: Iterable[tuple[int, int] | None], backend: str) -> Iterator[str]:
    """Yield the shards that no record is of."""
    seen = {shard for shard in shards if shard}
    for total in sorted({of for _, of in seen}):
        absent = [n for n in range(1, total + 1) if (n, total) not in seen]
        if absent:
            many = "shards" if len(absent) > 1 else "shard"
            which = f"{many} {', '.join(map(str, absent[:20]))}{' …' if len(absent) > 20 else ''} of {total}"
            yield f"no record of {which}{f' ({backend})' if backend else ''}"
