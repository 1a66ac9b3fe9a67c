"""What a service takes on: bounds on everything that a request brings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from embedrl.errors import ConfigError


@dataclass(frozen=True)
class ServiceLimits:
    """Bounds of a service.

    Attributes:
        max_body: Largest request, in bytes.
        max_items: Most texts and pictures of one request.
        max_text: Longest text, in characters.
        max_pixels: Largest picture, width times height.
        max_k: Most hits of one search.
        timeout: Seconds after which a request is given up.
        queue: Requests that may wait; one more is answered with 429.
        batch: Items that go through the model together.
    """

    max_body: int = 16 * 2**20
    max_items: int = 64
    max_text: int = 16_384
    max_pixels: int = 32_000_000
    max_k: int = 100
    timeout: float = 60.0
    queue: int = 128
    batch: int = 32

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is not above 0.
        """
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(f"--limits.{field.name} is {getattr(self, field.name)}: give a number above 0")
