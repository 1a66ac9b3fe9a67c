"""A batch of prompts taken apart into rows that are prepared once, and batches put together of such rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from embedrl.data.inputs import ModelInputs
from embedrl.models.patches import VISUAL, Patches, Shown, Visual, visual_inputs

ROWS = {"input_ids": 0, "attention_mask": 0, "mm_token_type_ids": 0, "position_ids": 1}
"""The inputs that have a row for each chat, and in which dimension."""


def split(inputs: ModelInputs, shown: Shown, patches: Patches) -> list[ModelInputs]:
    """The rows of a batch, each as a batch of its own, without padding.

    Args:
        inputs: The inputs without pixels.
        shown: Their pictures and videos.
        patches: The patches of these.
    """
    queues = {kind: list(items) for kind, items in shown.items()}
    rows = []
    for number, mask in enumerate(inputs["attention_mask"].bool()):
        row = {name: inputs[name].narrow(dim, number, 1)[..., mask] for name, dim in ROWS.items()}
        own: dict[int, list[Visual]] = {}
        for kind, queue in queues.items():
            tokens, own[kind] = int((row["mm_token_type_ids"] == kind).sum()), []
            while tokens:
                own[kind].append(queue.pop(0))
                tokens -= own[kind][-1].tokens
        rows.append(row | visual_inputs(own, patches))
    return rows


def join(rows: Sequence[ModelInputs], fill: int) -> ModelInputs:
    """One batch of rows, padded on the left.

    Args:
        rows: What `split` made.
        fill: The token that fills.
    """
    width = max(row["input_ids"].shape[1] for row in rows)

    def padded(name: str, dim: int) -> Tensor:
        value = fill if name == "input_ids" else 0
        return torch.cat([pad(row[name], (width - row[name].shape[-1], 0), value=value) for row in rows], dim)

    joined = {name: padded(name, dim) for name, dim in ROWS.items()}
    for name in (name for names in VISUAL.values() for name in names):
        if parts := [row[name] for row in rows if name in row]:
            joined[name] = torch.cat(parts)
    return joined
