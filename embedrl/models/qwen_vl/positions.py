"""M-RoPE positions of tokens in a text with pictures and videos. Source: Qwen3-VL."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.models.patches import IMAGE, VIDEO, VISUAL


def mrope_positions(inputs: ModelInputs, merge: int) -> Tensor:
    """M-RoPE positions `[3, batch, length]` (time, height, width), which padding on either side leaves unchanged.

    The same numbers as `Qwen3VLModel.get_rope_index`, made where the batch is made; rows of text alone count from 0
    too, whatever stands beside them in the batch.

    Args:
        inputs: `input_ids`, `attention_mask`, `mm_token_type_ids` (0 text, 1 image, 2 video) and the grids.
        merge: The vision tower's spatial merge size.
    """
    grids: dict[int, list[tuple[int, int]]] = {IMAGE: [], VIDEO: []}
    for kind, (name, _) in VISUAL.items():
        for steps, height, width in inputs[name].tolist() if name in inputs else ():
            # Timestamps stand between the steps of a video, so each step is a block of its own.
            grids[kind] += [(height // merge, width // merge)] * (steps if kind == VIDEO else 1)
    queues = {kind: iter(blocks) for kind, blocks in grids.items()}
    mask, kinds = inputs["attention_mask"].bool().numpy(), inputs["mm_token_type_ids"].numpy()
    positions = np.zeros((3, *mask.shape), dtype=np.int64)
    for row in range(mask.shape[0]):
        row_kinds = kinds[row][mask[row]]
        starts = np.flatnonzero(np.diff(row_kinds, prepend=-1))
        blocks, at = [], 0
        for start, stop in zip(starts, [*starts[1:], len(row_kinds)], strict=True):
            kind = int(row_kinds[start])
            if kind == 0:
                blocks.append(np.broadcast_to(np.arange(at, at + stop - start), (3, stop - start)))
                at += int(stop - start)
            else:
                height, width = next(queues[kind])
                grid = np.indices((1, height, width)).reshape(3, -1)
                blocks.append(grid + at)
                at += max(height, width)
        positions[:, row, mask[row]] = np.concatenate(blocks, axis=1)
    return torch.from_numpy(positions)
