"""Tiny batches, fourth part: equal epochs and equal updates, the table of claim C10.

Data, first weights and orders are the seed's own, so that nothing but Keras's arithmetic decides a loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bscheck.cases import Case, LearningCase, seeds
from bscheck.checks import Param, check
from bscheck.checks.context import Context, cached_in_process, first_reason
from bscheck.checks.run import current_settings
from bscheck.measure.equivalence import equivalence, exceeds, geometric_interval
from bscheck.oracles.gradient import Dense, Network, loss
from bscheck.results.curves import Curve, Series, Table, point
from bscheck.results.verdict import Reading, worst
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array
from bscheck.runtime.learners import Classifier, Trained

#: (epochs, batch size): the published table, and as many updates at batch 160 as at 16, exactly.
TABLE = ((15, 16), (15, 160), (150, 160), (120, 160))
SMALL, LARGE, THREAD, EQUAL = TABLE

#: What claim C9 speaks of, and plain descent: class, options, and whether an update is linear in the gradient. Rates
#: at which each has learned after 480 updates and not after 60.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "sgd": ("SGD", {"learning_rate": 0.05}, True),
    "momentum": ("SGD", {"learning_rate": 0.01, "momentum": 0.9}, True),
    "nesterov": ("SGD", {"learning_rate": 0.01, "momentum": 0.9, "nesterov": True}, True),
    "adam": ("Adam", {"learning_rate": 0.003}, False),
    "adadelta": ("Adadelta", {"learning_rate": 1.0}, False),
    "rmsprop": ("RMSprop", {"learning_rate": 0.001}, False),
}

#: Those of every run: plain descent, the thread's own method, and one whose steps have nearly one size.
FIRST = ("sgd", "adadelta", "adam")

#: Margin of the equivalence test, as a ratio of losses, where updates are linear in the gradient: to first order in
#: the rate their mean path does not depend on the batch size.
RATIO = 1.05
#: The margin elsewhere, as a share of the same pair's gap at equal epochs: noise enters the denominators of these
#: methods, so a larger batch gains a little at equal updates too; the number of updates must be most of the cause.
PART = 0.5

#: Chance that a true difference at the margin counts as equivalent. At so many pairs a sound Keras fails any one test
#: with a chance below 1e-7 (`tests/benchmarks/equal_updates.py` says how much below, and what is noticed).
ALPHA, RUNS = 1e-3, 12

NETWORK = Network((Dense("tanh"), Dense()), "sparse_categorical_crossentropy")


@dataclass(frozen=True)
class Pair:
    """One seed's runs at both batch sizes.

    Attributes
    ----------
    runs : dict of int to Trained
        By batch size.
    losses : dict of int to array
        Loss over all examples after every epoch, by batch size.
    """

    runs: dict[int, Trained]
    losses: dict[int, Array]

    def loss(self, row: tuple[int, int]) -> float:
        """Return the loss at the end of a row of the table."""
        epochs, batch_size = row
        return float(self.losses[batch_size][:epochs][-1])

    def updates(self, row: tuple[int, int]) -> int:
        """Return the updates that a row's epochs made."""
        epochs, batch_size = row
        return self.runs[batch_size].updates[:epochs][-1]

    def seconds(self, row: tuple[int, int]) -> float:
        """Return the wall time of a row's epochs."""
        epochs, batch_size = row
        return self.runs[batch_size].seconds[:epochs][-1]

    def gap(self, row: tuple[int, int]) -> float:
        """Return how far a row ends from the small batch, as the logarithm of the losses' ratio."""
        return math.log(self.loss(row) / self.loss(SMALL))


@cached_in_process
def _classifier(optimizer: str) -> Classifier:
    name, options, _ = OPTIMIZERS[optimizer]
    return Classifier(name, options)


@cached_in_process
def pair(optimizer: str, seed: int) -> Pair:
    """Return one seed's runs at both batch sizes; the shorter rows are the beginning of the longest."""
    learner = _classifier(optimizer)
    x, labels = learner.data(seed)
    longest = {size: max(e for e, b in TABLE if b == size) for _, size in TABLE}
    runs = {size: learner.train(seed, epochs, size) for size, epochs in longest.items()}
    losses = {size: np.array([loss(NETWORK, w, x, labels) for w in run.weights]) for size, run in runs.items()}
    return Pair(runs, losses)


