"""The command line, run as its users do, on the checks that bscheck ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bscheck import cli
from bscheck.checks import all_checks
from bscheck.commands import list as listing
from bscheck.errors import BscheckError


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m bscheck``."""
    command = [sys.executable, "-m", "bscheck", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, check=False)


def test_list_prints_every_check_with_family_claims_and_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["check", "family", "claims", "promise"]
    assert [row.split()[0] for row in rows] == list(all_checks())
    for row, check in zip(rows, all_checks().values(), strict=True):
        assert row.endswith(check.promise)
        assert check.family in row


def test_list_imports_no_keras() -> None:
    code = "import sys; from bscheck.cli import main; main(['list']); assert 'keras' not in sys.modules, 'Keras'"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", list(all_checks()))
def test_list_name_says_what_it_catches_formula_source_and_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["list", name]) == 0
    output = capsys.readouterr().out
    for label in ("promise", "family", "claims", "catches", "formula", "source", "example failure"):
        assert f"\n  {label}" in output, f"{name} does not say its {label}"


def test_unknown_check_is_one_line_that_lists_what_is_valid() -> None:
    ran = run("list", "accumulated")
    assert ran.returncode == 4
    assert ran.stderr.startswith("bscheck: unknown check 'accumulated'; ")
    assert ran.stderr.count("\n") == 1


def test_name_and_view_together_are_refused() -> None:
    ran = run("list", next(iter(all_checks())), "--known")
    assert ran.returncode == 4
    assert "give either the NAME of a check or one of --why, --known, --contract" in ran.stderr


@pytest.mark.parametrize("arguments", [[], ["lst"], ["list", "--wy"], ["list", "--why", "--known"]])
def test_usage_error_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


def test_version_and_help() -> None:
    assert run("--version").stdout == "bscheck 0.1.0\n"
    help_text = run("--help").stdout
    for line in ("0    fine", "1    a promise is broken", "2    usage", "4    bad input"):
        assert line in help_text


def test_known_issues_are_listed_with_condition_and_link(tmp_path: Path) -> None:
    name = next(iter(all_checks()))
    file = tmp_path / "known.toml"
    file.write_text(
        f"[[issue]]\nid='it-breaks'\ncheck='{name}'\nreason='it is off'\nlink='https://example.org/1'\n"
        "intermittent=true\n[issue.when]\nkeras='>=3.15,<3.16'\nseed={min=0, max=9}\n"
    )
    ran = run("list", "--known", BSCHECK_KNOWN_ISSUES=str(file))
    assert ran.returncode == 0, ran.stderr
    assert "it-breaks" in ran.stdout
    assert "keras: >=3.15,<3.16, seed: 0 to 9" in ran.stdout
    assert "https://example.org/1" in ran.stdout
    assert "shows       in some runs only" in ran.stdout


def test_contract_names_every_check_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--contract"]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert all(lines.count(name) == 1 for name in all_checks())


def test_why_tells_each_parameter_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_reason", lambda check, param: "it is coupled" if param.id.startswith("b") else None)
    from bscheck.checks import Param

    name, check = next(iter(all_checks().items()))
    fake = type(check)(**{**vars(check), "params": lambda: [Param.of(subject="bn"), Param.of(subject="dense")]})
    monkeypatch.setattr("bscheck.checks.all_checks", lambda: {name: fake})
    assert cli.main(["list", "--why"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{name}[bn]",
        "    it is coupled",
        "not applicable: 1 of 2",
    ]


def test_bad_input_broken_pipe_and_ctrl_c_show_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(error: BaseException) -> int:
        def view(checks: object) -> list[str]:
            raise error

        monkeypatch.setattr(listing, "_table", view)
        return cli.main(["list"])

    assert raises(BscheckError("no Keras here")) == 4
    assert capsys.readouterr().err == "bscheck: no Keras here\n"
    assert raises(KeyboardInterrupt()) == 130


def test_reader_that_leaves_early_is_no_error() -> None:
    script = f"set -o pipefail; {sys.executable} -m bscheck list | true"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
