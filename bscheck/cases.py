"""Cases: the situations that Hypothesis draws inside one parameter, and how they travel as JSON.

A case holds integers and names only, so that it shrinks to something readable. Drawn arrays are a function of
the case's seed (see `bscheck.checks.context`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bscheck.errors import RecordError, unknown

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

#: Seeds are drawn from a small range: every seed is one more set of weights and data, and 2**16 of them
#: are more than any run draws.
SEEDS = 2**16

MODES = ("graph", "eager", "jit")
DTYPES = ("float32", "float64", "mixed_bfloat16", "mixed_float16")
WEIGHTINGS = ("none", "unequal", "zeros")
SCALES = ("small", "usual", "large", "wild")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What every family's case has in common."""

    seed: int = 0

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the case as a JSON object; tuples become lists."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Return the case that `to_json` wrote; missing fields take their defaults.

        Raises
        ------
        RecordError
            When a field is unknown, has another type, or a name is not among the valid ones.
        """
        if not isinstance(data, Mapping):
            raise RecordError(f"a case must be a table of fields, not {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        fields = {f.name for f in dataclasses.fields(cls)}
        values = {}
        for key, value in data.items():
            if key not in fields:
                raise RecordError(unknown("case field", key, fields))
            values[key] = _typed(key, value, hints[key])
            if key in cls.CHOICES and value not in cls.CHOICES[key]:
                raise RecordError(unknown(f"{key} in a case", value, cls.CHOICES[key]))
        return cls(**values)

    def __str__(self) -> str:
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        parts: list[str] = []
        for key, value in dataclasses.asdict(self).items():
            if key == "sizes":
                parts[:0] = [f"k={len(value)}, micro-batches {'+'.join(map(str, value))}"]
            elif key == "seed":
                parts.append(f"seed {value}")
            elif key in ("mode", "dtype"):
                parts.append(str(value))
            elif value != defaults[key]:
                parts.append(f"{key}={value}" if not isinstance(value, bool) else key)
        return ", ".join(parts)


def _typed(key: str, value: Any, hint: Any) -> Any:
    """Return the JSON value as the field's type, or raise."""
    if hint is int and type(value) is int:
        return value
    if hint is bool and type(value) is bool:
        return value
    if hint is str and type(value) is str:
        return value
    if hint == tuple[int, ...] and isinstance(value, (list, tuple)) and all(type(n) is int for n in value):
        return tuple(value)
    wanted = getattr(hint, "__name__", str(hint))
    raise RecordError(f"case field {key!r} must be {wanted}, not {value!r}"[:200])


@dataclass(frozen=True, kw_only=True)
class GradientCase(Case):
    """One window of micro-batches through a model: the accumulation family's situation.

    Attributes
    ----------
    sizes : tuple of int
        Examples in each micro-batch; unequal ones make the window ragged.
    dtype : str
        Keras dtype policy that the subject is built under.
    mode : str
        ``eager``, ``graph`` (``tf.function``; ``jax.jit`` on JAX) or ``jit`` (XLA).
    path : str
        How the window reaches the optimizer: ``loop`` (gradient, then ``optimizer.apply``), ``train_on_batch``,
        ``fit``, or ``step`` (the subject's own).
    weights : str
        Sample weights: ``none``, ``unequal`` (0.25 … 4) or ``zeros`` (some of them 0).
    scale : str
        How far the drawn weights and inputs are scaled from the subject's own (see `SCALE_FACTORS`).
    outlier : bool
        The last example's inputs are ten times larger.
    """

    sizes: tuple[int, ...] = (2, 1)
    dtype: str = "float32"
    mode: str = "graph"
    path: str = "loop"
    weights: str = "none"
    scale: str = "usual"
    outlier: bool = False

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": DTYPES, "mode": MODES, "weights": WEIGHTINGS, "scale": SCALES,
        "path": ("loop", "train_on_batch", "fit", "step"),
    }  # fmt: skip


#: Factors on the drawn weights. The promise has no scale, so rounding bounds must hold at all of them.
SCALE_FACTORS = {"small": 0.3, "usual": 1.0, "large": 3.0, "wild": 1000.0}


