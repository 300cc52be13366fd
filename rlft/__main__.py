"""`python -m rlft` is the `rlft` command."""

import sys

from rlft.cli import main

if __name__ == "__main__":
    sys.exit(main())