def table_params() -> list[Param]:
    """Return the optimizers of claim C9, and plain descent."""
    return [Param.of(optimizer=name) for name in OPTIMIZERS]


def not_trained(context: Context) -> str | None:
    """Return why an optimizer is not trained with."""
    optimizer = context.param.get("optimizer")
    name = OPTIMIZERS[optimizer][0]
    return first_reason(
        (not hasattr(keras_module().optimizers, name), f"this Keras exports no {name}"),
        (
            optimizer not in FIRST and current_settings().profile != "thorough",
            f"{', '.join(FIRST)} stand for the others: --bscheck-profile=thorough",
        ),
    )


def table_corners(context: Context) -> Sequence[Case]:
    """Return a pair of runs; as many as the equivalence test needs in a thorough run."""
    if current_settings().profile == "thorough":
        return (LearningCase(runs=RUNS),)
    return (LearningCase(),)


def table_cases(context: Context) -> Any:
    """Draw seeds."""
    from hypothesis import strategies as st

    return st.builds(LearningCase, seed=seeds())


@check(
    family="tiny batches",
    claims=("C7", "C9", "C10"),
    case=LearningCase,
    cases=table_cases,
    corners=table_corners,
    params=table_params,
    applies=not_trained,
    examples=(0, 0, 3),
    per_subject=False,
    catches="epochs or batches that fit does not run, or runs twice; a batch size that changes more than the number of "
    "updates",
    formula="updates = epochs ceil(N / B) exactly; in every pair loss(15, 160) > loss(15, 16) and "
    "|log loss(150, 160)/loss(15, 16)| < log loss(15, 160)/loss(15, 16). Thorough: two one-sided t tests at 0.001, "
    "paired on 12 seeds: mean |log loss(120, 160)/loss(15, 16)|, 480 updates each, below log 1.05 for SGD, momentum "
    "and Nesterov, below half of the same pair's gap at equal epochs for Adam, Adadelta and RMSprop; the gap at equal "
    "epochs above log 1.05. False alarms: below 1e-6 a run in all; noticed in 99 % of runs: a shift by 5 % of the "
    "loss, or by 0.65 of the gap (tests/benchmarks/equal_updates.py)",
    source="claim C10: a larger batch ends at a higher loss after equal epochs because it made fewer updates; "
    "Schuirmann 1987 for the equivalence test",
    example="15 epochs at batch 160 made 120 updates",
)
def fewer_updates_explain_the_higher_loss(context: Context, case: LearningCase) -> Reading:
    """After equal epochs a larger batch ends at a higher loss because it made fewer updates."""
    name = context.param.get("optimizer")
    pairs = [pair(name, seed) for seed in case.seeds]
    readings = [reading for seed, found in zip(case.seeds, pairs, strict=True) for reading in _of_a_pair(found, seed)]
    if case.runs >= RUNS:
        readings += _tests(pairs, OPTIMIZERS[name][2])
    figures = {f"loss_{e}_{b}": float(np.mean([p.loss((e, b)) for p in pairs])) for e, b in TABLE}
    return replace(worst(readings), figures=figures, curves=tuple(_curves(name, pairs)), tables=(_table(name, pairs),))


