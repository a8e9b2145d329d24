"""`python -m mochi` is `mochi`."""

import sys

from mochi.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
