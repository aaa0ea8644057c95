"""``bscheck bisect`` on releases made for the purpose: the release that was planted is found, in the fewest runs."""

from __future__ import annotations

import json
import math
import random
import signal
from pathlib import Path

import pytest

from bscheck.releases.bisect import BAD, GOOD, SKIP, answer, following, runs_needed

DECAY = "weight_decay_acts_once_per_update"
NINE = ("3.4.0", "3.4.1", "3.5.0", "3.6.0", "3.9.2", "3.10.0", "3.11.1", "3.12.0", "3.13.0")


def plant(shelf, first: str, *, numbers: tuple[str, ...] = NINE, bad_before: bool = False) -> None:
    """Put releases on the shelf of which those from `first` on are bad, or those before it."""
    at = numbers.index(first)
    shelf.keras(*numbers[:at], bad=bad_before)
    shelf.keras(*numbers[at:], bad=not bad_before)


@pytest.mark.parametrize("count", [2, 3, 9, 34])
@pytest.mark.parametrize("states", [(GOOD, BAD), (BAD, GOOD)])
def test_search_needs_no_more_runs_than_it_says(count: int, states: tuple[str, str]) -> None:
    releases = [f"3.{i}" for i in range(count)]
    for first in range(1, count):
        seen = {releases[0]: {"state": states[0]}, releases[-1]: {"state": states[1]}}
        needed = runs_needed(releases, seen, states)
        assert needed == math.ceil(math.log2(count - 1))
        runs = 0
        while (release := following(releases, seen, states)) is not None:
            seen[release] = {"state": states[releases.index(release) >= first]}
            runs += 1
        found = answer(releases, seen, states)
        assert (found.last, found.first, found.between) == (releases[first - 1], releases[first], ())
        assert runs <= needed


def test_search_goes_around_what_cannot_be_tried() -> None:
    rng = random.Random(0)
    releases = [f"3.{i}" for i in range(20)]
    for _ in range(200):
        first, broken = rng.randrange(1, 20), set(rng.sample(range(1, 19), 6))
        seen = {releases[0]: {"state": GOOD}, releases[-1]: {"state": BAD}}
        while (release := following(releases, seen, (GOOD, BAD))) is not None:
            at = releases.index(release)
            seen[release] = {"state": SKIP if at in broken else (GOOD, BAD)[at >= first], "reason": "no wheel"}
        found = answer(releases, seen, (GOOD, BAD))
        last, new = releases.index(found.last), releases.index(found.first)
        assert last < first <= new
        assert set(range(last + 1, new)) <= broken
        assert [r for r, _ in found.between] == releases[last + 1 : new]


def test_first_bad_release_is_found_with_the_smallest_case(shelf) -> None:
    plant(shelf, "3.10.0")
    ran = shelf.run("bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.13.0")
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.splitlines()
    assert first == "first bad release: keras 3.10.0 (last good: 3.9.2), 5 runs"
    assert second.startswith("  sums_agree: model=dense, case {")
    assert json.loads(second.partition("case ")[2])["size"] == 7
    assert third == "  asked about that case alone; other cases may break the promise in other releases"
    assert "9 releases of keras, 3.4.0 to 3.13.0, beside tensorflow" in ran.stderr
    assert "5 runs (2 ends + 3)" in ran.stderr
    again = shelf.run("bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.13.0")
    assert again.stdout == ran.stdout
    assert "0 runs (0 ends + 0), 5 done before" in again.stderr


def test_first_good_release_is_found_where_the_good_one_is_newer(shelf) -> None:
    plant(shelf, "3.5.0", bad_before=True)
    given = ["bisect", "sums_agree", "--param", "model=lstm", "--good", "3.13.0", "--bad", "3.4.0"]
    ran = shelf.run(*given, "--trust-ends", "--case", '{"size": 9, "decay": "on"}')
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("first good release: keras 3.5.0 (last bad: 3.4.1)")
    assert "3 runs (0 ends + 3)" in ran.stderr
    assert '"size": 9' in ran.stdout


def test_release_that_cannot_be_imported_is_skipped_and_told(shelf) -> None:
    plant(shelf, "3.6.0")
    shelf.keras("3.6.0", source="raise ImportError('libdevice is missing')\n")
    ran = shelf.run("bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.13.0")
    assert ran.returncode == 3, ran.stderr
    assert ran.stdout.splitlines()[:3] == [
        "the first bad release is 3.9.2, or one before it that could not be tried",
        "  keras 3.5.0: the last good one",
        "  keras 3.6.0: cannot be imported: ImportError: libdevice is missing",
    ]
    assert "keras 3.6.0: skipped: cannot be imported" in ran.stderr


