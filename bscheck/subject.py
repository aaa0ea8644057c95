"""The subject: what is tested, validated before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bscheck.errors import BscheckError, SubjectError, one_line, unknown
from bscheck.promises import PROMISES, check_promise

if TYPE_CHECKING:
    import numpy as np

    Batch = tuple[Any, Any, np.ndarray | None]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*\Z")


@dataclass(frozen=True, kw_only=True)
class _Options:
    build: Callable[[], Any]
    data: Any
    loss: Any
    optimizer: Any = "sgd"
    step: Callable[[Any, Any, list[Any]], Any] | None = None
    metrics: Sequence[Any] = ()
    batch_sizes: tuple[int, ...] = PROMISES["batch_sizes"]
    accumulation: tuple[int, ...] = PROMISES["accumulation"]
    time_budget: float = PROMISES["time_budget"]
    memory_budget: int | None = PROMISES["memory_budget"]
    still: bool = False
    features: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Subject(_Options):
    """A model, its data, its loss and its training step, as a factory that can be built again and again.

    Parameters
    ----------
    name : str
        Letters, digits, ``_`` and ``.``; appears in test ids and records.
    build : callable
        ``build() -> keras.Model``. Called several times, under several dtype policies: it must return a
        *new* model each time, with the same weights when Keras's, NumPy's and Python's seeds are the same.
    data : tuple of arrays, callable, or iterable of batches
        ``(x, y)`` or ``(x, y, sample_weight)`` with the examples along the first axis (``x`` and ``y`` may be
        dicts or lists of arrays, nested too), or ``data(seed, size)`` that returns such a tuple with `size`
        examples, or what ``fit`` takes batch by batch: a ``tf.data.Dataset``, a ``PyDataset``, a torch
        ``DataLoader``, a list of such tuples. Its first 256 examples are read when they are first needed.
    loss : str, callable, keras.losses.Loss, or a list or dict of these
        What ``Model.compile(loss=...)`` takes.
    optimizer : str or callable, optional
        A Keras optimizer's name, or a factory ``optimizer() -> keras.Optimizer``. Never an instance: a
        check needs fresh ones.
    step : callable, optional
        ``step(model, optimizer, micro_batches)`` makes *one* update from a list of micro-batches
        ``(x, y, sample_weight)`` and applies it with ``optimizer``. Without it, Keras's own
        ``gradient_accumulation_steps`` is the step under test.
    metrics : sequence, optional
        What ``Model.compile(metrics=...)`` takes; held to not depend on the batch size.
    batch_sizes : tuple of int, optional
        The batch sizes (examples) that the promises about batch size are asked for.
    accumulation : tuple of int, optional
        The numbers of micro-batches per update that the promises about accumulation are asked for.
    time_budget : float, optional
        Seconds that each check may take on this subject. Drawing ends when they are used up; a subject that
        hangs fails the check.
    memory_budget : int, optional
        Bytes by which each check may make the process grow; by default what the machine has left.

    still : bool, optional
        Whether dropout and noise layers are switched off (their rates set to 0) in every model that is built, so
        that promises about training, which randomness forbids, can be asked of the rest of the model.

    What is not given here is taken from ``[tool.bscheck]`` in pyproject.toml, where it says so.

    Raises
    ------
    SubjectError
        With one line that says which argument is wrong and what would be right.
    """

    name: str

    def __init__(self, name: str, **options: Any) -> None:
        known = _Options.__dataclass_fields__
        for key in options:
            if key not in known:
                raise SubjectError(f"Subject {name!r}: {unknown('argument', key, known)}")
        for key in ("build", "data", "loss"):
            if key not in options:
                raise SubjectError(f"Subject {name!r}: the argument {key}= is missing")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_said", frozenset(options) & set(PROMISES))
        for key, spec in known.items():
            value = options.get(key, spec.default)
            if key in ("batch_sizes", "accumulation", "features", "metrics") and isinstance(value, list):
                value = tuple(value)
            object.__setattr__(self, key, value)
        self._validate()

    def _error(self, text: str) -> SubjectError:
        return SubjectError(f"Subject {self.name!r}: {text}")

    def _validate(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise SubjectError(
                f"Subject name {self.name!r}: use a letter followed by letters, digits, '_' or '.' "
                "(it becomes part of a test id)"
            )
        if not callable(self.build) or _is_keras_model(self.build):
            raise self._error(
                f"build= must be a factory, a function that returns a new keras.Model; got {_kind(self.build)}"
            )
        if not (self.optimizer is None or isinstance(self.optimizer, str) or callable(self.optimizer)):
            raise self._error(
                "optimizer= must be a Keras optimizer's name or a factory that returns a new one; "
                f"got {_kind(self.optimizer)}"
            )
        if _is_keras_optimizer(self.optimizer):
            raise self._error(
                "optimizer= is an optimizer instance, which carries state from one check to the next; "
                "give a factory, for example lambda: keras.optimizers.Adam(1e-3)"
            )
        if self.step is not None and not callable(self.step):
            raise self._error(f"step= must be a function step(model, optimizer, micro_batches); got {_kind(self.step)}")
        if not isinstance(self.still, bool):
            raise self._error(f"still= must be True or False; got {_kind(self.still)}")
        if self.loss is None:
            raise self._error("loss= is None; give what Model.compile(loss=...) takes")
        for key in PROMISES:
            try:
                object.__setattr__(self, key, check_promise(key, getattr(self, key), f"{key}="))
            except BscheckError as error:
                raise self._error(str(error)) from None
        if isinstance(self.data, tuple):
            check_batch(self, self.data, "data=")
        elif not callable(self.data) and not _gives_batches(self.data):
            raise self._error(
                f"data= must be a tuple (x, y) or (x, y, sample_weight); got {_kind(self.data)} (a function "
                "data(seed, size) of such tuples or an iterable of them, such as a tf.data.Dataset, will do too)"
            )

    def promised(self, key: str, elsewhere: Mapping[str, Any]) -> Any:
        """Return a promise: what was given here, else `elsewhere` (pyproject.toml), else the default."""
        said: frozenset[str] = getattr(self, "_said", frozenset())
        return elsewhere.get(key, getattr(self, key)) if key not in said else getattr(self, key)

    def draw(self, seed: int, size: int) -> Batch:
        """Return `size` examples ``(x, y, sample_weight or None)`` determined by `seed`.

        Arrays and batches are sampled with replacement; a data function is called with ``(seed, size)``.
        """
        import numpy as np

        if callable(self.data) and not _gives_batches(self.data):
            try:
                batch = self.data(seed, size)
            except Exception as error:
                raise self._error(f"data({seed}, {size}) raised {one_line(error)}") from error
            return check_batch(self, batch, f"data({seed}, {size})", size)
        data = self.data if isinstance(self.data, tuple) else self._read_batches()
        x, y, w = (*data, None)[:3]
        rows = np.random.default_rng(seed).integers(0, examples(x), size)
        return take(x, rows), take(y, rows), None if w is None else np.asarray(w)[rows]

    def _read_batches(self) -> Batch:
        """Return the first examples of an iterable of batches, read once."""
        read: Batch | None = getattr(self, "_pool", None)
        if read is None:
            parts: list[Batch] = []
            try:
                for batch in _batches(self.data):
                    if isinstance(batch, (tuple, list)):
                        batch = tuple(map_leaves(_to_numpy, part) for part in batch)
                    parts.append(check_batch(self, batch, "each batch of data="))
                    if sum(examples(part[0]) for part in parts) >= POOL:
                        break
            except SubjectError:
                raise
            except Exception as error:
                raise self._error(f"data= cannot be read batch by batch: {one_line(error)}") from error
            if not parts:
                raise self._error("data= gives no batches")
            try:
                read = _joined(parts)
            except (ValueError, KeyError, TypeError) as error:
                raise self._error(f"data= gives batches that do not fit together: {one_line(error)}") from None
            object.__setattr__(self, "_pool", read)
        return read


#: Examples read of an iterable of batches: enough that no draw repeats itself, few enough to hold.
POOL = 256


def _gives_batches(data: Any) -> bool:
    """Whether this is an iterable of batches (a Keras PyDataset has no ``__iter__``, but a length)."""
    if hasattr(data, "shape") or isinstance(data, (str, Mapping)):
        return False
    return hasattr(data, "__iter__") or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _batches(data: Any) -> Iterator[Any]:
    """Yield the batches of a ``tf.data.Dataset``, ``PyDataset``, ``DataLoader`` or plain iterable."""
    if hasattr(data, "num_batches"):
        yield from (data[i] for i in range(data.num_batches or len(data)))
    elif hasattr(data, "__iter__"):
        yield from data
    else:
        yield from (data[i] for i in range(len(data)))


def _to_numpy(leaf: Any) -> Any:
    """Return a tensor of any backend as an array."""
    import numpy as np

    return np.asarray(leaf.numpy() if hasattr(leaf, "numpy") else leaf)


def _joined(parts: Sequence[Any]) -> Any:
    """Return trees of arrays of the same structure as one, the rows of each after those of the one before."""
    import numpy as np

    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_joined(each) for each in zip(*parts, strict=True))
    return np.concatenate(parts)


def leaves(tree: Any) -> list[Any]:
    """Return the arrays of a (nested) dict, list or tuple of arrays, in a fixed order."""
    if isinstance(tree, Mapping):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree with `function` applied to every array."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_leaves(function, part) for part in tree)
    return function(tree)


def take(tree: Any, rows: Any) -> Any:
    """Return the given rows (an index array or slice) of every array in the tree."""
    import numpy as np

    return map_leaves(lambda leaf: np.asarray(leaf)[rows], tree)


def examples(tree: Any) -> int:
    """Return the number of examples (length of the first axis) of a tree of arrays."""
    return len(leaves(tree)[0])


def check_batch(subject: Subject, batch: Any, source: str, size: int | None = None) -> Batch:
    """Return ``(x, y, sample_weight)`` after checking lengths and finiteness.

    Raises
    ------
    SubjectError
        When the batch is not such a tuple, lengths differ, or a floating-point value is not finite.
    """
    import numpy as np

    def fail(text: str) -> SubjectError:
        return SubjectError(f"Subject {subject.name!r}: {source} {text}")

    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        raise fail(f"must be a tuple (x, y) or (x, y, sample_weight); got {_kind(batch)}")
    x, y, w = (*batch, None)[:3]
    lengths: dict[str, int] = {}
    for part, tree in (("x", x), ("y", y), ("sample_weight", w)):
        for leaf in [] if tree is None else leaves(tree):
            try:
                array = np.asarray(leaf)
            except Exception as error:
                raise fail(f"has {part} that NumPy cannot read: {one_line(error)}") from error
            if array.ndim == 0 or (array.dtype == object and not _text(array)):
                raise fail(f"has {part} that is not an array of examples: {_kind(leaf)}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = int(np.argwhere(~np.isfinite(array))[0][0])
                raise fail(f"has a value that is not finite in {part}, example {bad}; clean the data first")
            lengths[part] = len(array) if lengths.get(part, len(array)) == len(array) else -1
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        shown = ", ".join(f"{part} {'uneven' if n < 0 else n}" for part, n in lengths.items())
        raise fail(f"has parts of different length ({shown}); every part needs one row for each example")
    n = next(iter(lengths.values()))
    if n == 0:
        raise fail("has no examples")
    if size is not None and n != size:
        raise fail(f"returned {n} examples where {size} were asked for")
    return map_leaves(_as_keras_takes_it, x), map_leaves(_as_keras_takes_it, y), None if w is None else np.asarray(w)


def _text(array: Any) -> bool:
    """Whether an array holds strings, of NumPy's own kinds or as objects."""
    return array.dtype.kind in "US" or all(isinstance(value, (str, bytes)) for value in array.flat)


def _as_keras_takes_it(leaf: Any) -> Any:
    """Return strings as an array of objects: Keras's loops take no other."""
    import numpy as np

    array = np.asarray(leaf)
    if array.dtype.kind not in "USO":
        return leaf
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in array.flat]
    return np.array(texts, object).reshape(array.shape)


def _kind(value: Any) -> str:
    return f"{value!r}"[:60] if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def _is_keras_model(value: Any) -> bool:
    return hasattr(value, "trainable_variables") and hasattr(value, "predict")


def _is_keras_optimizer(value: Any) -> bool:
    return hasattr(value, "apply_gradients") and hasattr(value, "update_step") and not isinstance(value, type)
