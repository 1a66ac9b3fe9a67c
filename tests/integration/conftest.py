"""Where the moments of a kill come from."""

import os
import random

import pytest


@pytest.fixture
def moments(request) -> random.Random:
    """Draws the steps, phases and delays of kills; the seed is printed.

    The default run draws the same moments every time, the slow tests others each time. `KILL_SEED=7 pytest ...` repeats
    those of a run that failed, as far as a delay on another day falls into the same moment.
    """
    seed = int(os.environ.get("KILL_SEED", 0))
    if "KILL_SEED" not in os.environ and request.node.get_closest_marker("slow"):
        seed = random.SystemRandom().randrange(10**6)
    print(f"KILL_SEED={seed}")  # pytest shows it where a test fails
    return random.Random(seed)
