"""`python -m minitx`, and what the command `minitx` starts."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
