"""False alarms and power of the paired timing design on this machine, beside the usual ways.

Records real instances of a timed subject: one batch of 16 beside itself, and beside itself made 5 % and 10 %
slower by busy waiting. Runs of the gate are then resampled from the instances; runs that share no instance are real
ones. 30 of them take 360 instances. On the same data: a 10 % threshold on means, the minimum of N, Mann-Whitney on
the instances' medians, and a stored baseline (other instances) compared by Welch's test.

    python tests/benchmarks/timing_false_alarms.py --instances 60
    python tests/benchmarks/timing_false_alarms.py --instances 360 --seconds 3600 --save times.json
    python tests/benchmarks/timing_false_alarms.py --load times.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from bscheck.checks.timing import FAMILY_SIZE
from bscheck.measure import PairedTimes, Samples, compare, paired_sample
from bscheck.measure.sampler import INSTANCES, ROUNDS, Run
from bscheck.measure.steps import DUMMY_SIZES, fresh_training_step
from bscheck.reference_subjects import TIMING_SUBJECTS
from bscheck.runtime.bench import precision
from bscheck.runtime.environment import describe

SIZE = 16
#: What the sampler calls a size is here one batch of `SIZE` with this share of its time added.
ADDED = {16: 0.0, 17: 0.0, 18: 0.05, 19: 0.10}
#: Steps that tell how long a step takes, so that a share of it can be added.
CALIBRATION = 15
#: pytest-benchmark's documentation shows ``--benchmark-compare-fail=mean:10%``.
THRESHOLD = 1.10
#: Level of the tests that are set beside the gate's: that of one run of the gate.
LEVEL = 1e-3


@dataclass(frozen=True)
class Rate:
    """How often something happened, with its Clopper-Pearson interval."""

    count: int
    trials: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact binomial interval."""
        tail, k, n = (1 - confidence) / 2, self.count, self.trials
        low = float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0
        high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
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


def seconds_of(samples: Samples, label: int) -> np.ndarray:
    """Return the seconds of a label, shape (instances, rounds)."""
    return np.asarray([one[str(label)] for one in samples.seconds])


def above_threshold(
    samples: Samples, label: int, pairs: Sequence[tuple[int, int]], reduce: Callable[..., np.ndarray]
) -> Rate:
    """Return how often one summary exceeds another by `THRESHOLD`; (baseline's instance, tested instance)."""
    before, now = reduce(seconds_of(samples, SIZE), axis=1), reduce(seconds_of(samples, label), axis=1)
    return Rate(sum(bool(now[j] > THRESHOLD * before[i]) for i, j in pairs), len(pairs))


def mann_whitney(samples: Samples, label: int, groups: Iterable[Sequence[int]]) -> Rate:
    """Return how often the medians of a run's instances differ at `LEVEL`, unpaired."""
    before, now = (np.median(seconds_of(samples, n), axis=1) for n in (SIZE, label))
    alarms = [stats.mannwhitneyu(now[list(g)], before[list(g)], alternative="greater").pvalue < LEVEL for g in groups]
    return Rate(int(np.sum(alarms)), len(alarms))


def stored_baseline(samples: Samples, label: int, groups: Iterable[Sequence[int]]) -> Rate:
    """Return how often half of the instances differ at `LEVEL` from the other half, stored earlier."""
    before, now = (np.log(np.median(seconds_of(samples, n), axis=1)) for n in (SIZE, label))
    alarms = []
    for group in groups:
        half = len(group) // 2
        test = stats.ttest_ind(
            now[list(group[half:])], before[list(group[:half])], equal_var=False, alternative="greater"
        )
        alarms.append(test.pvalue < LEVEL)
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

    def naive(count: Callable[[int], Rate]) -> list[str]:
        return [str(count(label)) for label in labels]

    same = [(i, i) for i in range(n)]
    other = [(i, j) for i in range(n) for j in range(n) if i != j]
    twice = [rng.permutation(n)[: 2 * INSTANCES].tolist() for _ in range(resamples)] if n >= 2 * INSTANCES else []
    medians = [f"{np.expm1(np.median(times.log_ratios)):+.1%}" for times in timed]
    return [
        row("", ["identical (false alarms)", "5 % slower (caught)", "10 % slower (caught)"]),
        row("median ratio recorded, less 1", medians),
        row(f"paired, {resamples} resampled runs: slower", rates(groups, "slower")),
        row("  inconclusive", rates(groups, "inconclusive")),
        row("  holds", rates(groups, "holds")),
        row(f"paired, {len(apart)} runs that share no instance: slower", rates(apart, "slower")),
        row("  inconclusive", rates(apart, "inconclusive")),
        row("mean > 110 %, same instance", naive(lambda x: above_threshold(samples, x, same, np.mean))),
        row("mean > 110 %, stored baseline", naive(lambda x: above_threshold(samples, x, other, np.mean))),
        row("minimum of N > 110 %, same instance", naive(lambda x: above_threshold(samples, x, same, np.min))),
        row("minimum of N > 110 %, stored baseline", naive(lambda x: above_threshold(samples, x, other, np.min))),
        row(f"Mann-Whitney on medians, p < {LEVEL}", naive(lambda x: mann_whitney(samples, x, groups))),
        row(f"Welch, stored baseline, p < {LEVEL}", naive(lambda x: stored_baseline(samples, x, twice))),
    ]


def recorded(options: argparse.Namespace) -> tuple[Samples, float]:
    """Return recorded samples, and the seconds that took."""
    start = time.perf_counter()
    samples = record(options.subject, options.instances, options.rounds, options.seconds)
    return samples, time.perf_counter() - start


def loaded(path: Path) -> tuple[Samples, float]:
    """Return the samples of an earlier call's ``--save``."""
    kept = json.loads(path.read_text())
    return Samples(tuple(kept["sizes"]), tuple(kept["seconds"]), kept["requested"]), kept["spent"]


def main() -> None:
    """Record, resample, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="dense", choices=list(TIMING_SUBJECTS))
    parser.add_argument("--instances", type=int, default=60, help=f"at least {INSTANCES}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=180.0, help="budget for recording")
    parser.add_argument("--resamples", type=int, default=4000)
    parser.add_argument("--save", type=Path, help="keep the recorded times in this JSON file")
    parser.add_argument("--load", type=Path, help="resample recorded times instead of recording")
    options = parser.parse_args()
    samples, spent = loaded(options.load) if options.load else recorded(options)
    if options.save:
        options.save.write_text(json.dumps({**samples.as_dict(), "spent": spent, "environment": dict(describe())}))
    each = INSTANCES * spent / max(1, samples.completed) / (len(ADDED) + 1) * 3
    print(f"{samples.completed} instances in {spent:.0f} s: {each:.0f} s for a comparison of two sizes and the canary")
    if samples.completed < INSTANCES:
        raise SystemExit(f"a run of the gate needs {INSTANCES} instances: give more --seconds or --instances")
    print("\n".join(table(samples, options.resamples, np.random.default_rng(0))))
    print(
        "Intervals: Clopper-Pearson, 95 %. Resampled runs share their instances, so that theirs are too "
        "narrow; those of runs that share none are not."
    )


if __name__ == "__main__":
    main()
