"""The process on the other side of `bscheck.measure.process.Child`: does what it is asked, one line for each answer."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any, TextIO

from bscheck.errors import BscheckError, one_line
from bscheck.measure.memory import is_out_of_memory


def main() -> None:
    """Serve requests until nobody can send any more."""
    # Answers keep the standard output to themselves: whatever else is printed goes where errors go.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        _serve(json.loads(requests.get()), answers)


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent has gone or has had enough: also in the middle of a step


def _serve(request: dict[str, Any], answers: TextIO) -> None:
    """Call the function that is asked for; a generator's values are told one by one, what it returns at the end."""
    for key, value in _answered(request):
        answers.write(json.dumps({key: value}) + "\n")


def _answered(request: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    try:
        called = _function(request["call"])(**request["arguments"])
        if isinstance(called, GeneratorType):
            while True:
                try:
                    yield "told", next(called)
                except StopIteration as end:
                    called = end.value
                    break
        yield "done", called
    except BscheckError as error:
        yield "wrong", str(error)
    except Exception as error:
        yield "out_of_memory" if is_out_of_memory(error) else "failed", one_line(error)


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
