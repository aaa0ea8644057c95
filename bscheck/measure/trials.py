"""What a trial process is asked to do: weigh a batch size, time several, look at the gradient's noise.

Functions here are called by name through `bscheck.measure.process.Child`: arguments and results are plain JSON.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bscheck.errors import BscheckError, one_line, unknown
from bscheck.measure import memory
from bscheck.measure.noise import noise_scale
from bscheck.measure.sampler import Load, Window, paired_sample
from bscheck.measure.steps import DUMMY_SIZES, Plan, Stepper, fitting_rounds, fresh_training_step
from bscheck.runtime import current
from bscheck.runtime.bench import precision
from bscheck.runtime.environment import describe
from bscheck.subject import Subject, take

#: Steps that a size must make to be said to fit: the second is the first on a warm allocator.
STEPS = 3

#: Seeds of the noise scale's draws: others than those whose data are timed.
_FIRST_SEED = 10_000


@functools.cache
def named_subject(name: str) -> Subject:
    """Return the subject of a name: a reference subject's (``lstm``), or ``module:subject``.

    A reference subject comes in its timing size where it has one. What ``module:subject`` names may be a `Subject`
    or a function that returns one; the module is looked for in the working folder first.

    Raises
    ------
    BscheckError
        With one line, when there is no such subject or it is something else.
    """
    from bscheck.reference_subjects import REFERENCE_SUBJECTS, TIMING_SUBJECTS

    module, colon, attribute = name.partition(":")
    if not colon:
        known = {**REFERENCE_SUBJECTS, **TIMING_SUBJECTS}
        if name not in known:
            raise BscheckError(f"{unknown('reference subject', name, known)}; your own: MODULE:SUBJECT")
        return known[name]()
    if not module or not attribute:
        raise BscheckError(f"subject {name!r}: give MODULE:SUBJECT, for example mypkg.subjects:articles_lstm")
    found: Any = _imported(module, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BscheckError(f"subject {name!r}: {unknown('name', part, _subjects_in(found))}")
        found = getattr(found, part)
    made = found if isinstance(found, Subject) else _called(found, name)
    if not isinstance(made, Subject):
        raise BscheckError(f"subject {name!r}: must be a bscheck.Subject or a function that returns one; "
                           f"got {type(made).__name__}")  # fmt: skip
    return made


def _imported(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except BscheckError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise BscheckError(f"subject {name!r}: there is no module {error.name!r} in {os.getcwd()} "
                               "or among the installed ones") from None  # fmt: skip
        raise BscheckError(f"subject {name!r}: importing {module} raised {one_line(error)}") from error
    except Exception as error:
        raise BscheckError(f"subject {name!r}: importing {module} raised {one_line(error)}") from error


def _called(found: Any, name: str) -> Any:
    if not callable(found) or isinstance(found, type):
        return found
    try:
        return found()
    except BscheckError:
        raise
    except Exception as error:
        raise BscheckError(f"subject {name!r}: calling it raised {one_line(error)}") from error


def _subjects_in(module: Any) -> list[str]:
    return [key for key, value in vars(module).items() if isinstance(value, Subject)]


def introduce(subject: str) -> dict[str, Any]:
    """Return the subject's name, the environment, and what the process holds before any model is built."""
    made = named_subject(subject)
    return {"name": made.name, "environment": dict(describe()), "process": memory.resident()}


class _Scales:
    """A subject's step on the scales: what each size adds to a process in which everything else lies ready."""

    def __init__(self, subject: Subject, dtype: str, micro_batches: int, work: str = "training") -> None:
        self.dtype, self.micro_batches = dtype, micro_batches
        with precision(dtype):
            self.stepper = Stepper(subject, work=work, dtype=dtype, mode=current().modes[0])
            # Tracing and the first run of every kernel leave more behind than a small step needs.
            for size in DUMMY_SIZES:
                self._steps(size)
        memory.settle()
        self.ground = memory.resident()
        self.on_device = describe()["device"] != "cpu"

    def _load(self, size: int) -> Load:
        return Window(size, self.micro_batches) if self.micro_batches > 1 else size

    def _steps(self, size: int) -> float:
        load = self._load(size)
        self.stepper.load(load)
        self.stepper.run(load)
        start = time.perf_counter()
        for _ in range(STEPS - 1):
            self.stepper.run(load)
        seconds = (time.perf_counter() - start) / (STEPS - 1)
        self.stepper.drop(load)
        return seconds

    def weigh(self, size: int) -> dict[str, Any]:
        runtime = current()
        memory.settle()
        memory.reset_peak()
        runtime.reset_peak_memory()
        with precision(self.dtype):
            seconds = self._steps(size)
            host, (_, device) = memory.peak(), runtime.memory()
            self.stepper.load(self._load(size))
            exact = self.stepper.compiled_memory(self._load(size))
            self.stepper.drop(self._load(size))
        held = self.stepper.held()
        return {
            "host_peak": host,
            "device_peak": device,
            "compiled": exact,
            "variables": held,
            # A CPU's counters, where there are any, see tensors alone: what else a step takes shows in the process,
            # which grows by it over what it held after a step of five examples.
            "memory": device if self.on_device else max(device, held + max(0, host - self.ground)),
            "seconds": seconds,
        }


