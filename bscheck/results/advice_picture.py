"""The picture of `bscheck advise`: time per example and memory against the batch size."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from bscheck.errors import BscheckError, one_line
from bscheck.measure.advice import Advice, per_example, sweet_spot

SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Raise one line, before anything is measured, where no picture could be drawn there."""
    if path.suffix.lower() not in SUFFIXES:
        raise BscheckError(f"--picture {path}: the name must end in {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BscheckError("--picture needs matplotlib: pip install 'bscheck[report]'")


def draw(advice: Advice, path: Path) -> None:
    """Draw the advice into a file."""
    from matplotlib.figure import Figure  # no pyplot: nothing may look for a screen

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    _times(axes, advice)
    _memory(axes.twinx(), advice)
    axes.set(xlabel="batch size (examples)", ylabel="time per example (µs)")
    axes.set_title(f"{advice.subject}, {advice.dtype}, {advice.environment.get('device_name') or 'CPU'}")
    figure.legend(loc="outside lower center", ncols=4)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise BscheckError(f"--picture {path}: cannot be written: {one_line(error)}") from None


def _times(axes: Any, advice: Advice) -> None:
    times = per_example(advice.samples) if advice.samples else {}
    sizes = sorted(times)
    values = [1e6 * times[n].value for n in sizes]
    below = [1e6 * min(times[n].value - times[n].low, 0.99 * times[n].value) for n in sizes]
    above = [1e6 * (times[n].high - times[n].value) for n in sizes]
    if sizes:  # none yet where the measuring was interrupted; an empty logarithmic axis is an error
        axes.set(xscale="log", yscale="log")
        axes.errorbar(sizes, values, yerr=[below, above], fmt="o-", color="tab:blue", label="time per example, 95 %")
    sweet = sweet_spot(times)
    if sweet is not None:
        axes.axvline(sweet, color="tab:green", linestyle="--", label=f"sweet spot: {sweet}")
    if advice.smallest_failing is not None:
        axes.axvline(advice.smallest_failing, color="tab:red", linestyle=":", label="does not fit")


def _memory(axes: Any, advice: Advice) -> None:
    known = sorted((t.size, t.memory) for t in advice.trials if t.fits)
    if known:
        sizes, sizes_in_bytes = zip(*known, strict=True)
        axes.plot(sizes, [m / 1e6 for m in sizes_in_bytes], "s-", color="tab:orange", label="memory")
        axes.set(xscale="log", yscale="log")
    axes.set(ylabel="memory (MB)")
