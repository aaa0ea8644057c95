"""The registry of checks: one promise each, listed, explained, waived and reported under one name."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bscheck.cases import Case, SubjectCase
from bscheck.errors import BscheckError, unknown

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from bscheck.checks.context import Context
    from bscheck.results.verdict import Reading

#: Families in the order of the summary, with the module that holds their checks.
FAMILIES = {
    "accumulation": (
        "bscheck.checks.gradients",
        "bscheck.checks.accumulators",
        "bscheck.checks.updates",
        "bscheck.checks.order",
        "bscheck.checks.training_updates",
        "bscheck.checks.loss_scaling",
        "bscheck.checks.members",
        "bscheck.checks.recurrence",
        "bscheck.checks.schedules",
        "bscheck.checks.losses",
        "bscheck.checks.penalties",
        "bscheck.checks.constraints",
        "bscheck.checks.windows",
        "bscheck.checks.replicas",
        "bscheck.checks.layer_gradients",
    ),
    "independence": (
        "bscheck.checks.independence",
        "bscheck.checks.evaluation",
        "bscheck.checks.history",
        "bscheck.checks.printed",
        "bscheck.checks.own_metrics",
        "bscheck.checks.layer_values",
        "bscheck.checks.metrics",
        "bscheck.checks.compiled_metrics",
        "bscheck.checks.coverage",
        "bscheck.checks.paths",
        "bscheck.checks.averages",
        "bscheck.checks.layers",
        "bscheck.checks.layer_masks",
        "bscheck.checks.mask_passing",
        "bscheck.checks.layer_precision",
        "bscheck.checks.layer_state",
        "bscheck.checks.chance",
    ),
    "tiny batches": (
        "bscheck.checks.variance",
        "bscheck.checks.trajectory",
        "bscheck.checks.expected_loss",
        "bscheck.checks.stability",
        "bscheck.checks.equal_updates",
        "bscheck.checks.learning",
        "bscheck.checks.edges",
    ),
    "timing": ("bscheck.checks.timing", "bscheck.checks.cliffs", "bscheck.checks.sweep"),
    "memory": ("bscheck.checks.endurance", "bscheck.checks.peak_memory"),
}
CLAIMS = tuple(f"C{n}" for n in range(1, 15))
PROFILES = ("quick", "default", "thorough")


@dataclass(frozen=True)
class Param:
    """The surface members of one test: what pytest parametrizes over, by name.

    Attributes
    ----------
    members : tuple of (str, str)
        ``(("subject", "dense"), ("optimizer", "adam"))``; the values joined by ``-`` are the test id.
    """

    members: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, **members: str) -> Param:
        """Return the parameter with these members."""
        return cls(tuple(members.items()))

    @property
    def id(self) -> str:
        """The parameter's part of a test id."""
        return "-".join(value for _, value in self.members)

    def as_dict(self) -> dict[str, str]:
        """Return the members by kind."""
        return dict(self.members)

    def get(self, kind: str, default: str = "") -> str:
        """Return the member of this kind."""
        return self.as_dict().get(kind, default)


@dataclass(frozen=True)
class Check:
    """A registered promise.

    Attributes
    ----------
    name : str
        The function's own name.
    promise : str
        The docstring's first line, without its full stop.
    family : str
        One of `FAMILIES`, or a team's own.
    claims : tuple of str
        Claims (C1 … C14) that the check gives a verdict on.
    function : callable
        ``function(context, case) -> Reading``: one execution of Keras held against an oracle.
    case : type
        The family's case class.
    cases : callable
        ``cases(context) -> SearchStrategy`` of the drawn cases of one parameter.
    params : callable
        ``params() -> sequence of Param``: the gate's parameters, enumerated from the installed Keras.
    corners : callable
        ``corners(context) -> sequence of Case``: run before anything is drawn, smallest first.
    applies : callable
        ``applies(context) -> str or None``: why the promise does not apply to this parameter.
    examples : tuple of int
        Cases drawn under each of `PROFILES`.
    catches, formula, source, example : str
        For ``bscheck list NAME``: faults it catches, its bound, where that comes from, an example failure.
    per_subject : bool
        Whether the check asks something of one subject, so that a team's own can be given to it.
    exception : str
        For a contract exception: what Keras documents instead, with the page.
    excepts : str
        For a contract exception: the check whose promise it takes the place of.
    begin : callable, optional
        ``begin(case)``: have another process start on a corner that the check is going to ask for.
    """

    name: str
    promise: str
    family: str
    claims: tuple[str, ...]
    function: Callable[[Context, Any], Reading]
    case: type[Case]
    cases: Callable[[Context], SearchStrategy[Any]]
    params: Callable[[], Sequence[Param]]
    corners: Callable[[Context], Sequence[Case]]
    applies: Callable[[Context], str | None]
    examples: tuple[int, int, int]
    catches: str
    formula: str
    source: str
    example: str
    per_subject: bool = True
    exception: str = ""
    excepts: str = ""
    begin: Callable[[Any], None] | None = None


_REGISTRY: dict[str, Check] = {}


def _always(context: Context) -> str | None:
    return None


def _no_corners(context: Context) -> Sequence[Case]:
    return ()


def subjects_of_the_gate() -> list[Param]:
    """Return a parameter for each reference subject."""
    from bscheck.reference_subjects import REFERENCE_SUBJECTS

    return [Param.of(subject=name) for name in REFERENCE_SUBJECTS]


