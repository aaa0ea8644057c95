"""A model whose every gradient names the examples it came from: NumPy's side of the ledger.

The model is one weight for each column and a leaky ReLU of slope 1/2 below zero; its loss is the sum over a batch of
``w_i (y_i - 12) 3 f(x_i)``. Column i of example i's inputs is 1, and 0 in every other example's, so that the gradient's
element i tells how often example i was in the batch, and with which target and weight. All numbers are small multiples
of a power of two: every sum is exact in float32, and the bound is 0 wherever nothing but powers of two divides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Examples that can be told apart.
IDS = 12
#: Columns: one for each example, two of small integers that couple their updates, and a constant.
COLUMNS = IDS + 3
#: The loss multiplies targets less this by `FACTOR`: targets stay class labels (0 … 23), gradients get both signs.
CENTRE = 12
#: Makes a window of three divide without rounding.
FACTOR = 3
#: Slope of the activation below zero.
SLOPE = 0.5
#: No sum of gradients has this part, so that no pre-activation is ever 0, where the slope is a convention.
OFFSET = 2.0**-7


@dataclass(frozen=True)
class Ledger:
    """Examples, and the weights that training starts from.

    Attributes
    ----------
    x : array, shape (examples, COLUMNS)
    y : array, shape (examples, 1)
        Odd class labels, no two alike.
    w : array, shape (examples,)
        Sample weights: powers of two, no zeros, which would hide their examples.
    start : array, shape (COLUMNS,)
    """

    x: Array
    y: Array
    w: Array
    start: Array

    def slopes(self, weights: Array) -> Array:
        """Return the activation's slope at each example."""
        return np.where(self.x @ weights > 0, 1.0, SLOPE)

    def forces(self, weights: Array) -> Array:
        """Return what each example multiplies its inputs by in the gradient."""
        return np.asarray(self.w * FACTOR * (self.y[:, 0] - CENTRE) * self.slopes(weights))

    def gradient(self, rows: Sequence[int], weights: Array) -> Array:
        """Return the gradient of a batch of these examples."""
        chosen = list(rows)
        return np.asarray(self.forces(weights)[chosen] @ self.x[chosen])


def draw(seed: int, examples: int, weighted: bool) -> Ledger:
    """Return examples of a seed.

    Parameters
    ----------
    seed : int
    examples : int
        At most `IDS`.
    weighted : bool
        Whether the sample weights differ (1/2 … 4); else all are 1.
    """
    rng = np.random.default_rng((seed, 0x1ED6))
    x = np.zeros((examples, COLUMNS))
    x[:, :examples] = np.eye(examples)
    x[:, IDS : IDS + 2] = rng.integers(-2, 3, (examples, 2))
    x[:, -1] = 1.0
    labels = rng.permutation(2 * np.arange(IDS) + 1)[:examples].astype(float)
    w = 2.0 ** rng.integers(-1, 3, examples) if weighted else np.ones(examples)
    start = rng.integers(-40, 41, COLUMNS).astype(float)
    start[-1] += OFFSET
    return Ledger(x, labels[:, None], w, start)


@dataclass(frozen=True)
class Journal:
    """What the optimizer saw and did: one row for each micro-step.

    Attributes
    ----------
    gradients : array, shape (steps, COLUMNS)
        What it was given.
    before : array, shape (steps, COLUMNS)
        The weights at that moment.
    after : array, shape (COLUMNS,)
        The weights in the end.
    accumulator : array, shape (COLUMNS,), or None
        What is left in the gradient accumulator; None without accumulation.
    updates : int
        What the optimizer's ``iterations`` says.
    counted : int
        How many gradients the optimizer counts.
    """

    gradients: Array
    before: Array
    after: Array
    accumulator: Array | None
    updates: int
    counted: int


@dataclass(frozen=True)
class Mismatch:
    """The first place where a journal is not what it should be."""

    where: str
    seen: str
    wanted: str


def counts(ledger: Ledger, journal: Journal) -> Array | Mismatch:
    """Return how often each example was in each step's batch, shape (steps, examples).

    A gradient that no counts explain is a mismatch: a target, a weight or inputs that belong to another example, or
    a gradient that is not the sum over a batch.
    """
    found = []
    for step, (gradient, before) in enumerate(zip(journal.gradients, journal.before, strict=True)):
        forces = ledger.forces(before)
        each = gradient[: len(forces)] / forces
        wrong = np.flatnonzero((each != np.round(each)) | (each < 0))
        place = f"step {step + 1}"
        if len(wrong):
            i = int(wrong[0])
            return Mismatch(
                place,
                f"example {i} pulls with {gradient[i]:g}",
                f"{forces[i]:g} for each time it is in the batch: its own target and weight",
            )
        expected = (each * forces) @ ledger.x
        if not np.array_equal(expected, gradient):
            return Mismatch(
                place,
                f"the gradient {gradient[len(forces) :].tolist()} of the shared columns is not that of its examples",
                f"{expected[len(forces) :].tolist()}",
            )
        found.append(each.astype(int))
    return np.array(found).reshape(len(found), len(ledger.x))


