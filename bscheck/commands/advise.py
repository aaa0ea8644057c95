"""``bscheck advise``: which batch size should I use on this machine?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bscheck.errors import EXIT_INTERRUPTED, BscheckError
from bscheck.signals import ended_by_sigterm

_BUDGET = 100


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    advising = commands.add_parser(
        "advise",
        help="which batch size to use for a model on this machine",
        description="Find the largest batch that fits, the time per example at each size, the sweet spot, the noise "
        "scale, and what accumulating micro-batches would cost and save. Every trial runs in a process of its own. "
        "Ctrl-C ends the measuring and prints what is known by then.",
        epilog="exit codes: 0 done, 1 no batch size fits, 4 bad input, 130 interrupted",
    )
    advising.add_argument(
        "subject", metavar="MODULE:SUBJECT", help="your bscheck.Subject, or a reference subject's name"
    )
    advising.add_argument("--max-batch", metavar="N", default="1024", help="try no larger batch (default 1024)")
    advising.add_argument("--target", metavar="N", help="the batch that the accumulation plan is to make up")
    advising.add_argument("--dtype", default="float32", help="dtype policy (default float32)")
    advising.add_argument("--memory", metavar="SIZE", help="memory that may be used, for example 4GB; on a CPU by the "
                          "whole process")  # fmt: skip
    advising.add_argument("--budget", metavar="SECONDS", default=str(_BUDGET), help="for everything (default 100)")
    advising.add_argument("--output", metavar="FILE.json", help="write all figures there, also when interrupted")
    advising.add_argument("--picture", metavar="FILE", help="draw it: .png, .svg or .pdf (needs 'bscheck[report]')")
    advising.set_defaults(lines=_advise)


def _advise(given: argparse.Namespace) -> Iterator[str | int]:
    """Yield the lines of ``bscheck advise``, and its exit code."""
    from bscheck.cases import DTYPES
    from bscheck.errors import unknown
    from bscheck.measure import memory
    from bscheck.measure.advice import Advice
    from bscheck.measure.advisor import Advisor
    from bscheck.results.advice import document, lines
    from bscheck.results.advice_picture import check_picture, draw
    from bscheck.results.record import check_writable, write_json

    output, picture = (Path(name).absolute() if name else None for name in (given.output, given.picture))
    if given.dtype not in DTYPES:
        raise BscheckError(f"--dtype: {unknown('dtype policy', given.dtype, DTYPES)}")
    if output is not None:
        check_writable(output)
    if picture is not None:
        check_picture(picture)
        check_writable(picture)
    target = None if given.target is None else _number("--target", given.target, 2)
    advice = Advice(given.subject, given.dtype, _number("--max-batch", given.max_batch, 1), target)
    limit = None if given.memory is None else memory.parse_bytes(given.memory, "--memory")
    if limit is not None and not memory.resident():
        raise BscheckError(
            "--memory: this system does not say what a process holds (no /proc), so nothing can be limited"
        )
    advisor = Advisor(advice, seconds=_number("--budget", given.budget, 5), limit=limit)
    started, interrupted = _now(), False
    with ended_by_sigterm():
        try:
            for line in advisor.steps():
                print(line, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            interrupted = True
    yield from lines(advice, interrupted=interrupted)
    if output is not None:
        options = {key: value for key, value in vars(given).items() if key != "lines"}
        write_json(output, document(advice, options=options, started=started, finished=_now(), interrupted=interrupted))
        yield f"record: {output}"
    if picture is not None and advice.trials:
        draw(advice, picture)
        yield f"picture: {picture}"
    yield EXIT_INTERRUPTED if interrupted else 0 if advice.largest else 1


def _number(option: str, text: str, least: int) -> int:
    if not (text.isascii() and text.removesuffix(".0").isdecimal() and float(text) >= least):
        raise BscheckError(f"{option}: must be a whole number of at least {least}, not {text!r}")
    return int(float(text))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
