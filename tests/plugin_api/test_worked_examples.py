"""The worked examples as an outsider runs them: bscheck from a built wheel, in a fresh folder and environment.

The environment is a new one with the wheel installed by pip, offline: Keras and its backend, half a gigabyte, are lent
from the environment that runs the tests by a path file.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "fixtures" / "examples"

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("build", "hatchling"))),
    reason="building a wheel offline needs build and hatchling: pip install -e '.[test]'",
)


def clean_environment() -> dict[str, str]:
    """Return the environment variables without this checkout."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTEST_ADDOPTS")}


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment with bscheck's wheel in it."""
    folder = tmp_path_factory.mktemp("outsider")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, capture_output=True)
    interpreter = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("bscheck-*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([str(interpreter), *install], check=True, env=clean_environment())
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return interpreter


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in an example's folder."""
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-W", "ignore", *arguments]
    environment = {**clean_environment(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a fresh copy of an example."""
    return Path(shutil.copytree(EXAMPLES / request.param, tmp_path / request.param))


def test_the_wheel_is_what_is_imported(python: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [str(python), "-c", "import bscheck; print(bscheck.__file__)"],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(ran.stdout.strip()).is_relative_to(python.parents[1])


@pytest.mark.parametrize("name", ["text_lstm", "image_loop"])
def test_a_gate_is_under_15_lines(name: str) -> None:
    lines = (EXAMPLES / name / "tests" / "test_batch_gate.py").read_text().splitlines()
    assert len(lines) < 15


@pytest.mark.parametrize("copied", ["text_lstm"], indirect=True)
def test_text_lstm_trained_by_fit_is_green(python: Path, copied: Path) -> None:
    # Keras's loops, through every source, take most of the time and have tests of their own.
    ran = run(python, copied, "--bscheck-profile=quick", "-k", "accumulated or padding or minibatch or influence")
    assert ran.returncode == 0, ran.stdout
    for text in (
        "pyproject.toml [tool.bscheck]: batch_sizes=[1, 8, 32] · accumulation=[2, 4] · time_budget=120.0",
        "topics: found 851 parameters; a loss that is a mean over its examples; sparse gradients (an embedding)",
        "accumulation",
        "holds",
    ):
        assert text in ran.stdout


@pytest.mark.parametrize("copied", ["image_loop"], indirect=True)
def test_the_mistake_of_the_image_loop_is_named(python: Path, copied: Path) -> None:
    ran = run(python, copied, "--bscheck-profile=quick", "-k", "accumulated")
    assert ran.returncode == 1
    assert "FAILED accumulated_gradient_matches_large_batch[stripes]" in ran.stdout
    assert "Accumulated micro-batches reproduce the large batch's gradient" in ran.stdout
    assert "k=2, micro-batches 8+1" in ran.stdout, ran.stdout
    assert "1 failed, 1 passed, 1 skipped" in ran.stdout


@pytest.mark.parametrize("copied", ["image_loop"], indirect=True)
def test_the_image_loop_is_green_once_it_weighs_its_micro_batches(python: Path, copied: Path) -> None:
    module = copied / "imagelab" / "__init__.py"
    wrong = "/ len(micro_batches)\n"
    source = module.read_text()
    assert source.count(wrong) == 1
    right = "* (len(y) / sum(len(batch[1]) for batch in micro_batches))\n"
    module.write_text(source.replace(wrong, right))
    ran = run(python, copied, "--bscheck-profile=quick", "-k", "accumulated")
    assert ran.returncode == 0, ran.stdout
