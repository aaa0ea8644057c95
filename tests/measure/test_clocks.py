"""A GPU's clocks and processes, read through a management library made up here."""

import os
import sys
import types

import pytest

from bscheck.measure.clocks import disturbance as told
from bscheck.measure.clocks import figures, watched_clocks


def library(*, reasons=0, pids=(), broken=False):
    """NVIDIA's management library, as far as it is asked for anything."""
    made = types.ModuleType("pynvml")
    made.NVML_CLOCK_SM, made.NVML_TEMPERATURE_GPU = 1, 0
    made.nvmlClocksThrottleReasonSwThermalSlowdown, made.nvmlClocksThrottleReasonGpuIdle = 0x20, 0x1
    made.nvmlClocksThrottleReasonHwSlowdown = 0x8
    made.calls = []
    made.nvmlInit = lambda: made.calls.append("init")
    made.nvmlShutdown = lambda: made.calls.append("shutdown")
    made.nvmlDeviceGetHandleByIndex = lambda index: made.calls.append(index) or index
    made.nvmlDeviceGetCurrentClocksThrottleReasons = lambda device: reasons
    made.nvmlDeviceGetClockInfo = lambda device, kind: 1980
    made.nvmlDeviceGetTemperature = lambda device, kind: 61

    def processes(device):
        if broken:
            raise RuntimeError("Not Supported")
        return [types.SimpleNamespace(pid=pid) for pid in pids]

    made.nvmlDeviceGetComputeRunningProcesses = processes
    return made


def looks(monkeypatch, **options):
    made = library(**options)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    with watched_clocks() as clocks:
        pass
    return clocks.looks, made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ""),
        ({"reasons": 0x1}, ""),
        ({"reasons": 0x20}, "the GPU was throttled by heat"),
        ({"reasons": 0x28}, "the GPU was throttled by heat, heat or power (hardware)"),
        ({"pids": (os.getpid(),)}, ""),
        ({"pids": (os.getpid(), 1)}, "1 other process on the GPU"),
        ({"pids": (7,)}, ""),  # our own process by another number, in a container
        ({"pids": (7, 8, 9)}, "2 other processes on the GPU"),
    ],
)
def test_what_disturbs_is_told(monkeypatch, options, words):
    found, made = looks(monkeypatch, **options)
    assert told(found) == words
    assert len(found) == 2
    assert (made.calls[0], made.calls[-1]) == ("init", "shutdown")
    assert figures(found)["gpu_sm_clock_low"] == 1980


def test_a_device_that_does_not_tell_is_not_disturbed(monkeypatch):
    found, _ = looks(monkeypatch, broken=True)
    assert (found, told(found), figures(found)) == ([], "", {})


def test_without_the_library_nothing_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with watched_clocks() as clocks:
        pass
    assert clocks.looks == []


def test_the_first_visible_device_is_looked_at(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert 3 in looks(monkeypatch)[1].calls
