"""`python -m embedrl` is `embedrl`."""

import sys

from embedrl.cli import main

if __name__ == "__main__":  # a process that is spawned imports this file again
    sys.exit(main())