@dataclass(frozen=True, kw_only=True)
class UpdateCase(Case):
    """Windows of micro-batches through an optimizer: what the update does with the accumulated gradient.

    Attributes
    ----------
    micro_batches : int
        Micro-batches in one update (k).
    updates : int
        Windows run one after the other, so that state kept between updates is seen.
    decay, clip, ema, constraint : str
        The optimizer options of the case; ``none`` leaves one out, see `bscheck.surface.optimizers`. Under
        ``non_negative`` the first weights satisfy the constraint, under ``max_norm`` they do not.
    gradient : str
        ``dense``, or the embedding's gradient as rows: ``sparse`` ones repeat, ``sparse_unique`` ones do not.
    size : int
        Examples in each micro-batch, where the path goes through a model.
    """

    micro_batches: int = 2
    updates: int = 2
    decay: str = "none"
    clip: str = "none"
    ema: str = "none"
    constraint: str = "none"
    gradient: str = "dense"
    mode: str = "eager"
    dtype: str = "float32"
    size: int = 2

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "decay": ("none", "on", "exclude_bias", "exclude_listed"),
        "clip": ("none", "norm", "value", "global", "norm_loose"),
        "ema": ("none", "on", "overwrite"),
        "constraint": ("none", "max_norm", "non_negative"),
        "gradient": ("dense", "sparse", "sparse_unique"),
        "mode": MODES,
        "dtype": ("float32", "float64"),
    }


@dataclass(frozen=True, kw_only=True)
class MatchingCase(Case):
    """Gradients given to an optimizer for some of its variables, in an order of the caller's.

    Attributes
    ----------
    micro_batches, updates : int
        Micro-batches in one update, and updates made one after the other.
    order : str
        ``built`` or ``reversed``.
    missing : str
        The variable that gets no gradient: ``none``, ``first`` or ``last``.
    inside : str
        What the optimizer stands in: ``none``, ``LossScaleOptimizer`` (with a scale of 1) or ``MultiOptimizer``, which
        has no other.
    """

    micro_batches: int = 2
    updates: int = 2
    order: str = "built"
    missing: str = "none"
    inside: str = "none"
    mode: str = "eager"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "order": ("built", "reversed"), "missing": ("none", "first", "last"), "mode": MODES,
        "inside": ("none", "LossScaleOptimizer", "MultiOptimizer"), "dtype": ("float32", "float64"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InferenceCase(Case):
    """Examples in batches through Keras's own loops: the independence family's situation.

    Attributes
    ----------
    batch_size : int
        Batch size B.
    batches, tail : int
        Full batches, and examples in the ragged last one (0: there is none). With no full batch B > N.
    path : str
        ``whole`` (all examples through ``predict`` or ``evaluate``, whichever the check is about), ``fit`` (one
        epoch), ``train_on_batch`` or ``test_on_batch``.
    source : str
        How the examples are given: ``arrays``, ``generator``, ``dataset`` (tf.data), ``pydataset``, ``on_batch``
        (each batch by ``predict_on_batch``), ``dataset_unknown`` (tf.data of unknown length, its batches of one
        size told so), or ``endless`` (a generator that begins anew for ever, the number of its batches told).
    earlier : str
        What was called before, on other examples.
    steps_per_execution : int
        Steps in one compiled call.
    """

    batch_size: int = 2
    batches: int = 1
    tail: int = 0
    dtype: str = "float32"
    mode: str = "graph"
    weights: str = "none"
    scale: str = "usual"
    path: str = "whole"
    source: str = "arrays"
    earlier: str = "nothing"
    steps_per_execution: int = 1

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": DTYPES, "mode": MODES, "weights": WEIGHTINGS, "scale": SCALES,
        "path": ("whole", "fit", "train_on_batch", "test_on_batch"),
        "source": ("arrays", "generator", "dataset", "pydataset", "on_batch", "dataset_unknown", "endless"),
        "earlier": ("nothing", "evaluate", "test_on_batch", "train_on_batch", "fit"),
    }  # fmt: skip

    @property
    def examples(self) -> int:
        """Number of examples N."""
        return self.batches * self.batch_size + self.tail

    @property
    def edges(self) -> list[tuple[int, int]]:
        """First and past-the-last example of each batch."""
        n, b = self.examples, self.batch_size
        return [(start, min(start + b, n)) for start in range(0, n, b)]


@dataclass(frozen=True, kw_only=True)
class InfluenceCase(Case):
    """One example among others: what the others may do to it.

    Attributes
    ----------
    examples, kept : int
        Number of examples, and how many of them stay as they are.
    change : str
        What happens to the others: ``changed`` (drawn anew), ``huge`` (a thousand times larger), ``removed``, or
        ``permuted`` (all examples change places).
    training : bool
        Whether the model is called with ``training=True``.
    """

    examples: int = 2
    kept: int = 1
    change: str = "changed"
    training: bool = False
    dtype: str = "float32"
    mode: str = "graph"
    scale: str = "usual"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": DTYPES, "mode": MODES, "scale": SCALES,
        "change": ("changed", "huge", "removed", "permuted"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PaddingCase(Case):
    """Sequences padded with masked steps.

    Attributes
    ----------
    examples : int
        Number of sequences in the batch.
    padding : int
        Masked steps appended beyond the longest sequence the subject's data have.
    """

    examples: int = 2
    padding: int = 1
    dtype: str = "float32"
    mode: str = "graph"
    scale: str = "usual"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"dtype": DTYPES, "mode": MODES, "scale": SCALES}


