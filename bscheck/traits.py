"""What probing finds out about a subject: the facts that decide which promises apply to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.errors import SubjectError, one_line
from bscheck.oracles.losses import of_loss
from bscheck.runtime import keras_module
from bscheck.runtime.bench import Array, Bench, build_model, precision
from bscheck.runtime.masks import mask_of
from bscheck.subject import Subject, leaves, map_leaves, take
from bscheck.tolerance import rms

#: Layers that Keras documents as computing statistics over the batch while training.
BATCH_STATISTICS = ("BatchNormalization", "SpectralNormalization")

#: Examples in the probes: few, but enough that every example has several neighbours.
PROBE_EXAMPLES = 4

#: A training output that moves by more than this share when only *other* examples change is coupled to them: the
#: square root of the roundoff. Uncoupled models move by a few roundoffs, batch statistics by 1e-1.
COUPLED = {"float64": 1e-8, "float32": 2.5e-4}


#: What a loss of reduction ``other`` is.
NO_MEAN = "neither a mean nor a sum over its examples"

#: Why a promise that needs a float64 twin does not apply, see `_double`.
NO_TWIN = "no float64 twin: the model fixes the dtype of a layer or an input, or its loss computes in fewer bits"


@dataclass(frozen=True)
class Traits:
    """Facts about a subject, found by probing.

    Attributes
    ----------
    outputs : int
        Number of model outputs.
    parameters : int
        Number of trainable parameters.
    reduction : str
        How the loss combines its rows: ``mean``, ``sum`` or ``weighted mean``; ``other`` where a custom loss is
        no such combination.
    masked_loss : bool
        A mask reaches the loss, which is then a mean over the valid entries of each batch.
    coupling : float
        How far an example's training output moves (relative rms) when only other examples change; 0 where that
        is rounding.
    batch_statistics : tuple of str
        Names of the layers with batch statistics.
    stochastic : bool
        Two training calls on the same batch differ (dropout, noise).
    stateful : tuple of str
        Names of the recurrent layers that keep their state between batches.
    recurrent : bool
    sparse_gradients : bool
        Some gradient holds some rows only.
    double : bool
        The float64 twin really computes in float64.
    penalties : bool
        The loss has terms that no example owns (regularizers, ``add_loss``).
    """

    outputs: int
    parameters: int
    reduction: str
    masked_loss: bool
    coupling: float
    batch_statistics: tuple[str, ...]
    stochastic: bool
    stateful: tuple[str, ...]
    recurrent: bool
    sparse_gradients: bool
    double: bool
    penalties: bool

    @property
    def coupled(self) -> bool:
        """Whether examples influence each other's training outputs."""
        return self.coupling > 0.0

    def words(self) -> str:
        """Return the traits as a short phrase, for the log of the first run."""
        said = [
            f"{self.parameters} parameters",
            f"{self.outputs} outputs" if self.outputs != 1 else "",
            f"loss is a {self.reduction} over the examples",
            "penalties" if self.penalties else "",
            "masked loss" if self.masked_loss else "",
            f"batch statistics in {', '.join(self.batch_statistics)}" if self.batch_statistics else "",
            f"examples coupled in training ({self.coupling:.1g})" if self.coupled else "",
            "stochastic" if self.stochastic else "",
            f"stateful {', '.join(self.stateful)}" if self.stateful else "",
            "sparse gradients" if self.sparse_gradients else "",
            "" if self.double else "no float64 twin",
        ]
        return ", ".join(part for part in said if part)


def probe(subject: Subject, bench: Bench) -> Traits:
    """Return the traits of a subject, from its float64 bench, or its float32 one where there is no float64 twin.

    Raises
    ------
    SubjectError
        When the subject breaks its contract: shared or differing builds, a loss that is not one number.
    """
    check_builds(subject, bench)
    model = bench.model
    batch = bench.cast(subject.draw(1, PROBE_EXAMPLES))
    check_loss(subject, bench, batch)
    layers = list(_walk(model))
    first = _outputs(bench, batch[0], True)
    stochastic = _stochastic(bench, batch[0])
    masked, coupled, reduction = _mask_reaches_loss(bench, batch), _coupling(subject, bench), _reduction(subject)
    stateful = tuple(layer.name for layer in layers if getattr(layer, "stateful", False))
    return Traits(
        outputs=len(leaves(first)),
        parameters=int(sum(bench.lengths)),
        reduction=reduction if stochastic or masked or coupled or stateful else _seen(reduction, subject, bench, batch),
        masked_loss=masked,
        coupling=coupled,
        batch_statistics=tuple(layer.name for layer in layers if type(layer).__name__ in BATCH_STATISTICS),
        stochastic=stochastic,
        stateful=stateful,
        recurrent=any(hasattr(layer, "cell") or hasattr(layer, "return_sequences") for layer in layers),
        sparse_gradients=any("Embedding" in (c.__name__ for c in type(layer).__mro__) for layer in layers)
        and bench.runtime.name == "tensorflow",
        double=_double(bench, batch, stochastic),
        penalties=_has_penalties(bench, batch),
    )


