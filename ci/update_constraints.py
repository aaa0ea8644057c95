#!/usr/bin/env python3
"""Write ci/constraints/: what uv resolves for each supported combination, names and versions only.

    python ci/update_constraints.py [--python 3.11] [--keras VERSION]

    pip install -c ci/constraints/keras-3.15.1+tensorflow-2.21.0.txt bscheck keras tensorflow-cpu

A combination that cannot be resolved is named, and leaves the folder as it was (exit code 3).
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bscheck.errors import BscheckError  # noqa: E402
from bscheck.releases.cache import default_cache, made  # noqa: E402
from bscheck.releases.combination import Combination, python_release  # noqa: E402
from bscheck.releases.environments import Resolved, resolve  # noqa: E402
from bscheck.releases.uv import ReleaseError  # noqa: E402

FOLDER = ROOT / "ci" / "constraints"

#: Oldest supported, each minor release of TensorFlow under the newest Keras, and the other backends.
OLDEST = ("keras==3.1.*", "tensorflow", "2.16.*")
TENSORFLOW = ("2.16.*", "2.17.*", "2.18.*", "2.19.*", "2.20.*", "2.21.*")


def supported(keras: str, python: str) -> list[Combination]:
    """Return the supported matrix."""
    newest = [Combination(keras, "tensorflow", release, python) for release in TENSORFLOW]
    others = [Combination(keras, backend, python=python) for backend in ("jax", "torch")]
    return [Combination(*OLDEST, python), *newest, *others]


def text(resolved: Resolved, python: str) -> str:
    """Return a constraint file."""
    where = f"Python {python}, {platform.system()} {platform.machine()}"
    return f"# Made by ci/update_constraints.py: {where}\n{resolved.pins.strip()}\n"


def main() -> int:
    """Resolve everything, then write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.11", help="Python of the environments")
    parser.add_argument("--keras", help="Keras beside the newer backends (default: the newest)")
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    files = {}
    try:
        python = python_release(options.python)
        for one in supported(f"keras=={options.keras}" if options.keras else "keras", python):
            resolved = resolve(one, made(options.cache))
            name = f"{resolved.combination.keras_distribution}-{resolved.keras}+{one.backend}-{resolved.backend}.txt"
            files[name] = text(resolved, python)
            print(f"{name}: {len(resolved.versions)} packages", flush=True)
    except (BscheckError, ReleaseError) as error:
        print(f"update_constraints: {one.request}: {error}", file=sys.stderr)
        return 3
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    made(FOLDER)
    for name, content in files.items():
        (FOLDER / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