@dataclass(frozen=True, kw_only=True)
class VarianceCase(Case):
    """All mini-batches of one size from a few examples.

    Attributes
    ----------
    examples : int
        Number of examples N (all subsets are enumerated, so small).
    batch_size : int
        Size B of the subsets.
    weights, scale
        As in `GradientCase`.
    """

    examples: int = 5
    batch_size: int = 2
    dtype: str = "float64"
    mode: str = "graph"
    weights: str = "none"
    scale: str = "usual"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": ("float64",), "mode": MODES, "weights": WEIGHTINGS, "scale": SCALES,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrajectoryCase(Case):
    """Training at one batch size, every update beside the published recurrence.

    Attributes
    ----------
    batch_size : int
        Examples in each batch.
    updates : int
        Number of updates followed.
    model : str
        ``classifier`` (two dense layers, softmax cross-entropy, a penalty) or ``regression`` (linear, mean
        squared error).
    path : str
        ``train_on_batch`` or ``fit``.
    rate : str
        ``constant`` or ``changing`` (the learning rate is assigned anew every third update).
    """

    batch_size: int = 1
    updates: int = 1
    dtype: str = "float32"
    mode: str = "graph"
    model: str = "classifier"
    path: str = "train_on_batch"
    rate: str = "constant"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": ("float32", "float64"), "mode": MODES, "rate": ("constant", "changing"),
        "model": ("classifier", "regression"), "path": ("train_on_batch", "fit"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LeastSquaresCase(Case):
    """Many runs of linear regression at one batch size: what the mean loss does.

    Attributes
    ----------
    batch_size : int
        Examples in each batch.
    updates : int
        Updates made, or epochs where ``fit`` shuffles.
    method : str
        ``sgd``, ``momentum`` or ``nesterov``.
    rate : str
        Learning rate as a share of the stability threshold, see `bscheck.checks.expected_loss`.
    """

    batch_size: int = 1
    updates: int = 20
    method: str = "sgd"
    rate: str = "low"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "method": ("sgd", "momentum", "nesterov"), "rate": ("low", "half", "inside", "outside"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LearningCase(Case):
    """An experiment about learning; a seed stands for data, order and first weights.

    Attributes
    ----------
    runs : int
        Number of seeds, counted up from the case's own.
    """

    runs: int = 1

    @property
    def seeds(self) -> range:
        """The seeds of the experiment."""
        return range(self.seed, self.seed + self.runs)


@dataclass(frozen=True, kw_only=True)
class TimingCase(Case):
    """Two batch sizes timed in pairs.

    Attributes
    ----------
    first, second : int
        The batch sizes (examples); the ratio is time(second) / time(first).
    work : str
        What a step does with a batch: ``training``, ``accumulated`` (two of them make one update) or ``inference``.
    """

    first: int = 16
    second: int = 17
    work: str = "training"
    mode: str = "graph"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "work": ("training", "accumulated", "inference"), "mode": MODES, "dtype": DTYPES,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayerValueCase(Case):
    """One call of a layer beside its definition.

    Attributes
    ----------
    construction : int
        Number of the construction in the layer's own table (see `bscheck.surface.constructions`).
    examples : int
        Examples in the batch.
    mask : str
        Which time steps are masked, where the layer takes a mask: ``none``, ``trailing``, ``leading``, ``between``,
        or ``all`` (every step of the first example).
    training : bool
        Whether the layer is called with ``training=True``, where that differs.
    gradient : bool
        Whether the derivative along a random direction is compared too; no input is exactly 0 then.
    """

    construction: int = 0
    examples: int = 1
    dtype: str = "float64"
    mask: str = "none"
    scale: str = "usual"
    training: bool = False
    gradient: bool = False

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": ("float32", "float64"), "scale": ("small", "usual", "large"),
        "mask": ("none", "trailing", "leading", "between", "all"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MetricCase(Case):
    """Examples given to a metric chunk by chunk.

    Attributes
    ----------
    variant : int
        Which of the metric's constructor options, see `bscheck.surface.metrics.CONSTRUCTIONS`.
    chunks : tuple of int
        Examples in each update; 0 is an empty one.
    weights : str
        Sample weights: ``none``, ``unequal`` (0.25 ... 4), ``zeros`` (some of them 0), ``all_zeros``, ``integers``.
    weight_shape : str
        ``flat`` (N,), ``column`` (N,1), or ``element`` (one weight for each label).
    mask : bool
        Whether the predictions carry a mask.
    steps : int
        Time steps of an example; 0: examples are no sequences.
    targets : str
        ``same`` as documented first, or the ``other`` form: (N,) for (N,1), labels (N,1) for (N,).
    inputs : str
        Dtype of the targets and predictions: ``float`` is that of `dtype`; ``integer`` and ``boolean`` where the
        values allow it.
    dtype : str
        Keras's float type, or ``argument``: float32, with ``dtype="float64"`` given to the metric.
    """

    variant: int = 0
    chunks: tuple[int, ...] = (2, 1)
    weights: str = "none"
    weight_shape: str = "flat"
    mask: bool = False
    steps: int = 0
    targets: str = "same"
    inputs: str = "float"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "weights": (*WEIGHTINGS, "all_zeros", "integers"),
        "weight_shape": ("flat", "column", "element"),
        "targets": ("same", "other"),
        "inputs": ("float", "float16", "bfloat16", "float64", "integer", "boolean"),
        "dtype": ("float32", "float64", "argument"),
    }

    @property
    def examples(self) -> int:
        """Number of examples N."""
        return sum(self.chunks)


@dataclass(frozen=True, kw_only=True)
class CompiledMetricCase(Case):
    """Examples evaluated by a model with many metrics.

    Attributes
    ----------
    examples, batch_size : int
        N and B.
    weights : str
        As in `MetricCase`.
    """

    examples: int = 3
    batch_size: int = 2
    weights: str = "none"
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"weights": (*WEIGHTINGS, "all_zeros"), "mode": MODES}


@dataclass(frozen=True, kw_only=True)
class LossScaleCase(Case):
    """Scaled gradients given to an optimizer that scales the loss: micro-batches one after the other.

    Attributes
    ----------
    way : str
        ``wrapper`` (``LossScaleOptimizer``), ``factor`` (the optimizer's own ``loss_scale_factor``), or ``both``: the
        wrapper around an optimizer that has a factor.
    micro_batches : int
        Micro-batches in one update; 1 is no accumulation.
    updates : int
        Windows of finite gradients.
    exponent : int
        The loss is scaled by two to this power at first.
    growth : int
        ``dynamic_growth_steps``: finite micro-batches after which the scale doubles.
    spoiled : tuple of int
        Micro-batches, counted from 0, before which one more comes whose gradient is not finite.
    value : str
        What that gradient has in one place: ``inf``, ``-inf`` or ``nan``.
    """

    way: str = "wrapper"
    micro_batches: int = 1
    updates: int = 2
    exponent: int = 10
    growth: int = 1000
    spoiled: tuple[int, ...] = ()
    value: str = "inf"
    mode: str = "eager"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "way": ("wrapper", "factor", "both"), "value": ("inf", "-inf", "nan"), "mode": MODES,
        "dtype": ("float32", "float64"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScheduleCase(Case):
    """A learning-rate schedule, alone or driving an accumulating optimizer.

    Attributes
    ----------
    setting : int
        Which of the schedule's settings in `bscheck.surface.schedules` is used; counted round.
    micro_batches, updates : int
        Micro-batches in one update, and updates made one after the other.
    decay : str
        Weight decay, which the learning rate scales too.
    """

    setting: int = 0
    micro_batches: int = 2
    updates: int = 3
    decay: str = "none"
    mode: str = "eager"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "decay": ("none", "on"), "mode": MODES, "dtype": ("float32", "float64"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MemberCase(Case):
    """An optimizer and another one behind one ``MultiOptimizer``, each with its own variables.

    Attributes
    ----------
    micro_batches : int
        Micro-batches in one update of the optimizer under test; 1 is no accumulation.
    other : int
        The same of the other one.
    updates : int
        Windows of the optimizer under test.
    given : str
        How variables find their optimizer: ``map`` (an ``OptimizerMap``) or ``function``.
    exponent : int
        The loss is scaled by two to this power (``loss_scale_factor`` of the whole).
    clip, ema
        As in `UpdateCase`, for the optimizer under test.
    """

    micro_batches: int = 1
    other: int = 1
    updates: int = 2
    given: str = "map"
    exponent: int = 0
    clip: str = "none"
    ema: str = "none"
    mode: str = "eager"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "given": ("map", "function"), "clip": UpdateCase.CHOICES["clip"], "ema": UpdateCase.CHOICES["ema"],
        "mode": MODES, "dtype": ("float32", "float64"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecurrenceCase(Case):
    """Single updates of an optimizer, each held against its published recurrence.

    Attributes
    ----------
    updates : int
        Updates made one after the other.
    micro_batches : int
        Micro-batches in one update; 1 is no accumulation.
    earlier : int
        Updates that count as made before: the step count starts there.
    start : str
        The first weights: ``usual`` (standard normal), ``zero``, or ``apart`` from the slots that were copies of them.
    option : str
        The constructor option that is not at its default; ``all`` of them that are numbers, or ``none``.
    magnitude : str
        Size of the gradients: ``usual`` (2), ``tiny`` (1e-20), ``huge`` (1e10), ``zero``, or ``mixed`` (each update
        another); ``opposed`` ones nearly cancel the momentum, so that its share decides the sign.
    gradient : str
        ``dense``, or ``rows``: the embedding's gradient as some of its rows, none of them twice.
    part : str
        What is compared: ``all``, or the ``slots`` alone.
    scaled : bool
        Whether the loss is scaled, by a factor that is no power of two.
    rate : str
        ``constant``, or ``changing`` before every update.
    decay, clip, ema
        As in `UpdateCase`.
    """

    updates: int = 1
    micro_batches: int = 1
    earlier: int = 0
    start: str = "usual"
    option: str = "none"
    magnitude: str = "usual"
    gradient: str = "dense"
    part: str = "all"
    scaled: bool = False
    rate: str = "constant"
    decay: str = "none"
    clip: str = "none"
    ema: str = "none"
    mode: str = "eager"
    dtype: str = "float64"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "magnitude": ("usual", "tiny", "huge", "zero", "mixed", "opposed"), "gradient": ("dense", "rows"),
        "start": ("usual", "zero", "apart"),
        "part": ("all", "slots"), "rate": ("constant", "changing"),
        "decay": UpdateCase.CHOICES["decay"], "clip": UpdateCase.CHOICES["clip"],
        "ema": UpdateCase.CHOICES["ema"], "mode": MODES, "dtype": ("float32", "float64", "bfloat16"),
    }  # fmt: skip


LOSS_DTYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """A batch of targets and predictions through a loss, whole and in parts.

    Attributes
    ----------
    sizes : tuple of int
        Examples in each part of the batch.
    steps : int
        Time steps of the predictions; 0: they are ``(examples, outputs)``.
    variant : str
        The loss's options, see `bscheck.surface.losses.CONSTRUCTIONS`.
    reduction : str
        The loss's reduction.
    weights : str
        Sample weights: ``none``, one for each example (``unequal``, or ``zeros`` with some 0 and ``nothing`` with all
        0), the same as a ``column`` ``(examples, 1)``, or one for each of the loss's ``elements``.
    mask : str
        The mask that comes with the predictions: ``none``, ``some`` masked (never all), ``full`` (nothing is masked)
        or ``nothing`` left.
    targets : str
        ``same`` shape as documented first, or ``other``: label columns ``(examples, 1)``, flat targets ``(examples,)``.
    values : str
        ``usual``, or at the edge of what a loss takes: targets of ``one_class``, ``huge`` predictions (1e4 in size),
        or ``exact`` ones (probabilities 0 and 1, a rate of 0, a vector of zeros).
    dtype : str
        The loss's dtype.
    """

    sizes: tuple[int, ...] = (2, 1)
    steps: int = 0
    values: str = "usual"
    variant: str = "default"
    reduction: str = "sum_over_batch_size"
    weights: str = "none"
    mask: str = "none"
    targets: str = "same"
    dtype: str = "float64"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "variant": (
            "default", "logits", "smoothed", "smoothed_logits", "axis", "smoothed_axis", "other", "other_logits",
            "other_axis", "ignored", "ignored_logits",
        ),
        "reduction": ("sum_over_batch_size", "sum", "none", "mean", "mean_with_sample_weight"),
        "weights": ("none", "unequal", "zeros", "column", "elements", "nothing"),
        "mask": ("none", "some", "full", "nothing"),
        "targets": ("same", "other"),
        "values": ("usual", "one_class", "huge", "exact"),
        "dtype": LOSS_DTYPES,
    }  # fmt: skip

    @property
    def examples(self) -> int:
        """Number of examples N."""
        return sum(self.sizes)


@dataclass(frozen=True, kw_only=True)
class RegularizerCase(Case):
    """A regularizer called on a matrix.

    Attributes
    ----------
    rows, columns : int
        The matrix's shape.
    option : int
        Which of `bscheck.surface.penalties.REGULARIZER_OPTIONS`.
    """

    rows: int = 3
    columns: int = 2
    option: int = 0
    dtype: str = "float64"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"dtype": ("float32", "float64")}


@dataclass(frozen=True, kw_only=True)
class ConstraintCase(Case):
    """A weight constraint called on weights of shape (4, 3, 2).

    Attributes
    ----------
    option : int
        Which of `bscheck.surface.penalties.CONSTRAINT_OPTIONS`.
    scale : str
        ``usual`` (standard normal weights), or ``zero``: those of the last unit are 0.
    """

    option: int = 0
    scale: str = "usual"
    dtype: str = "float64"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"scale": ("usual", "zero"), "dtype": ("float32", "float64")}


