"""The seed of a run: what every part draws from that is given no seed of its own."""

from __future__ import annotations

import os

from embedrl.errors import ConfigError


def run_seed(given: int | None, flag: str) -> int:
    """The seed that a part of a run draws from.

    Args:
        given: Its own seed; None means the run's, which `seed_everything` sets (0 before it was called).
        flag: The part's option, for errors.

    Raises:
        ConfigError: If the seed is negative.
    """
    if given is None:
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where `lightning.seed_everything` leaves it
    if given < 0:
        raise ConfigError(
            f"{flag} {given}: give a whole number from 0 on, or null for the run's seed (seed_everything)"
        )
    return given
