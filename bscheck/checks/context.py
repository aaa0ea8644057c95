"""What a check is given beside its case: the subject, its benches, and arrays drawn from the case's seed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np

from bscheck.cases import SCALE_FACTORS, GradientCase
from bscheck.checks import Param
from bscheck.errors import BscheckError, SubjectError, one_line, unknown
from bscheck.results.verdict import NotApplicable
from bscheck.runtime import Runtime, current
from bscheck.runtime.bench import Array, Bench, precision
from bscheck.runtime.environment import describe
from bscheck.runtime.inference import refusals
from bscheck.subject import Subject, map_leaves
from bscheck.traits import Traits, gives_one_number, probe

Batch = tuple[Any, Any, Array | None]
P = ParamSpec("P")
T = TypeVar("T")

_CACHES: list[Callable[[], None]] = []


def cached_in_process(function: Callable[P, T]) -> Callable[P, T]:
    """Cache what is costly to make (models, traced functions) for the rest of the process.

    `forget` empties every such cache. Arguments must be hashable; a `Subject` is keyed by identity, so that two
    subjects of one name never share.
    """
    made = functools.cache(function)
    _CACHES.append(made.cache_clear)
    return functools.wraps(function)(made)  # type: ignore[return-value]


def forget() -> None:
    """Drop every model and traced function, so that the next check builds on Keras as it is then."""
    for clear in _CACHES:
        clear()


@dataclass(frozen=True, eq=False)
class SubjectKey:
    """A subject as a cache key: equal to itself alone, and kept alive by the cache."""

    subject: Subject

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubjectKey) and other.subject is self.subject

    def __hash__(self) -> int:
        return id(self.subject)


@cached_in_process
def _bench(key: SubjectKey, dtype: str) -> Bench:
    return Bench(key.subject, dtype)


@cached_in_process
def _traits(key: SubjectKey) -> Traits:
    try:
        return probe(key.subject, _bench(key, "float64"))
    except SubjectError:
        # Some losses of older releases mix dtypes in float64. What is wrong in float32 too is the subject's fault.
        return probe(key.subject, _bench(key, "float32"))


@cached_in_process
def _refused_weights(key: SubjectKey) -> str:
    """Return why Keras cannot weigh this subject's examples one by one, "" where it can.

    Two sizes are tried: weights of as many examples as a sequence has steps would be taken for the steps'.
    """
    bench = _bench(key, "float64")
    convert = bench.keras.ops.convert_to_tensor
    for size in (2, 3):
        x, y, _ = bench.cast(key.subject.draw(0, size))
        try:
            with precision(bench.dtype):
                bench.loss(map_leaves(convert, x), map_leaves(convert, y), convert(np.ones(size)))
        except Exception as error:
            return one_line(error)
    if gives_one_number(key.subject, bench):
        return "its loss gives one number for a batch, which no example's weight reaches"
    return ""


@cached_in_process
def _sources(key: SubjectKey) -> Mapping[str, str]:
    return refusals(_bench(key, "float32"))


@functools.cache
def reference_subject(name: str) -> Subject:
    """Return the reference subject of this name, the same one at every call."""
    from bscheck.reference_subjects import REFERENCE_SUBJECTS

    if name not in REFERENCE_SUBJECTS:
        raise BscheckError(unknown("reference subject", name, REFERENCE_SUBJECTS))
    return REFERENCE_SUBJECTS[name]()


@dataclass(frozen=True)
class Context:
    """One parameter of one check.

    Attributes
    ----------
    param : Param
        The surface members.
    given : Subject or None
        A team's own subject; None where the parameter names a reference subject or none at all.
    options : mapping
        Run options that a check may ask for: ``timing`` (``off``, ``report`` or ``gate``).
    promises : mapping
        What pyproject.toml promises of subjects that say nothing else, see `bscheck.promises`.
    """

    param: Param
    given: Subject | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    promises: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def for_subject(
        cls,
        subject: Subject,
        param: Param,
        options: Mapping[str, str] | None = None,
        promises: Mapping[str, Any] | None = None,
    ) -> Context:
        """Return the context of a team's own subject."""
        return cls(param, subject, options or {}, promises or {})

    @property
    def subject(self) -> Subject:
        """The subject under test."""
        return self.given if self.given is not None else reference_subject(self.param.get("subject"))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The promised batch sizes, smallest first."""
        return tuple(sorted(set(self.subject.promised("batch_sizes", self.promises))))

    @property
    def accumulation(self) -> tuple[int, ...]:
        """The promised numbers of micro-batches, smallest first."""
        return tuple(sorted(set(self.subject.promised("accumulation", self.promises))))

    @property
    def facts(self) -> Mapping[str, str]:
        """What a known issue's condition may ask of a team's own subject, beside its name and the case."""
        if self.given is None:
            return {}
        from bscheck.checks.training_updates import own_optimizer

        try:
            return {"optimizer": type(own_optimizer(self.given)).__name__.lower()}
        except (BscheckError, NotApplicable):
            return {}

    def sources(self) -> tuple[str, ...]:
        """Return the ways in which the subject's model can be given examples."""
        return tuple(source for source, refusal in _sources(SubjectKey(self.subject)).items() if not refusal)

    @property
    def refused_sources(self) -> Mapping[str, str]:
        """The ways of Keras's in which the subject's model, by loops of its own, cannot be given examples, and why."""
        return {source: refusal for source, refusal in _sources(SubjectKey(self.subject)).items() if refusal}

    @property
    def runtime(self) -> Runtime:
        """The backend."""
        return current()

    @property
    def environment(self) -> Mapping[str, str]:
        """Versions and device, see `bscheck.runtime.environment.describe`."""
        return describe()

    @property
    def traits(self) -> Traits:
        """What probing found out about the subject; probed once in a process."""
        return _traits(SubjectKey(self.subject))

    @property
    def refused_weights(self) -> str:
        """Why Keras cannot weigh a team's examples by one number each, "" where it can; those of the gate it can."""
        return "" if self.given is None else _refused_weights(SubjectKey(self.subject))

    def bench(self, dtype: str) -> Bench:
        """Return the subject built at one precision; built once in a process."""
        return _bench(SubjectKey(self.subject), dtype)

    def relieve(self) -> None:
        """Make room for more compiled programs; called between cases, never within one."""
        self.runtime.relieve(forget)

    def modes(self) -> tuple[str, ...]:
        """Return the execution modes drawn from; the others are left to corners, where compiling is worth it."""
        return self.runtime.drawn_modes


