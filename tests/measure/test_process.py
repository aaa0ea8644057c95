"""Work in another process: answers, limits of memory and time, and every way to die."""

import os
import textwrap
import time

import pytest

from bscheck.errors import BscheckError
from bscheck.measure import memory
from bscheck.measure.process import Child, ChildFailedError, OutOfMemoryError, OutOfTimeError

pytestmark = pytest.mark.skipif(not memory.resident(), reason="this system has no /proc, so nothing is limited")

WORK = """
import os, sys, time
from bscheck.errors import BscheckError

def double(n):
    print("noise on the standard output")
    return 2 * n

def count(n):
    yield from range(n)
    return "counted"

def refuse():
    raise BscheckError("one line")

def fail():
    raise ValueError("broken")

def exhausted():
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory on the device")

def fill():
    blocks = []
    while True:
        block = bytearray(10_000_000)
        block[::4096] = b"x" * len(block[::4096])
        blocks.append(block)

def sleep():
    time.sleep(60)

def die():
    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)

def killed():
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "work_of_a_child.py").write_text(textwrap.dedent(WORK))
    monkeypatch.syspath_prepend(tmp_path)
    with Child(limit=400_000_000) as made:
        yield made
    assert not made.alive
    with pytest.raises(ProcessLookupError):
        os.kill(made.pid, 0)


def call(name):
    return f"work_of_a_child:{name}"


def test_a_child_answers_again_and_again(child):
    assert child.ask(call("double"), n=21) == 42
    assert list(child.follow(call("count"), n=3)) == [0, 1, 2]
    assert child.ask(call("count"), n=3) == "counted"
    assert child.alive


def test_bad_input_is_bad_input_here_too(child):
    with pytest.raises(BscheckError, match=r"^one line$"):
        child.ask(call("refuse"))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("fail", ChildFailedError, r"^ValueError: broken$"),
        ("die", ChildFailedError, r"^the process ended with code 3: the last words$"),
        ("exhausted", OutOfMemoryError, "RESOURCE_EXHAUSTED"),
        ("killed", OutOfMemoryError, "killed by the system"),
        ("fill", OutOfMemoryError, r"^stopped at \d+ MB, the limit is 400 MB$"),
    ],
)
def test_what_ends_a_child_is_told_apart(child, name, error, words):
    with pytest.raises(error, match=words):
        child.ask(call(name))
    assert not child.alive


def test_a_child_that_takes_too_long_is_ended(child):
    start = time.monotonic()
    with pytest.raises(OutOfTimeError):
        child.ask(call("sleep"), seconds=0.3)
    assert time.monotonic() - start < 30


def test_a_child_goes_when_its_parent_closes_it_in_the_middle(child):
    child._process.stdin.write('{"call": "work_of_a_child:sleep", "arguments": {}}\n')
    child._process.stdin.flush()
    child.close()
    assert child._process.poll() is not None
