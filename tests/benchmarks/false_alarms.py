#!/usr/bin/env python3
"""Draw many cases of each cheap property in one warm process and print the worst share of the bound.

    python tests/benchmarks/false_alarms.py --cases 100000 --seed 1 [--check NAME ...] [--family NAME] [--minutes 30]

Models and traced functions stay warm, so a case costs what it costs inside the gate. A case that breaks its bound and
is not covered by a known issue is a false alarm (or a defect of Keras); it is printed with its check and parameter.
Checks take turns of a few seconds, and so do the parameters of each, so a run that is cut short (``--minutes``, Ctrl-C,
SIGTERM) has drawn from all of them; it prints the table of what it drew. A line a minute on stderr says how far it is.
Exit code 1 if there was any false alarm.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Properties that cost milliseconds a case: the others train, evaluate or time whole models.
CHEAP = (
    "micro_batch_gradients_average_to_the_large_batch",
    "accumulated_gradient_is_the_mean_of_what_was_accumulated",
    "accumulated_gradient_matches_large_batch",
    "ragged_window_averages_its_micro_batches_equally",
    "accumulation_is_exact_on_integers",
    "accumulated_update_matches_large_batch",
    "bias_correction_counts_updates",
    "weight_decay_acts_once_per_update",
    "clipping_acts_on_the_accumulated_gradient",
    "moving_average_advances_once_per_update",
    "constraints_act_once_per_update",
    "sparse_and_dense_gradients_make_the_same_update",
    "examples_do_not_influence_each_other",
    "minibatch_gradient_is_unbiased",
    "minibatch_gradient_variance_follows_the_law",
    "optimizer_follows_its_published_recurrence",
    "update_does_not_depend_on_the_loss_scale",
    "overwritten_variables_take_their_gradient_as_it_is",
    "member_updates_its_own_variables_as_alone",
    "schedule_has_its_documented_values",
    "loss_gradient_is_the_slope_of_its_formula",
    "layer_gradient_is_the_sum_over_micro_batches",
    "loss_equals_its_formula",
    "loss_of_a_batch_is_the_combination_of_its_parts",
    "loss_over_a_batch_follows_its_formula",
    "loss_of_a_tiny_batch_is_finite",
    "regularizer_equals_its_formula",
    "constraint_equals_its_formula",
    "metrics_equal_their_definition",
    "sample_weights_count_examples",
    "masked_labels_do_not_count",
    "reset_leaves_nothing_behind",
    "merged_metrics_equal_one",
    "metrics_of_tiny_batches_are_right_or_undefined",
    "metric_functions_give_each_example_its_own_value",
    "layer_computes_its_definition",
    "layer_output_of_an_example_is_its_own",
    "layer_takes_tiny_batches",
    "float32_layer_computes_in_float32",
    "mixed_precision_layer_stays_near_its_exact_self",
    "masked_steps_change_nothing",
)

#: Cases that Hypothesis draws at a time; a batch's seed follows from the run's seed and the batch's number.
BATCH = 100

#: Seconds of a check's turn, and between two lines on stderr.
TURN, TOLD = 10.0, 60.0


@dataclass
class Tally:
    """What was seen of one check."""

    cases: int = 0
    held: int = 0
    alarms: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    where: str = ""

    def row(self, name: str) -> str:
        """Return the line of the table."""
        rate = self.cases / self.seconds if self.seconds else 0.0
        return f"{name:56} {self.cases:7d} {self.held:6d} {self.alarms:6d} {rate:8.1f}  {self.worst:.0%} ({self.where})"


def drawn(strategy: Any, seed: int) -> list[Any]:
    """Return BATCH cases drawn from a strategy."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    cases: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=BATCH, deadline=None, database=None, derandomize=False, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(case: Any) -> None:
        cases.append(case)

    collect()
    return cases


def batches(check: Any, contexts: list[Any], seed: int) -> Iterator[tuple[Any, list[Any]]]:
    """Yield batches of cases for ever, the parameters taking turns."""
    from bscheck.checks.run import derive_seed

    number = 0
    while contexts:
        for context in contexts:
            cases = drawn(check.cases(context), derive_seed(seed + number, f"{check.name}[{context.param.id}]"))
            yield context, cases
        number += 1


