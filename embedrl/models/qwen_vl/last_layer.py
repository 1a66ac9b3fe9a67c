"""The last layer of a Qwen3-VL at the tokens that are read alone: its keys and values are all tokens', no more.

Nothing comes after the last layer that mixes tokens, so its queries, its output and its MLP at tokens that nobody reads
are computed for nothing: an Embedder reads one token a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen3_vl.modeling_qwen3_vl import eager_attention_forward, rotate_half

from embedrl.models.qwen_vl.flat_attention import AttentionGroups


@dataclass(frozen=True, slots=True)
class ReadPlaces:
    """Tokens of a batch, row by row.

    Attributes:
        columns: Their places in their rows, `[rows, most of a row]`; 0 where a row has fewer.
        order: Where in the flattened `columns` each token stands, `[tokens]`.
    """

    columns: Tensor
    order: Tensor

    @classmethod
    def of(cls, tokens: Tensor, rows: int, width: int) -> ReadPlaces:
        """Sort tokens into rows.

        Args:
            tokens: Places in the flattened batch, `[tokens]`, in any order.
            rows: Rows of the batch.
            width: Tokens of a row.
        """
        row, column = tokens // width, tokens % width
        order = row.argsort(stable=True)
        counts = torch.bincount(row, minlength=rows)
        first = counts.cumsum(0) - counts
        slot = torch.empty_like(row)
        slot[order] = torch.arange(len(row), device=row.device) - first[row[order]]
        most = int(counts.max())
        columns = torch.zeros(rows, most, dtype=column.dtype, device=column.device)
        columns[row, slot] = column
        return cls(columns, row * most + slot)

    def pick(self, values: Tensor) -> Tensor:
        """What stands there, of `[rows, width, size]`: `[rows, most of a row, size]`."""
        return values.gather(1, self.columns[..., None].expand(-1, -1, values.shape[-1]))

    def mask(self, mask: Tensor | None, width: int) -> Tensor:
        """The rows of an attention mask `[rows, 1, width, width]` (None: causal) for these tokens as queries."""
        if mask is None:
            return (torch.arange(width, device=self.columns.device) <= self.columns[..., None])[:, None]
        index = self.columns[:, None, :, None].expand(-1, 1, -1, mask.shape[-1])
        return mask.expand(len(self.columns), -1, -1, -1).gather(2, index)


@contextmanager
def only_at(layer: Any, places: ReadPlaces, groups: AttentionGroups | None = None) -> Iterator[None]:
    """While open, a decoder's last layer returns the tokens that are read alone: `[rows, most of a row, dim]`.

    Args:
        layer: The `Qwen3VLTextDecoderLayer`, whose attention takes a mask (`sdpa` or `eager`).
        places: The tokens that are read.
        groups: In a row of texts without padding, the groups in which these tokens ask; None: a batch.
    """

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> Tensor:
        normed = layer.input_layernorm(hidden_states)
        seen = places.mask(attention_mask, hidden_states.shape[1]) if groups is None else attention_mask
        attended = _attend(layer.self_attn, normed, position_embeddings, seen, past_key_values, places, groups)
        read: Tensor = places.pick(hidden_states) + attended
        output: Tensor = read + layer.mlp(layer.post_attention_layernorm(read))
        return output

    # Checkpointing would call the layer again after this is closed; without it, the layer keeps no more than it would
    # compute again in the backward pass, which begins with it.
    checkpointing, layer.gradient_checkpointing = getattr(layer, "gradient_checkpointing", False), False
    layer.forward = forward  # a hook cannot prevent the forward pass
    try:
        yield
    finally:
        del layer.forward  # the instance attribute; the class has its own
        layer.gradient_checkpointing = checkpointing


def _attend(
    attention: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor | None,
    cache: Any,
    places: ReadPlaces,
    groups: AttentionGroups | None,
) -> Tensor:
    """Self-attention whose queries are the tokens that are read."""

    def heads(values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], -1, attention.head_dim)

    cos, sin = rotary
    queries = attention.q_norm(heads(attention.q_proj(places.pick(hidden)))).transpose(1, 2)
    keys = attention.k_norm(heads(attention.k_proj(hidden))).transpose(1, 2)
    values = heads(attention.v_proj(hidden)).transpose(1, 2)
    cos, sin = cos.expand(len(hidden), -1, -1), sin.expand(len(hidden), -1, -1)
    queries = _rotated(queries, places.pick(cos), places.pick(sin))
    keys = _rotated(keys, cos, sin)
    if cache is not None:  # an empty one, which a prompt fills
        keys, values = cache.update(keys, values, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    dropout = attention.attention_dropout if attention.training else 0.0
    grouped = {} if groups is None else {"attention_groups": groups}
    output, _ = attend(attention, queries, keys, values, mask, dropout=dropout, scaling=attention.scaling, **grouped)
    attended: Tensor = attention.o_proj(output.reshape(*output.shape[:2], -1))
    return attended


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None], sin[:, None]
    rotated: Tensor = heads * cos + rotate_half(heads) * sin
    return rotated
