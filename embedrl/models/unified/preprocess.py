"""Chats → inputs of a unified model: prompt, reasoning and tokens in one row. Holds no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from embedrl.data.inputs import ModelInputs
from embedrl.errors import ConfigError, DataError, TooLongError
from embedrl.models.packing import IGNORE
from embedrl.models.policy_generator import PolicyPreprocessor
from embedrl.models.unified.layout import Arranged, UnifiedLayout, arrange
from embedrl.models.vlm.chats import excerpt, parts
from embedrl.models.vlm.preprocess import VLMPreprocessor
from embedrl.models.vlm.rows import append
from embedrl.types import Chat, Lesson


@dataclass(frozen=True)
class UnifiedPreprocessor:
    """Turns the chats of sides, with or without reasoning, into the inputs of a unified model.

    A row is padded on the left. It comes with `labels` `[rows, length]`, the tokens of the reasoning and of what ends
    it, -100 elsewhere, and `sources` `[rows, 2]`: where in the flattened rows the hidden states of `<disc_emb>` and
    `<gen_emb>` lie, -1 where a row has no such token.

    Attributes:
        inner: The preprocessor of the family's model that writes.
        layout: Where everything stands.
        ids: Ids of `<disc_emb>` and `<gen_emb>`.
        whole: For training: sides without reasoning have their `<gen_emb>`, too.
        prompts_too: For training with self-written reasoning: the prompts of the sides that have a reasoning come
            beside them (`prompt/...`, and their rows as `prompt_rows`); of none, the first side's.
    """

    inner: PolicyPreprocessor
    layout: UnifiedLayout
    ids: tuple[int, int]
    whole: bool = False
    prompts_too: bool = False

    def for_training(self, prompts_too: bool = False) -> UnifiedPreprocessor:
        """The same, with every token that the layout has in every row.

        Args:
            prompts_too: See the attribute.
        """
        return replace(self, whole=True, prompts_too=prompts_too)

    @property
    def end_of_turn(self) -> str:
        """The token that ends the assistant's turn."""
        return self.inner.end_of_turn

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""
        return self.inner.max_length

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The words that stand for pixels."""
        words: tuple[str, ...] = self.inner.placeholders  # type: ignore[attr-defined]  # every family's has them
        return words

    def __call__(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process one micro-batch, one side a row.

        Raises:
            DataError: If a chat is empty, too long with its reasoning, or a text holds a visual placeholder token.
        """
        arranged = [self._arrange(chat) for chat in chats]
        read = self.inner.prompt_rows([one.read for one in arranged])
        rows, replies, ends = [], [], []
        for one, row in zip(arranged, read, strict=True):
            row, reply, at_gen = self._with_reply(one, row)
            if row["input_ids"].shape[1] > self.max_length:
                raise TooLongError(
                    f"the side {self._excerpt(one)} has {row['input_ids'].shape[1]} tokens with its reasoning, more "
                    f"than max_length={self.max_length}: shorten the reasoning, let pictures be read smaller, or raise "
                    "backbone.max_length"
                )
            rows.append(row)
            replies.append(reply)
            ends.append(at_gen)
        inputs = self.inner.join(rows)
        inputs |= self._marks(inputs, rows, replies, ends)
        return inputs | self._prompts_of(arranged, read) if self.prompts_too else inputs

    def _arrange(self, chat: Chat) -> Arranged:
        return arrange(chat, self.layout)

    def _prompts_of(self, arranged: Sequence[Arranged], read: Sequence[ModelInputs]) -> ModelInputs:
        """The prompts of the sides with a reasoning.

        Raises:
            DataError: If one comes with evidence, which belongs to the reasoning that is given.
        """
        if shown := [one for one in arranged if one.evidence]:
            raise DataError(
                f"the side {self._excerpt(shown[0])} shows evidence of a reasoning that is not used: with "
                "model.rationale_for_contrast: self set data.render.cues: printed"
            )
        mine = [i for i, one in enumerate(arranged) if one.reasoning is not None]
        joined = self.inner.join([read[i] for i in mine or [0]])
        return {f"prompt/{name}": value for name, value in joined.items()} | {"prompt_rows": torch.tensor(mine)}

    def _with_reply(self, one: Arranged, row: ModelInputs) -> tuple[ModelInputs, tuple[int, list[int]], bool]:
        """A row with its reasoning and `<gen_emb>`.

        Returns:
            The row; where its labels begin and what they are; whether a vector is read at its last token.
        """
        tokenizer: Any = self._tokenizer
        gen = self.ids[1]
        if one.reasoning is None:
            ends = self.layout.gen and (self.whole or not self.layout.disc)
            label = [gen] if ends and self.layout.gate else []  # not to reason is a reply of its own
            return (_extended(row, [gen]) if ends else row), (row["input_ids"].shape[1], label), ends
        text = one.reasoning
        if isinstance(self.inner, VLMPreprocessor):
            text = self.inner.as_written(text, row)
        if one.evidence:
            # Escaped and rendered with the rest of the chat: found again, from its end.
            reply = tokenizer(self.inner.end_of_turn, add_special_tokens=False)["input_ids"]
            reply = [*tokenizer(text, add_special_tokens=False)["input_ids"], *reply]
            start = _last_place(row["input_ids"][0].tolist(), reply)
            if start is None:
                raise DataError(
                    f"the side {self._excerpt(one)}: this family's chat template changes the reasoning "
                    f"{excerpt(one.reasoning)}: set render.cues: printed, which leaves the evidence out"
                )
            return _extended(row, [gen]), (start, reply), True
        reply = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if self.layout.gen and not one.cut:
            reply.append(gen)
        elif not one.cut:
            reply += tokenizer(self.inner.end_of_turn, add_special_tokens=False)["input_ids"]
        return _extended(row, reply), (row["input_ids"].shape[1], reply), self.layout.gen

    def _marks(
        self,
        inputs: ModelInputs,
        rows: Sequence[ModelInputs],
        replies: Sequence[tuple[int, list[int]]],
        ends: Sequence[bool],
    ) -> ModelInputs:
        count, width = inputs["input_ids"].shape
        labels = torch.full((count, width), IGNORE)
        sources = torch.full((count, 2), -1)
        for number, (row, (start, reply), at_gen) in enumerate(zip(rows, replies, ends, strict=True)):
            shift = width - row["input_ids"].shape[1]
            labels[number, shift + start : shift + start + len(reply)] = torch.tensor(reply, dtype=torch.long)
            if self.layout.disc:
                place = (row["input_ids"][0] == self.ids[0]).nonzero()[-1, 0]
                sources[number, 0] = number * width + shift + place
            if at_gen:
                sources[number, 1] = (number + 1) * width - 1
        return {"labels": labels, "sources": sources}

    @property
    def _tokenizer(self) -> Any:
        return self.inner.processor.tokenizer  # type: ignore[attr-defined]  # every family's has one

    def _excerpt(self, one: Arranged) -> str:
        texts = [part["text"] for part in parts(one.prompt) if part["type"] == "text"]
        return excerpt(texts[0])

    # ---------------------------------------------------------------- what EG-RL and evaluation ask for

    def prompts(self, chats: Sequence[Chat]) -> ModelInputs:
        """Process prompts for generation: up to where the reasoning begins."""
        return self.inner.prompts(self._prompts(chats))

    def prompt_rows(self, chats: Sequence[Chat]) -> list[ModelInputs]:
        """What `prompts([chat])` makes of each chat."""
        return self.inner.prompt_rows(self._prompts(chats))

    def join(self, rows: Sequence[ModelInputs]) -> ModelInputs:
        """What `prompts` makes of chats at once, of their `prompt_rows`."""
        return self.inner.join(rows)

    def _prompts(self, chats: Sequence[Chat]) -> list[Chat]:
        return [arrange(chat, self.layout).prompt for chat in chats]

    def fits(self, chat: Chat, prompt: bool = False) -> bool:
        """Whether the chat has at most `max_length` tokens; with `prompt` up to where the reasoning begins.

        Raises:
            DataError: If it cannot be read, whatever its length.
        """
        if prompt:
            return self.inner.fits(arrange(chat, self.layout).prompt, prompt=True)
        try:
            self([chat])
        except TooLongError:
            return False
        return True

    def length(self, chat: Chat) -> int:
        """A cheap estimate of the chat's length in tokens."""
        return self.inner.length(chat)

    def as_told(self, replies: Sequence[str], prompts: ModelInputs) -> list[str]:
        """Replies as T-CoTs are written.

        Args:
            replies: What the model wrote.
            prompts: The batch of prompts, one for each.
        """
        return self.inner.as_told(replies, prompts) if isinstance(self.inner, VLMPreprocessor) else list(replies)

    def lessons(self, lessons: Sequence[Lesson]) -> ModelInputs:
        """Not for this model.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a unified model learns to reason from pairs: train it with embedrl.UnifiedEmbedderModule")

    def as_read(self, chat: Chat) -> Chat:
        """Not for this model.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("model.engine: a unified model writes its rollouts itself; leave model.engine out")


def _extended(row: ModelInputs, ids: Sequence[int]) -> ModelInputs:
    """A row with tokens of text behind it, at the positions that follow."""
    longer = append(row, ids)
    if "position_ids" in row:
        positions = row["position_ids"]
        more = positions.max() + 1 + torch.arange(len(ids))
        longer["position_ids"] = torch.cat([positions, more.expand(*positions.shape[:-1], -1)], dim=-1)
    return longer


def _last_place(tokens: Sequence[int], part: Sequence[int]) -> int | None:
    """Where a sequence stands in another one for the last time; None if nowhere."""
    for start in range(len(tokens) - len(part), -1, -1):
        if tokens[start : start + len(part)] == part:
            return start
    return None
