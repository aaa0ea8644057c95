"""The gate: what ``pytest`` collects, here and with ``pytest --pyargs bscheck.gate``.

A module a family, a line a promise: the tree is the table of contents.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A check by name; the plugin collects it as one pytest item for each parameter."""

    check: str


def promise(check: str) -> Promise:
    """Return the collectable promise of the registered check of this name."""
    return Promise(check)


@dataclass(frozen=True)
class KnownIssues:
    """Every known issue; the plugin collects each as one pytest item."""


def known_issues() -> KnownIssues:
    """Return the collectable pinned cases of the known issues."""
    return KnownIssues()