@functools.lru_cache(maxsize=1)  # another model's variables must not lie on the scales too
def _scales(subject: str, dtype: str, micro_batches: int, work: str) -> _Scales:
    return _Scales(named_subject(subject), dtype, micro_batches, work)


def weigh(
    subject: str, size: int, *, dtype: str = "float32", micro_batches: int = 1, work: str = "training"
) -> dict[str, Any]:
    """Make a few steps of a size and return what they took.

    Ask for ascending sizes in one process: on a host, memory that a larger one freed would hide a smaller one's.

    Returns
    -------
    dict
        ``memory`` (bytes that the model, its optimizer and a step take, see ``variables``, ``host_peak``,
        ``device_peak``; ``compiled`` where the compiler knows them exactly) and ``seconds`` of a step.
    """
    return _scales(subject, dtype, micro_batches, work).weigh(size)


def time_loads(
    subject: str, loads: Sequence[Any], *, dtype: str, instances: int, rounds: int, budget: float
) -> Iterator[dict[str, list[float]]]:
    """Yield the seconds of each fresh instance as it is done, by label; see `paired_sample`.

    Parameters
    ----------
    loads : sequence
        Batch sizes, and ``[size, micro_batches]`` for windows.
    budget : float
        Seconds for everything: rounds give way to instances, see `fitting_rounds`.
    """
    made = named_subject(subject)
    sizes = [Window(*load) if isinstance(load, list) else int(load) for load in loads]
    dummies = [n for n in (*DUMMY_SIZES, 7, 9, 6, 10) if n not in sizes][:2]
    began = time.perf_counter()

    def fresh(k: int) -> Any:
        return fresh_training_step(made, (*sizes, *dummies), dtype=dtype, mode=current().modes[0])

    with precision(dtype):
        pilot = fresh(0)
        for size in (*dummies, *sizes):
            pilot(size)
        built = time.perf_counter() - began
        for size in sizes:
            pilot(size)
        spent = time.perf_counter() - began
        rounds = fitting_rounds(Plan(instances, rounds, budget), budget - spent, built, spent - built)
        for k in range(instances):
            left = budget - (time.perf_counter() - began)
            # Two instances make an interval: the second is measured even where it overruns.
            if k > 1 and left <= 0:
                return
            first = pilot if k == 0 else None
            one = paired_sample(
                lambda _, k=k, first=first: first or fresh(k),  # type: ignore[misc]
                sizes,
                dummy_sizes=dummies,
                seed=k,
                instances=1,
                rounds=rounds,
                budget_seconds=left if k > 1 else None,
            )
            if not one.seconds:
                return
            yield {label: list(times) for label, times in one.seconds[0].items()}


def estimate_noise(subject: str, *, size: int, draws: int) -> dict[str, Any]:
    """Return the noise scale at the model's first weights, from draws of `size` examples cut into four parts."""
    part = max(1, size // 4)
    whole = 4 * part
    made = named_subject(subject)
    bench = Stepper(made).bench
    mode = bench.runtime.modes[0]
    small: list[float] = []
    large: list[float] = []
    for draw in range(draws):
        x, y, w = made.draw(_FIRST_SEED + draw, whole)
        rows = [slice(i, i + part) for i in range(0, whole, part)]
        parts = [(take(x, r), take(y, r), None if w is None else np.asarray(w)[r]) for r in rows]
        gradients = [bench.gradient(batch, mode)[1] for batch in parts]
        mean = np.mean(gradients, axis=0)
        small.append(float(np.mean([g @ g for g in gradients])))
        large.append(float(mean @ mean))
    found = noise_scale(small, large, part, whole)
    figures = {"value": found.value, "low": found.low, "high": found.high}
    finite = {key: value if np.isfinite(value) else None for key, value in figures.items()}
    return {"draws": draws, "part": part, "whole": whole, **finite}
