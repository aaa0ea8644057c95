"""Detection: what a subject is found to have, which promises therefore apply, and about how long they take."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bscheck.errors import BscheckError, unknown
from bscheck.results.verdict import NotApplicable

if TYPE_CHECKING:
    from bscheck.checks import Check
    from bscheck.checks.context import Context
    from bscheck.checks.run import RunSettings
    from bscheck.traits import Traits

_WIDTH = 110

#: Facts that subjects can be selected by, and whether one has it.
TRAITS: Mapping[str, Callable[[Traits, Context], bool]] = {
    "batch_statistics": lambda t, c: bool(t.batch_statistics),
    "coupled": lambda t, c: t.coupled,
    "stochastic": lambda t, c: t.stochastic,
    "stateful": lambda t, c: bool(t.stateful),
    "recurrent": lambda t, c: t.recurrent,
    "masked_loss": lambda t, c: t.masked_loss,
    "sum_loss": lambda t, c: t.reduction == "sum",
    "penalties": lambda t, c: t.penalties,
    "sparse_gradients": lambda t, c: t.sparse_gradients,
    "several_outputs": lambda t, c: t.outputs > 1,
    "no_float64_twin": lambda t, c: not t.double,
    "schedule": lambda t, c: _scheduled(c),
    "own_step": lambda t, c: c.subject.step is not None,
    "own_train_step": lambda t, c: _overridden(c, "train_step"),
    "own_loops": lambda t, c: any(_overridden(c, name) for name in ("fit", "evaluate", "predict")),
}

#: A guess at the traces, and at the calls of the model in one case, that a check needs; (3, 10) where it is not listed.
#: Only the order of magnitude matters.
_EFFORT = {
    "micro_batch_gradients_average_to_the_large_batch": (3, 10),
    "accumulated_gradient_is_the_mean_of_what_was_accumulated": (12, 10),
    "accumulated_training_matches_large_batches": (10, 10),
    "predictions_do_not_depend_on_batch_size": (4, 30),
    "history_of_fit_and_train_on_batch_report_the_batch": (8, 20),
    "fit_leaves_the_state_of_train_on_batch": (3, 10),
}

#: Seconds that the report of one timing takes, whatever the subject: its sampler has a budget of its own.
_TIMING_SECONDS = 2.0


@dataclass(frozen=True)
class Inspection:
    """What was found out about a subject before it is held to anything.

    Attributes
    ----------
    subject : str
        Its name.
    found : tuple of str
        What it has, in words.
    traits : tuple of str
        Names among `TRAITS`, by which it can be selected.
    applies : tuple of str
        Checks whose promises apply.
    not_applicable : mapping of str to str
        Checks whose promises do not, with the reason.
    seconds : float
        An estimate of how long the checks take.
    """

    subject: str
    found: tuple[str, ...]
    traits: tuple[str, ...]
    applies: tuple[str, ...]
    not_applicable: Mapping[str, str]
    seconds: float

    def lines(self) -> list[str]:
        """Return the lines that a run tells."""
        count = len(self.applies) + len(self.not_applicable)
        lines = _wrapped(f"{self.subject}: found ", "; ".join(self.found))
        lines += _wrapped("  ", f"{len(self.applies)} of {count} promises apply, estimated to take {self.duration()}")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.not_applicable.items():
            reasons.setdefault(reason, []).append(name)
        if "stochastic" in self.traits and reasons:
            lines += _wrapped("  ", "Subject(still=True) switches dropout and noise off, and has more promises held")
        for reason, names in reasons.items():
            lines += _wrapped("  not applicable: ", f"{', '.join(names)}: {reason}")
        return lines

    def duration(self) -> str:
        """Return the estimate for reading: a factor of two either way is no surprise."""
        low, high = max(1.0, 0.5 * self.seconds), max(2.0, 2 * self.seconds)
        if high < 90:
            return f"{low:.0f} to {high:.0f} s (a rough guess from one build and one step)"
        return f"{low / 60:.1f} to {high / 60:.1f} minutes (a rough guess from one build and one step)"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def inspect_context(context: Context, checks: Sequence[Check], settings: RunSettings) -> Inspection:
    """Return what is found out about the context's subject; it is built and called, nothing is asserted.

    Raises
    ------
    SubjectError
        When it cannot be built, or breaks its contract.
    """
    traits = context.traits
    reasons = {check.name: _why_not(check, context, settings) for check in checks}
    asked = [check for check in checks if reasons[check.name] is None]
    return Inspection(
        subject=context.subject.name,
        found=tuple(_found(context, traits)),
        traits=traits_of(context),
        applies=tuple(check.name for check in asked),
        not_applicable={name: reason for name, reason in reasons.items() if reason is not None},
        seconds=_estimate(context, asked, settings),
    )


def traits_of(context: Context) -> tuple[str, ...]:
    """Return the names of the traits that the context's subject has."""
    traits = context.traits
    return tuple(name for name, has in TRAITS.items() if has(traits, context))


