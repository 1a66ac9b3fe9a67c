"""`python -m embedrl` is `embedrl`."""

import sys

from embedrl.cli import main

sys.exit(main())
