"""The inputs of chats one by one and in batches: which have a value for each token, which belong to pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs

TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids")
"""The inputs that have a value for each token."""
COUNTS, PICTURE_SIZE = "picture_counts", "picture_size"
"""Inputs that the network does not take: how many entries of the inputs of pictures belong to each chat,
`[batch, inputs]`; width and height of a chat's first picture, in which its boxes are written, `[batch, 2]`."""


def picture_inputs(inputs: ModelInputs) -> list[str]:
    """The names of the inputs that belong to pictures."""
    return [name for name in inputs if name not in (*TOKENS, COUNTS, PICTURE_SIZE, "labels", "sources")]


def append(row: ModelInputs, ids: Sequence[int], reply_type: int = 0) -> ModelInputs:
    """A row with the tokens of a reply behind it.

    Args:
        row: The row of a prompt.
        ids: The tokens.
        reply_type: Their `token_type_ids`.
    """
    ones = torch.ones(1, len(ids))
    more = {"input_ids": torch.tensor([ids]), "attention_mask": ones, "token_type_ids": reply_type * ones}

    def longer(name: str) -> Tensor:
        added = more.get(name, torch.zeros(1, len(ids)))
        return torch.cat([row[name], added.to(row[name].dtype)], dim=1)

    return row | {name: longer(name) for name in TOKENS if name in row}


def repeated(inputs: ModelInputs, n: int) -> ModelInputs:
    """A batch of prompts with every row n times, its pictures with it."""
    rows = len(inputs["input_ids"])
    batch = {name: inputs[name].repeat_interleave(n, 0) for name in (*TOKENS, COUNTS, PICTURE_SIZE) if name in inputs}
    order = [row for row in range(rows) for _ in range(n)]
    for column, name in enumerate(picture_inputs(inputs)):
        parts = torch.split(inputs[name], inputs[COUNTS][:, column].tolist())
        batch[name] = torch.cat([parts[row] for row in order])
    return batch