def test_backend_can_be_bisected_beside_one_keras(shelf) -> None:
    shelf.keras("3.5.0", source=KERAS_THAT_DEPENDS_ON_TENSORFLOW)
    shelf.tensorflow("2.18.0", "2.19.0")
    ran = shelf.run("bisect", "sums_agree", "--package", "tensorflow", "--good", "2.18.0", "--bad", "2.21.0")
    assert ran.returncode == 0, ran.stderr
    assert "first bad release: tensorflow" in ran.stdout
    assert "2.20.0 (last good: 2.19.0)" in ran.stdout
    assert "beside Keras 3.5.0" in ran.stderr


KERAS_THAT_DEPENDS_ON_TENSORFLOW = """
import os, sys
import tensorflow
__version__ = {version!r}
if tensorflow.__version__ >= "2.20":
    os.environ["PLANTED"] = "decay"
if "trial" in sys.argv[0]:
    import fake_checks
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_it_goes_on_where_it_was(shelf, number: signal.Signals) -> None:
    plant(shelf, "3.10.0")
    given = ["bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.13.0"]
    process = shelf.start(*given, SLOW="1")
    lines = iter(process.stderr.readline, "")
    assert any("keras 3.4.0: good" in line for line in lines)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGTERM else -number)
    ran = shelf.run(*given)
    assert ran.returncode == 0, ran.stderr
    assert "first bad release: keras 3.10.0 (last good: 3.9.2), 5 runs" in ran.stdout
    assert "3 runs (0 ends + 3), 2 done before" in ran.stderr


def test_without_an_index_it_says_so_and_goes_on_later(shelf) -> None:
    plant(shelf, "3.10.0")
    given = ["bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.13.0"]
    config = Path(shelf.root / "uv.toml")
    good = config.read_text()
    config.write_text("")
    missing = shelf.run(*given, UV_OFFLINE="1")
    assert missing.returncode == 3
    assert "the package index cannot be asked" in missing.stderr
    assert missing.stderr.strip().endswith("run the same command again to go on")
    config.write_text(good)
    assert shelf.run(*given).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [DECAY + "s"],
            "unknown check 'weight_decay_acts_once_per_updates'; did you mean 'weight_decay_acts_once_per_update'?",
        ),
        ([DECAY, "--good", "three"], "--good: 'three' is no version"),
        ([DECAY, "--good", "3.13.0"], "--good and --bad are the same release, 3.13.0"),
        ([DECAY, "--good", "3.4.9"], "keras has no release 3.4.9 here; from 3.4.9 to 3.13.0: 3.5.0"),
        ([DECAY, "--good", "3.14", "--bad", "3.15"], "there is no release of keras from 3.14 to 3.15"),
        ([DECAY, "--case", "{"], "--case: is not valid JSON"),
        ([DECAY, "--case", "[]"], "--case: must be a JSON object"),
        ([DECAY, "--case", '{"sise": 1}'], "sise"),
        ([DECAY, "--jax", "--torch"], "give one backend, not jax and torch"),
        ([DECAY, "--keras", "3.5.0"], "--keras is for --package tensorflow, jax or torch"),
        ([DECAY, "--package", "tensorflow", "--jax"], "--package tensorflow runs on tensorflow, not on jax"),
    ],
)
def test_bad_input_is_one_line(shelf, capsys, monkeypatch, arguments: list[str], message: str) -> None:
    shelf.keras("3.5.0", "3.13.0")
    ends = {"--good": "3.4.0", "--bad": "3.13.0"}
    given = [part for end, value in ends.items() if end not in arguments for part in (end, value)]
    assert message in shelf.refused(capsys, monkeypatch, "bisect", *arguments, *given)


def test_end_that_is_not_what_it_was_said_to_be_is_one_line(shelf) -> None:
    plant(shelf, "3.10.0")
    ran = shelf.run("bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.5.0")
    assert ran.returncode == 4, ran.stdout
    assert ran.stderr.splitlines()[-1] == "bscheck: --bad 3.5.0 is not bad: the promise holds there"
    ran = shelf.run("bisect", "sums_agree", "--good", "3.4.0", "--bad", "3.13.0", "--param", "model=gru")
    assert ran.stderr.splitlines()[-1] == "bscheck: --bad 3.13.0 is not bad: it has no such parameter"
