"""A subject's model in Keras's own loops: predict, evaluate, fit, and batch by batch."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bscheck.errors import one_line
from bscheck.runtime import current, keras_module
from bscheck.runtime.bench import Array, Bench, build_model, precision, renumbered
from bscheck.subject import examples, leaves, map_leaves

#: Examples in a batch where Keras is given arrays and not told: batches of so many are asked for by saying nothing.
DEFAULT_BATCH_SIZE = 32

#: A generator that begins anew for ever; a loop is told how many of its batches to take.
ENDLESS = "endless"


def sources() -> tuple[str, ...]:
    """Return the ways in which examples can be given on this backend."""
    own = ("dataset", "dataset_unknown") if current().name == "tensorflow" else ()
    return ("arrays", "generator", "pydataset", *own)


def loops_of_keras(model: Any) -> bool:
    """Whether the model is trained, evaluated and asked by Keras's own loops."""
    own = keras_module().Model
    return all(getattr(type(model), name) is getattr(own, name) for name in ("fit", "evaluate", "predict"))


def refusals(bench: Bench) -> dict[str, str]:
    """Return each way of giving examples with why the model refuses it, "" where it does not.

    Keras's own loops take numbers from them all, and one that they do not take is a finding. A model with a ``fit``,
    ``evaluate`` or ``predict`` of its own is asked with two examples, and so is one that takes strings, which Keras
    takes as arrays alone.
    """
    batch = bench.cast(bench.subject.draw(0, 2))
    if loops_of_keras(bench.model) and not any(np.asarray(leaf).dtype == object for leaf in leaves(batch[:2])):
        return dict.fromkeys(sources(), "")
    trainer = Trainer(bench, "graph", 1)
    return {source: _refusal(trainer, batch, source) for source in sources()}


def _refusal(trainer: Trainer, batch: Sequence[Any], source: str) -> str:
    try:
        trainer.predict(batch[0], 1, source)
        trainer.evaluate(batch, 1, source)
        trainer.fit(batch, 1, source)
    except Exception as error:
        return one_line(error)
    return ""


def forward_function(bench: Bench, model: Any, training: bool, mode: str) -> Callable[[Any], list[Array]]:
    """Return ``f(x) -> outputs`` (float64 arrays) of one call of a model, compiled once."""
    convert = bench.keras.ops.convert_to_tensor
    call = bench.runtime.compile(lambda x: model(x, training=training), mode)

    def forward(x: Any) -> list[Array]:
        with precision(bench.dtype):
            outputs = call(map_leaves(convert, x))
        return arrays(outputs)

    return forward


def arrays(outputs: Any) -> list[Array]:
    """Return a model's outputs as a list of float64 arrays."""
    convert = keras_module().ops.convert_to_numpy
    return [np.asarray(o if isinstance(o, np.ndarray) else convert(o)).astype(np.float64) for o in leaves(outputs)]


