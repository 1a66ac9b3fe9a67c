"""A prompt with the beginning of its reply, so that a model goes on from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from embedrl.data.inputs import ModelInputs
from embedrl.models.vlm.rows import append


def continued(row: ModelInputs, tokens: Sequence[int]) -> ModelInputs:
    """The prompt with tokens of text behind it, as if the model had written them.

    Args:
        row: One prompt, of `PolicyPreprocessor.prompt_rows`.
        tokens: Token ids of the reply so far; may be empty.
    """
    if not tokens:
        return row
    longer = append(row, tokens)
    if "position_ids" in row:  # [3, 1, length]: text goes on behind the largest of the three
        positions = row["position_ids"]
        new = positions.amax() + 1 + torch.arange(len(tokens), dtype=positions.dtype)
        longer["position_ids"] = torch.cat([positions, new.expand(*positions.shape[:2], -1)], dim=-1)
    return longer
