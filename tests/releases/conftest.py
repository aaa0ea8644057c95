"""Releases of a Keras that is a few lines long, in a folder that uv takes for its index: no network, no backend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

import bscheck
from bscheck.cli import main

#: What bscheck needs, Keras aside: there by name, and imported from where the tests run.
OWN = ("hypothesis", "numpy", "packaging", "pytest", "pytest-xdist", "scipy")

#: The checkout, or the folder bscheck is installed in.
SOURCE = Path(bscheck.__file__).resolve().parent.parent

#: Registers the cheap checks where a trial or a gate runs, and breaks their promise in a bad release.
KERAS = """
import os, sys
__version__ = {version!r}
if {bad!r}:
    os.environ["PLANTED"] = "decay"
if "trial" in sys.argv[0]:
    import time, fake_checks
    time.sleep(float(os.environ.get("SLOW", "0")))
"""

GATE = """
import os, time
import keras, tensorflow
from fake_checks import *
ENVIRONMENT.update(keras=keras.__version__, backend_version=tensorflow.__version__)
time.sleep(float(os.environ.get("SLOW", "0")))
"""

DRIVER = """
import sys
import fake_checks
from bscheck.cli import main
sys.exit(main(sys.argv[1:]))
"""


def wheel(folder: Path, name: str, number: str, files: Mapping[str, str], needs: tuple[str, ...] = ()) -> Path:
    """Write a wheel by hand: its files, and the metadata that an installer reads."""
    stem = f"{name.replace('-', '_')}-{number}"
    info = f"{stem}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n", *(f"Requires-Dist: {n}\n" for n in needs)]
    content = dict(files) | {
        f"{info}/METADATA": "".join(metadata),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(inner, text)
    return path


@dataclass
class Shelf:
    """A folder of wheels, a gate of cheap checks, and the command line on both."""

    root: Path
    checks: str
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def wheels(self) -> Path:
        """The folder that uv looks for releases in."""
        return self.root / "wheels"

    @property
    def out(self) -> Path:
        """Where records go."""
        return self.root / "out"

    @property
    def cache(self) -> Path:
        """Where environments go."""
        return self.root / "cache"

    def keras(self, *numbers: str, bad: bool = False, name: str = "keras", source: str = KERAS) -> None:
        """Put releases of Keras on the shelf."""
        for number in numbers:
            text = source.format(version=number, bad=bad)
            wheel(self.wheels, name, number, {"keras/__init__.py": text, "fake_checks.py": self.checks})

    def tensorflow(self, *numbers: str, needs: tuple[str, ...] = ("keras>=3.1",)) -> None:
        """Put releases of TensorFlow on the shelf, under every name it goes by."""
        for number in numbers:
            for name in ("tensorflow", "tensorflow-cpu"):
                wheel(self.wheels, name, number, {"tensorflow/__init__.py": f"__version__ = {number!r}\n"}, needs)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line and the environment variables of one call."""
        named = "--out" in arguments or arguments[0] != "releases"
        shared = ["--cache", str(self.cache), *([] if named else ["--out", str(self.out), "--tests", "gate"])]
        at = arguments.index("--") if "--" in arguments else len(arguments)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_"))}
        variables = inherited | {
            "UV_CONFIG_FILE": str(self.root / "uv.toml"),
            "UV_CACHE_DIR": str(self.root / "uv-cache"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(self.root / "driver"), str(SOURCE)]),
        }
        command = [sys.executable, str(self.root / "driver" / "run.py"), *arguments[:at], *shared, *arguments[at:]]
        return command, variables | self.environ

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``bscheck`` with these arguments, to its end."""
        command, variables = self.command(*arguments)
        return subprocess.run(
            command, cwd=self.root, env=variables | environ, capture_output=True, text=True, timeout=120, check=False
        )

    def refused(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
        """Return the last line that ``bscheck`` says when it refuses these arguments, asked in this process."""
        command, variables = self.command(*arguments)
        for name, value in variables.items():
            if name.startswith("UV_"):
                monkeypatch.setenv(name, value)
        monkeypatch.chdir(self.root)
        assert main(command[2:]) == 4
        return capsys.readouterr().err.splitlines()[-1]

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start ``bscheck`` with these arguments."""
        command, variables = self.command(*arguments)
        return subprocess.Popen(
            command, cwd=self.root, env=variables | environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def states(self) -> list[str]:
        """Return the names of the finished records."""
        return sorted(path.stem for path in self.out.glob("*.json"))


@pytest.fixture
def shelf(tmp_path: Path, fake_checks: str) -> Shelf:
    """Return a shelf with what bscheck needs, two releases of TensorFlow and none of Keras."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed (pip install 'bscheck[releases]')")
    made = Shelf(tmp_path, fake_checks)
    for folder in ("wheels", "gate", "driver"):
        (tmp_path / folder).mkdir()
    outside = "\n".join(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    for name in OWN:
        files = {"outside.pth": outside + "\n"} if name == "hypothesis" else {f"of_{name.replace('-', '_')}.txt": ""}
        wheel(made.wheels, name, version(name), files)
    made.tensorflow("2.20.0", "2.21.0")
    config = f"no-index = true\nfind-links = [{str(made.wheels)!r}]\n".replace("'", '"')
    (tmp_path / "uv.toml").write_text(config)
    (tmp_path / "gate" / "conftest.py").write_text(GATE)
    (tmp_path / "gate" / "test_gate.py").write_text("from bscheck.gate import promise\nsums = promise('sums_agree')\n")
    (tmp_path / "driver" / "fake_checks.py").write_text(fake_checks)
    (tmp_path / "driver" / "run.py").write_text(DRIVER)
    return made