@dataclass(frozen=True, kw_only=True)
class StreamCase(Case):
    """Examples that ``fit`` takes from one source; the source is the parameter's.

    Attributes
    ----------
    examples, batch_size : int
        Examples (at most 12), and how many make a batch.
    epochs, first_epoch : int
        ``epochs`` and ``initial_epoch`` of ``fit``.
    steps : int
        ``steps_per_epoch``; 0: not given.
    shuffle : str
        ``no``, ``yes`` or ``batch``, as ``fit`` takes them.
    held_out : str
        ``validation_split``: ``none``, ``quarter`` or ``half``.
    weights : str
        ``none``, ``sample``, ``class`` (a weight for every class) or ``class_partly`` (the largest class has none).
    micro_batches, steps_per_execution : int
        Micro-batches in an update (1: no accumulation), and steps in one compiled call.
    """

    examples: int = 5
    batch_size: int = 2
    epochs: int = 1
    first_epoch: int = 0
    steps: int = 0
    shuffle: str = "no"
    held_out: str = "none"
    weights: str = "sample"
    micro_batches: int = 1
    steps_per_execution: int = 1
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "mode": MODES, "shuffle": ("no", "yes", "batch"), "held_out": ("none", "quarter", "half"),
        "weights": ("none", "sample", "class", "class_partly"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WindowCase(Case):
    """Several calls of a training loop on one optimizer that accumulates.

    Attributes
    ----------
    micro_batches : int
        Micro-batches in one update (k); 1: no accumulation.
    calls : tuple of int
        Examples given to each call, at most 12.
    batch_size, epochs : int
        The same for every call.
    mixed : bool
        Every second call goes batch by batch through ``train_on_batch``.
    """

    micro_batches: int = 2
    calls: tuple[int, ...] = (4,)
    batch_size: int = 1
    epochs: int = 1
    mixed: bool = False
    steps_per_execution: int = 1
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"mode": MODES}


