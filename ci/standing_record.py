#!/usr/bin/env python3
"""Record the gate over the releases of Keras and TensorFlow, and write the README's table of them.

    python ci/standing_record.py [--jobs N] [--all] [-- --bscheck-profile quick]
    python ci/standing_record.py --table            # the table alone, from fixtures/recorded

Keras from 3.1 to the newest (the first and the last patch of each minor release, or with --all every one), each on the
newest TensorFlow that works with it, and the newest Keras on the last patch of each minor TensorFlow from 2.16. A whole
gate takes minutes a release: what is finished is kept below --out, and the same command goes on where it stopped.
``fixtures/recorded/releases.jsonl.xz`` is written once every release was run, or with --partial from those that were;
``bscheck compare`` reads each of its records as ``FILE#NAME``.

Exit code 0: written, and every known defect is seen where it was; 1: one is not; 3: a release could not be run, or one
beside a known defect, or the check that shows it, is not recorded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version
from verify_known_releases import DEFECTS, EXCEPTIONS, ROOT, Defect, colour, verdicts_of

from bscheck.commands.releases import tell
from bscheck.errors import BscheckError
from bscheck.releases import uv
from bscheck.releases.cache import default_cache, made
from bscheck.releases.combination import Combination, keras_requirement
from bscheck.releases.engine import Outcome, Session, Settings, Status
from bscheck.releases.processes import jobs_for
from bscheck.results.compare import merged
from bscheck.results.matrix import PINNED, Line, cell, families_of
from bscheck.results.record import read_bundle, write_bundle
from bscheck.signals import ended_by_sigterm

BUNDLE = ROOT / "fixtures" / "recorded" / "releases.jsonl.xz"
BEGIN, END = "<!-- standing record: python ci/standing_record.py --table -->", "<!-- end of the standing record -->"

Record = Mapping[str, Any]

#: Characters of what was seen that are kept of a failure.
_SEEN = 160


def main() -> int:
    """Run what is missing, write the bundle, and print or place the table."""
    options, arguments = _options()
    bundle = options.bundle.resolve()
    if options.table:
        return _placed(read_bundle(bundle), options.readme)
    cache = made(options.cache)
    if options.keras or options.tensorflow:
        combinations = chosen(options.keras, options.tensorflow)
    else:
        combinations = planned(cache, every=options.all)
    jobs = jobs_for(len(combinations), options.jobs)
    settings = Settings(
        made(options.out), cache, jobs, options.again, ("--bscheck-timing", "off", "--bscheck-explain", "0", *arguments)
    )
    tell(f"{len(combinations)} releases, {jobs} at a time; records: {settings.out}")
    outcomes = Session(settings, tell).run_all(combinations)
    absent = [o for o in outcomes if o.record is None and o.status == Status.NOT_RUN]
    for outcome in absent:
        print(f"{outcome.name}: {outcome.words}")
    if absent and not options.partial:
        print(f"{len(absent)} releases could not be run; run the same command again to go on, or give --partial")
        return 3
    made(bundle.parent)
    write_bundle(bundle, recorded(outcomes))
    print(f"{bundle}: {bundle.stat().st_size / 1000:.0f} kB")
    return _placed(read_bundle(bundle), options.readme) or (3 if absent else 0)


def _options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where environments are kept")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "standing", help="where whole records are kept")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="where the slim records go")
    parser.add_argument("--keras", action="append", metavar="V", help="only this release of Keras (repeatable)")
    parser.add_argument(
        "--tensorflow", action="append", metavar="V", help="only this TensorFlow with the newest Keras (repeatable)"
    )
    parser.add_argument("--jobs", type=int, help="gates at a time (default: as memory and cores allow)")
    parser.add_argument("--all", action="store_true", help="every patch release")
    parser.add_argument("--again", action="store_true", help="run what is finished once more")
    parser.add_argument("--partial", action="store_true", help="write what there is though releases could not be run")
    parser.add_argument("--table", action="store_true", help="only the table, from what is recorded")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with the table's markers")
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:at]), given[at + 1 :]


def planned(cache: Path, *, every: bool) -> list[Combination]:
    """Return what is recorded: Keras over its releases, then the newest over TensorFlow's."""
    python = sys.executable
    keras = uv.versions_between("keras", "3.1.0", "3.999", python, cache)
    tensorflow = ends_of_minors(uv.versions_between(_tensorflow(), "2.16.0", "2.999", python, cache), first=False)
    across = [Combination(f"keras=={version}") for version in (keras if every else ends_of_minors(keras))]
    return across + [Combination(f"keras=={keras[-1]}", "tensorflow", version) for version in tensorflow]