class Trainer:
    """A compiled model of a subject, its optimizer's learning rate 0: training leaves the weights alone.

    Parameters
    ----------
    bench : Bench
        Subject and precision.
    mode : str
        Execution mode.
    steps_per_execution : int
        As in ``compile``.
    """

    def __init__(self, bench: Bench, mode: str, steps_per_execution: int) -> None:
        self.bench = bench
        self.mode = mode
        self.model = build_model(bench.subject, bench.dtype)
        with precision(bench.dtype):
            optimizer = bench.keras.optimizers.SGD(0.0)
        bench.compile_model(
            self.model,
            optimizer,
            weighted_metrics=list(bench.subject.metrics) or None,
            **bench.runtime.compile_options(mode),
            steps_per_execution=steps_per_execution,
        )

        self._first = [np.array(bench.keras.ops.convert_to_numpy(v)) for v in self.model.variables]
        self.heard: list[Mapping[str, float]] | None = None

    def set_weights(self, flat: Array) -> None:
        """Assign the trainable weights; every other variable gets its first value."""
        with precision(self.bench.dtype):
            for variable, value in zip(self.model.variables, self._first, strict=True):
                variable.assign(value)
            for variable, value in zip(self.model.trainable_variables, self.bench.split(flat), strict=True):
                variable.assign(np.asarray(value).astype(variable.dtype))

    def predict(self, x: Any, batch_size: int, source: str) -> list[Array]:
        """Return the outputs of ``predict``, or of ``predict_on_batch`` batch by batch."""
        with precision(self.bench.dtype):
            if source == "on_batch":
                parts = [arrays(self.model.predict_on_batch(part)) for (part,) in _batches((x,), batch_size)]
                return [np.concatenate(p) for p in zip(*parts, strict=True)]
            with quiet():
                arguments = {**given((x,), batch_size, source), **told(x, batch_size, source, "steps")}
                return arrays(self.model.predict(**arguments, verbose=0))

    def evaluate(self, batch: Sequence[Any], batch_size: int, source: str) -> Mapping[str, float]:
        """Return what ``evaluate`` reports; `heard` is what its callbacks were told."""
        with precision(self.bench.dtype), quiet(), self._listening() as listener:
            arguments = {**stream(batch, batch_size, source), **told(batch[0], batch_size, source, "steps"), **listener}
            logs = self.model.evaluate(**arguments, verbose=0, return_dict=True)
        return self._report(logs)

    def fit(self, batch: Sequence[Any], batch_size: int, source: str, shuffle: bool = False) -> Mapping[str, float]:
        """Return the history of one epoch; `heard` is what its callbacks were told."""
        with precision(self.bench.dtype), quiet(), self._listening() as listener:
            arguments = {**stream(batch, batch_size, source), **told(batch[0], batch_size, source, "steps_per_epoch")}
            history = self.model.fit(**arguments, **listener, shuffle=shuffle, epochs=1, verbose=0).history
        return self._report({name: values[-1] for name, values in history.items()})

    @contextlib.contextmanager
    def _listening(self) -> Iterator[dict[str, Any]]:
        """Yield, as an argument, a callback that writes down in `heard` what it is told at the end of every batch.

        A loop of a team's own need not take callbacks, and `heard` is None.
        """
        self.heard = [] if loops_of_keras(self.model) else None
        if self.heard is None:
            yield {}
            return
        heard, report = self.heard, self._report

        class Listener(keras_module().callbacks.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                heard.append(report(logs))

            def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
                heard.append(report(logs))

        yield {"callbacks": [Listener()]}

    def fit_and_validate(
        self, batch: Sequence[Any], held_out: Sequence[Any], batch_size: int, source: str, epochs: int
    ) -> list[Mapping[str, float]]:
        """Return the history of each epoch, unshuffled; `held_out` is given as ``validation_data`` from the source.

        A dataset begins anew for ever, and ``validation_steps`` says how many batches there are.
        """
        held = stream(held_out, batch_size + 1, source)
        options = {"validation_data": held["x"]}
        if source == "dataset":
            options = {
                "validation_data": held["x"].repeat(),
                "validation_steps": -(-examples(held_out[0]) // (batch_size + 1)),
            }
        if source == "arrays":
            options = {"validation_data": filled(held_out), "validation_batch_size": batch_size + 1}
        with precision(self.bench.dtype), quiet():
            arguments = stream(batch, batch_size, "arrays")
            history = self.model.fit(**arguments, **options, shuffle=False, epochs=epochs, verbose=0).history
        return [self._report({name: values[epoch] for name, values in history.items()}) for epoch in range(epochs)]

    def on_batch(self, path: str, batch: Sequence[Any]) -> Mapping[str, float]:
        """Return what ``train_on_batch`` or ``test_on_batch`` reports."""
        x, y, w = batch
        with precision(self.bench.dtype):
            return self._report(getattr(self.model, path)(x, y, sample_weight=w, return_dict=True))

    def listed(self, batch: Sequence[Any]) -> list[float]:
        """Return what ``test_on_batch`` returns when no dict is asked for."""
        x, y, w = batch
        with precision(self.bench.dtype):
            found = self.model.test_on_batch(x, y, sample_weight=w)
        return [float(np.asarray(value)) for value in (found if isinstance(found, (list, tuple)) else [found])]

    def alone(self, path: str, batch: Sequence[Any]) -> Mapping[str, float]:
        """Return what a batch reports when every metric was emptied before."""
        self.model.reset_metrics()
        return self.on_batch(path, batch)

    def _report(self, logs: Mapping[str, Any] | None) -> dict[str, float]:
        """Return a report as numbers, under names that are the same in every model of the subject."""
        names = dict(zip(getattr(self.model, "output_names", None) or (), output_names(self.model), strict=True))
        return {_renamed(name, names): value for name, value in numbers(logs).items()}


@dataclass(frozen=True)
class Lengthened:
    """A subject's model rebuilt for sequences of any length.

    Attributes
    ----------
    bench : Bench
        Subject and precision.
    model : keras.Model
        The clone.
    mask_value : float
        What every feature of a masked step (or a masked id) is.
    """

    bench: Bench
    model: Any
    mask_value: float

    def set_weights(self, flat: Array) -> None:
        """Assign the trainable weights."""
        with precision(self.bench.dtype):
            for variable, value in zip(self.model.trainable_variables, self.bench.split(flat), strict=True):
                variable.assign(np.asarray(value).astype(variable.dtype))

    def lengths(self, x: Any) -> Array:
        """Return the number of steps of each sequence up to its last unmasked one."""
        (steps,) = leaves(x)
        masked = steps == self.mask_value
        masked = masked if masked.ndim == 2 else masked.all(axis=tuple(range(2, masked.ndim)))
        return np.asarray(((~masked) * np.arange(1, masked.shape[1] + 1)).max(axis=1))

    def padded(self, x: Any, steps: int) -> Any:
        """Return the sequences with masked steps appended."""
        return map_leaves(lambda a: np.concatenate([a, self._masked(a, steps)], axis=1), x)

    def _masked(self, a: Array, steps: int) -> Array:
        return np.full((len(a), steps, *a.shape[2:]), self.mask_value, a.dtype)


def lengthened(bench: Bench) -> Lengthened | None:
    """Return the bench's model for sequences of any length; None where it masks none or cannot be rebuilt."""
    values = [
        0.0 if type(layer).__name__ == "Embedding" else float(layer.mask_value)
        for layer in getattr(bench.model, "layers", ())
        if type(layer).__name__ == "Masking" or getattr(layer, "mask_zero", False)
    ]
    inputs = getattr(bench.model, "inputs", None) or []
    if len(values) != 1 or len(inputs) != 1 or len(inputs[0].shape) < 2:
        return None
    with precision(bench.dtype):
        given = bench.keras.Input((None, *inputs[0].shape[2:]), dtype=inputs[0].dtype)
        try:
            model = _rebuilt(bench.model, given)
        except Exception:  # a model that is no graph of layers, or whose weights depend on the length
            return None
    return Lengthened(bench, model, values[0]) if _same_weights(bench, model) else None


def _rebuilt(model: Any, given: Any) -> Any:
    """Return the model on another input; a stack layer by layer: Keras before 3.5 cannot clone one so."""
    keras = keras_module()
    if not isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, input_tensors=given)
    return keras.Sequential([given, *(type(layer).from_config(layer.get_config()) for layer in model.layers)])


def _same_weights(bench: Bench, model: Any) -> bool:
    return [tuple(v.shape) for v in model.trainable_variables] == bench.shapes


def penalty(bench: Bench, flat: Array) -> float | None:
    """Return the penalties on the weights by the formula of L2, or None where there are others.

    Keras's L2 regularizer is ``l2 * sum w**2``, with no half.
    """
    known = dict(zip((id(v) for v in bench.model.trainable_variables), bench.split(flat), strict=True))
    total = 0.0
    for variable in bench.model.trainable_variables:
        regularizer = getattr(variable, "regularizer", None)
        if regularizer is None:
            continue
        if type(regularizer).__name__ != "L2":
            return None
        total += float(np.asarray(regularizer.l2)) * float(np.sum(known[id(variable)] ** 2))
    own = sum(getattr(v, "regularizer", None) is not None for v in bench.model.trainable_variables)
    return total if bench.added_losses == own else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings that a generator ended inside an execution, or that a weight has no gradient: here it should."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        yield


def output_names(model: Any) -> list[str]:
    """Return the names of a model's outputs, with the numbers that Keras gave begun anew in this model."""
    numbered = renumbered(model)
    return [numbered.get(name, name) for name in getattr(model, "output_names", None) or ()]


def _renamed(reported: str, names: Mapping[str, str]) -> str:
    """Return the name of a reported number with its output's name replaced; the longest that fits is meant."""
    held_out, name = ("val_", reported[4:]) if reported.startswith("val_") else ("", reported)
    output = max((old for old in names if name.startswith(f"{old}_")), key=len, default="")
    return f"{held_out}{names.get(output, '')}{name.removeprefix(output)}"


def numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return a report as numbers; Keras has been seen to return None, which reports nothing."""
    return {name: float(np.asarray(value)) for name, value in (logs or {}).items()}


def filled(batch: Sequence[Any]) -> tuple[Any, ...]:
    """Return the batch without a missing sample weight."""
    return tuple(batch) if batch[2] is not None else tuple(batch[:2])


def _cut(tree: Any, start: int, stop: int) -> Any:
    return map_leaves(lambda a: np.asarray(a)[start:stop], tree)


def _tuples(tree: Any) -> Any:
    """Return the tree with tuples for lists, which tf.data would stack."""
    if isinstance(tree, dict):
        return {key: _tuples(part) for key, part in tree.items()}
    return tuple(_tuples(part) for part in tree) if isinstance(tree, (list, tuple)) else tree


def stream(batch: Sequence[Any], batch_size: int, source: str) -> dict[str, Any]:
    """Return the arguments that hand ``(x, y, sample_weight or None)`` to a Keras loop."""
    return given(filled(batch), batch_size, source)


def given(parts: tuple[Any, ...], batch_size: int, source: str) -> dict[str, Any]:
    """Return the arguments that hand the examples to a Keras loop."""
    if source == "arrays":
        named = dict(zip(("x", "y", "sample_weight"), parts, strict=False))
        return named if batch_size == DEFAULT_BATCH_SIZE else {**named, "batch_size": batch_size}
    makers = {
        "endless": _endlessly,
        "generator": _generator,
        "pydataset": _pydataset,
        "dataset": _dataset,
        "dataset_unknown": _unknown,
    }
    return {"x": makers[source](parts, batch_size)}


def told(x: Any, batch_size: int, source: str, name: str) -> dict[str, int]:
    """Return how many batches there are, by the name that a Keras loop takes it under, where the source has no end."""
    return {name: -(-examples(x) // batch_size)} if source == ENDLESS else {}


def _endlessly(parts: tuple[Any, ...], batch_size: int) -> Iterator[Any]:
    while True:
        yield from _generator(parts, batch_size)


def _batches(parts: tuple[Any, ...], batch_size: int) -> Iterator[tuple[Any, ...]]:
    for start in range(0, examples(parts[0]), batch_size):
        yield tuple(_cut(part, start, start + batch_size) for part in parts)


def _generator(parts: tuple[Any, ...], batch_size: int) -> Iterator[Any]:
    return (_tuples(batch) for batch in _batches(parts, batch_size))


def _pydataset(parts: tuple[Any, ...], batch_size: int) -> Any:
    batches = [_tuples(batch) for batch in _batches(parts, batch_size)]

    class Batches(keras_module().utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    return Batches()


def _dataset(parts: tuple[Any, ...], batch_size: int) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(_tuples(parts)).batch(batch_size)


def _unknown(parts: tuple[Any, ...], batch_size: int) -> Any:
    """Return a dataset that does not know its length, but its batches' size where they are all of one size."""
    import tensorflow as tf

    fixed = examples(parts[0]) % batch_size == 0
    batches = tf.data.Dataset.from_tensor_slices(_tuples(parts)).batch(batch_size, drop_remainder=fixed)
    return batches.filter(lambda *_: True)
