"""A record with one failure of a fault planted in Keras, for what reads records."""

from pathlib import Path

import pytest
from conftest_failures import ENVIRONMENT, failure

from bscheck.results.record import write_record


@pytest.fixture
def record(tmp_path: Path):
    """Return a function that writes a record of these results and returns its path."""

    def write(*results, environment=ENVIRONMENT, name="run.json") -> Path:
        path = tmp_path / name
        write_record(
            path, environment=environment, options={}, started="", finished="", interrupted=False,
            results=results or [{**failure(), "verdict": "passed", "failure": None}, failure()], known_issues=[],
        )  # fmt: skip
        return path

    return write
