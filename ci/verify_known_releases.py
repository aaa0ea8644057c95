#!/usr/bin/env python3
"""Show that the gate tells known defects from their fixes: run it on the releases around each one, print the table.

Each release gets an environment of its own below ``--cache`` (made with uv where it is installed, else with venv and
pip), which is kept for the next run; the gate's records stay there too. On a release that has a defect the check that
owns the promise must be red for the parameters named in ``DEFECTS``, on the release that fixed it the same parameters
must be green, and what is open today must be held as a known issue on the current release. Exit code 0: every release
did so; 1: one did not; 2: a release could not be installed or run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CURRENT = "3.15.1"
NIGHTLY = "nightly"

#: A TensorFlow that works with each Keras: the first of these whose release is not older.
TENSORFLOW = (("3.1.99", "2.16.2"), ("3.8.99", "2.17.1"), ("3.13.99", "2.19.1"))
NEWEST_TENSORFLOW = "2.21.0"
JAX = "0.4.38"


@dataclass(frozen=True)
class Release:
    """A release of Keras on a backend."""

    keras: str
    backend: str = "tensorflow"
    tensorflow_release: str = ""

    @property
    def name(self) -> str:
        """What environment, record and log are called."""
        return "-".join(filter(None, ("keras", self.keras, self.backend, self.tensorflow_release)))

    def requirements(self) -> list[str]:
        """Return what is installed beside bscheck."""
        keras = "keras-nightly" if self.keras == NIGHTLY else f"keras=={self.keras}"
        if self.backend == "jax":
            return [keras, f"jax=={JAX}"]
        return [keras, f"tensorflow-cpu=={self.tensorflow()}"]

    def tensorflow(self) -> str:
        """Return the TensorFlow that is installed with it."""
        if self.tensorflow_release:
            return self.tensorflow_release
        if self.keras == NIGHTLY:
            return NEWEST_TENSORFLOW
        return next((tf for last, tf in TENSORFLOW if _parts(self.keras) <= _parts(last)), NEWEST_TENSORFLOW)


@dataclass(frozen=True)
class Defect:
    """A known defect, the check that owns the promise it breaks, and the releases on either side.

    Attributes
    ----------
    name, check : str
    param : mapping
        Members of the parameters that must be red: all of these must match, a missing one matches any.
    last_bad : str
        The last release that has it.
    first_good : str
        The first release without it; empty where it is open.
    backend : str
    """

    name: str
    check: str
    last_bad: str
    first_good: str = ""
    param: Mapping[str, str] = field(default_factory=dict)
    backend: str = "tensorflow"

    def expected(self) -> Iterator[tuple[Release, str]]:
        """Yield each release that is run for it, and the colour it must show there."""
        bad = "exception" if self in EXCEPTIONS else "held" if self.last_bad == CURRENT else "red"
        yield Release(self.last_bad, self.backend), bad
        if self.first_good:
            yield Release(self.first_good, self.backend), "green"


UNDER_ACCUMULATION = {
    "weight decay on every micro-batch": "weight_decay_acts_once_per_update",
    "bias correction counts micro-batches": "bias_correction_counts_updates",
    "clipping of every micro-batch": "clipping_acts_on_the_accumulated_gradient",
}
PENALTIES = "penalties_count_once_whatever_the_batch_size"
SPARSE = "sparse_and_dense_gradients_make_the_same_update"

#: Fixed in a release: red before, green after. The parameters named are those that the defect's own fix made green; an
#: old release may have other defects that make the same check red for other parameters.
FIXED = (
    Defect("ragged evaluation", "evaluation_does_not_depend_on_batch_size", "3.1.1", "3.2.0", {"subject": "dense"}),
    Defect(
        "weights broadcast in metrics", "sample_weights_count_examples", "3.3.3", "3.4.0", {"metric": "BinaryAccuracy"}
    ),
    *(Defect(name, check, "3.4.1", "3.5.0") for name, check in UNDER_ACCUMULATION.items()),
    Defect(
        "loss scale divides overwritten variables", "overwritten_variables_take_their_gradient_as_it_is",
        "3.9.2", "3.10.0", {"optimizer": "adam"},
    ),
    Defect("history of replicas", "replicas_report_the_history_of_one_device", "3.9.2", "3.10.0"),
    Defect(
        "stacked cells with a mask", "masked_steps_change_nothing", "3.9.2", "3.10.0", {"layer": "RNN"}, backend="jax"
    ),
    Defect(
        "accumulation of the loss scale's wrapper", "option_given_to_the_wrapper_acts_or_is_refused", "3.11.3", "3.12.0"
    ),
    Defect(
        "another batch size of a stateful layer", "stateful_layer_refuses_another_batch_size",
        "3.11.3", "3.12.0", {"layer": "LSTM"},
    ),
    Defect("activity penalty not divided", PENALTIES, "3.13.2", "3.14.0"),
    Defect("empty batch of a convolution", "layer_takes_tiny_batches", "3.13.2", "3.14.0", {"layer": "Conv2D"}),
    Defect(
        "train_on_batch reports earlier batches", "history_of_fit_and_train_on_batch_report_the_batch",
        "3.14.1", "3.15.0", {"subject": "dense"},
    ),
)  # fmt: skip

#: Open in the current release, where a known issue holds it; some are fixed in the nightly.
OPEN = (
    Defect("class_weight of a dataset", "class_weight_weighs_each_example", CURRENT, NIGHTLY),
    Defect("adjusted R2 counts elements", "metrics_equal_their_definition", CURRENT, NIGHTLY, {"metric": "R2Score"}),
    Defect("repeated rows squared", SPARSE, CURRENT, "", {"optimizer": "adam"}),
    Defect(
        "repeated rows of an embedding",
        "accumulated_training_matches_large_batches",
        CURRENT,
        "",
        {"subject": "embedding"},
    ),
    Defect("moving average per micro-batch", "moving_average_advances_once_per_update", CURRENT),
    Defect("constraint per micro-batch", "constraints_act_once_per_update", CURRENT),
    Defect("empty batch of an LSTM", "layer_takes_tiny_batches", CURRENT, "", {"layer": "LSTM"}),
)

#: What Keras documents, or a mean over each batch cannot help: held to its own exact oracle.
EXCEPTIONS = (
    Defect("schedules count micro-batches", "schedules_count_micro_batches", CURRENT),
    Defect("a window is left open", "open_window_waits_for_the_next_call", CURRENT),
    Defect("masked loss by batch", "masked_loss_is_the_mean_of_what_is_left_in_each_batch", CURRENT),
    Defect("masked loss under accumulation", "accumulated_masked_gradient_is_the_mean_of_its_micro_batches", CURRENT),
)
DEFECTS = FIXED + OPEN + EXCEPTIONS


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def environment(release: Release, cache: Path) -> Path:
    """Return the Python of the release's environment, made when it is not there yet."""
    home = cache / release.name
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    print(f"making {home.name} …", flush=True)
    if shutil.which("uv"):
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
        installing = ["uv", "pip", "install", "--quiet", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        installing = [str(python), "-m", "pip", "install", "--quiet"]
    nightly = release.keras == NIGHTLY
    subprocess.run([*installing, *release.requirements()[nightly:], "-e", str(ROOT)], check=True)
    if nightly:
        # keras-nightly has keras's import name: whichever is installed last is imported.
        subprocess.run(
            [*installing, "--prerelease=allow" if "uv" in installing[0] else "--pre", "keras-nightly"], check=True
        )
    (home / "complete").touch()
    return python


def run_gate(release: Release, checks: Iterable[str], cache: Path) -> list[dict[str, object]]:
    """Run the checks on the release and return the record's results."""
    python = environment(release, cache)
    record = cache / f"{release.name}.json"
    record.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "--pyargs", "bscheck.gate", "-q", "-p", "no:cacheprovider"]
    command += ["--bscheck-record", str(record), "--bscheck-timing", "off"]
    command += [part for check in sorted(checks) for part in ("--bscheck-check", check)]
    settings = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_BACKEND": release.backend,
    }
    with (cache / f"{release.name}.log").open("w") as log:
        code = subprocess.run(command, cwd=cache, env=settings, stdout=log, stderr=subprocess.STDOUT).returncode
    if code not in (0, 1):
        raise RuntimeError(f"the gate ended with exit code {code}; see {log.name}")
    results: list[dict[str, object]] = json.loads(record.read_text())["results"]
    return results


