#!/usr/bin/env python3
"""Run families of the gate in fresh processes over settings and TensorFlow releases, and print every false alarm.

    python ci/false_alarm_matrix.py --runs 3 --family accumulation [--setting onednn_off ...]

The current Keras is sound but for its known issues, so that whatever is red here is a false alarm (or a defect that
is not recorded yet). Every run has a seed of its own. Environments are made and kept as ``bscheck releases`` does, and
finished runs with them. Exit code 0: all green; 1: a run was red; 3: a run could not be made.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from verify_known_releases import CURRENT, ROOT

from bscheck.commands.releases import tell
from bscheck.errors import BscheckError
from bscheck.releases.cache import default_cache, made
from bscheck.releases.combination import Combination
from bscheck.releases.engine import Session, Settings
from bscheck.signals import ended_by_sigterm

TENSORFLOW = ("2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.20.0", "2.21.0")
FAMILIES = ("accumulation", "independence", "tiny batches")


@dataclass(frozen=True)
class Setting:
    """One way to run the current Keras."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    tensorflow: str = TENSORFLOW[-1]


SETTINGS = (
    Setting("onednn_off", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    Setting("one_thread", {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}),
    Setting("two_threads", {"OMP_NUM_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "2"}),
    Setting("jit_on", {"TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}),
    Setting("jit_off", {"TF_XLA_FLAGS": "--tf_xla_auto_jit=-1"}),
    *(Setting(f"tensorflow_{version}", tensorflow=version) for version in TENSORFLOW),
)


@dataclass(frozen=True)
class Outcome:
    """What one run said: its cases, the worst share of a bound and where, and the promises it called broken."""

    cases: int
    worst: float
    where: str
    broken: tuple[str, ...]


def run(setting: Setting, families: list[str], seed: int, out: Path, cache: Path) -> Outcome:
    """Run the families once, in a fresh process.

    Raises
    ------
    BscheckError
        When they cannot be.
    """
    chosen = " or ".join(f"bscheck_{family.replace(' ', '_')}" for family in families)
    settings = Settings(
        out=made(out / setting.name / str(seed)),
        cache=cache,
        arguments=("--bscheck-timing", "off", "--bscheck-seed", str(seed), "-m", chosen),
        variables=tuple(setting.variables.items()),
    )
    combination = Combination(f"keras=={CURRENT}", "tensorflow", setting.tensorflow)
    [outcome] = Session(settings, tell).run_all([combination])
    if outcome.record is None:
        raise BscheckError(outcome.words)
    results = [r for r in outcome.record["results"] if r["family"] in families]
    sound = [r for r in results if r["verdict"] != "failed" and isinstance(r["worst"]["share"], float)]
    nearest = max(sound, key=lambda r: r["worst"]["share"])
    broken = tuple(f"{r['check']}[{'-'.join(r['param'].values())}]" for r in results if r["verdict"] == "failed")
    return Outcome(sum(r["cases"] for r in results), nearest["worst"]["share"], nearest["check"], broken)


def main() -> int:
    """Run the matrix and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where environments are kept")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "matrix", help="where records are kept")
    parser.add_argument("--runs", type=int, default=3, help="fresh runs of each setting")
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--setting", action="append", choices=[s.name for s in SETTINGS])
    options = parser.parse_args()
    cache, out = made(options.cache), made(options.out)
    worst = 0
    print(f"{'setting':18} {'seed':>5} {'cases':>6} {'seconds':>8} {'nearest':>8}  red")
    for setting in SETTINGS:
        if options.setting and setting.name not in options.setting:
            continue
        for seed in range(1001, 1001 + options.runs):
            start = time.monotonic()
            try:
                seen = run(setting, options.family or list(FAMILIES), seed, out, cache)
            except BscheckError as error:
                print(f"{setting.name:18} {seed:5d} {error}", flush=True)
                worst = max(worst, 3)
                continue
            red = ", ".join(seen.broken) or "none"
            took = time.monotonic() - start
            print(f"{setting.name:18} {seed:5d} {seen.cases:6d} {took:8.0f} {seen.worst:8.0%}  {red}", flush=True)
            worst = max(worst, int(bool(seen.broken)))
    return worst


if __name__ == "__main__":
    with ended_by_sigterm():
        sys.exit(main())