@dataclass(frozen=True, kw_only=True)
class ReplicaCase(Case):
    """A linear regression on two devices, in float64: its training, or what it answers.

    Attributes
    ----------
    examples, batch_size, epochs : int
        As for ``fit``; the batch is shared out among the devices.
    weights : str
        Sample weights: ``none`` or ``unequal``.
    penalty : str
        ``none`` or ``l2``, on the kernel.
    micro_batches : int
        Micro-batches in an update; 1: no accumulation.
    optimizer : str
        SGD with ``momentum``; the same with a clipped gradient (``clipnorm``, ``clipvalue``, ``global_clipnorm``), with
        weights that their moving average replaces after every second update and at the end (``averaged``), or with a
        scaled loss (``scaled``), also where the last target is infinite, so that its batch makes no update
        (``overflow``); or ``adam`` with weight decay and a moving average, which training ends with.
    steps_per_execution : int
        As in ``compile``, for training.
    path : str
        ``fit``; or ``evaluate``, ``predict`` or ``predict_on_batch`` with the first weights.
    """

    examples: int = 8
    batch_size: int = 4
    epochs: int = 1
    weights: str = "none"
    penalty: str = "none"
    micro_batches: int = 1
    optimizer: str = "momentum"
    steps_per_execution: int = 1
    path: str = "fit"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "path": ("fit", "evaluate", "predict", "predict_on_batch"),
        "weights": ("none", "unequal"),
        "penalty": ("none", "l2"),
        "optimizer": ("momentum", "adam", "clipnorm", "clipvalue", "global_clipnorm", "averaged", "scaled", "overflow"),
    }


