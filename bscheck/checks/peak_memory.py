"""Memory, second part: the peak of a step by batch size and dtype, weighed in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bscheck.cases import DTYPES, Case, MemoryCase
from bscheck.checks import Param, check
from bscheck.checks.context import Context
from bscheck.checks.run import current_settings
from bscheck.measure import memory
from bscheck.measure.process import Child, ChildFailedError, OutOfMemoryError
from bscheck.measure.steps import MICRO_BATCHES, WORKS
from bscheck.results.curves import Curve, Series, point
from bscheck.results.verdict import Reading

#: Batch sizes weighed, ascending: on a host, what a larger one freed would hide a smaller one.
SIZES = (1, 8, 16, 17, 32, 64, 128)

#: Seconds that one size may take.
_SECONDS = 120.0


def weighed_params() -> list[Param]:
    """Return the subjects that have a timing size."""
    from bscheck.reference_subjects import TIMING_SUBJECTS

    return [Param.of(subject=name) for name in TIMING_SUBJECTS]


def weighed(context: Context) -> str | None:
    """Return why nothing is weighed."""
    if context.given is not None:
        return "a subject of your own is weighed by bscheck advise MODULE:SUBJECT"
    if current_settings().profile != "thorough":
        return "peaks are weighed in processes of their own: --bscheck-profile=thorough, or bscheck advise"
    return None


def weights(context: Context) -> Sequence[Case]:
    """Return training in every dtype, and accumulation and inference in float32."""
    others = [MemoryCase(work=work) for work in WORKS if work != "training"]
    return (*(MemoryCase(dtype=dtype) for dtype in DTYPES), *others)


def _drawn(context: Context) -> Any:
    from hypothesis import strategies as st

    return st.sampled_from(list(weights(context)))


@check(
    family="memory",
    claims=("C12", "C13"),
    case=MemoryCase,
    cases=_drawn,
    params=weighed_params,
    corners=weights,
    applies=weighed,
    examples=(0, 0, 0),
    per_subject=False,
    catches="nothing by itself: it says what lowering the batch size, another dtype or accumulation would free",
    formula="peak of the device's counters over 3 steps; on JAX arguments + results + scratch of the compiled program; "
    "on a CPU, if that is more, variables + growth of a fresh process's resident peak over a step of 5 examples",
    source="tf.config.experimental.get_memory_info, jax.stages.Compiled.memory_analysis, "
    "torch.cuda.max_memory_allocated",
    example="float32, training: 1: 12 MB, 16: 6.6 MB, 128: 7.9 MB",
)
def peak_memory_by_batch_size_is_reported(context: Context, case: MemoryCase) -> Reading:
    """The peak memory of a step is reported by batch size, dtype and kind of step."""
    name = context.param.get("subject")
    figures: dict[str, float] = {"reported": 1.0}
    words = []
    left = memory.available()
    child = Child(limit=int(memory.SAFE_SHARE * left) if left else None)
    try:
        for size in SIZES:
            k = MICRO_BATCHES if case.work == "accumulated" else 1
            options = {"size": size, "dtype": case.dtype, "micro_batches": k, "work": case.work}
            found = child.ask("bscheck.measure.trials:weigh", seconds=_SECONDS, subject=name, **options)
            peak = float(found["compiled"] or found["memory"])
            figures[f"peak_{size}"] = peak
            words.append(f"{size}: {memory.in_words(peak)}")
    except OutOfMemoryError as error:
        figures["out_of_memory_at"] = float(size)
        words.append(f"{size}: out of memory ({error})")
    except ChildFailedError as error:
        words.append(f"{size}: {error}")
    finally:
        child.close()
    name_of = f"{case.dtype}, {case.work}"
    peaks = tuple(point(n, figures[f"peak_{n}"] / 1e6) for n in SIZES if f"peak_{n}" in figures)
    curve = _curve(name_of, peaks) if peaks else None
    return Reading(
        0.0,
        where=name_of,
        seen=f"{name_of}: {', '.join(words)}",
        figures=figures,
        curves=(curve,) if curve is not None else (),
    )


def _curve(name: str, peaks: tuple[Any, ...]) -> Curve:
    note = "Of accumulated steps the size is a micro-batch's; two of them make the update."
    title = "Peak memory of a step by batch size"
    return Curve("memory", title, "batch size", "MB", (Series(name, peaks),), log_x=True, note=note)