def check_trait(name: str) -> str:
    """Return the name of a trait.

    Raises
    ------
    BscheckError
        When there is no such trait; the valid ones are listed.
    """
    if name not in TRAITS:
        raise BscheckError(unknown("trait", name, TRAITS))
    return name


def _why_not(check: Check, context: Context, settings: RunSettings) -> str | None:
    from bscheck.checks.run import refusal

    try:
        return refusal(check, context, settings)
    except NotApplicable as reason:
        return str(reason)


def _found(context: Context, traits: Traits) -> list[str]:
    """Return what the subject has, in words; what changes nothing is left out."""
    from bscheck.subject import leaves

    bench = context.bench("float32")
    inputs = len(leaves(context.subject.draw(0, 1)[0]))
    noisy = _noisy_names(bench.model)
    refused = context.refused_sources
    said = [
        f"{traits.parameters} parameters",
        f"{inputs} inputs" if inputs > 1 else "",
        f"{traits.outputs} outputs" if traits.outputs > 1 else "",
        _loss_words(traits),
        f"batch statistics in {_some(traits.batch_statistics)}" if traits.batch_statistics else "",
        f"examples coupled in training (outputs move by {traits.coupling:.1%})" if traits.coupled else "",
        (f"randomness in training ({_some(noisy)})" if noisy else "randomness in training")
        if traits.stochastic
        else "",
        f"state kept between batches in {_some(traits.stateful)}" if traits.stateful else "",
        "a mask that reaches the loss" if traits.masked_loss else "",
        "penalties beside the loss" if traits.penalties else "",
        "sparse gradients (an embedding)" if traits.sparse_gradients else "",
        "" if traits.double else "layers, inputs or a loss of a fixed dtype (no float64 twin)",
        "dropout and noise switched off (still=True)" if context.subject.still else "",
        "a learning rate schedule" if _scheduled(context) else "",
        "a step of its own" if context.subject.step is not None else "",
        "a train_step of its own" if _overridden(context, "train_step") else "",
        "outputs whose loss Keras cannot weigh by one number for each example (cases run without weights)"
        if context.refused_weights and context.subject.draw(0, 1)[2] is None
        else "",
        f"loops that refuse {', '.join(refused)}" if refused else "",
    ]
    return [words for words in said if words]


def _loss_words(traits: Traits) -> str:
    from bscheck.traits import NO_MEAN

    if traits.reduction == "other":
        return f"a loss that is {NO_MEAN}"
    return f"a loss that is a {traits.reduction} over its examples"


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _noisy_names(model: Any) -> list[str]:
    """Return the names of the layers that draw random numbers in training."""
    from bscheck.runtime.bench import noisy_layers, renumbered

    names = renumbered(model)
    return list(dict.fromkeys(names.get(layer.name, layer.name) for layer, _ in noisy_layers(model)))


def _scheduled(context: Context) -> bool:
    from bscheck.checks.training_updates import own_optimizer

    try:
        own_optimizer(context.subject)
    except NotApplicable:
        return True
    except BscheckError:
        pass
    return False


def _overridden(context: Context, name: str) -> bool:
    """Whether the model has a method of its own in place of Keras's."""
    bench = context.bench("float32")
    where = next((c for c in type(bench.model).__mro__ if name in vars(c)), object)
    return not where.__module__.startswith(("keras.", "keras_src."))


def _estimate(context: Context, checks: Sequence[Check], settings: RunSettings) -> float:
    """Return the seconds that the checks are likely to take, from one traced gradient and one more call of it."""
    from bscheck.checks.run import TIMING

    bench = context.bench("float32")
    batch = context.subject.draw(1, max(2, context.batch_sizes[0]))
    bench.set_weights(bench.initial)
    trace, step = (_seconds(lambda: bench.gradient(batch, context.runtime.modes[0])) for _ in range(2))
    total = 0.0
    for check in checks:
        if check.family == TIMING:
            total += _TIMING_SECONDS
            continue
        traces, calls = _EFFORT.get(check.name, (3, 10))
        cases = len(check.corners(context)) + settings.examples(check)
        total += traces * trace + cases * calls * step
    return total


def _seconds(function: Callable[[], object]) -> float:
    started = time.monotonic()
    function()
    return time.monotonic() - started


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(first + text, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