class Soak:
    """One check, drawn from in turns."""

    def __init__(self, name: str, seed: int, mode: str) -> None:
        from bscheck.checks import all_checks, get_check
        from bscheck.checks.context import Context
        from bscheck.results.known_issues import load_known_issues

        self.check = get_check(name)
        self.mode = mode
        self.issues = [issue for issue in load_known_issues(all_checks()) if issue.check == name]
        self.tally = Tally()
        contexts = [Context(param) for param in self.check.params()]
        self.cases = (
            (context, case)
            for context, cases in batches(self.check, [c for c in contexts if not self.check.applies(c)], seed)
            for case in cases
        )

    def turn(self, wanted: int, until: float) -> bool:
        """Execute cases until the turn is over; return whether there is more to do."""
        start = time.perf_counter()
        try:
            for context, case in self.cases:
                self.execute(context, dataclasses.replace(case, mode=self.mode) if self.mode else case)
                if self.tally.cases >= wanted:
                    return False
                if time.perf_counter() > min(until, start + TURN):
                    return True
            return False
        finally:
            self.tally.seconds += time.perf_counter() - start

    def execute(self, context: Any, case: Any) -> None:
        """Hold one case against its bound, and count it."""
        from bscheck.diagnose import attempt
        from bscheck.results.verdict import NotApplicable

        tally = self.tally
        try:
            reading = attempt(self.check, context, case)
        except NotApplicable:
            return
        tally.cases += 1
        if reading.holds:
            if reading.share > tally.worst:
                tally.worst, tally.where = reading.share, f"{context.param.id}, {case}"
            return
        situation = {**context.param.as_dict(), **case.to_json()}
        if any(issue.covers(self.check.name, situation, context.environment) for issue in self.issues):
            tally.held += 1
            return
        tally.alarms += 1
        print(f"ALARM {self.check.name}[{context.param.id}] {case}: {reading.seen}", flush=True)


def run(soaks: dict[str, Soak], wanted: int, minutes: float) -> None:
    """Give the checks turns until each has enough cases or the time is up."""
    start = told = time.perf_counter()
    waiting = dict(soaks)
    while waiting:
        for name, soak in list(waiting.items()):
            if not soak.turn(wanted, start + 60 * minutes):
                del waiting[name]
            if time.perf_counter() > start + 60 * minutes:
                return
            if time.perf_counter() > told + TOLD:
                told = time.perf_counter()
                tallies = [s.tally for s in soaks.values()]
                cases, alarms = sum(t.cases for t in tallies), sum(t.alarms for t in tallies)
                fewest = min(t.cases for t in tallies)
                text = f"{(told - start) / 60:.0f} min: {cases} cases, fewest of a check {fewest}, {alarms} alarms"
                print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Soak the checks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="cases of each check")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other cases")
    parser.add_argument("--check", action="append", help="only this check (repeatable)")
    parser.add_argument("--family", help="only the cheap checks of this family")
    parser.add_argument("--mode", default="", help="execute every case in this mode instead of the drawn one")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after this time")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    random.seed(0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from bscheck.checks import get_check
    from bscheck.runtime.environment import describe

    described = describe()
    print(f"keras {described['keras']}, {described['backend']} {described['backend_version']}, seed {options.seed}")
    names = [n for n in options.check or CHEAP if options.family in (None, get_check(n).family)]
    soaks = {name: Soak(name, options.seed, options.mode) for name in names}
    try:
        run(soaks, options.cases, options.minutes)
    except KeyboardInterrupt:
        print("interrupted")
    print(f"{'check':56} {'cases':>7} {'held':>6} {'alarms':>6} {'cases/s':>8}  worst share of the bound")
    for name, soak in soaks.items():
        print(soak.tally.row(name))
    tallies = [soak.tally for soak in soaks.values()]
    totals = (sum(getattr(t, key) for t in tallies) for key in ("cases", "held", "alarms"))
    print(f"{'total':56} {next(totals):7d} {next(totals):6d} {next(totals):6d}")
    return int(any(tally.alarms for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
