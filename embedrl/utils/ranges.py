"""Numbers of a configuration that must not be too small."""

from __future__ import annotations

from collections.abc import Mapping

from embedrl.errors import ConfigError


def check_least(least: int, values: Mapping[str, float | None]) -> None:
    """Refuse numbers below the least that makes sense.

    Args:
        least: The least one, 0 or 1.
        values: The numbers by their options; None stands for a default.

    Raises:
        ConfigError: Naming the first option whose value is smaller, or no number (NaN).
    """
    for flag, value in values.items():
        if value is not None and not value >= least:
            raise ConfigError(f"{flag} is {value}: give {least} or more")