def chosen(keras: Sequence[str] | None, tensorflow: Sequence[str] | None) -> list[Combination]:
    """Return these releases of Keras, and the newest one with these of TensorFlow."""
    across = [Combination(keras_requirement(f"keras=={version}")) for version in keras or ()]
    return across + [Combination("keras", "tensorflow", version) for version in tensorflow or ()]


def _tensorflow() -> str:
    return Combination("keras").backend_distribution


def ends_of_minors(versions: Iterable[str], *, first: bool = True) -> list[str]:
    """Return the first (unless told otherwise) and the last patch of each minor release, oldest first."""
    minors: dict[tuple[int, int], list[str]] = {}
    for version in sorted(versions, key=Version):
        minors.setdefault((Version(version).major, Version(version).minor), []).append(version)
    return [v for group in minors.values() for v in dict.fromkeys([group[0], group[-1]] if first else [group[-1]])]


def recorded(outcomes: Iterable[Outcome]) -> dict[str, Record]:
    """Return the slim records by name; each must be whole.

    Raises
    ------
    BscheckError
        When one lacks results of what was collected.
    """
    records: dict[str, Record] = {}
    for outcome in outcomes:
        if outcome.record is None:
            continue
        missing = merged([outcome.record]).missing
        if missing:
            raise BscheckError(f"{outcome.name}: {missing} collected items have no result; run it again with --again")
        records[outcome.name] = slim(outcome.record)
    return records


def slim(record: Record) -> Record:
    """Return the record with what a reader needs to compare releases: no texts of what holds, shares to two digits."""
    known = [{"id": issue["id"]} for issue in record["known_issues"]]
    results = [_slim_result(result) for result in record["results"]]
    return {**record, "results": results, "known_issues": known, "selection": {}}


def _slim_result(result: Record) -> Record:
    kept = {key: result[key] for key in ("check", "family", "param", "verdict", "cases", "held")}
    kept |= {"reason": "", "seconds": 0.0, "worst_case": "", "failure": None}
    share = result["worst"]["share"]
    kept["worst"] = {"share": float(f"{share:.2g}") if isinstance(share, float) else share, "seen": "", "figures": {}}
    if result["verdict"] in ("not applicable", "failed") or result["family"] == PINNED:
        kept["reason"] = result["reason"][:_SEEN]
    if result["failure"]:
        failure, reading = result["failure"], result["failure"]["reading"]
        kept["failure"] = {
            "case": failure["case"],
            "situation": failure["situation"],
            "reading": {"seen": reading["seen"][:_SEEN], "allowed": reading["allowed"], "where": reading["where"]},
        }
    return kept


def tables(records: Mapping[str, Record]) -> Iterator[str]:
    """Yield the README's part: the releases by family, then each promise that broke and where."""
    lines = [Line(name, record) for name, record in records.items()]
    families = [family for family in families_of(lines) if family not in (PINNED, "timing")]
    yield _row(["release", *families])
    yield _row(["---"] * (1 + len(families)))
    for name, record in records.items():
        yield _row([_words(name), *(cell(record, family) for family in families)])
    yield ""
    yield _row(["promise", "broken on", "held on", "known defect"])
    yield _row(["---"] * 4)
    names = list(records)
    for check in _told(records):
        red = [n for n in names if "red" in _colours(records[n], check)]
        held = [n for n in names if n not in red and "held" in _colours(records[n], check)]
        defects = "; ".join(d.name for d in DEFECTS if d.check == check and d not in EXCEPTIONS)
        yield _row([f"`{check}`", ranges(red, names), ranges(held, names), defects])


