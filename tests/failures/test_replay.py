"""bscheck replay: a recorded failure runs again; names are looked up, never imported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from conftest_failures import ENVIRONMENT, failure

from bscheck.cli import main

PLANTED = Path(__file__).parents[2] / "fixtures" / "planted" / "accumulation" / "decay_on_every_micro_batch.py"


def planted():
    spec = importlib.util.spec_from_file_location("planted_for_replay", PLANTED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plant()


def replay(capsys, *arguments: object) -> tuple[int, str]:
    from bscheck.checks.context import forget

    forget()
    code = main(["replay", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_failure_that_is_still_there(record, capsys) -> None:
    with planted():
        code, text = replay(capsys, f"{record()}#1")
    assert code == 1
    assert "run.json#1 weight_decay_acts_once_per_update[sgd]: still fails\n    after update 1, weight" in text


def test_failure_that_is_fixed(record, capsys) -> None:
    code, text = replay(capsys, f"{record(environment={**ENVIRONMENT, 'keras': '3.4.1'})}#1")
    assert code == 0
    assert "[sgd]: fixed\n    it holds, at 0 % of the bound (keras 3.4.1 -> " in text


def test_every_failure_of_a_record_and_the_gravest_exit_code(record, capsys) -> None:
    unknown = failure(check="no_such_promise")
    code, text = replay(capsys, record(failure(), failure(param={"optimizer": "momentum"}), unknown))
    assert code == 3
    assert "#2 no_such_promise[sgd]: cannot run here\n    unknown check 'no_such_promise'" in text
    assert text.endswith("2 fixed · 1 cannot run here\n")


@pytest.mark.parametrize(
    ("result", "environment", "reason"),
    [
        ({}, {"backend": "jax"}, "it was recorded on the backend 'jax'; here it is 'tensorflow'"),
        ({}, {"device": "gpu"}, "it was recorded on the device 'gpu'; here it is 'cpu'"),
        ({"param": {"optimizer": "nosuch"}}, {}, "unknown optimizer 'nosuch'"),
        ({"param": {"optimizer": "ftrl"}, "check": "moving_average_advances_once_per_update",
          "failure": {**failure()["failure"], "case": {"nosuch": 1}}}, {}, "unknown case field 'nosuch'"),
        ({"family": "known issues"}, {}, "the pinned case of a known issue"),
        ({"param": {"subject": "churn"}, "check": "predictions_do_not_depend_on_batch_size",
          "failure": {**failure()["failure"], "case": {}, "own_subject": True}}, {},
         "the subject 'churn' is not bscheck's: point at it with --subjects MODULE"),
        ({"param": {"subject": "os.system"}, "check": "predictions_do_not_depend_on_batch_size",
          "failure": {**failure()["failure"], "case": {}}}, {}, "unknown reference subject 'os.system'"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_here_says_why(record, capsys, result, environment, reason: str) -> None:
    path = record(failure(**result), environment={**ENVIRONMENT, **environment})
    code, text = replay(capsys, f"{path}#0")
    assert code == 3
    assert "cannot run here" in text
    assert reason in text


@pytest.mark.parametrize(
    ("number", "line"),
    [
        ("#7", "the record has results 0 to 1; failures: 1"),
        ("#0", "is no failure but 'passed'; failures: 1"),
        ("#", "after # comes the number of a result, for example run.json#17"),
        ("#-1", "after # comes the number of a result"),
        ("#1e3", "after # comes the number of a result"),
        ("#٣", "after # comes the number of a result"),
        ("#" + "9" * 50, "after # comes the number of a result"),
    ],
)
def test_bad_number_is_one_line(record, capsys, number: str, line: str) -> None:
    code, text = replay(capsys, f"{record()}{number}")
    assert code == 4
    assert line in text
    assert len(text.splitlines()) == 1


def test_file_with_a_hash_in_its_name_is_a_file(record, capsys) -> None:
    code, _ = replay(capsys, record(failure(), name="run#2.json"))
    assert code == 0


def test_record_without_failures_is_one_line(record, capsys) -> None:
    code, text = replay(capsys, record({**failure(), "verdict": "passed", "failure": None}))
    assert (code, text.endswith("holds no failure\n")) == (4, True)


@pytest.mark.parametrize(
    "damage",
    [
        {"failure": {"case": [], "situation": "", "reading": {}}},
        {"failure": {"situation": "", "reading": {"share": 1}}},
        {"failure": {"case": {}, "situation": 3, "reading": {"share": 1}}},
        {"failure": {"case": {}, "situation": "", "reading": {"share": "much"}}},
        {"failure": {"case": {}, "situation": "", "reading": {"share": 1}, "ablation": [1]}},
        {"param": {"optimizer": ["sgd"]}},
        {"failure": None},
    ],
)
def test_damaged_failure_is_one_line(record, capsys, damage) -> None:
    code, text = replay(capsys, f"{record(failure(**damage))}#0")
    assert code == 4
    assert text.endswith("the file is damaged\n")
    assert len(text.splitlines()) == 1


def test_nothing_that_a_record_names_is_imported(record, capsys, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil_module", "evil_module:subject", "evil_module.subject"):
        told = failure(check=name, param={"subject": name, "evil_module": name})
        told["failure"] = {**told["failure"], "own_subject": True, "script": "../evil_module.py"}
        assert replay(capsys, f"{record(told)}#0")[0] == 3
    assert "evil_module" not in sys.modules


TEAM = """
import bscheck, keras, numpy as np

def build():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

def sample(seed, size):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 2)), rng.normal(size=(size, 1))

subjects = [bscheck.Subject("churn", build=build, data=sample, loss="mean_squared_error")]
"""


@pytest.mark.parametrize("named", ["replayed_team", "replayed_team.py"])
def test_teams_subject_is_found_where_the_user_points(record, capsys, tmp_path, monkeypatch, named: str) -> None:
    (tmp_path / "replayed_team.py").write_text(TEAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    told = failure(check="predictions_do_not_depend_on_batch_size", param={"subject": "churn"})
    told["failure"] = {**told["failure"], "case": {"batch_size": 2, "tail": 1}, "own_subject": True}
    code, text = replay(capsys, f"{record(told)}#0", "--subjects", named)
    sys.modules.pop("replayed_team", None)
    assert code == 0, text
    assert "[churn]: fixed" in text
    assert "(the versions are those of the record)" in text or "->" in text


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("x = 1", "has no bscheck.Subject (nor a list of them) at its top level"),
        ("(", "cannot be imported: SyntaxError"),
    ],
)
def test_bad_module_of_subjects_is_one_line(record, capsys, tmp_path, monkeypatch, source: str, line: str) -> None:
    path = tmp_path / "bad_team.py"
    path.write_text(source)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, text = replay(capsys, f"{record()}#1", "--subjects", path)
    sys.modules.pop("bad_team", None)
    assert code == 4
    assert line in text
    assert len(text.splitlines()) == 1


def test_missing_module_of_subjects_is_one_line(record, capsys) -> None:
    code, text = replay(capsys, f"{record()}#1", "--subjects", "no_such_module_anywhere")
    assert (code, "cannot be imported: ModuleNotFoundError" in text) == (4, True)
    code, text = replay(capsys, f"{record()}#1", "--subjects", "nowhere/team.py")
    assert (code, "there is no such file" in text) == (4, True)


def test_answer_that_changed_when_recorded_cannot_be_called_fixed(record, capsys) -> None:
    told = failure()
    told["failure"] = {**told["failure"], "steady": False}
    code, text = replay(capsys, f"{record(told)}#0")
    assert code == 3
    assert "it held 10 times; when it was recorded it did not give the same answer twice" in text
