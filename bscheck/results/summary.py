"""What a run says at its start and at its end: the header's lines and the summary's table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bscheck.results.failure import one_line_environment

Results = Sequence[Mapping[str, Any]]

#: The family under which the pinned cases of known issues are told.
PINNED = "known issues"

#: Reasons shown under *not applicable*; the rest are counted, ``bscheck list --why`` has them all.
_REASONS = 12
_COLUMNS = (15, 7, 56)


def header(environment: Mapping[str, str], options: Mapping[str, Any], settings: Mapping[str, str]) -> list[str]:
    """Return the lines that say what is under test and every setting that changes it."""
    from bscheck import __version__

    parts = [
        f"bscheck {__version__}",
        one_line_environment(environment),
        f"profile {options['profile']}",
        f"seed {options['seed']}",
    ]
    lines = [" · ".join(filter(None, parts))]
    if settings:
        lines.append(" · ".join(f"{key}={value}" for key, value in settings.items()))
    return lines


def summary(results: Results, families: Iterable[str] = ()) -> list[str]:
    """Return the summary's lines: a row for each family, then known issues, exceptions and what was skipped.

    Parameters
    ----------
    results : sequence of mapping
        `Result.to_json` of each result, in the order they ran.
    families : iterable of str, optional
        The order of the families; others follow.
    """
    by_family: dict[str, list[Mapping[str, Any]]] = {family: [] for family in families}
    for result in results:
        by_family.setdefault(result["family"], []).append(result)
    pinned = by_family.pop(PINNED, [])
    lines = [_row("promise family", "cases", "worst share of the bound", "verdict")]
    for name, group in by_family.items():
        if asserted(group):
            lines += [_family(name, group), *_reported(group)]
    lines += _known_issues(pinned, results)
    lines += _exceptions(results)
    lines += _not_applicable(results)
    total = sum(result["cases"] for result in results)
    seconds = sum(result["seconds"] for result in results)
    text = f"executions of Keras held against an oracle, {seconds:.0f} s"
    return [*lines, _row("total", str(total), text, "")]


def share(value: Any) -> float:
    """Return a share of the bound as a number; JSON has infinities and NaN as strings."""
    return float(value)


def percent(value: float) -> str:
    """Return a share of the bound for reading."""
    if not math.isfinite(value):
        return "no bound holds"
    return f"{100 * value:.0f} %" if 0.01 <= value < 1000 else f"{100 * value:.1g} %"


def _row(*cells: str) -> str:
    family, cases, share_of_bound, verdict = cells
    left, number, middle = _COLUMNS
    return f"{family:<{left}} {cases:>{number}}   {share_of_bound:<{middle}} {verdict}".rstrip()


def asserted(group: Results) -> list[Mapping[str, Any]]:
    """Return the results that say something of a promise: neither skipped nor documented otherwise."""
    return [r for r in group if r["verdict"] not in ("not applicable", "contract exception")]


def _reported(group: Results) -> list[str]:
    """Return a line for each effect that was measured, not asserted, among promises that are asserted."""
    told = [r for r in asserted(group) if r["verdict"] == "reported" and r["reason"]]
    if len(told) == len(asserted(group)):
        return []
    return [f"  reported: {r['check']}[{'-'.join(r['param'].values())}]: {r['reason']}" for r in told]


def _family(name: str, group: Results) -> str:
    told = asserted(group)
    cases = str(sum(result["cases"] for result in told))
    return _row(name, cases, _nearest(told), family_verdict(told))


def _nearest(told: Results) -> str:
    """Return the largest share and the case it belongs to."""
    ranked = [r for r in told if r["cases"]]
    if not ranked:
        return ""
    top = max(ranked, key=lambda r: _rank(share(r["worst"]["share"])))
    if top["family"] == "timing" and top["worst"]["seen"]:
        return str(top["worst"]["seen"])
    where = shorten(top["worst_case"], _COLUMNS[2] - 12)
    return f"{percent(share(top['worst']['share']))}{f' ({where})' if where else ''}"


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def shorten(text: str, width: int) -> str:
    """Return the text, cut with an ellipsis where it is too long."""
    return text if len(text) <= width else text[: width - 1].rstrip(" ,") + "…"


def family_verdict(told: Results) -> str:
    """Return a family's verdict: the gravest of its results'."""
    counts = Counter(result["verdict"] for result in told)
    if counts["failed"]:
        return f"BROKEN: {counts['failed']} of {len(told)}"
    if counts["inconclusive"]:
        return f"inconclusive: {counts['inconclusive']} of {len(told)}"
    if counts["reported"] == len(told):
        reason = next((r["reason"] for r in told if r["verdict"] == "reported" and r["reason"]), "")
        return f"reported: {reason}" if reason else "reported"
    return "holds, but for known issues" if counts["known issue"] else "holds"


def _known_issues(pinned: Results, results: Results) -> list[str]:
    """Return what became of the pinned cases, and the share of the cases that each entry holds."""
    lines = []
    ran = [result for result in pinned if result["verdict"] != "not applicable"]
    held = [result for result in ran if result["verdict"] == "known issue"]
    if held:
        each = "each still fails on its pinned case" if len(held) > 1 else "still fails on its pinned case"
        lines.append(_row("known issues", str(len(held)), each, "held"))
    failed = [result for result in ran if result["verdict"] == "failed"]
    expired = [result for result in failed if is_expired(result)]
    if expired:
        lines.append(_row("known issues", str(len(expired)), "the date of the entry has passed", "EXPIRED"))
        lines += [f"  {result['reason']}" for result in expired]
    stale = [result for result in failed if result not in expired]
    if stale:
        lines.append(_row("known issues", str(len(stale)), "pinned case passes: delete the entry", "FIXED"))
    lines += [f"  {result['reason']}" for result in ran if result["verdict"] == "reported"]
    return lines + _held_shares(results)


def is_expired(result: Mapping[str, Any]) -> bool:
    """Whether a pinned case failed because its entry's date has passed, not because it is fixed."""
    return bool(dict(dict(result.get("worst") or {}).get("figures") or {}).get("expired"))


