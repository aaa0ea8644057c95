"""The workflow templates: valid by the vendors' own schemas, and their scripts are run as a runner would."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "ci" / "templates"
SCHEMAS = {"github.yml": "vendor.github-workflows", "gitlab.yml": "vendor.gitlab-ci"}

#: What runs in a template's gate: one cheap promise, on the Keras that is installed.
CHEAP = {"BSCHECK_CHECK": "schedule_has_its_documented_values", "BSCHECK_PROFILE": "quick", "BSCHECK_TIMING": "off"}


def needs(module: str) -> None:
    """Skip, with the reason, where a package of the test extra is missing."""
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (pip install 'bscheck[test]')")


def document(name: str) -> Any:
    """Return a template as YAML has it."""
    needs("ruamel.yaml")
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load((TEMPLATES / name).read_text())


def scripts(name: str) -> Iterator[tuple[str, str]]:
    """Yield every script of a template, by job and step."""
    for job, content in document(name).get("jobs", document(name)).items():
        if not isinstance(content, dict):
            continue
        for step in content.get("steps", ()):
            if "run" in step:
                yield f"{job}: {step['name']}", step["run"]
        for key in ("before_script", "script", "after_script"):
            if key in content:
                yield f"{job}: {key}", "\n".join(content[key])


def run(script: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a runner does: bash, ending at the first error, in the checkout."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / "bscheck").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bscheck "$@"\n')
    (bin_folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for file in bin_folder.iterdir():
        file.chmod(0o755)
    if not (folder / "ci").exists():
        (folder / "ci").symlink_to(ROOT / "ci")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "CI_", "BSCHECK_"))}
    variables |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | environ
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)


def script(name: str, step: str) -> str:
    """Return one script."""
    return dict(scripts(name))[step]


@pytest.mark.parametrize("name", SCHEMAS)
def test_template_is_valid_by_its_vendors_schema(name: str, tmp_path: Path) -> None:
    needs("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name]]
    good = subprocess.run([*command, str(TEMPLATES / name)], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr
    text = (TEMPLATES / name).read_text()
    (tmp_path / name).write_text(
        text.replace("  runs-on: ubuntu-latest", "  runs_on: ubuntu-latest").replace("when: always", "when: allways")
    )
    assert subprocess.run([*command, str(tmp_path / name)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_script_is_bash(name: str) -> None:
    found = list(scripts(name))
    assert len(found) >= 6
    for where, text in found:
        ran = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{name}, {where}: {ran.stderr}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_template_says_that_forks_never_reach_a_gpu(name: str) -> None:
    text = " ".join((TEMPLATES / name).read_text().replace("#", " ").split())
    assert re.search(r"never reaches a (self-hosted GPU|GPU of yours) unapproved", text)
    assert "pull_request_target:" not in text


def test_gpu_job_is_behind_label_or_queue_fork_and_approval() -> None:
    gpu = document("github.yml")["jobs"]["gpu"]
    assert gpu["needs"] == "cpu"
    assert gpu["environment"] == "gpu"
    for part in ("merge_group", "head.repo.full_name == github.repository", "labels.*.name, 'gpu'"):
        assert part in gpu["if"]
    rules = document("gitlab.yml")["gate-gpu"]["rules"]
    assert rules[0]["when"] == "never"
    assert "SOURCE_PROJECT_ID != $CI_MERGE_REQUEST_PROJECT_ID" in rules[0]["if"]


#: A fault in Keras, so that there is something to tell.
PLANTED = """
import keras
schedule = keras.optimizers.schedules.ExponentialDecay
right = schedule.__call__
schedule.__call__ = lambda self, step: 0.5 * right(self, step)
"""


def test_red_gate_of_the_github_template_is_told_everywhere(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="Keras is not installed")
    (tmp_path / "planted.py").write_text(PLANTED)
    summary = tmp_path / "summary.md"
    variables = CHEAP | {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "PYTEST_PLUGINS": "planted"}
    ran = run(script("github.yml", "cpu: Gate").replace("-n auto", "-n 0"), tmp_path, **variables)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    record = json.loads((tmp_path / "gate-results" / "record.json").read_text())
    failed = [r for r in record["results"] if r["verdict"] == "failed"]
    assert {r["check"] for r in failed} == {CHEAP["BSCHECK_CHECK"]}
    told = [line for line in ran.stdout.splitlines() if line.startswith("::error ")]
    assert len(told) == len(failed)
    assert f"title={CHEAP['BSCHECK_CHECK']}[ExponentialDecay" in told[0]
    assert (tmp_path / "gate-results" / "junit.xml").stat().st_size > 0
    from bscheck.cli import COMMANDS

    if "report" in COMMANDS:
        assert CHEAP["BSCHECK_CHECK"] in summary.read_text()


def test_seed_of_the_night_is_printed_kept_and_handed_on(tmp_path: Path) -> None:
    output, summary = tmp_path / "output", tmp_path / "summary.md"
    given = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    ran = [run(script("github.yml", "nightly: Draw a seed"), tmp_path, **given) for _ in range(2)]
    assert [one.returncode for one in ran] == [0, 0], ran[0].stderr
    seeds = re.findall(r"seed=(\d+)", output.read_text())
    assert len(set(seeds)) == 2
    for one, seed in zip(ran, seeds, strict=True):
        assert f"--bscheck-seed {seed} draws the same cases" in one.stdout
        assert f"`{seed}`" in summary.read_text()
    step = next(s for s in document("github.yml")["jobs"]["nightly"]["steps"] if s.get("name") == "Gate")
    assert step["env"]["SEED"] == "${{ steps.seed.outputs.seed }}"


@pytest.mark.parametrize("tensorflow", ["", "nightly"])
def test_nightly_script_asks_for_what_it_says(tmp_path: Path, tensorflow: str) -> None:
    """Without an index the command goes as far as asking it: what it was told is understood, and it says what lacks."""
    import shutil

    if shutil.which("uv") is None:
        pytest.skip("uv is not installed (pip install 'bscheck[releases]')")
    summary = tmp_path / "summary.md"
    (tmp_path / "uv.toml").write_text("")
    offline = {
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "UV_CONFIG_FILE": str(tmp_path / "uv.toml"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }
    given = {**offline, "SEED": "7", "TENSORFLOW": tensorflow, "GITHUB_STEP_SUMMARY": str(summary)}
    for name, step in (("github.yml", "nightly: Gate"), ("gitlab.yml", "gate-nightly: script")):
        ran = run(script(name, step), tmp_path, **given)
        assert ran.returncode == 3, ran.stdout + ran.stderr
        asked = "keras-nightly + tensorflow" + ("==nightly" if tensorflow else "")
        assert f"{asked}: could not be run: the package index cannot be asked" in ran.stderr
    assert "| keras-nightly + tensorflow" in summary.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "ci" / "constraints").glob("*.txt")), ids=lambda p: p.stem)
def test_constraint_file_has_names_and_versions_only(path: Path) -> None:
    heading, *lines = path.read_text().splitlines()
    assert heading.startswith("# Made by ci/update_constraints.py: Python 3.")
    assert all(re.fullmatch(r"[a-z0-9._-]+==[\w.+!]+( ; .+)?", line) for line in lines), lines
    versions = dict(line.split(" ;")[0].split("==") for line in lines)
    keras, backend = path.name.removesuffix(".txt").split("+", 1)
    assert versions["keras"] == keras.removeprefix("keras-")
    name, version = backend.split("-", 1)
    assert version in (versions.get(name), versions.get(f"{name}-cpu"))
    assert {"hypothesis", "numpy", "pytest", "scipy"} <= versions.keys()