def verdicts_of(defect: Defect, results: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the verdicts on the parameters of the defect's check that it is about."""
    return [
        str(result["verdict"])
        for result in results
        if result["check"] == defect.check and defect.param.items() <= dict(result["param"]).items()  # type: ignore[call-overload]
    ]


def colour(verdicts: list[str]) -> str:
    """Return ``red``, ``held``, ``exception``, ``green`` or ``not run`` for the verdicts on one promise."""
    if "failed" in verdicts:
        return "red"
    if "known issue" in verdicts:
        return "held"
    if "contract exception" in verdicts:
        return "exception"
    return "green" if "passed" in verdicts else "not run"


def plan(defects: Iterable[Defect]) -> dict[Release, list[tuple[Defect, str]]]:
    """Return what must be seen on each release."""
    planned: dict[Release, list[tuple[Defect, str]]] = defaultdict(list)
    for defect in defects:
        for release, expected in defect.expected():
            planned[release].append((defect, expected))
    return planned


def main() -> int:
    """Run every release and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "releases", help="where environments are kept")
    parser.add_argument("--keras", action="append", help="only this release (repeatable)")
    parser.add_argument("--check", action="append", help="only defects of this check (repeatable)")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    worst = 0
    print(f"{'keras':8} {'backend':10} {'defect':46} {'expected':9} seen")
    chosen = [d for d in DEFECTS if not options.check or d.check in options.check]
    for release, wanted in plan(chosen).items():
        if options.keras and release.keras not in options.keras:
            continue
        try:
            results = run_gate(release, {defect.check for defect, _ in wanted}, options.cache.resolve())
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
            print(f"{release.keras:8} {release.backend:10} could not be run: {error}")
            worst = max(worst, 2)
            continue
        for defect, expected in wanted:
            verdicts = verdicts_of(defect, results)
            seen = colour(verdicts)
            count = f"{verdicts.count('failed')} of {len(verdicts)} parameters red" if verdicts else ""
            mark = "" if seen == expected else "   <-- not as expected"
            where = f"{release.keras:8} {release.backend:10} {defect.name:46}"
            print(f"{where} {expected:9} {seen:7} {count}{mark}", flush=True)
            worst = max(worst, int(seen != expected))
    return worst


if __name__ == "__main__":
    sys.exit(main())
