"""Rows of a unified model whose reasoning begins in latent steps: what is read before them, and what behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from embedrl.data.inputs import ModelInputs
from embedrl.errors import DataError
from embedrl.models.packing import IGNORE
from embedrl.models.prompt_rows import ROWS
from embedrl.models.unified.layout import Arranged, arrange
from embedrl.models.unified.preprocess import UnifiedPreprocessor
from embedrl.types import Chat

STEPS = 4
"""Latent steps unless a recipe has other ones. Source: PLUME (arXiv 2604.02073), four segments of one step each."""


@dataclass(frozen=True)
class LatentPreprocessor(UnifiedPreprocessor):
    """As `UnifiedPreprocessor`; latent steps stand in place of a reasoning, whose words are read in training alone.

    Attributes:
        reads_words: Whether there are no latent steps, so that words stay.
    """

    reads_words: bool = False

    @property
    def takes_latent_steps(self) -> bool:
        """Whether `render.tcot: latent` has a meaning."""
        return not self.reads_words

    def _arrange(self, chat: Chat) -> Arranged:
        arranged = arrange(chat, self.layout)
        if self.reads_words or arranged.reasoning is None:
            return arranged
        if arranged.evidence:
            raise DataError(
                f"the side {self._excerpt(arranged)} shows evidence, which latent steps do not name: set render.cues: "
                "printed, or render.tcot: latent"
            )
        return arranged if self.whole else replace(arranged, reasoning="", cut=False)


@dataclass
class LatentRows:
    """A micro-batch cut in two: latent steps come between.

    Attributes:
        prompt: What is read before, `[rows, P]`, padded on the left, with the pictures.
        ids: Tokens behind the latent steps, `<gen_emb>` among them, `[rows, R]`, padded on the right.
        mask: Which of them are there, `[rows, R]`.
        labels: Those to be predicted, -100 elsewhere, `[rows, R]`.
        positions: Positions of the latent steps and of these tokens, `[3, rows, steps + R]`.
        disc: Where in the flattened prompts `<disc_emb>` lies, -1 without, `[rows]`.
        gen: Where in the flattened tokens `<gen_emb>` lies, -1 without, `[rows]`.
    """

    prompt: ModelInputs
    ids: Tensor
    mask: Tensor
    labels: Tensor
    positions: Tensor
    disc: Tensor
    gen: Tensor


def cut_rows(inputs: ModelInputs, steps: int, total: int) -> LatentRows:
    """Cut rows where their reasoning begins, and leave out the words that latent steps stand for.

    A reasoning of w words is taken as `total` segments of equal length. Each latent step stands for one of them, so the
    first `w * steps // total` words are left out.

    Args:
        inputs: What a `LatentPreprocessor` returned: rows padded on the left.
        steps: Latent steps that are taken.
        total: Latent steps of the model, that is segments of a reasoning.
    """
    ids, labels, sources = inputs["input_ids"], inputs["labels"], inputs["sources"]
    (count, width), device = ids.shape, ids.device
    row, labelled, ends = torch.arange(count, device=device), labels != IGNORE, sources[:, 1] >= 0
    # Without a reasoning, `<gen_emb>` alone comes behind the prompt, if that.
    first = torch.where(labelled.any(1), labelled.int().argmax(1), width - ends.long())
    words = (width - first - ends.long()).clamp(min=0)
    begin = first + words * steps // total
    longest = int(inputs["attention_mask"].cumsum(1).gather(1, first[:, None] - 1).max())
    left = first[:, None] - longest + torch.arange(longest, device=device)
    prompt = {name: value for name, value in inputs.items() if name not in (*ROWS, "labels", "sources")}
    for name, dim in ROWS.items():
        if name in inputs:
            at = left.clamp(min=0).expand(*inputs[name].shape[:dim], -1, -1)
            prompt[name] = inputs[name].gather(-1, at)
    prompt["attention_mask"] = prompt["attention_mask"] * (left >= 0).to(inputs["attention_mask"].dtype)
    right = begin[:, None] + torch.arange(max(1, int((width - begin).max())), device=device)
    there, at = right < width, right.clamp(max=width - 1)
    behind = (prompt["position_ids"] * prompt["attention_mask"]).amax((0, 2)) + 1
    positions = behind[:, None] + torch.arange(steps + right.shape[1], device=device)
    gen = torch.where(ends, row * right.shape[1] + there.sum(1) - 1, -1)
    disc = sources[:, 0] - row * width - first + longest + row * longest
    return LatentRows(
        prompt,
        ids.gather(1, at) * there,
        there.long(),
        labels.gather(1, at).masked_fill(~there, IGNORE),
        positions.expand(3, -1, -1),
        torch.where(sources[:, 0] >= 0, disc, -1),
        gen,
    )


def grown(mask: Tensor, more: int | Tensor) -> Tensor:
    """An attention mask `[rows, length]` with so many tokens behind it that are there, or with the mask of more."""
    if not isinstance(more, Tensor):
        more = mask.new_ones(len(mask), more)
    return torch.cat([mask, more.to(mask.dtype)], dim=1)


def cached(core: Any, mask: Tensor, positions: Tensor, cache: Any, **what: Tensor) -> Tensor:
    """Hidden states of tokens or embeddings behind what a cache holds, `[rows, tokens, dim]`; the cache grows.

    Args:
        core: Everything but the LM head.
        mask: Of all that the cache holds and of these, `[rows, length]`.
        positions: Of these, `[3, rows, tokens]`.
        cache: Keys and values of what was read before.
        what: `input_ids` or `inputs_embeds`.
    """
    out = core(attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **what)
    hidden: Tensor = out.last_hidden_state
    return hidden
