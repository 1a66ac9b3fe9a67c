"""Attention between the texts of one row without padding: texts of like length together, each with what it continues.

Everything but attention treats tokens alone, so a batch may be one row of its real tokens. Attention gathers the texts
of that row into a few small padded batches; a text that continues another one, such as a reply to a prompt, gets the
other's keys and values before its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.models.qwen3_vl.modeling_qwen3_vl import eager_attention_forward

GROUPED = {"sdpa": "embedrl_sdpa", "eager": "embedrl_eager"}
"""The names under which transformers finds attention that can go by groups."""
GROUP, KEY = 4096, 16
"""What a group and a gathered key cost, in pairs of a query and a key (measured on a CPU, tiny Qwen3-VL)."""


@dataclass(frozen=True, slots=True)
class Text:
    """A run of tokens in the row.

    Attributes:
        start: Its first token.
        length: Its tokens.
        before: The numbers of the texts that it continues, in their order; it sees all of their tokens.
    """

    start: int
    length: int
    before: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TextGroup:
    """Texts whose attention is computed at once.

    Attributes:
        queries: Which of the asking tokens are theirs, `[texts, q]`.
        keys: Tokens that they may see, `[texts, k]`.
        mask: To be added to the scores, `[texts or 1, 1, q, k]`; None: query `i` sees the keys up to `i`.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class AttentionGroups:
    """All groups of a row.

    Attributes:
        groups: The groups.
        order: Where among the results of all groups each asking token's stands, `[asking]`, in the order of the row.
    """

    groups: tuple[TextGroup, ...]
    order: Tensor

    @classmethod
    def of(
        cls, texts: Sequence[Text], dtype: torch.dtype, device: torch.device, asking: Tensor | None = None
    ) -> AttentionGroups:
        """Sort the texts of a row into groups.

        Args:
            texts: The texts, in the order of the row, which they fill.
            dtype: That of the attention scores.
            device: Where the row is.
            asking: The tokens whose results are read, ascending, `[asking]`, on the CPU. None: all.
        """
        starts, lengths = (np.array([getattr(text, name) for text in texts]) for name in ("start", "length"))
        tokens = np.arange(lengths.sum()) if asking is None else asking.numpy()
        bounds = np.searchsorted(tokens, np.append(starts, lengths.sum()))
        seen = np.array([sum(texts[i].length for i in text.before) for text in texts])
        asked = np.diff(bounds)
        chosen = np.lexsort((lengths, seen))
        chosen = chosen[asked[chosen] > 0]
        groups: list[TextGroup] = []
        order, at = np.empty(len(tokens), dtype=np.int64), 0
        for start, end in cut(asked[chosen], (seen + lengths)[chosen]):
            members = chosen[start:end]
            q, k = asked[members].max(), (seen + lengths)[members].max()
            queries, upto = (np.zeros((len(members), q), dtype=np.int64) for _ in range(2))
            keys = np.zeros((len(members), k), dtype=np.int64)
            for row, number in enumerate(members):
                own = np.arange(*bounds[number : number + 2])
                queries[row, : len(own)] = own
                upto[row, : len(own)] = tokens[own] - starts[number] + seen[number]
                # What fills goes on likewise, so that rows of one beginning have one mask, and others need none.
                upto[row, len(own) :] = upto[row, len(own) - 1] + np.arange(1, q - len(own) + 1)
                parts = [texts[i] for i in (*texts[number].before, number)]
                visible = np.concatenate([np.arange(text.start, text.start + text.length) for text in parts])
                keys[row, : len(visible)] = visible
                order[own] = at + row * q + np.arange(len(own))
            at += queries.size
            mask = _mask(upto, int(k), dtype)
            places = [torch.from_numpy(table).to(device) for table in (queries, keys)]
            groups.append(TextGroup(places[0], places[1], None if mask is None else mask.to(device)))
        return cls(tuple(groups), torch.from_numpy(order).to(device))

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that are computed."""
        return sum(group.queries.shape[1] * group.keys.numel() for group in self.groups)


def _mask(upto: np.ndarray, keys: int, dtype: torch.dtype) -> Tensor | None:
    """The mask with which query `i` of text `t` sees the keys up to `upto[t, i]`; None: up to `i`, of equally many."""
    if upto.shape[1] == keys and (upto == np.arange(keys)).all():
        return None
    if (upto == upto[:1]).all():
        upto = upto[:1]
    hidden = torch.from_numpy(upto)[:, None, :, None] < torch.arange(keys)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


def cut(queries: np.ndarray, keys: np.ndarray) -> list[tuple[int, int]]:
    """Cut texts, which stand in an order of likeness, into the groups that cost least together.

    A group costs its pairs, padded, its keys and itself: `n * k * (q + KEY) + GROUP`.

    Args:
        queries: Asking tokens of each text.
        keys: Tokens that each text sees.

    Returns:
        The first text of each group, and the one after its last.

    >>> cut(np.array([8, 9, 200, 208]), np.array([8, 9, 200, 208]))
    [(0, 2), (2, 4)]
    """
    least, first = np.zeros(len(queries) + 1), np.zeros(len(queries) + 1, dtype=np.int64)
    for end in range(1, len(queries) + 1):
        q = np.maximum.accumulate(queries[:end][::-1])[::-1]
        k = np.maximum.accumulate(keys[:end][::-1])[::-1]
        costs = least[:end] + np.arange(end, 0, -1) * k * (q + KEY) + GROUP
        first[end] = costs.argmin()
        least[end] = costs[first[end]]
    cuts, end = [], len(queries)
    while end:
        cuts.append((int(first[end]), end))
        end = int(first[end])
    return cuts[::-1]


def _sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """`scaled_dot_product_attention` of one group; `[texts, q, heads, dim]`."""
    shared = mask is None or query.device.type == "cpu"  # a GPU's kernels take a mask, or fewer heads of keys, not both
    if not shared:
        key, value = (repeat_kv(x, module.num_key_value_groups) for x in (key, value))
    out = scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=shared
    )
    return out.transpose(1, 2)


def _eager(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """As `_sdpa`, by transformers' eager attention."""
    if mask is None:
        steps = torch.arange(query.shape[2], device=query.device)
        mask = query.new_zeros(1, 1, len(steps), len(steps))
        mask = mask.masked_fill(steps[:, None] < steps, torch.finfo(query.dtype).min)
    out: Tensor = eager_attention_forward(module, query, key, value, mask, scaling=scaling, dropout=dropout)[0]
    return out


