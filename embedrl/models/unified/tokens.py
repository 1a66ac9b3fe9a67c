"""The two tokens of a unified model: their ids, and the rows of new ones. Source: UME-R1 (arXiv 2511.00405)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.vlm.chats import placeholders
from embedrl.utils.reserved_words import DISC_TOKEN, EMB_TOKEN, GEN_TOKEN

TOKENS = (DISC_TOKEN, GEN_TOKEN)
CONFIG_NAMES = ("disc_emb_token_id", "gen_emb_token_id")
"""Where a checkpoint's config.json keeps their ids."""

SOURCES = (
    ("<|object_ref_start|>", "<|object_ref_end|>"),
    ("<tool_call>", "</tool_call>"),
    ("<|vision_start|>", "<|vision_end|>"),
)
"""Pairs of special tokens whose rows new tokens begin as copies of: the first pair that a tokenizer has.

The first is UME-R1's for Qwen2-VL, the second for Qwen2.5-VL. A tokenizer that has none of them gives two other special
tokens, those that stand for pixels left out."""


def add_tokens(tokenizer: Any, config: Any, path: str) -> tuple[list[int], list[int]]:
    """Add the two tokens to a tokenizer that lacks them.

    Args:
        tokenizer: The tokenizer.
        config: The checkpoint's configuration.
        path: The checkpoint, for errors.

    Returns:
        Their ids, and the ids that are new.

    Raises:
        CheckpointError: If the configuration records other ids than the tokenizer has.
    """
    missing = [token for token in TOKENS if token not in tokenizer.get_vocab()]
    added = [AddedToken(token, special=True, normalized=False) for token in missing]
    tokenizer.add_tokens(added, special_tokens=True)
    ids = [int(tokenizer.convert_tokens_to_ids(token)) for token in TOKENS]
    for name, token, own in zip(CONFIG_NAMES, TOKENS, ids, strict=True):
        recorded = getattr(config, name, None)
        if recorded is not None and recorded != own:
            raise CheckpointError(f"{path}: config.{name} is {recorded}, but the tokenizer's {token} is {own}")
    return ids, [own for token, own in zip(TOKENS, ids, strict=True) if token in missing]


def source_ids(processor: Any, chosen: Sequence[str | None]) -> list[int]:
    """The ids of the tokens whose rows the new ones copy.

    Args:
        processor: The processor, whose tokenizer has them.
        chosen: What the layout chooses for each; None: see `SOURCES`.

    Raises:
        ConfigError: If a chosen token is none of the tokenizer's, or it has no special tokens to copy.
    """
    tokenizer = processor.tokenizer
    words = tokenizer.get_vocab()
    pair = next((pair for pair in SOURCES if all(token in words for token in pair)), None)
    if pair is None:
        barred = {*placeholders(processor), tokenizer.pad_token, EMB_TOKEN, *TOKENS}
        special = [str(token) for token in tokenizer.all_special_tokens if token not in barred]
        pair = (special[0], special[-1]) if special else None
    ids = []
    for flag, token, default in zip(("disc_from", "gen_from"), chosen, pair or (None, None), strict=True):
        token = token or default
        if token is None or token not in words:
            raise ConfigError(
                f"backbone.layout.{flag} is {token!r}, which is no token of this tokenizer: name a special token of it"
            )
        ids.append(int(words[token]))
    return ids


@torch.no_grad()
def prepare_rows(network: Any, length: int, ids: Sequence[int], sources: Sequence[int], new: Sequence[int]) -> None:
    """Record the ids in the network's configuration; give new tokens rows that are copies of others'.

    Args:
        network: The network.
        length: Length of the tokenizer, to which the embedding grows where it has no row for them.
        ids: Ids of the two tokens.
        sources: Ids of the rows to copy.
        new: The ids that have no row of their own yet.
    """
    for name, own in zip(CONFIG_NAMES, ids, strict=True):
        setattr(network.config, name, own)
    if max(ids) >= network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(length, mean_resizing=False)
    tables = {id(m.weight): m for m in (network.get_input_embeddings(), network.get_output_embeddings())}
    for own, source in zip(ids, sources, strict=True):
        if own in new:
            for table in tables.values():
                table.weight[own] = table.weight[source]
