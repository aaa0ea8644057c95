#!/usr/bin/env python3
"""Show that the gate tells released defects from their fixes: run it on old releases and print the table.

Each release gets an environment of its own below ``--cache`` (made with uv where it is installed, else with venv
and pip), which is kept for the next run. The gate's records stay there too. Exit code 0: every release did what
``EXPECTED`` says; 1: one did not; 2: a release could not be installed or run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Release:
    """A release of Keras, a TensorFlow that works with it, and what the gate must say of some promises."""

    keras: str
    tensorflow: str
    red: tuple[str, ...] = ()
    green: tuple[str, ...] = ()


UNDER_ACCUMULATION = (
    "weight_decay_acts_once_per_update",
    "bias_correction_counts_updates",
    "clipping_acts_on_the_accumulated_gradient",
)
RAGGED_EVALUATION = ("evaluation_does_not_depend_on_batch_size",)

#: Defects as their fixes document them: gradient accumulation in 3.5.0, ragged evaluation in 3.2.0. TensorFlow 2.17
#: needs Keras 3.2 or later.
EXPECTED = (
    Release("3.1.1", "2.16.2", red=RAGGED_EVALUATION),
    Release("3.2.0", "2.17.1", green=RAGGED_EVALUATION),
    Release("3.4.1", "2.17.1", red=UNDER_ACCUMULATION),
    Release("3.5.0", "2.17.1", green=UNDER_ACCUMULATION),
)


def environment(release: Release, cache: Path) -> Path:
    """Return the Python of the release's environment, made when it is not there yet."""
    home = cache / f"keras-{release.keras}-tensorflow-{release.tensorflow}"
    python = home / "bin" / "python"
    wanted = [f"keras=={release.keras}", f"tensorflow-cpu=={release.tensorflow}", "-e", str(ROOT)]
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    print(f"making {home.name} …", flush=True)
    if shutil.which("uv"):
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), *wanted], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    (home / "complete").touch()
    return python


def run_gate(release: Release, cache: Path, everything: bool) -> dict[str, list[str]]:
    """Run the gate on the release and return the verdicts of each check."""
    python = environment(release, cache)
    record = cache / f"keras-{release.keras}.json"
    record.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "--pyargs", "bscheck.gate", "-q", "-p", "no:cacheprovider"]
    command += ["--bscheck-record", str(record), "--bscheck-timing", "off"]
    if not everything:
        for check in sorted({*release.red, *release.green}):
            command += ["--bscheck-check", check]
    settings = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    with (cache / f"keras-{release.keras}.log").open("w") as log:
        code = subprocess.run(command, cwd=cache, env=settings, stdout=log, stderr=subprocess.STDOUT).returncode
    if code not in (0, 1):
        raise RuntimeError(f"the gate ended with exit code {code}; see {log.name}")
    verdicts: dict[str, list[str]] = {}
    for result in json.loads(record.read_text())["results"]:
        verdicts.setdefault(result["check"], []).append(result["verdict"])
    return verdicts


def colour(verdicts: list[str]) -> str:
    """Return ``red``, ``green`` or ``not run`` for the verdicts of one check."""
    if "failed" in verdicts:
        return "red"
    return "green" if any(v in ("passed", "known issue", "contract exception") for v in verdicts) else "not run"


def main() -> int:
    """Run every release and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "releases", help="where environments are kept")
    parser.add_argument("--all", action="store_true", help="run the whole gate, not only the promises concerned")
    parser.add_argument("--keras", action="append", help="only this release (repeatable)")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    worst = 0
    print(f"{'keras':8} {'tensorflow':11} {'promise':52} {'expected':9} seen")
    for release in EXPECTED:
        if options.keras and release.keras not in options.keras:
            continue
        try:
            verdicts = run_gate(release, options.cache.resolve(), options.all)
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
            print(f"{release.keras:8} {release.tensorflow:11} could not be run: {error}")
            worst = max(worst, 2)
            continue
        for expected, checks in (("red", release.red), ("green", release.green)):
            for check in checks:
                found = verdicts.get(check, [])
                seen = colour(found)
                count = f"{found.count('failed')} of {len(found)} parameters red" if found else ""
                mark = "" if seen == expected else "   <-- not as expected"
                print(
                    f"{release.keras:8} {release.tensorflow:11} {check:52} {expected:9} {seen:7} {count}{mark}",
                    flush=True,
                )
                worst = max(worst, int(seen != expected))
        others = sorted(c for c, v in verdicts.items() if colour(v) == "red" and c not in release.red)
        if others:
            print(f"{'':20} also red: {', '.join(others)}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