def _attend(
    attend: Callable[..., Tensor],
    otherwise: Callable[..., tuple[Tensor, Tensor | None]],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    attention_groups: AttentionGroups | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: by groups if there are any, otherwise as ever.

    Args:
        attend: Attention of one group.
        otherwise: The attention function for batches.
        module: The attention layer.
        query: `[1, heads, asking, dim]`, of the tokens that ask.
        key: `[1, key heads, tokens, dim]`, of all tokens of the row.
        value: As `key`.
        attention_mask: For batches alone.
        dropout: Of attention weights.
        scaling: Of scores.
        attention_groups: The groups.
        kwargs: For batches alone.
    """
    if attention_groups is None:
        return otherwise(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    asked, keys, values = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    results = []
    for group in attention_groups.groups:
        mask = None if group.mask is None else group.mask.to(query.dtype)
        gathered = (
            states.index_select(0, places.flatten()).view(*places.shape, *states.shape[1:]).transpose(1, 2)
            for states, places in ((asked, group.queries), (keys, group.keys), (values, group.keys))
        )
        results.append(attend(module, *gathered, mask, dropout, scaling).flatten(0, 1))
    return torch.cat(results).index_select(0, attention_groups.order)[None], None


def by_groups(config: Any) -> None:
    """Let the layers of a language model take `attention_groups`, from now on; without, they attend as before.

    Args:
        config: Its configuration; its attention implementation is `sdpa` or `eager`.
    """
    config._attn_implementation = GROUPED.get(config._attn_implementation, config._attn_implementation)


AttentionInterface.register(GROUPED["sdpa"], partial(_attend, _sdpa, sdpa_attention_forward))
AttentionInterface.register(GROUPED["eager"], partial(_attend, _eager, eager_attention_forward))
AttentionMaskInterface.register(GROUPED["sdpa"], sdpa_mask)
AttentionMaskInterface.register(GROUPED["eager"], eager_mask)