@dataclass(frozen=True, kw_only=True)
class LayerCase(Case):
    """One call of a layer on a few examples.

    Attributes
    ----------
    option : str
        How the layer is made: a name of `bscheck.surface.layers.options`.
    examples : int
        Batch size.
    change : str
        What is done to the batch: ``none``, ``permuted`` (the examples change places), ``changed`` (one example is
        drawn anew) or ``huge`` (one example is a thousand times larger).
    """

    option: str = "plain"
    examples: int = 3
    change: str = "none"
    dtype: str = "float64"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "dtype": DTYPES, "change": ("none", "permuted", "changed", "huge"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LayerGradientCase(Case):
    """A layer's gradient over a batch cut into micro-batches.

    Attributes
    ----------
    option : str
        As in `LayerCase`.
    sizes : tuple of int
        Examples in each micro-batch.
    """

    sizes: tuple[int, ...] = (2, 1)
    option: str = "plain"


@dataclass(frozen=True, kw_only=True)
class LayerMaskCase(Case):
    """Sequences some of whose steps are masked.

    Attributes
    ----------
    option : str
        As in `LayerCase`.
    examples : int
        Number of sequences.
    padding : int
        Masked steps appended to every sequence.
    gradient : bool
        Whether gradients are compared too.
    traced : bool
        Whether the masked call is one of a graph for batches of any size.
    """

    option: str = "mask"
    examples: int = 3
    padding: int = 0
    gradient: bool = False
    traced: bool = False


@dataclass(frozen=True, kw_only=True)
class StatefulCase(Case):
    """A sequence in chunks through a stateful layer.

    Attributes
    ----------
    examples : int
        Batch size.
    chunks : tuple of int
        Time steps in each chunk.
    other : int
        Another batch size, for the promise that it is refused.
    """

    examples: int = 3
    chunks: tuple[int, ...] = (2, 1)
    other: int = 1


@dataclass(frozen=True, kw_only=True)
class AccumulatorCase(Case):
    """Gradients averaged in a dtype of their own.

    Attributes
    ----------
    micro_batches : int
        Gradients accumulated before the update.
    cancelling : bool
        Whether the gradients add up to about nothing, so that the mean is far smaller than its parts.
    mode, dtype : str
        Execution mode of ``apply``, and the dtype that weight and accumulator are kept in.
    """

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "mode": MODES,
        "dtype": ("float32", "float64", "bfloat16", "float16"),
    }

    micro_batches: int = 2
    cancelling: bool = False
    mode: str = "eager"
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class EdgeCase(Case):
    """One epoch of training at the edge of what a batch may be.

    Attributes
    ----------
    edge : str
        ``one_example`` (a batch of one), ``masked`` (every step of it), ``weightless`` (all sample weights 0),
        ``one_class`` (targets are all the same), ``larger`` (a batch size above the number of examples) or ``tail``
        (the last batch has one example).
    path : str
        ``fit`` or ``train_on_batch``.
    variant : str
        The loss's options, see `bscheck.surface.losses.CONSTRUCTIONS`.
    """

    edge: str = "one_example"
    path: str = "train_on_batch"
    variant: str = "default"
    mode: str = "eager"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "edge": ("one_example", "masked", "weightless", "one_class", "larger", "tail"),
        "path": ("fit", "train_on_batch"), "variant": LossCase.CHOICES["variant"], "mode": MODES,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SubjectCase(Case):
    """What a team's own check is given where it names no case of its own: sizes among those promised.

    Attributes
    ----------
    batch_size : int
        Among the subject's `batch_sizes`.
    micro_batches : int
        Among the subject's `accumulation`.
    """

    batch_size: int = 1
    micro_batches: int = 2


