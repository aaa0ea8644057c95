"""Which worker of pytest-xdist runs which promise of the gate."""

from __future__ import annotations

import itertools
from pathlib import PurePosixPath
from typing import Any


def group(nodeid: str) -> str:
    """Return what is kept on one worker: everything about one layer, loss, optimizer or subject.

    Its models are built and its functions traced once, for all checks that need them. The pinned cases of known issues
    go with what several devices do, which many of them are about: a process with two devices is dear. Tests other than
    the gate's are groups of one.
    """
    from bscheck.runtime.replicas import STRATEGIES  # NumPy, which a run of somebody's own tests does not wait for

    path, _, name = nodeid.partition("::")
    check, _, rest = name.partition("[")
    member = "devices" if check == "known_issue" or rest.rstrip("]") in STRATEGIES.values() else rest.rstrip("]")
    in_the_gate = PurePosixPath(path).parts[-3:-1] == ("bscheck", "gate")
    return member if in_the_gate and member else nodeid


def scheduler(config: Any, log: Any) -> Any:
    """Return a scheduler of `group`s for a run of the gate, or None: xdist's own, or what ``--dist`` asks for."""
    asked = (str(argument).partition("::")[0].replace("bscheck.gate", "bscheck/gate") for argument in config.args)
    gate = any(("bscheck", "gate") in itertools.pairwise(PurePosixPath(path).parts) for path in asked)
    if config.getoption("dist", "load") != "load" or not gate:
        return None
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return GroupScheduling(config, log)
