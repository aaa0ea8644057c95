"""Memory, first part: what stays behind when the same batches come again and again."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bscheck.cases import Case, EnduranceCase
from bscheck.checks import Param, check
from bscheck.checks.context import Context, SubjectKey, cached_in_process
from bscheck.checks.run import current_settings
from bscheck.measure.growth import Growth, growth
from bscheck.measure.memory import in_words
from bscheck.results.verdict import Reading, worst
from bscheck.runtime.endurance import SIZES, Loop, only_new, watched

#: (looks, calls of the loop between two of them). What is counted is exact, so that a few looks tell; many of them
#: narrow the interval of the host's bytes.
LOOKS = {"quick": (7, 1), "default": (7, 1), "thorough": (20, 10)}

#: What may stay behind of one step. Whatever is kept of a step is at least one object; that half of one is seen
#: takes an object in every second step. Device bytes come in blocks of 256; the host's come in pools.
ALLOWED = {"objects": 0.5, "tensors": 0.5, "array_bytes": 0.5, "device_bytes": 128.0, "host_bytes": 64_000.0}

#: Calls until every size was traced: the first for its own sake, the second for what a compiler makes general then.
WARM_CALLS = 2


def enduring_params() -> list[Param]:
    """Return one subject: the loops differ in nothing else, and a recurrent one has the most to trace."""
    return [Param.of(subject="lstm")]


def loops(context: Context) -> Sequence[Case]:
    """Return a case for each loop, and the subject's own step where it has one."""
    paths = ["fit", "evaluate", "train_on_batch", *(["step"] if context.subject.step is not None else [])]
    return tuple(EnduranceCase(path=path, mode=context.runtime.modes[0]) for path in paths)


def drawn_loops(context: Context) -> Any:
    """Return the strategy every check must have; the loops are few, so that all of them are corners."""
    from hypothesis import strategies as st

    return st.sampled_from(list(loops(context)))


@dataclass(frozen=True)
class Endured:
    """What one loop left behind, by name, and how often it was traced: while warming up, and afterwards."""

    grown: Mapping[str, Growth]
    traces: int
    traced_again: int


@cached_in_process
def _endure(key: SubjectKey, case: EnduranceCase, profile: str) -> Endured:
    """Run the loop once for both checks."""
    number, calls = LOOKS[profile]
    bench = Context.for_subject(key.subject, Param()).bench("float32")
    loop = Loop(bench, case.path, case.mode)
    loop.run(WARM_CALLS)
    first = loop.traces
    counters = watched(bench)
    looks: dict[str, list[float]] = {name: [] for name in counters}
    with only_new():
        for _ in range(number):
            loop.run(calls)
            bench.runtime.synchronize()
            gc.collect()
            for name, count in counters.items():
                looks[name].append(count())
    grown = {name: growth(counts, calls * len(SIZES)) for name, counts in looks.items()}
    return Endured(grown, first, loop.traces - first)


@check(
    family="memory",
    claims=("C13",),
    case=EnduranceCase,
    cases=drawn_loops,
    params=enduring_params,
    corners=loops,
    examples=(0, 0, 0),
    catches="a loop that keeps batches, logs or tensors: memory that grows until training dies of it",
    formula="growth per step over the looks after warming up, by least squares: Python objects, tensors and bytes of "
    "arrays <= 0.5, device bytes <= 128, host bytes <= 64 kB; the interval's lower end is held to the bound",
    source="a loop that has seen its shapes needs nothing more for the next step; what is kept is one object at least",
    example="train_on_batch keeps 2 objects of every step [2, 2]",
)
def steps_leave_nothing_behind(context: Context, case: EnduranceCase) -> Reading:
    """A loop that has seen its batch sizes keeps no object, tensor or byte of a further step."""
    grown = _endure(SubjectKey(context.subject), case, current_settings().profile).grown
    found = worst(_held(case.path, name, one) for name, one in grown.items())
    figures = {f"{name}_{key}": getattr(one, key) for name, one in grown.items() for key in ("per_step", "low", "high")}
    return Reading(found.share, found.where, found.seen, found.allowed, found.cause, figures)


def _held(path: str, name: str, grown: Growth) -> Reading:
    unit = name.replace("_", " ")

    def words(value: float) -> str:
        return in_words(value) if name.endswith("bytes") else f"{value:.2g}"

    return Reading(
        max(0.0, grown.low) / ALLOWED[name],
        where=f"{unit} of {path}",
        seen=f"{path} keeps {words(grown.per_step)} {'' if name.endswith('bytes') else unit + ' '}of every step "
        f"[{words(grown.low)}, {words(grown.high)}]" + (f" ({unit})" if name.endswith("bytes") else ""),
        allowed=f"{words(ALLOWED[name])} a step",
        cause="what a step made is still referred to when the next one comes" if grown.low > ALLOWED[name] else "",
    )


def compiles(context: Context) -> str | None:
    """Return why nothing can be traced again."""
    if context.runtime.modes[0] == "eager":
        return "steps run eagerly on this backend: nothing is traced"
    return None


@check(
    family="memory",
    claims=("C13",),
    case=EnduranceCase,
    cases=drawn_loops,
    params=enduring_params,
    corners=loops,
    applies=compiles,
    examples=(0, 0, 0),
    catches="a step that is traced and compiled anew for batch sizes it has seen: seconds lost and a program kept, "
    "every time",
    formula=f"traces of the model in all calls after {WARM_CALLS} with the same batch sizes = 0",
    source="tf.function and jax.jit cache by shape; Keras keeps its compiled functions until compile() is called",
    example="fit traced the model 3 times for batch sizes it had seen",
)
def batch_sizes_seen_before_are_not_traced_again(context: Context, case: EnduranceCase) -> Reading:
    """Batch sizes that a loop has seen before are not traced again."""
    found = _endure(SubjectKey(context.subject), case, current_settings().profile)
    first, again = found.traces, found.traced_again
    return Reading(
        float("inf") if again else 0.0,
        where=case.path,
        seen=f"{case.path} traced the model {again} times for batch sizes it had seen ({first} at first)",
        allowed="none",
        figures={"traces": float(first), "traced_again": float(again)},
    )