def promised_cases(case: type[Case]) -> Callable[[Context], SearchStrategy[Any]]:
    """Return the strategy of a check that names none: a seed, and sizes among those that the subject promises."""

    def cases(context: Context) -> SearchStrategy[Any]:
        from hypothesis import strategies as st

        from bscheck.cases import seeds

        fields = {"seed": seeds()}
        for name, promised in (("batch_size", "batch_sizes"), ("micro_batches", "accumulation")):
            if name in case.__dataclass_fields__:
                fields[name] = st.sampled_from(getattr(context, promised))
        return st.builds(case, **fields)

    return cases


def check(
    *,
    family: str,
    case: type[Case] = SubjectCase,
    cases: Callable[[Context], SearchStrategy[Any]] | None = None,
    claims: Iterable[str] = (),
    params: Callable[[], Sequence[Param]] = subjects_of_the_gate,
    corners: Callable[[Context], Sequence[Case]] = _no_corners,
    applies: Callable[[Context], str | None] = _always,
    examples: tuple[int, int, int] = (5, 25, 250),
    catches: str = "",
    formula: str = "",
    source: str = "",
    example: str = "",
    per_subject: bool = True,
    exception: str = "",
    excepts: str = "",
    begin: Callable[[Any], None] | None = None,
) -> Callable[[Callable[[Context, Any], Reading]], Callable[[Context, Any], Reading]]:
    """Register a function ``(context, case) -> Reading`` as a check under its own name.

    The arguments are the attributes of `Check`. The function's docstring says the promise in its first line.

    Raises
    ------
    BscheckError
        When the name is taken, the docstring is missing, a claim does not exist, or an argument is of another kind.

    Examples
    --------
    A team's own promise, in its conftest.py; ``case.batch_size`` is among the sizes that the subject promises:

    >>> @bscheck.check(family="churn")  # doctest: +SKIP
    ... def probabilities_sum_to_one(context, case):
    ...     "The predicted probabilities of an example sum to one, whatever the batch size."
    ...     x, y, weights = context.subject.draw(case.seed, case.batch_size)
    ...     off = abs(context.subject.build().predict(x, verbose=0).sum(axis=1) - 1).max()
    ...     return bscheck.Reading(off / 1e-5, seen=f"a sum is off by {off:.2g}", allowed="1e-5")
    """
    claims = tuple(claims)
    for claim in claims:
        if claim not in CLAIMS:
            raise BscheckError(unknown("claim", claim, CLAIMS))

    def register(function: Callable[[Context, Any], Reading]) -> Callable[[Context, Any], Reading]:
        name = function.__name__
        promise = (inspect.getdoc(function) or "").split("\n")[0].strip().rstrip(".")
        if not promise:
            stripped = "; Python was started with -OO, which strips docstrings: use -O or neither"
            hint = stripped if sys.flags.optimize > 1 else ""
            raise BscheckError(f"check {name!r}: the docstring's first line must state the promise{hint}")
        if name in _REGISTRY and _REGISTRY[name].function.__module__ != function.__module__:
            where = _REGISTRY[name].function.__module__
            raise BscheckError(f"check {name!r} is registered already, by {where}; choose another name")
        functions = {"cases": cases, "params": params, "corners": corners, "applies": applies, "begin": begin}
        _check_arguments(family, case, examples, functions)
        if len(inspect.signature(function).parameters) != 2:
            raise BscheckError(f"check {name!r}: it must take (context, case) and return a Reading")
        _REGISTRY[name] = Check(
            name, promise, family, claims, function, case, cases or promised_cases(case), params, corners, applies,
            examples, catches, formula, source, example, per_subject, exception, excepts, begin,
        )  # fmt: skip
        return function

    return register


def _check_arguments(family: Any, case: Any, examples: Any, functions: Mapping[str, Any]) -> None:
    """Raise for an argument of `check` that is of another kind than it must be."""
    if not isinstance(family, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_ ]*", family):
        raise BscheckError(
            f"check: family= must be a letter followed by letters, digits, '_' or spaces; got {family!r}"
        )
    if not (isinstance(case, type) and issubclass(case, Case)):
        raise BscheckError(f"check: case= must be a frozen dataclass derived from bscheck.Case; got {case!r}")
    counts = isinstance(examples, tuple) and len(examples) == len(PROFILES)
    if not (counts and all(type(count) is int and count >= 0 for count in examples)):
        raise BscheckError(f"check: examples= must be a tuple of three integers >= 0 {PROFILES}; got {examples!r}")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise BscheckError(f"check: {name}= must be a function; got {function!r}")


def all_checks() -> Mapping[str, Check]:
    """Return every registered check by name, in the order of the families."""
    for modules in FAMILIES.values():
        for module in modules:
            importlib.import_module(module)
    order = {family: i for i, family in enumerate(FAMILIES)}
    ranked = sorted(_REGISTRY.values(), key=lambda c: order.get(c.family, len(order)))
    return {c.name: c for c in ranked}


def get_check(name: str) -> Check:
    """Return the check of this name.

    Raises
    ------
    BscheckError
        When there is none; the text lists the valid names, the nearest first.
    """
    checks = all_checks()
    if name not in checks:
        raise BscheckError(unknown("check", name, checks))
    return checks[name]
