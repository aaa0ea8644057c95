#!/usr/bin/env python3
"""How much of a family's time is spent inside Keras and its backend, and how much in bscheck, Hypothesis and NumPy.

    python tests/benchmarks/time_inside_keras.py --family accumulation --profile default

Every check of the family is run as the gate runs it, while a second thread notes fifty times a second where the main
thread is. A sample counts for the innermost package of its stack that is one of those listed; a call that bscheck makes
into Keras counts as Keras however deep it goes.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType

from bscheck.checks import FAMILIES, PROFILES, all_checks
from bscheck.checks.context import Context
from bscheck.checks.run import RunSettings, run_check
from bscheck.results.known_issues import load_known_issues

INTERVAL = 0.02
KERAS = ("keras", "tensorflow", "jax", "jaxlib", "torch")
OTHERS = ("hypothesis", "numpy", "scipy", "bscheck")


def package_of(frame: FrameType | None) -> str:
    """Return Keras's side if any frame of the stack is in it, else the innermost known package."""
    innermost = ""
    while frame is not None:
        path = frame.f_code.co_filename
        parts = set(Path(path.rpartition("site-packages")[2]).parts)
        if parts & set(KERAS):
            return "Keras and its backend"
        innermost = innermost or next((name for name in OTHERS if name in parts), "")
        frame = frame.f_back
    return innermost or "other"


def sample(thread: int, seen: Counter[str], done: threading.Event) -> None:
    """Note where a thread is until told to stop."""
    while not done.wait(INTERVAL):
        seen[package_of(sys._current_frames().get(thread))] += 1


def main() -> None:
    """Run the family and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=list(FAMILIES), default="accumulation")
    parser.add_argument("--profile", choices=PROFILES, default="default")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    checks = all_checks()
    settings = RunSettings(profile=options.profile, known_issues=load_known_issues(checks))
    seen: Counter[str] = Counter()
    done = threading.Event()
    sampler = threading.Thread(target=sample, args=(threading.get_ident(), seen, done), daemon=True)
    start, cases = time.perf_counter(), 0
    sampler.start()
    for check in checks.values():
        if check.family == options.family:
            cases += sum(run_check(check, Context(param), settings).cases for param in check.params())
    done.set()
    sampler.join()
    seconds = time.perf_counter() - start
    print(f"{options.family}, {options.profile}: {cases} cases in {seconds:.0f} s; share of the time")
    for name, count in seen.most_common():
        print(f"{name:24} {count / seen.total():6.1%}")


if __name__ == "__main__":
    main()
