"""When words give way to latent steps in training. Source: PLUME (arXiv 2604.02073)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedrl.errors import ConfigError


@dataclass(frozen=True)
class LatentCurriculum:
    """From words to latent steps, stage by stage; stages are equally long, as PLUME's lengths are not known.

    Attributes:
        shares: In each stage, the share of the latent steps that is taken in place of as large a share of the words,
            from the beginning of the reasoning.

    Raises:
        ConfigError: If there is no stage, shares are not in order in 0..1, or the last one is not 1.

    >>> curriculum = LatentCurriculum()
    >>> [curriculum.steps(step, 10, 4) for step in range(10)]
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """

    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        """Check the shares."""
        shares = list(self.shares)
        if not shares or shares != sorted(shares) or shares[0] < 0 or shares[-1] != 1:
            raise ConfigError(
                f"model.latent_curriculum.shares is {shares}: give shares of 0..1 in order, the last one 1, as it is "
                "with all latent steps that the model embeds"
            )

    def steps(self, step: int, run: int, total: int) -> int:
        """Latent steps that are taken in a step of the training.

        Args:
            step: Optimizer steps that are done.
            run: Optimizer steps of the whole run.
            total: Latent steps of the model.
        """
        stage = min(step * len(self.shares) // max(run, 1), len(self.shares) - 1)
        return round(self.shares[stage] * total)
