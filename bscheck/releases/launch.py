"""Runs a module in an environment, and ends with the process that asked for it: ``python -m ... PARENT MODULE ARGS``.

A gate whose caller was killed would go on for minutes beside the one that is started next.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Take the parent's number and the module from the command line, and run the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):  # Linux
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it could be watched
            sys.exit(f"the process {parent} that asked for this is gone")
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
