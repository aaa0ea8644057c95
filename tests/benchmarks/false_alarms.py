#!/usr/bin/env python3
"""Draw many cases of each cheap property in one warm process and print the worst share of the bound.

    python tests/benchmarks/false_alarms.py --cases 100000 --seed 1 [--check NAME ...] [--minutes 30]

Models and traced functions stay warm, so a case costs what it costs inside the gate. A case that breaks its bound and
is not covered by a known issue is a false alarm (or a defect of Keras); it is printed with its check and parameter.
Parameters take turns, so that a run cut short by ``--minutes`` has drawn from all of them. Exit code 1 if there was
any false alarm.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
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
BATCH = 200


@dataclass
class Tally:
    """What was seen of one check."""

    cases: int = 0
    held: int = 0
    alarms: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    where: str = ""
    not_applicable: set[str] = field(default_factory=set)


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


def soak(check: Any, wanted: int, seed: int, until: float, mode: str) -> Tally:
    """Execute cases of one check until there are enough or the time is up."""
    import dataclasses

    from bscheck.checks import all_checks
    from bscheck.checks.context import Context
    from bscheck.diagnose import attempt
    from bscheck.results.known_issues import load_known_issues
    from bscheck.results.verdict import NotApplicable

    issues = [issue for issue in load_known_issues(all_checks()) if issue.check == check.name]
    tally, contexts = Tally(), []
    for param in check.params():
        context = Context(param)
        reason = check.applies(context)
        tally.not_applicable |= {reason} if reason else set()
        contexts += [] if reason else [context]
    start = time.perf_counter()
    for context, cases in batches(check, contexts, seed):
        for case in cases:
            if mode and hasattr(case, "mode"):
                case = dataclasses.replace(case, mode=mode)
            try:
                reading = attempt(check, context, case)
            except NotApplicable:
                continue
            tally.cases += 1
            if reading.holds:
                if reading.share > tally.worst:
                    tally.worst, tally.where = reading.share, f"{context.param.id}, {case}"
                continue
            situation = {**context.param.as_dict(), **case.to_json()}
            if any(issue.covers(check.name, situation, context.environment) for issue in issues):
                tally.held += 1
                continue
            tally.alarms += 1
            print(f"ALARM {check.name}[{context.param.id}] {case}: {reading.seen}", flush=True)
        if tally.cases >= wanted or time.perf_counter() > until:
            break
    tally.seconds = time.perf_counter() - start
    return tally


def main() -> int:
    """Soak the checks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="cases of each check")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other cases")
    parser.add_argument("--check", action="append", help="only this check (repeatable)")
    parser.add_argument("--mode", default="", help="execute every case in this mode instead of the drawn one")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop each check after this time")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    random.seed(0)
    from bscheck.checks import get_check
    from bscheck.runtime.environment import describe

    described = describe()
    print(f"keras {described['keras']}, {described['backend']} {described['backend_version']}, seed {options.seed}")
    print(f"{'check':56} {'cases':>7} {'held':>6} {'alarms':>6} {'cases/s':>8}  worst share of the bound")
    alarms = 0
    for name in options.check or CHEAP:
        until = time.perf_counter() + 60 * options.minutes
        tally = soak(get_check(name), options.cases, options.seed, until, options.mode)
        rate = tally.cases / tally.seconds if tally.seconds else 0.0
        print(
            f"{name:56} {tally.cases:7d} {tally.held:6d} {tally.alarms:6d} {rate:8.1f}  "
            f"{tally.worst:.0%} ({tally.where})",
            flush=True,
        )
        alarms += tally.alarms
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