def seeds() -> SearchStrategy[int]:
    """Return the strategy for a case's seed."""
    from hypothesis import strategies as st

    return st.integers(0, SEEDS - 1)


#: Batch sizes beyond the small ones that are drawn: odd, a power of two, round, and one more than a power of two. Some
#: code takes another way from 32, 64 or 128 examples on.
LARGER_BATCHES = (6, 7, 8, 9, 17, 33, 64, 100, 129)


def micro_batch_sizes(least: int = 2, most: int = 4, largest: int = 5) -> SearchStrategy[tuple[int, ...]]:
    """Return the strategy for the sizes of `least` to `most` micro-batches of 1 to `largest` examples."""
    from hypothesis import strategies as st

    return st.lists(st.integers(1, largest), min_size=least, max_size=most).map(tuple)


@dataclass(frozen=True, kw_only=True)
class EnduranceCase(Case):
    """The same batches given to one loop over and over.

    Attributes
    ----------
    path : str
        ``fit``, ``evaluate``, ``train_on_batch``, or ``step`` (the subject's own).
    """

    path: str = "fit"
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "path": ("fit", "evaluate", "train_on_batch", "step"), "mode": MODES,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MemoryCase(Case):
    """Batch sizes of one dtype on the scales.

    Attributes
    ----------
    work : str
        ``training``, ``accumulated`` or ``inference``.
    """

    work: str = "training"
    dtype: str = "float32"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "work": ("training", "accumulated", "inference"), "dtype": DTYPES,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MaskPassingCase(Case):
    """Sequences that reach a layer with a mask.

    Attributes
    ----------
    option : str
        As in `LayerCase`.
    way : str
        ``attached`` to the inputs, by ``keyword``, or made by the Masking layers of a ``model``.
    dtype : str
        The layer's policy; its inputs are float32, so that it casts them under another one.
    examples : int
        Number of sequences.
    """

    option: str = "plain"
    way: str = "attached"
    dtype: str = "float32"
    examples: int = 3

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "way": ("attached", "keyword", "model"), "dtype": ("float32", "mixed_bfloat16"),
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PrintedCase(Case):
    """Examples whose loss a progress bar shows.

    Attributes
    ----------
    examples, batch_size : int
        N and B.
    verbose : int
        1 for a bar, 2 for a line.
    """

    examples: int = 5
    batch_size: int = 2
    verbose: int = 1
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"mode": MODES}