def _double(bench: Bench, batch: Sequence[Any], stochastic: bool) -> bool:
    """Whether nothing between weights and outputs, or the loss's gradient, is rounded to fewer bits than float64 has.

    Both are smooth functions of the weights: moved twice as far along one line, they move by twice as much.
    Steps of 1e-7 of the weights are a million times above float64's rounding, and below float32's. A loss that NumPy
    has a formula for is not asked: what it does in fewer bits than it is given is a fault. Nor is one that does not
    give the same gradient twice.
    """
    if not all(str(v.dtype) == "float64" for v in bench.model.trainable_variables):
        return False
    line = bench.initial + 0.1
    seen, slopes = [], []
    unknown = any(of_loss(loss) is None for loss in leaves(bench.subject.loss))
    for step in (0.0, 1e-7, 2e-7) if not stochastic else (0.0,):
        bench.set_weights(line * (1 + step))
        seen.append([np.asarray(leaf) for leaf in leaves(_outputs(bench, batch[0], True))])
        if unknown and not stochastic:
            slopes.append(bench.gradient(batch, bench.runtime.modes[0])[1])
    repeats = bool(slopes) and np.array_equal(slopes[-1], bench.gradient(batch, bench.runtime.modes[0])[1])
    bench.set_weights(bench.initial)
    if any(leaf.dtype != np.float64 for leaf in seen[0]):
        return False
    return stochastic or (
        _smooth(*(np.concatenate([leaf.ravel() for leaf in each]) for each in seen))
        and (not repeats or _smooth(*slopes))
    )


def _smooth(start: Array, once: Array, twice: Array) -> bool:
    """Whether twice the step makes twice the change; a thousand times float64's rounding of the values is let pass."""
    return rms(twice - start - 2 * (once - start)) <= 1e-3 * rms(twice - start) + 1e-12 * rms(start)


def check_builds(subject: Subject, bench: Bench) -> None:
    """Raise `SubjectError` unless ``build`` gives new models of equal weights."""
    again = build_model(subject, bench.dtype)
    if again is bench.model or {id(v) for v in again.variables} & {id(v) for v in bench.model.variables}:
        raise SubjectError(
            f"Subject {subject.name!r}: build() returns the same model twice (or models that share weights); "
            "it must make a new one each time"
        )
    shapes = [tuple(v.shape) for v in again.trainable_variables]
    if shapes != bench.shapes:
        raise SubjectError(
            f"Subject {subject.name!r}: build() makes different weights each time "
            f"({len(bench.shapes)} variables {bench.shapes[:3]}…, then {len(shapes)} {shapes[:3]}…)"
        )
    values = [np.asarray(bench.keras.ops.convert_to_numpy(v), np.float64) for v in again.trainable_variables]
    if not all(np.array_equal(a, b) for a, b in zip(values, bench.split(bench.initial), strict=True)):
        raise SubjectError(
            f"Subject {subject.name!r}: build() gives different initial weights each time although Keras's, "
            "NumPy's and Python's seeds are the same; seed your own random generator inside build()"
        )


def check_loss(subject: Subject, bench: Bench, batch: Sequence[Any]) -> None:
    """Raise `SubjectError` unless the training loss of a batch is one finite number."""
    with precision(bench.dtype):
        try:
            loss = np.asarray(bench.keras.ops.convert_to_numpy(bench.loss(*_tensors(batch))))
        except Exception as error:
            raise SubjectError(
                f"Subject {subject.name!r}: the loss cannot be computed on its data: {one_line(error)}"
            ) from error
    if loss.ndim != 0:
        raise SubjectError(
            f"Subject {subject.name!r}: the loss is not one number but has shape {loss.shape}; use a reduction "
            "('sum_over_batch_size' or 'sum')"
        )
    if not np.isfinite(loss):
        raise SubjectError(f"Subject {subject.name!r}: the loss of its first batch is {loss}; it must be finite")


def _tensors(tree: Any) -> Any:
    convert = keras_module().ops.convert_to_tensor
    return [None if part is None else map_leaves(convert, part) for part in tree]


