"""The ways in which ``fit`` is given examples: arrays, and streams of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bscheck.runtime import current, keras_module

#: Streams of every backend; those of one backend follow in `training_sources`.
COMMON = ("arrays", "generator", "pydataset", "pydataset_threads")
OWN = {
    # A static batch dimension where all batches are of one size; none; and the first without a known length.
    "tensorflow": ("dataset", "dataset_dynamic", "dataset_unknown"),
    "torch": ("dataloader",),
}

Batch = tuple[Any, ...]


def training_sources() -> tuple[str, ...]:
    """Return the ways in which ``fit`` can be given examples on this backend."""
    return (*COMMON, *OWN.get(current().name, ()))


def takes(source: str, what: str) -> bool:
    """Whether Keras documents that a source takes an option of ``fit``, or that it may go on without end.

    Parameters
    ----------
    source : str
        One of `training_sources`.
    what : str
        ``shuffle``, ``class_weight``, ``endless``, or ``examples`` (not batches) to be shuffled or held out.
    """
    if what == "endless":
        return source == "generator" or source.startswith("dataset")
    if what == "examples":
        return source == "arrays"
    if what == "shuffle":
        return source == "arrays" or source.startswith("pydataset")
    return what != "class_weight" or source not in ("generator", "dataloader")


def given(source: str, parts: Batch, batch_size: int, *, endless: bool = False) -> dict[str, Any]:
    """Return the arguments that hand the examples to ``fit``.

    Parameters
    ----------
    source : str
        One of `training_sources`.
    parts : tuple
        Inputs, targets and, if there are any, sample weights: arrays.
    batch_size : int
    endless : bool
        Whether a source that can begins anew when its examples have passed.
    """
    if source == "arrays":
        names = ("x", "y", "sample_weight")[: len(parts)]
        return {**dict(zip(names, parts, strict=True)), "batch_size": batch_size}
    batches = cut(parts, batch_size)
    if source == "generator":
        return {"x": _endlessly(batches) if endless else (batch for batch in batches)}
    if source.startswith("pydataset"):
        return {"x": _pydataset(batches, 2 if source == "pydataset_threads" else 1)}
    stream = _OF_BACKENDS[source](parts, batches, batch_size)
    return {"x": stream.repeat() if endless and source.startswith("dataset") else stream}


def cut(parts: Batch, batch_size: int) -> list[Batch]:
    """Return the batches of the examples, in order, the last one as it comes out."""
    return [tuple(p[i : i + batch_size] for p in parts) for i in range(0, len(parts[0]), batch_size)]


def _endlessly(batches: Sequence[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


def _pydataset(batches: Sequence[Batch], workers: int) -> Any:
    class Batches(keras_module().utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    return Batches(workers=workers)


def _dataset(parts: Batch, batches: Sequence[Batch], batch_size: int) -> Any:
    """Return a dataset that tells the size of its batches where they are all of one size."""
    import tensorflow as tf

    static = len(parts[0]) % batch_size == 0
    return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size, drop_remainder=static)


def _dynamic(parts: Batch, batches: Sequence[Batch], batch_size: int) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)


def _unknown(parts: Batch, batches: Sequence[Batch], batch_size: int) -> Any:
    import tensorflow as tf

    size = batch_size if len(parts[0]) % batch_size == 0 else None
    signature = tuple(tf.TensorSpec((size, *p.shape[1:]), p.dtype) for p in parts)
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)


def _dataloader(parts: Batch, batches: Sequence[Batch], batch_size: int) -> Any:
    import torch

    tensors = [torch.from_numpy(p) for p in parts]
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=batch_size)


_OF_BACKENDS = {
    "dataset": _dataset,
    "dataset_dynamic": _dynamic,
    "dataset_unknown": _unknown,
    "dataloader": _dataloader,
}
