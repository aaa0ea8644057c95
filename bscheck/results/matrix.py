"""Several runs in one table: a row for each release, a column for each family, and below them what broke where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from bscheck.results.summary import PINNED, family_verdict

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One row: a release, and its record or why there is none."""

    name: str
    record: Record | None
    words: str = ""


def broken(record: Record) -> bool:
    """Whether a promise is broken in the record."""
    return any(result["verdict"] == "failed" for result in record["results"])


def families_of(lines: Iterable[Line]) -> list[str]:
    """Return the families that any record has, in the order they come, known issues last."""
    seen = dict.fromkeys(str(r["family"]) for line in lines if line.record for r in line.record["results"])
    return [*(family for family in seen if family != PINNED), *([PINNED] if PINNED in seen else [])]


def cell(record: Record, family: str) -> str:
    """Return what is said of a family in one run."""
    results = [r for r in record["results"] if r["family"] == family]
    told = [r for r in results if r["verdict"] not in ("not applicable", "contract exception")]
    if family == PINNED:
        return _pinned(told)
    if not told:
        return "not applicable" if results else "not run"
    if any(r["verdict"] == "failed" for r in told):
        return family_verdict(told)
    return family_verdict(told).split(":")[0].replace("holds, but for known issues", "holds (known issues)")


def _pinned(told: Sequence[Mapping[str, Any]]) -> str:
    held = sum(r["verdict"] == "known issue" for r in told)
    fixed = sum(r["verdict"] == "failed" for r in told)
    words = [f"{held} held"] * bool(held) + [f"{fixed} FIXED"] * bool(fixed)
    return ", ".join(words) or "none in range"


def rows(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Return heading and rows; a release without a record has its reason in place of the cells."""
    families = families_of(lines)
    table = [("release", *families)]
    for line in lines:
        if line.record is None:
            table.append((line.name, line.words))
        else:
            table.append((line.name, *(cell(line.record, family) for family in families)))
    return table


def broken_promises(lines: Iterable[Line]) -> dict[str, list[str]]:
    """Return, for each promise that broke somewhere, where and for how many of its parameters."""
    found: dict[str, list[str]] = {}
    for line in lines:
        counts: dict[str, list[int]] = {}
        for result in (line.record or {"results": []})["results"]:
            if result["family"] == PINNED or result["verdict"] == "not applicable":
                continue
            count = counts.setdefault(str(result["check"]), [0, 0])
            count[0] += result["verdict"] == "failed"
            count[1] += 1
        for check, (red, of) in counts.items():
            if red:
                found.setdefault(check, []).append(f"{line.name} ({red} of {of})")
    return found


def as_text(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the table as lines of text, then what broke."""
    table = rows(lines)
    cells = [table[0], *(row for row, line in zip(table[1:], lines, strict=True) if line.record is not None)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = max(len(row[0]) for row in table)
    for row in table:
        padded = [f"{text:<{width}}" for text, width in zip_longest(row, widths[: len(row)], fillvalue=0)]
        yield "  ".join(padded).rstrip()
    for check, places in broken_promises(lines).items():
        yield f"BROKEN {check}"
        yield from (f"       {place}" for place in places)


def as_markdown(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the table as Markdown, then what broke."""
    head, *body = rows(lines)
    yield _row(head)
    yield _row(["---"] * len(head))
    for row in body:
        yield _row([*row, *[""] * (len(head) - len(row))])
    broke = broken_promises(lines)
    if broke:
        yield ""
        yield _row(["broken promise", "where (parameters)"])
        yield _row(["---", "---"])
        yield from (_row([f"`{check}`", ", ".join(places)]) for check, places in broke.items())


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