@dataclass(frozen=True, kw_only=True)
class CompiledCase(InferenceCase):
    """Batches that a compiled step and one that runs op by op are trained on.

    Attributes
    ----------
    models : int
        Equal models, each compiled for itself: how a graph is put in order may differ from one to the next.
    """

    models: int = 1


@dataclass(frozen=True, kw_only=True)
class OrderCase(Case):
    """One step of a chain of dense layers, whose weights, inputs and targets are small integers.

    Attributes
    ----------
    examples : int
        B.
    layers : int
        Dense layers, each of `HIDDEN` units.
    bias : str
        ``on``, or ``none``.
    activation : str
        What follows every layer but the last.
    path : str
        ``train_on_batch``, or a ``fit`` of one step.
    models : int
        Equal models, each compiled for itself: how a graph is put in order may differ from one to the next.
    """

    HIDDEN: ClassVar[int] = 3

    examples: int = 3
    layers: int = 2
    bias: str = "none"
    activation: str = "linear"
    path: str = "train_on_batch"
    models: int = 1
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "bias": ("none", "on"),
        "activation": ("linear", "relu"),
        "path": ("train_on_batch", "fit"),
        "mode": MODES,
    }


@dataclass(frozen=True, kw_only=True)
class OwnMetricCase(Case):
    """Examples whose mean a metric of a model's own keeps.

    Attributes
    ----------
    examples, batch_size : int
        N and B.
    held_out : int
        Examples of the validation.
    """

    examples: int = 7
    batch_size: int = 3
    held_out: int = 4
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"mode": MODES}


@dataclass(frozen=True, kw_only=True)
class ChanceCase(Case):
    """Two examples, trained on three times over: what is drawn for each.

    Attributes
    ----------
    batch_size : int
        1 or 2.
    path : str
        ``fit`` or ``train_on_batch``.
    """

    batch_size: int = 2
    path: str = "fit"
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"mode": MODES, "path": ("fit", "train_on_batch")}


@dataclass(frozen=True, kw_only=True)
class AverageCase(Case):
    """Training with a moving average of the weights.

    Attributes
    ----------
    batch_size, batches, epochs : int
        Examples in a batch, batches in an epoch, and epochs.
    calls : int
        Trainings, one after the other.
    every : int
        Updates after which the averages replace the weights; 0: when training ends.
    """

    batch_size: int = 2
    batches: int = 2
    epochs: int = 1
    calls: int = 1
    every: int = 0
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"mode": MODES}


@dataclass(frozen=True, kw_only=True)
class SwapCase(Case):
    """Averages that stand in for the weights by ``SwapEMAWeights``.

    Attributes
    ----------
    path : str
        ``evaluate`` or ``predict``, once; ``fit`` with validation; or ``epoch``, the same with ``swap_on_epoch``.
    batch_size, batches, epochs : int
        Examples in a batch, batches in an epoch, and epochs of training.
    """

    path: str = "evaluate"
    batch_size: int = 2
    batches: int = 2
    epochs: int = 1
    mode: str = "graph"

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"path": ("evaluate", "predict", "fit", "epoch"), "mode": MODES}
