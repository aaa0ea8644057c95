"""What was to be run beside what gave a verdict, over one record or the several that make up a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bscheck.results.decode import decode

#: A record that claims to be one of more is damaged.
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Planned:
    """What pytest collected of one check.

    Attributes
    ----------
    promise : str
        As the run said it.
    collected : int
        Items, before any was deselected.
    selected : int
        Items left to run.
    exception : str
        For a contract exception: what Keras documents instead.
    """

    promise: str = ""
    collected: int = 0
    selected: int = 0
    exception: str = ""


@dataclass(frozen=True)
class Lost:
    """Items of one check that were to be run and gave no verdict."""

    check: str
    backend: str
    count: int
    of: int


@dataclass(frozen=True)
class Coverage:
    """How much of a run is there.

    Attributes
    ----------
    known : bool
        Whether the records say what was to be run; those of older releases of bscheck do not.
    expected : int
        Items that were to give a verdict.
    left_out : int
        Items that were collected and deselected on purpose.
    lost : tuple of Lost
        What is missing, by check.
    shards : tuple of str
        Shards of which there is no record, in words.
    """

    known: bool = False
    expected: int = 0
    left_out: int = 0
    lost: tuple[Lost, ...] = ()
    shards: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.lost and not self.shards

    def told(self) -> Iterator[str]:
        """Yield what is missing, in words."""
        yield from self.shards
        if self.lost:
            count = sum(lost.count for lost in self.lost)
            yield f"no verdict on {count} of {self.expected} that were to be run"


def planned_from_json(given: Any) -> dict[str, Planned]:
    """Return what a record says was to be run, by check.

    Raises
    ------
    ValueError
        In one line, for anything else than what `dataclasses.asdict` gives.
    """
    found: dict[str, Planned] = decode(Mapping[str, Planned], given, "checks")
    return found


def shard_from_json(given: Any) -> tuple[int, int] | None:
    """Return which shard of how many a record is, or None.

    Raises
    ------
    ValueError
        In one line, for anything else than two integers, the first at most the second.
    """
    shard: tuple[int, int] | None = decode(tuple[int, int] | None, given, "shard")
    if shard is not None and not 1 <= shard[0] <= shard[1] <= MOST_SHARDS:
        raise ValueError(f"'shard' is {shard[0]} of {shard[1]}")
    return shard


def coverage(records: Sequence[Mapping[str, Any]]) -> Coverage:
    """Return how much of the run the records are, read together.

    One record is held to what it selected: leaving tests out is its user's choice. Several that hold different items
    are parts of a whole, so they are held to all that was collected; runs of several backends each to its own.

    Parameters
    ----------
    records : sequence of mapping
        As `bscheck.results.record.read_record` returns them.
    """
    by_backend: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        by_backend[str(record["environment"].get("backend", ""))].append(record)
    parts = [_of_backend(backend if len(by_backend) > 1 else "", group) for backend, group in by_backend.items()]
    return Coverage(
        all(part.known for part in parts) and bool(parts),
        sum(part.expected for part in parts),
        sum(part.left_out for part in parts),
        tuple(lost for part in parts for lost in part.lost),
        tuple(shard for part in parts for shard in part.shards),
    )


def _of_backend(backend: str, records: Sequence[Mapping[str, Any]]) -> Coverage:
    planned = [planned_from_json(record.get("checks", {})) for record in records]
    ran = [_names(record["results"]) for record in records]
    shards = [shard_from_json(record.get("shard")) for record in records]
    whole = any(shards) or any(names != ran[0] for names in ran)
    expected = left_out = 0
    lost = []
    for check in dict.fromkeys(name for plan in planned for name in plan):
        collected = max(plan[check].collected for plan in planned if check in plan)
        selected = collected if whole else max(plan[check].selected for plan in planned if check in plan)
        done = len(set().union(*(names.get(check, set()) for names in ran)))
        expected += selected
        left_out += max(collected - selected, 0)
        if done < selected:
            lost.append(Lost(check, backend, selected - done, selected))
    return Coverage(any(planned), expected, left_out, tuple(lost), tuple(_absent(shards, backend)))


def _names(results: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the names of the items that gave a verdict, by check; two runs may have other folders before the name."""
    names = defaultdict(set)
    for result in results:
        names[str(result["check"])].add(item_name(str(result.get("nodeid", ""))))
    return names


def item_name(nodeid: str) -> str:
    """Return an item's name without the file it is in."""
    return nodeid.rpartition("::")[2]


def _absent(shards: Iterable[tuple[int, int] | None], backend: str) -> Iterator[str]:
    """Yield the shards that no record is of."""
    seen = {shard for shard in shards if shard}
    for total in sorted({of for _, of in seen}):
        absent = [n for n in range(1, total + 1) if (n, total) not in seen]
        if absent:
            many = "shards" if len(absent) > 1 else "shard"
            which = f"{many} {', '.join(map(str, absent[:20]))}{' …' if len(absent) > 20 else ''} of {total}"
            yield f"no record of {which}{f' ({backend})' if backend else ''}"
