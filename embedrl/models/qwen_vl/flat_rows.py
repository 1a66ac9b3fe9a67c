"""A batch as one row of its real tokens, so that the language model computes no padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.models.attention_mask import SHARED
from embedrl.models.qwen_vl.flat_attention import AttentionGroups, Text

FULL = 0.96
"""A batch with at least this share of real tokens stays a batch: sorting its texts would cost more than it saves."""
BY_ROW = ("input_ids", "attention_mask", "segments", "last_segments", "position_ids", "mm_token_type_ids")
NOT_READ = ("labels", "sources")


@dataclass(frozen=True, slots=True)
class FlatRow:
    """The real tokens of a batch in one row.

    Attributes:
        inputs: What the network takes of the batch, as a batch of one row, with `attention_groups` of it.
        kept: Where in the flattened batch the tokens stand, `[tokens]`.
        texts: The texts of the row.
        shape: Rows and width of the batch.
        dtype: That of the attention scores.
    """

    inputs: dict[str, Any]
    kept: Tensor
    texts: list[Text]
    shape: tuple[int, int]
    dtype: torch.dtype

    @classmethod
    def of(cls, inputs: ModelInputs, dtype: torch.dtype) -> FlatRow:
        """Put a batch into one row; pictures keep their order.

        Args:
            inputs: The batch, with `attention_mask` or `segments`. The tokens of a segment stand together.
            dtype: That of the attention scores.
        """
        ids = inputs["input_ids"]
        kept, texts = _read(inputs)
        kept = kept.to(ids.device)
        flat: dict[str, Any] = {name: value for name, value in inputs.items() if name not in (*BY_ROW, *NOT_READ)}
        flat["input_ids"] = ids.flatten()[kept][None]
        flat["position_ids"] = inputs["position_ids"].flatten(1)[:, kept][:, None]
        flat["attention_mask"] = torch.ones_like(flat["input_ids"])
        flat["attention_groups"] = AttentionGroups.of(texts, dtype, ids.device)
        return cls(flat, kept, texts, (ids.shape[0], ids.shape[1]), dtype)

    def places(self, tokens: Tensor) -> Tensor:
        """Where in the row tokens stand that are given by their places in the flattened batch, `[tokens]`."""
        return torch.searchsorted(self.kept, tokens)

    def padded(self, hidden: Tensor) -> Tensor:
        """Values of the row `[1, tokens, dim]` as those of the batch `[rows, width, dim]`, 0 at padding."""
        rows, width = self.shape
        batch = hidden.new_zeros(rows * width, hidden.shape[-1]).index_copy(0, self.kept, hidden[0])
        return batch.view(rows, width, -1)

    def asking(self, tokens: Tensor) -> AttentionGroups:
        """The groups of the row where only some tokens ask: their places in it, ascending, `[asking]`."""
        return AttentionGroups.of(self.texts, self.dtype, tokens.device, tokens.cpu())


def is_sparse(inputs: ModelInputs) -> bool:
    """Whether a batch is cheaper as one row: it is padded, or several texts share a row of it."""
    if "segments" in inputs:
        return True
    mask = inputs["attention_mask"]
    return int(mask.sum()) < FULL * mask.numel()


def _read(inputs: ModelInputs) -> tuple[Tensor, list[Text]]:
    """The places of the real tokens in the flattened batch, `[tokens]`, and their texts."""
    segments = inputs["segments" if "segments" in inputs else "attention_mask"].cpu()
    row, column = segments.nonzero(as_tuple=True)
    own = segments[row, column]
    last = inputs["last_segments"].cpu()[row, column] if "last_segments" in inputs else None
    starts = torch.ones_like(row, dtype=torch.bool)
    starts[1:] = (row[1:] != row[:-1]) | (own[1:] != own[:-1])
    first = starts.nonzero()[:, 0]
    lengths = torch.diff(first, append=torch.tensor([len(row)])).tolist()
    texts: list[Text] = []
    open_texts: list[tuple[int, int, int]] = []  # number, row, and the last segment that sees it
    columns = (row[first], own[first], own[first] if last is None else last[first])
    for number, (at, length, r, segment, sees) in enumerate(
        zip(first.tolist(), lengths, *(values.tolist() for values in columns), strict=True)
    ):
        open_texts = [text for text in open_texts if text[1] == r and text[2] >= segment]
        texts.append(Text(at, length, tuple(text[0] for text in open_texts)))
        shared = last is None and segment == SHARED and "segments" in inputs
        open_texts.append((number, r, segments.shape[1] + 1 if shared else sees))
    return row * segments.shape[1] + column, texts
