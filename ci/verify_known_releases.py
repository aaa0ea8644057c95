#!/usr/bin/env python3
"""Show that the gate tells known defects from their fixes: run it on the releases around each one, print the table.

Each release gets an environment of its own, as ``bscheck releases`` makes them; environments and finished records are
kept, so that the same command goes on where it stopped. On a release that has a defect the check that owns the promise
must be red for the parameters named in ``DEFECTS``, on the release that fixed it the same parameters must be green, and
what is open today must be held as a known issue on the current release. Exit code 0: every release did so; 1: one did
not; 3: a release could not be installed or run.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bscheck.commands.releases import tell  # noqa: E402
from bscheck.errors import BscheckError  # noqa: E402
from bscheck.releases.cache import default_cache, made  # noqa: E402
from bscheck.releases.combination import Combination  # noqa: E402
from bscheck.releases.engine import Session, Settings  # noqa: E402
from bscheck.signals import ended_by_sigterm  # noqa: E402

CURRENT = "3.15.1"
NIGHTLY = "nightly"

#: A JAX that works with the older Keras; TensorFlow is the newest that does.
JAX = "0.4.38"


@dataclass(frozen=True)
class Release:
    """A release of Keras on a backend."""

    keras: str
    backend: str = "tensorflow"

    def combination(self) -> Combination:
        """Return what is installed."""
        keras = "keras-nightly" if self.keras == NIGHTLY else f"keras=={self.keras}"
        return Combination(keras, self.backend, JAX if self.backend == "jax" else "")


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
REPORTED = "evaluated_metrics_are_those_of_the_examples"
SPARSE = "sparse_and_dense_gradients_make_the_same_update"

#: Fixed in a release: red before, green after. The parameters named are those that the defect's own fix made green; an
#: old release may have other defects that make the same check red for other parameters.
FIXED = (
    Defect("ragged evaluation", "evaluation_does_not_depend_on_batch_size", "3.1.1", "3.2.0", {"subject": "lstm"}),
    Defect(
        "weights broadcast in metrics", "sample_weights_count_examples", "3.3.3", "3.4.0", {"metric": "BinaryAccuracy"}
    ),
    Defect(
        "accumulators matched by position", "update_reaches_the_variables_its_gradients_are_for",
        "3.2.1", "3.3.0", {"optimizer": "sgd"},
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
        "3.14.1", "3.15.0", {"subject": "lstm"},
    ),
    Defect(
        "recurrent dropout at the rate of the inputs", "layer_computes_its_definition",
        "3.1.1", "3.2.0", {"layer": "LSTM"},
    ),
    Defect("metrics by the keys of outputs", REPORTED, "3.11.3", "3.12.0", {"model": "keyed_outputs"}),
    Defect("targets by name at other outputs' metrics", REPORTED, "3.14.0", "3.14.1", {"model": "named_targets"}),
    Defect(
        "a mask is lost where a layer casts its inputs", "mask_goes_on_with_the_steps",
        "3.13.2", "3.14.0", {"layer": "Dense"},
    ),
    Defect(
        "progress bar averages means", "printed_figures_are_those_of_the_examples_so_far", "3.14.1", "3.15.0"
    ),
    Defect(
        "a loss scale factor inside the wrapper divides too", "update_does_not_depend_on_the_loss_scale",
        "3.9.2", "3.10.0", {"optimizer": "sgd"},
    ),
    Defect(
        "masked statistics over another axis", "layer_computes_its_definition",
        "3.8.0", "3.9.0", {"layer": "BatchNormalization"},
    ),
    Defect(
        "no loss in executions of more steps than there are", "evaluation_does_not_depend_on_steps_per_execution",
        "3.6.0", "3.7.0", {"subject": "dense"},
    ),
    Defect(
        "masked sequences of unknown length", "unknown_lengths_change_nothing",
        "3.8.0", "3.9.0", {"layer": "TimeDistributed"},
    ),
    Defect(
        "flattening of unknown lengths", "unknown_lengths_change_nothing", "3.10.0", "3.11.0", {"layer": "Flatten"}
    ),
    Defect(
        "Normalization along an axis that is not the last", "layer_computes_its_definition",
        "3.13.2", "3.14.0", {"layer": "Normalization"},
    ),
    Defect("masks of attention", "masked_steps_change_nothing", "3.11.3", "3.12.0", {"layer": "Attention"}),
    Defect(
        "iterations of the loss scale's wrapper stand still", "wrapper_keeps_the_state_of_its_optimizer",
        "3.8.0", "3.9.0", {"optimizer": "sgd"},
    ),
    Defect("losses by name in the order of the alphabet", REPORTED, "3.6.0", "3.7.0", {"model": "named_targets"}),
    Defect("a compiled model inside another loses its metrics", REPORTED, "3.7.0", "3.8.0", {"model": "nested"}),
    Defect(
        "recurrent dropout of a GRU drops its state", "layer_computes_its_definition",
        "3.7.0", "3.8.0", {"layer": "GRU"},
    ),
    Defect(
        "group normalization of large inputs in float16", "mixed_precision_layer_stays_near_its_exact_self",
        "3.14.1", "3.15.0", {"layer": "GroupNormalization"},
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


def run_gate(release: Release, checks: Iterable[str], settings: Settings) -> list[Mapping[str, object]]:
    """Run the checks on the release and return the record's results.

    Raises
    ------
    BscheckError
        When the release cannot be installed, imported or run.
    """
    [outcome] = Session(settings_of(settings, checks), tell).run_all([release.combination()])
    if outcome.record is None:
        raise BscheckError(outcome.words)
    return list(outcome.record["results"])


def settings_of(settings: Settings, checks: Iterable[str]) -> Settings:
    """Return the settings of a run of these checks, without timings."""
    chosen = [part for check in sorted(checks) for part in ("--bscheck-check", check)]
    return replace(settings, arguments=("--bscheck-timing", "off", *chosen))


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
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where environments are kept")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "known", help="where records are kept")
    parser.add_argument("--again", action="store_true", help="run what is finished once more")
    parser.add_argument("--keras", action="append", help="only this release (repeatable)")
    parser.add_argument("--check", action="append", help="only defects of this check (repeatable)")
    options = parser.parse_args()
    settings = Settings(made(options.out), made(options.cache), again=options.again)
    worst = 0
    print(f"{'keras':8} {'backend':10} {'defect':46} {'expected':9} seen")
    chosen = [d for d in DEFECTS if not options.check or d.check in options.check]
    for release, wanted in plan(chosen).items():
        if options.keras and release.keras not in options.keras:
            continue
        try:
            results = run_gate(release, {defect.check for defect, _ in wanted}, settings)
        except BscheckError as error:
            print(f"{release.keras:8} {release.backend:10} {error}", flush=True)
            worst = max(worst, 3)
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
    with ended_by_sigterm():
        sys.exit(main())
