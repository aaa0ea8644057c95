"""Amounts of memory: read, reset, parsed, told; and what counts as having none left."""

import pytest

from bscheck.errors import BscheckError
from bscheck.measure import memory

linux = pytest.mark.skipif(not memory.resident(), reason="this system has no /proc")


@linux
def test_the_peak_begins_anew():
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    held = memory.resident()
    del block
    memory.settle()
    assert memory.peak() > held - 10_000_000  # the kernel counts in batches
    if not memory.reset_peak():
        pytest.skip("/proc/self/clear_refs cannot be written here")
    assert memory.peak() < held - 100_000_000


@linux
def test_what_is_left_is_less_than_the_machine_has():
    assert 0 < memory.available() < 2**50


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("500 MB", 5e8), ("1.5g", 1.5e9), ("2GiB", 2**31), ("1000", 1000), ("3kb", 3000)]
)
def test_amounts_are_parsed(text, size):
    assert memory.parse_bytes(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "4 potatoes", "GB"])
def test_what_is_no_amount_is_one_line(text):
    with pytest.raises(BscheckError) as error:
        memory.parse_bytes(text, "--memory")
    assert str(error.value) == f"--memory: must be an amount of memory such as 4GB or 500MB, not {text!r}"


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (999, "999 B"), (1.1e9, "1.1 GB"), (41_000, "41 kB"), (4.4e12, "4400 GB")]
)
def test_amounts_are_told(size, words):
    assert memory.in_words(size) == words


@pytest.mark.parametrize("text", [
    "RESOURCE_EXHAUSTED: Out of memory allocating 4000 bytes.", "CUDA out of memory. Tried to allocate 2.00 GiB",
    "OOM when allocating tensor with shape[1,2]", "DefaultCPUAllocator: can't allocate memory: you tried",
    "Unable to allocate 7.45 GiB for an array with shape (1000000000,)",
])  # fmt: skip
def test_every_backend_s_words_for_no_memory_are_known(text):
    assert memory.is_out_of_memory(RuntimeError(text))


class ResourceExhaustedError(Exception):
    pass


def test_no_memory_is_known_by_its_type_and_through_what_wraps_it():
    assert memory.is_out_of_memory(ResourceExhaustedError("no words"))
    wrapped = ValueError("the model cannot be called")
    wrapped.__cause__ = MemoryError()
    assert memory.is_out_of_memory(wrapped)
    assert not memory.is_out_of_memory(ValueError("shapes do not match"))
