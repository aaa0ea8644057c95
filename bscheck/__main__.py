"""``python -m bscheck``: the same as the console script."""

import sys

from bscheck.cli import main

if __name__ == "__main__":
    sys.exit(main())