def coverage(seen: Array, passes: Sequence[Sequence[Sequence[int]]], shuffled: bool) -> Mismatch | None:
    """Return where the batches are not those of the passes over the examples.

    Parameters
    ----------
    seen : array, shape (steps, examples)
        As `counts` returns them.
    passes : sequence of sequence of sequence of int
        The examples of each batch of each pass, unshuffled.
    shuffled : bool
        Whether only each pass's examples and its batches' sizes count.
    """
    steps = sum(len(batches) for batches in passes)
    if len(seen) != steps:
        return Mismatch("the number of steps", f"{len(seen)} steps were made", f"{steps}")
    step = 0
    for number, batches in enumerate(passes):
        rows = seen[step : step + len(batches)]
        wanted = np.zeros_like(rows)
        for row, batch in zip(wanted, batches, strict=True):
            np.add.at(row, list(batch), 1)
        place = f"pass {number + 1} over the examples"
        total, once = rows.sum(axis=0), wanted.sum(axis=0)
        if not np.array_equal(total, once):
            i = int(np.flatnonzero(total != once)[0])
            return Mismatch(place, f"example {i} was trained on {total[i]} times", f"{once[i]} times")
        sizes, given = sorted(rows.sum(axis=1).tolist()), sorted(wanted.sum(axis=1).tolist())
        if sizes != given:
            return Mismatch(place, f"the batches have {sizes} examples", f"{given}")
        if not shuffled and not np.array_equal(rows, wanted):
            j = int(np.flatnonzero((rows != wanted).any(axis=1))[0])
            return Mismatch(f"step {step + j + 1}", f"the batch is {_ids(rows[j])}", f"{_ids(wanted[j])}")
        step += len(batches)
    return None


def _ids(row: Array) -> list[int]:
    return [int(i) for i in np.repeat(np.arange(len(row)), row)]


def follow(ledger: Ledger, steps: Sequence[Sequence[int]], k: int) -> Journal:
    """Return the journal of stochastic gradient descent (learning rate 1) on these batches.

    With k > 1 every k-th step applies the mean of the last k gradients; between updates nothing moves. What a call
    leaves open stays in the accumulator for the next.
    """
    weights, total = ledger.start.copy(), np.zeros(COLUMNS)
    gradients, before, updates = [], [], 0
    for number, rows in enumerate(steps):
        gradient = ledger.gradient(rows, weights)
        gradients.append(gradient)
        before.append(weights)
        total = total + gradient
        if (number + 1) % k == 0:
            weights, total, updates = weights - total / k, np.zeros(COLUMNS), updates + 1
    shape = (len(steps), COLUMNS)
    return Journal(
        np.array(gradients).reshape(shape),
        np.array(before).reshape(shape),
        weights,
        total if k > 1 else None,
        updates,
        len(steps),
    )


def difference(seen: Journal, expected: Journal, u: float) -> tuple[float, Mismatch | None]:
    """Return how far a journal is from the expected one, as a share of the bound, and the first place beyond it.

    ``|seen - expected| <= 4 u n size``, n the number of steps and size the largest weight and gradient together: each
    update rounds a division (a product with the rounded reciprocal: twice) and a subtraction. With u = 0 (powers of
    two divide multiples of powers of two, so that nothing is rounded) any difference is too much.
    """
    if len(seen.gradients) != len(expected.gradients):
        text = f"{len(seen.gradients)} steps were made"
        return np.inf, Mismatch("the number of steps", text, f"{len(expected.gradients)}")
    size = float(np.abs(expected.gradients).max(initial=0)) + float(np.abs(expected.before).max(initial=0))
    allowed = 4 * u * max(1, len(expected.gradients)) * size
    largest = 0.0
    for what, s, e in _in_order(seen, expected):
        off = np.abs(s - e)
        off = np.where(np.isfinite(off), off, np.inf)
        at = int(np.argmax(off))
        share = float(off[at]) / allowed if allowed else (np.inf if off[at] else 0.0)
        if share > 1:
            return share, Mismatch(f"column {at}", f"{what} {s[at] + 0.0:.9g} in column {at}", f"{e[at]:.9g}")
        largest = max(largest, share)
    if seen.counted != expected.counted:
        return np.inf, Mismatch(
            "the count of steps", f"the optimizer counts {seen.counted}", f"{expected.counted} steps"
        )
    if seen.updates != expected.updates:
        return np.inf, Mismatch("iterations", f"iterations says {seen.updates}", f"{expected.updates} updates")
    return largest, None


def _in_order(seen: Journal, expected: Journal) -> Iterator[tuple[str, Array, Array]]:
    """Yield what is compared, in the order in which it came to be."""
    for i, before in enumerate(expected.before):
        yield f"before step {i + 1} the weight is", seen.before[i], before
        yield f"in step {i + 1} the gradient is", seen.gradients[i], expected.gradients[i]
    yield "in the end the weight is", seen.after, expected.after
    if expected.accumulator is not None:
        held = np.full(COLUMNS, np.nan) if seen.accumulator is None else seen.accumulator
        yield "in the end the gradient accumulator holds", held, expected.accumulator
