"""What disturbs a GPU while it is timed: throttled clocks and other processes, read through nvidia-ml-py.

Optional: where the package or a GPU of NVIDIA's is missing there is nothing to read, and nothing is said.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Clocks may be lower because nothing runs or somebody asked for it; these reasons slow down what is being timed.
_SLOWING = {
    "SwPowerCap": "its power limit",
    "HwSlowdown": "heat or power (hardware)",
    "SwThermalSlowdown": "heat",
    "HwThermalSlowdown": "heat (hardware)",
    "HwPowerBrakeSlowdown": "an external power brake",
}


@dataclass(frozen=True)
class Look:
    """One look at the device.

    Attributes
    ----------
    sm_clock : int
        MHz.
    temperature : int
        Degrees Celsius.
    slowed_by : tuple of str
        Why the clock is held down.
    others : int
        Processes on the device that are not this one.
    """

    sm_clock: int
    temperature: int
    slowed_by: tuple[str, ...]
    others: int


@dataclass
class Clocks:
    """Looks at the device before and after something was timed; none without one."""

    looks: list[Look] = field(default_factory=list)


def figures(looks: Sequence[Look]) -> dict[str, float]:
    """Return what was read, for the record."""
    if not looks:
        return {}
    clocks, heat = [look.sm_clock for look in looks], [look.temperature for look in looks]
    return {
        "gpu_sm_clock_low": float(min(clocks)),
        "gpu_sm_clock_high": float(max(clocks)),
        "gpu_temperature": float(max(heat)),
        "gpu_other_processes": float(max(look.others for look in looks)),
    }


def disturbance(looks: Sequence[Look]) -> str:
    """Return why times taken between the looks tell nothing, or ""."""
    slowed = sorted({reason for look in looks for reason in look.slowed_by})
    if slowed:
        return f"the GPU was throttled by {', '.join(slowed)}"
    others = max((look.others for look in looks), default=0)
    return f"{others} other process{'es' if others > 1 else ''} on the GPU" if others else ""


@contextlib.contextmanager
def watched_clocks() -> Iterator[Clocks]:
    """Look at the device before and after the block."""
    clocks = Clocks()
    with _management_library() as nvml:
        clocks.looks += _look(nvml)
        yield clocks
        clocks.looks += _look(nvml)


@contextlib.contextmanager
def _management_library() -> Iterator[Any]:
    """Yield NVIDIA's management library, ready for use, or None."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, no driver, no device: whatever it is, there is nothing to read
        yield None
        return
    try:
        yield nvml
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def _look(nvml: Any) -> list[Look]:
    """Return one look at the first device that this process may use."""
    if nvml is None:
        return []
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(_first_visible())
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
        slowed = tuple(
            words for name, words in _SLOWING.items() if reasons & getattr(nvml, f"nvmlClocksThrottleReason{name}", 0)
        )
        running = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)}
        return [
            Look(
                nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
                nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
                slowed,
                # In a container our own process has another number there than here.
                len(running - {os.getpid()}) if os.getpid() in running else max(0, len(running) - 1),
            )
        ]
    except Exception:  # a device that does not tell (MIG, virtual ones) is one that is not known to be disturbed
        return []


def _first_visible() -> int:
    """Return the index of the first device of ``CUDA_VISIBLE_DEVICES``; 0 where it names none by number."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0