def _held_shares(results: Results) -> list[str]:
    """Return a line for each known issue: how many cases of the checks it touches it holds."""
    return [
        f"  {issue}: held {n} of {of} cases ({100 * n / of:.1f} %) of {', '.join(checks)}"
        for issue, (n, of, checks) in sorted(held_cases(results).items())
    ]


def held_cases(results: Results) -> dict[str, tuple[int, int, tuple[str, ...]]]:
    """Return, for each known issue, the cases it held, the cases of the checks it touched, and those checks.

    The pinned cases of known issues are none of them.
    """
    ordinary = [result for result in results if result["family"] != PINNED]
    held: Counter[str] = Counter()
    checks: dict[str, set[str]] = {}
    for result in ordinary:
        for issue, count in result["held"].items():
            held[issue] += count
            checks.setdefault(issue, set()).add(result["check"])
    cases: Counter[str] = Counter()
    for result in ordinary:
        cases[result["check"]] += result["cases"]
    return {
        issue: (held[issue], sum(cases[name] for name in names), tuple(sorted(names)))
        for issue, names in checks.items()
    }


def _exceptions(results: Results) -> list[str]:
    told = [result for result in results if result["verdict"] == "contract exception"]
    if not told:
        return []
    worst = max(_rank(share(result["worst"]["share"])) for result in told)
    return [_row("exceptions", str(len(told)), f"each as documented, worst {percent(worst)}", "hold")]


def _not_applicable(results: Results) -> list[str]:
    """Return how much was not applicable, by reason."""
    reasons = Counter(r["reason"] or "no reason given" for r in results if r["verdict"] == "not applicable")
    if not reasons:
        return []
    lines = [_row("not applicable", str(sum(reasons.values())), "", "bscheck list --why")]
    lines += [f"  {count:>5}  {reason}" for reason, count in reasons.most_common(_REASONS)]
    rest = len(reasons) - _REASONS
    return [*lines, f"         and {rest} more reasons"] if rest > 0 else lines