def random(seed: int, *salt: int) -> np.random.Generator:
    """Return the generator of one case's arrays."""
    return np.random.default_rng((seed, *salt))


def draw_weights(bench: Bench, seed: int, scale: str = "usual") -> Array:
    """Return weights for a case: the built ones moved by a third of their own size, then scaled.

    Weights that start at zero (biases) are moved by 0.1, so that no gradient vanishes by symmetry.
    """
    rng = random(seed, 1)
    parts = []
    for part in bench.split(bench.initial):
        spread = 0.3 * float(np.std(part) or np.abs(part).mean()) or 0.1
        parts.append((part + spread * rng.standard_normal(part.shape)).ravel())
    return np.concatenate(parts) * SCALE_FACTORS[scale]


def draw_sample_weights(seed: int, size: int, weights: str) -> Array | None:
    """Return sample weights, or None: between 1/4 and 4, some of them 0 under ``zeros`` (never all)."""
    if weights == "none":
        return None
    rng = random(seed, 2)
    values = 2.0 ** rng.uniform(-2, 2, size)
    if weights == "zeros":
        values[rng.permutation(size)[: size // 2]] = 0.0
    return np.asarray(values)


def draw_micro_batches(context: Context, case: GradientCase) -> list[Batch]:
    """Return the micro-batches of a case, cut from one large batch."""
    total = sum(case.sizes)
    x, y, own = context.subject.draw(case.seed, total)
    w = draw_sample_weights(case.seed, total, case.weights)
    w = weighed(context, own, w)
    if case.outlier:
        x = map_leaves(lambda a: _with_outlier(np.asarray(a)), x)
    edges = np.concatenate([[0], np.cumsum(case.sizes)])
    return [(_cut(x, a, b), _cut(y, a, b), None if w is None else w[a:b]) for a, b in itertools.pairwise(edges)]


def weighed(context: Context, own: Array | None, w: Array | None) -> Array | None:
    """Return the product of a subject's own sample weights (of examples, or of their steps) and a case's.

    A case's are left out where the subject has none of its own and Keras cannot take them.
    """
    if own is None and w is not None and context.refused_weights:
        return None
    if own is None or w is None:
        return w if own is None else own
    return own * w.reshape(-1, *(1,) * (own.ndim - 1))


def _with_outlier(a: Array) -> Array:
    if a.dtype.kind == "f":
        a = a.copy()
        a[-1] *= 10
    return a


def _cut(tree: Any, start: int, stop: int) -> Any:
    return map_leaves(lambda a: np.asarray(a)[start:stop], tree)


#: Why a check of many updates is not applicable on TensorFlow with Keras up to 3.6.
TRACED_ANEW = "train_on_batch of this Keras is traced anew at every call: its updates would take minutes"


def require(condition: bool, reason: str) -> None:
    """Raise `NotApplicable` with the reason unless the condition holds."""
    if not condition:
        raise NotApplicable(reason)


def first_reason(*reasons: tuple[bool, str]) -> str | None:
    """Return the reason of the first pair whose condition is true, else None."""
    return next((reason for condition, reason in reasons if condition), None)


def variable_index(name: str, index: Sequence[int]) -> str:
    """Return a variable's element in words: ``kernel[3,0]``."""
    return f"{name}[{','.join(map(str, index))}]" if index else name
