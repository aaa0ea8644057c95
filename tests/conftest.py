"""What the suite's own tests share: pytest run inside pytest, on checks that need no Keras."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable

import pytest

pytest_plugins = ["pytester"]

#: A project with two cheap checks, and an environment in place of Keras's: the plugin cannot tell.
FAKE_CHECKS = '''
import dataclasses, os, pathlib, sys
from hypothesis import strategies as st
import bscheck, bscheck.checks, bscheck.items, bscheck.plugin, bscheck.results.known_issues
from bscheck.cases import Case
from bscheck.checks import Param, check
from bscheck.results.verdict import NotApplicable, Reading

no_issues = pathlib.Path(__file__).with_name("no_issues.toml")
no_issues.touch()
bscheck.results.known_issues.PACKAGED = no_issues
bscheck.checks.FAMILIES.clear()
bscheck.checks.FAMILIES.update({"accumulation": (), "timing": ()})
ENVIRONMENT = {"keras": "3.15.1", "backend": "tensorflow", "backend_version": "2.21.0", "device": "cpu",
               "threads": "2", "dtype": "float32", "tf32": "off", "numpy": "2.0", "python": "3.12"}
bscheck.plugin.describe_environment = lambda: ENVIRONMENT

@dataclasses.dataclass(frozen=True)
class FakeContext:
    param: Param
    options: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=lambda: ENVIRONMENT)
    facts: dict = dataclasses.field(default_factory=dict)
    subject: object = None
    batch_sizes: tuple = (1, 2)
    accumulation: tuple = (2,)

    def relieve(self):
        pass

bscheck.items.new_context = lambda param, options: FakeContext(param, options)

@dataclasses.dataclass(frozen=True, kw_only=True)
class SumCase(Case):
    size: int = 2
    decay: str = "none"
    CHOICES = {"decay": ("none", "on")}

def drawn(context):
    return st.builds(SumCase, size=st.integers(2, 200), decay=st.sampled_from(["none", "on"]))

def params():
    return [Param.of(model=name) for name in ("dense", "lstm", "odd")]

def odd(context):
    return "batch statistics couple the examples" if context.param.get("model") == "odd" else None

@check(family="accumulation", case=SumCase, cases=drawn, params=params, applies=odd, per_subject=False)
def sums_agree(context, case):
    """The parts add up to the whole."""
    broken = os.environ.get("PLANTED") == "decay" and case.decay == "on" and case.size >= 7
    share = 3.5 if broken else 0.25
    return Reading(share, where=f"kernel[{case.size}]", seen="off by 3.1e-4", allowed="1e-5")
'''


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own settings, and that the tests themselves may run under xdist."""
    for name in os.environ:
        if name.startswith(("BSCHECK_", "PYTEST_XDIST_")) or name == "PYTEST_ADDOPTS":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def fake_checks() -> str:
    """Return source text that registers cheap checks, for what runs in a process or an environment of its own."""
    return FAKE_CHECKS


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return a project whose conftest registers fake checks, and whose gate promises them."""
    pytester.makeconftest(FAKE_CHECKS)
    pytester.makepyfile(test_gate="from bscheck.gate import promise\nsums = promise('sums_agree')\n")
    return pytester


#: In place of what probing finds out about a team's subject.
FAKE_TEAM = """
import bscheck.inspection, bscheck.parametrize
bscheck.parametrize._context = lambda subject, terms: FakeContext(Param.of(subject=subject.name), subject=subject)
bscheck.inspection.inspect_context = lambda context, checks, settings: bscheck.inspection.Inspection(
    context.param.get("subject"), ("31 parameters",), ("recurrent",), tuple(c.name for c in checks), {}, 4.0)
"""


@pytest.fixture
def extend(project: pytest.Pytester) -> Callable[[str], None]:
    """Return a function that adds source text to the project's conftest."""

    def add(source: str) -> None:
        path = project.path / "conftest.py"
        path.write_text(path.read_text() + textwrap.dedent(source))

    return add


@pytest.fixture
def team_project(project: pytest.Pytester, extend: Callable[[str], None]) -> pytest.Pytester:
    """Return a project without the gate, where a team's own subjects are given fake contexts."""
    extend(FAKE_TEAM)
    (project.path / "test_gate.py").unlink()
    return project