def _outputs(bench: Bench, x: Any, training: bool) -> Any:
    with precision(bench.dtype):
        y = bench.call(map_leaves(bench.keras.ops.convert_to_tensor, x), training)
    return map_leaves(lambda t: np.asarray(bench.keras.ops.convert_to_numpy(t)), y)


def coupling(bench: Bench, x: Any, other: Any, training: bool) -> float:
    """Return how far example 0's outputs move (relative rms) when every other example is changed.

    `x` and `other` are inputs of the same size; example 0 is taken from `x` both times.
    """
    mixed = map_leaves(np.array, other)
    for target, source in zip(leaves(mixed), leaves(x), strict=True):
        target[0] = np.asarray(source)[0]
    bench.set_weights(bench.initial)
    before = [np.asarray(leaf[:1], np.float64) for leaf in leaves(_outputs(bench, x, training))]
    bench.set_weights(bench.initial)
    after = [np.asarray(leaf[:1], np.float64) for leaf in leaves(_outputs(bench, mixed, training))]
    moved = rms(np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)]))
    size = rms(np.concatenate([b.ravel() for b in before]))
    return moved / size if size else float(moved > 0)


def _coupling(subject: Subject, bench: Bench) -> float:
    x, _, _ = bench.cast(subject.draw(2, PROBE_EXAMPLES))
    other, _, _ = bench.cast(subject.draw(3, PROBE_EXAMPLES))
    if _stochastic(bench, x):
        return 0.0
    moved = coupling(bench, x, other, True)
    return moved if moved > COUPLED[bench.dtype] else 0.0


def _stochastic(bench: Bench, x: Any) -> bool:
    first, second = (leaves(_outputs(bench, x, True)) for _ in range(2))
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))
    bench.set_weights(bench.initial)
    return not same


def _mask_reaches_loss(bench: Bench, batch: Sequence[Any]) -> bool:
    with precision(bench.dtype):
        outputs = bench.model(_tensors(batch)[0], training=True)
    return any(mask_of(leaf) is not None for leaf in leaves(outputs))


def _has_penalties(bench: Bench, batch: Sequence[Any]) -> bool:
    with precision(bench.dtype):
        bench.model(_tensors(batch)[0], training=True)
        return bool(bench.model.losses)


def _reduction(subject: Subject) -> str:
    """Return how the loss is documented to combine its rows; a plain function is averaged by Keras."""
    names = {str(getattr(loss, "reduction", "sum_over_batch_size") or "none") for loss in leaves(subject.loss)}
    known = {"sum_over_batch_size": "mean", "mean": "mean", "sum": "sum",
             "mean_with_sample_weight": "weighted mean"}  # fmt: skip
    return known.get(names.pop(), "other") if len(names) == 1 else "other"


def _seen(reduction: str, subject: Subject, bench: Bench, batch: Sequence[Any]) -> str:
    """Return ``other`` where a mean is not that of its rows: a loss of the subject's own may look across them.

    A loss that NumPy has a formula for is not asked: that it is the mean of its rows is a promise. Weights are left
    out: that they act on each row is another.
    """
    if reduction != "mean" or all(of_loss(loss) is not None for loss in leaves(subject.loss)):
        return reduction
    parts = [slice(None), *(slice(i, i + 1) for i in range(PROBE_EXAMPLES))]
    with precision(bench.dtype):
        cut = [_tensors(take(part, rows) for part in batch[:2]) for rows in parts]
        whole, *rows = (float(bench.keras.ops.convert_to_numpy(bench.loss(x, y, None))) for x, y in cut)
    apart = abs(whole - float(np.mean(rows)))
    return "mean" if apart <= COUPLED[bench.dtype] * max(map(abs, (whole, *rows))) else "other"


def gives_one_number(subject: Subject, bench: Bench) -> bool:
    """Whether a loss of one output, other than those that NumPy has a formula for, reduces a batch by itself."""
    (loss, *others) = leaves(subject.loss)
    x, y, _ = bench.cast(subject.draw(1, PROBE_EXAMPLES))
    if others or isinstance(loss, str) or of_loss(loss) is not None or len(leaves(y)) > 1:
        return False
    with precision(bench.dtype):
        seen = leaves(bench.call(_tensors([x])[0], True))
        value = getattr(loss, "call", loss)(_tensors(leaves(y))[0], seen[0])
        return len(seen) == 1 and np.ndim(bench.keras.ops.convert_to_numpy(value)) == 0


def _walk(layer: Any) -> Any:
    yield from layer._flatten_layers() if hasattr(layer, "_flatten_layers") else getattr(layer, "layers", ())