def _told(records: Mapping[str, Record]) -> list[str]:
    """Return the promises that are broken or held somewhere, in the order of the gate."""
    every = dict.fromkeys(r["check"] for record in records.values() for r in record["results"] if r["family"] != PINNED)
    return [c for c in every if any({"red", "held"} & _colours(record, c) for record in records.values())]


def _colours(record: Record, check: str) -> set[str]:
    results = (r for r in record["results"] if r["check"] == check and r["family"] != PINNED)
    return {colour([r["verdict"]]) for r in results}


def ranges(chosen: Sequence[str], names: Sequence[str]) -> str:
    """Return releases in words: those that follow each other as ``first to last``."""
    groups: list[list[str]] = []
    for i, name in enumerate(names):
        if name not in chosen:
            continue
        if groups and i and groups[-1][-1] == names[i - 1]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return ", ".join(_words(g[0]) if len(g) == 1 else f"{_words(g[0])} to {_words(g[-1])}" for g in groups)


def _words(name: str) -> str:
    """Return ``3.15.1 (2.21.0)`` for a record's name: Keras, and TensorFlow in brackets."""
    keras, _, backend = name.removeprefix("keras-").partition("+tensorflow-")
    return f"{keras} ({backend})"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def unseen(records: Mapping[str, Record]) -> Iterator[str]:
    """Yield, in words, each known defect that the record does not show where it was."""
    for defect in DEFECTS:
        for version, wanted in _expected(defect):
            record = next((r for n, r in records.items() if n.startswith(f"keras-{version}+tensorflow-")), None)
            if record is None:
                yield f"{defect.name}: Keras {version} is not recorded"
                continue
            verdicts = verdicts_of(defect, record["results"])
            if not verdicts:  # its check is younger than the record
                yield f"{defect.name}: what shows it on Keras {version} is not recorded"
                continue
            seen = colour(verdicts)
            if seen != wanted:
                yield f"{defect.name}: {seen} on Keras {version}, not {wanted}"


def _expected(defect: Defect) -> Iterator[tuple[str, str]]:
    """Yield releases and colours; nightlies and other backends are no part of the standing record."""
    for release, wanted in defect.expected():
        if release.backend == "tensorflow" and release.keras[0].isdecimal():
            yield release.keras, wanted


def _placed(records: Mapping[str, Record], readme: Path) -> int:
    """Write the table between its markers, or print it where there are none; 1 where a known defect is not seen."""
    part = "\n".join([BEGIN, "", *tables(records), "", END])
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if BEGIN in text and END in text:
        readme.write_text(text[: text.index(BEGIN)] + part + text[text.index(END) + len(END) :], encoding="utf-8")
        print(f"{readme}: the table is written")
    else:
        print(part)
    wrong = list(unseen(records))
    absent = [line for line in wrong if line.endswith(" is not recorded")]
    if absent:
        told = f"not shown: {len(absent)} sides of known defects, for their releases or checks are not recorded"
        print(told, file=sys.stderr)
        wrong = [line for line in wrong if line not in absent]
    for line in wrong:
        print(f"not as known: {line}", file=sys.stderr)
    return 1 if wrong else 3 if absent else 0


if __name__ == "__main__":
    try:
        with ended_by_sigterm():
            sys.exit(main())
    except BscheckError as error:
        print(f"standing_record: {error}", file=sys.stderr)
        sys.exit(4)
    except KeyboardInterrupt:
        sys.exit(130)