def _of_a_pair(found: Pair, seed: int) -> Iterator[Reading]:
    """Yield what must hold of every pair: the counts, the ordering, and what equal updates make of it."""
    for epochs, batch_size in TABLE:
        made, expected = found.updates((epochs, batch_size)), epochs * -(-Classifier.examples // batch_size)
        words = f"{epochs} epochs at batch {batch_size} made {made} updates"
        yield Reading(0.0 if made == expected else math.inf, "updates", words, f"{expected}")
    at_equal_epochs, at_equal_updates = found.gap(LARGE), found.gap(THREAD)
    held = at_equal_epochs > 0 and abs(at_equal_updates) < at_equal_epochs
    text = ", ".join(f"{e} epochs at batch {b}: {found.loss((e, b)):.3g}" for e, b in TABLE[:3])
    share = abs(at_equal_updates) / at_equal_epochs if held else math.inf
    yield Reading(share, f"the final losses, seed {seed}", text, "the second highest, the third near the first")


def compared(pairs: Sequence[Pair], linear: bool) -> tuple[list[float], float]:
    """Return each pair's difference at equal updates and the margin: a logarithm, or a share of the gap."""
    if linear:
        return [p.gap(EQUAL) for p in pairs], math.log(RATIO)
    return [p.gap(EQUAL) / p.gap(LARGE) for p in pairs], PART


def _tests(pairs: Sequence[Pair], linear: bool) -> Iterator[Reading]:
    """Yield the equivalence at equal updates, and the difference at equal epochs."""
    gaps = [p.gap(LARGE) for p in pairs]
    found = equivalence(*compared(pairs, linear), ALPHA)
    low, high = (math.expm1(end) if linear else end for end in (found.low, found.high))
    of = "of the loss at 16" if linear else "of the gap at equal epochs"
    yield Reading(
        found.share,
        where="equal updates",
        seen=f"after {pairs[0].updates(SMALL)} updates batch 160 ends {low:+.1%} to {high:+.1%} {of} away from it",
        allowed=f"within {RATIO - 1 if linear else PART:.0%} either way, over {len(pairs)} pairs at {ALPHA:g}",
        cause="the batch size changes more than the number of updates",
    )
    mean = math.expm1(float(np.mean(gaps)))
    # Gaps are above 0, which is held of every pair, and skewed: their logarithms are nearly normal.
    above = [math.log(max(gap, 1e-9) / math.log(RATIO)) for gap in gaps]
    yield Reading(
        exceeds(above, ALPHA),
        where="equal epochs",
        seen=f"after 15 epochs the loss at batch 160 is {mean:.0%} above that at 16",
        allowed=f"more than {RATIO - 1:.0%}, over {len(pairs)} pairs at {ALPHA:g}",
    )


# What a person looks at ---------------------------------------------------------------------------------


def _table(name: str, pairs: Sequence[Pair]) -> Table:
    rows = []
    for row in TABLE:
        mean, low, high = geometric_interval([p.loss(row) for p in pairs])
        text = f"{mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if len(pairs) > 1 else "")
        seconds = float(np.median([p.seconds(row) for p in pairs]))
        rows.append((name, *row, pairs[0].updates(row), text, f"{seconds:.2f}"))
    columns = ("optimizer", "epochs", "batch size", "updates", "final loss", "seconds")
    return Table("loss", "Equal epochs, equal updates", columns, tuple(rows), _note(pairs))


def _note(pairs: Sequence[Pair]) -> str:
    seeds_ = f"mean over {len(pairs)} seeds with its 95 % interval" if len(pairs) > 1 else "one seed"
    return f"A classifier, loss over its 500 examples, {seeds_}. The last row makes as many updates as the first."


def _curves(name: str, pairs: Sequence[Pair]) -> Iterator[Curve]:
    ends = []
    for i, row in enumerate(TABLE):
        mean, low, high = geometric_interval([p.loss(row) for p in pairs])
        ends.append(point(i, mean, *((low, high) if len(pairs) > 1 else ())))
    ticks = tuple(f"{e} x {b} ({pairs[0].updates((e, b))} updates)" for e, b in TABLE)
    title = f"Final loss by epochs and batch size ({name})"
    bars = (Series("final loss", tuple(ends), "bars"),)
    yield Curve("loss", title, "epochs x batch size", "loss", bars, ticks=ticks, note=_note(pairs))
    for label in ("updates", "seconds"):
        series = []
        for size in (16, 160):
            x = np.median([getattr(p.runs[size], label) for p in pairs], axis=0)
            y = np.exp(np.mean([np.log(p.losses[size]) for p in pairs], axis=0))
            every = 1 if size == 16 else 4
            points = itertools.islice(zip(x, y, strict=True), every - 1, None, every)
            series.append(Series(f"batch {size}", tuple(point(a, b) for a, b in points)))
        title = f"Loss against {'updates' if label == 'updates' else 'wall time'} ({name})"
        yield Curve("loss", title, label, "loss", tuple(series), log_y=True, note=_note(pairs))
