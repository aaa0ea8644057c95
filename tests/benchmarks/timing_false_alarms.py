"""False alarms and power of the paired timing design on this machine, beside a naive threshold.

Records real instances of a timed subject: one batch of 16 beside itself, and beside itself made 5 % and 10 %
slower by busy waiting. Runs of the gate are then resampled from the instances.

    python tests/benchmarks/timing_false_alarms.py --instances 60
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bscheck.checks.timing import FAMILY_SIZE
from bscheck.measure import PairedTimes, Samples, compare, paired_sample
from bscheck.measure.sampler import INSTANCES, ROUNDS, Run
from bscheck.measure.steps import DUMMY_SIZES, fresh_training_step
from bscheck.reference_subjects import TIMING_SUBJECTS
from bscheck.runtime.bench import precision

SIZE = 16
#: What the sampler calls a size is here one batch of `SIZE` with this share of its time added.
ADDED = {16: 0.0, 17: 0.0, 18: 0.05, 19: 0.10}
#: Steps that tell how long a step takes, so that a share of it can be added.
CALIBRATION = 15
#: pytest-benchmark's documentation shows ``--benchmark-compare-fail=mean:10%``.
THRESHOLD = 1.10


@dataclass(frozen=True)
class Rate:
    """How often something happened, with its Clopper-Pearson interval."""

    count: int
    trials: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact binomial interval."""
        from scipy.stats import beta

        tail, k, n = (1 - confidence) / 2, self.count, self.trials
        low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
        high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
        return low, high

    def __str__(self) -> str:
        if not self.trials:
            return "none"
        low, high = self.interval()
        return f"{self.count / self.trials:7.2%} [{low:.2%}, {high:.2%}]"


def slowed(run: Run) -> Run:
    """Return ``run(label)``: one batch of `SIZE`, then busy waiting for the label's share of a step."""
    seconds = []
    for _ in range(CALIBRATION):
        start = time.perf_counter()
        run(SIZE)
        seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds)

    def slow(label: int) -> None:
        run(SIZE)
        end = time.perf_counter() + ADDED.get(label, 0.0) * step
        while time.perf_counter() < end:
            pass

    return slow


def record(subject_name: str, instances: int, rounds: int, seconds: float) -> Samples:
    """Record real instances until there are enough or the time is over."""
    subject = TIMING_SUBJECTS[subject_name]()
    with precision("float32"):
        return paired_sample(
            lambda k: slowed(fresh_training_step(subject, (SIZE,))),
            tuple(ADDED),
            dummy_sizes=DUMMY_SIZES,
            seed=0,
            instances=instances,
            rounds=rounds,
            budget_seconds=seconds,
        )


def verdicts(times: PairedTimes, groups: Iterable[Sequence[int]]) -> list[str]:
    """Return the gate's verdict on each group of instances."""
    found: list[str] = []
    for group in groups:
        picked = PairedTimes(tuple(times.log_ratios[i] for i in group), tuple(times.canary[i] for i in group))
        found.append(compare(picked, "planted", family_size=FAMILY_SIZE).verdict)
    return found


def naive_alarms(samples: Samples, label: int, pairs: Iterable[tuple[int, int]]) -> Rate:
    """Return how often one mean exceeds another by `THRESHOLD`; (baseline's instance, tested instance)."""
    alarms = [
        np.mean(samples.seconds[j][str(label)]) > THRESHOLD * np.mean(samples.seconds[i][str(SIZE)]) for i, j in pairs
    ]
    return Rate(int(np.sum(alarms)), len(alarms))


def row(name: str, cells: Sequence[str]) -> str:
    """Return one line of the table."""
    return f"{name:<44}" + "".join(f"{cell:>28}" for cell in cells)


def table(samples: Samples, resamples: int, rng: np.random.Generator) -> list[str]:
    """Return the table's lines."""
    n, labels = samples.completed, (17, 18, 19)
    groups = [rng.choice(n, INSTANCES, replace=False).tolist() for _ in range(resamples)]
    apart = [list(range(i, i + INSTANCES)) for i in range(0, n - INSTANCES + 1, INSTANCES)]
    timed = [samples.paired(label, SIZE) for label in labels]

    def rates(chosen: Iterable[Sequence[int]], verdict: str) -> list[str]:
        chosen = list(chosen)
        found = [verdicts(times, chosen) for times in timed]
        return [str(Rate(one.count(verdict), len(one))) for one in found]

    def naive(pairs: Callable[[], Iterable[tuple[int, int]]]) -> list[str]:
        return [str(naive_alarms(samples, label, pairs())) for label in labels]

    medians = [f"{np.expm1(np.median(times.log_ratios)):+.1%}" for times in timed]
    return [
        row("", ["identical (false alarms)", "5 % slower (caught)", "10 % slower (caught)"]),
        row("median ratio recorded, less 1", medians),
        row(f"paired, {resamples} resampled runs: slower", rates(groups, "slower")),
        row("  inconclusive", rates(groups, "inconclusive")),
        row("  holds", rates(groups, "holds")),
        row(f"paired, {len(apart)} runs that share no instance: slower", rates(apart, "slower")),
        row("  inconclusive", rates(apart, "inconclusive")),
        row("mean > 110 %, same instance", naive(lambda: ((i, i) for i in range(n)))),
        row(
            "mean > 110 %, stored baseline (other instance)",
            naive(lambda: ((i, j) for i in range(n) for j in range(n) if i != j)),
        ),
    ]


def main() -> None:
    """Record, resample, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="dense", choices=list(TIMING_SUBJECTS))
    parser.add_argument("--instances", type=int, default=60, help=f"at least {INSTANCES}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=180.0, help="budget for recording")
    parser.add_argument("--resamples", type=int, default=4000)
    options = parser.parse_args()
    start = time.perf_counter()
    samples = record(options.subject, options.instances, options.rounds, options.seconds)
    spent = time.perf_counter() - start
    print(f"{options.subject}: {samples.completed} instances of {options.rounds} rounds in {spent:.0f} s")
    if samples.completed < INSTANCES:
        raise SystemExit(f"a run of the gate needs {INSTANCES} instances: give more --seconds or --instances")
    print("\n".join(table(samples, options.resamples, np.random.default_rng(0))))
    print(
        "Intervals: Clopper-Pearson, 95 %. Resampled runs share their instances, so that theirs are too "
        "narrow; those of runs that share none are not."
    )


if __name__ == "__main__":
    main()
