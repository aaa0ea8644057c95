"""Nothing is left out: every check is in the gate and has a planted fault; what does not apply does not grow."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

import bscheck.gate
from bscheck.checks import FAMILIES, all_checks

ROOT = Path(__file__).resolve().parent.parent
PLANTED = sorted((ROOT / "fixtures" / "planted").glob("*/*.py"))


def gate_promises() -> list[str]:
    """Return the check of every line of the gate's modules."""
    names = []
    for path in sorted(Path(bscheck.gate.__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"bscheck.gate.{path.stem}")
        names += [value.check for value in vars(module).values() if isinstance(value, bscheck.gate.Promise)]
    return names


def planted_owner(path: Path) -> str:
    """Return the check that a planted fault belongs to."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__.strip().endswith("."), path
    return module.CHECK


def test_every_check_is_collected_once():
    assert sorted(gate_promises()) == sorted(all_checks())


def test_every_check_has_a_planted_fault():
    owned = {planted_owner(path) for path in PLANTED}
    # What only measures has nothing to catch, and says so: tests/checks/test_reported_costs.py holds it to its words.
    reported = {name for name, check in all_checks().items() if check.catches.startswith("nothing by itself")}
    assert reported == {"time_by_batch_size_is_reported", "peak_memory_by_batch_size_is_reported"}
    assert set(all_checks()) - owned == reported
    assert owned - set(all_checks()) == set()


@pytest.mark.parametrize("name", all_checks())
def test_every_check_says_what_it_catches(name):
    check = all_checks()[name]
    assert check.family in FAMILIES
    assert check.claims
    for said in (check.promise, check.catches, check.formula, check.source, check.example):
        assert said.strip(), f"{name} leaves something unsaid"


def test_what_does_not_apply_does_not_grow():
    import keras

    golden = ROOT / "fixtures" / "golden" / f"not-applicable-keras-{keras.__version__}-{keras.backend.backend()}.txt"
    if not golden.exists():
        pytest.skip(f"no golden list for keras {keras.__version__} on {keras.backend.backend()}")
    from bscheck.checks.context import Context

    found = {
        f"{check.name}[{param.id}]"
        for check in all_checks().values()
        for param in check.params()
        if check.applies(Context(param)) is not None
    }
    assert found == set(golden.read_text().split())
