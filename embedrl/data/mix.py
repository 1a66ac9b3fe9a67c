"""A mix: which data sets to train on, and how often each is drawn. Source: Embed-RL Table 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError
from embedrl.types import Modality


@dataclass
class MixRow:
    """One data set of a mix.

    Attributes:
        source: The data set.
        weight: Its sub-batches are drawn with probability ∝ weight × size; 0 leaves it out.
        name: Its name in errors and logs; None means the data set's own.
    """

    source: PairSource
    weight: float = 1.0
    name: str | None = None

    @property
    def label(self) -> str:
        """The name to show."""
        return self.name if self.name is not None else self.source.name

    @property
    def is_video(self) -> bool:
        """Whether its sub-batches count against `max_video_sub_batches`."""
        return self.source.modality is Modality.VIDEO


def check_labels(mix: Sequence[MixRow]) -> list[str]:
    """The names of a mix's rows.

    Raises:
        ConfigError: If the mix is empty or two rows have one name.
    """
    labels = [row.label for row in mix]
    if not labels:
        raise ConfigError("data.mix is empty: training needs at least one row {source, weight}")
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"data.mix: two rows are named {label}: give one of them another `name`")
    return labels
