"""A Reasoner that writes T-CoTs whole or section by section, several of each, every draw by a seed of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from embedrl.data.inputs import ModelInputs
from embedrl.models.continuing import continued
from embedrl.models.policy_generator import PolicyGenerator
from embedrl.models.sampling import SamplingOptions
from embedrl.tcot.schema import SECTIONS, STOP


@dataclass(frozen=True)
class Draft:
    """A T-CoT, finished or not.

    Attributes:
        tokens: Its token ids.
        text: The text.
        sections: How many of its sections were written.
        done: Whether it is finished: by its last tag, the end of the turn, or the longest length.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    sections: int = 0
    done: bool = False


@dataclass
class SectionWriter:
    """Continues T-CoTs; what it writes for one prompt depends on no other prompt of the batch.

    Attributes:
        generator: The Reasoner, built.
        device: Where it is.
        batch_size: Replies that are written at once.
        max_new_tokens: Longest T-CoT in tokens.
        temperature: Of draws; 0 takes the likeliest token.
        top_p: Draw among the likeliest tokens that hold this much probability.
        seed: Seed of all draws.
        tokens: Tokens written so far.
    """

    generator: PolicyGenerator
    device: torch.device
    batch_size: int = 32
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    tokens: int = 0

    def whole(self, rows: Sequence[ModelInputs], names: Sequence[str], n: int) -> list[list[Draft]]:
        """Draw n whole T-CoTs of each prompt.

        Args:
            rows: The prompts, of `PolicyPreprocessor.prompt_rows`.
            names: A name of each that no other has: it decides what is drawn.
            n: T-CoTs a prompt.
        """
        starts = [Draft()] * len(rows)
        return self._write(rows, starts, names, n, self.temperature, STOP)

    def sections(
        self, rows: Sequence[ModelInputs], drafts: Sequence[Draft], names: Sequence[str], branches: int
    ) -> list[list[Draft]]:
        """Write the next section of T-CoTs, in several ways: the likeliest one, and draws.

        Args:
            rows: The prompts.
            drafts: What is written of each; none is done.
            names: A name of each prompt.
            branches: Continuations of each; the first is the likeliest.

        Returns:
            The continuations of each, longer by a section.
        """
        out: list[list[Draft]] = [[] for _ in rows]
        for level in sorted({draft.sections for draft in drafts}):
            places = [i for i, draft in enumerate(drafts) if draft.sections == level]
            stop = tuple(dict.fromkeys((f"</{SECTIONS[min(level, len(SECTIONS) - 1)]}>", *STOP)))
            part = [rows[i] for i in places], [drafts[i] for i in places], [names[i] for i in places]
            likeliest = self._write(*part, 1, 0.0, stop)
            drawn = self._write(*part, branches - 1, self.temperature, stop) if branches > 1 else [[]] * len(places)
            for i, one, others in zip(places, likeliest, drawn, strict=True):
                out[i] = [*one, *others]
        return out

    def rest(self, rows: Sequence[ModelInputs], drafts: Sequence[Draft], names: Sequence[str]) -> list[Draft]:
        """Finish T-CoTs with their likeliest continuation."""
        return [one for [one] in self._write(rows, drafts, names, 1, 0.0, STOP)] if rows else []

    def _write(
        self,
        rows: Sequence[ModelInputs],
        drafts: Sequence[Draft],
        names: Sequence[str],
        n: int,
        temperature: float,
        stop: tuple[str, ...],
    ) -> list[list[Draft]]:
        preprocessor = self.generator.preprocessor()
        # The length of a draw decides its numbers: the same for all, and cut afterwards.
        options = SamplingOptions(self.max_new_tokens, temperature, self.top_p if temperature else 1.0, stop)
        out: list[list[Draft]] = []
        size = max(1, self.batch_size // n)
        for start in range(0, len(rows), size):
            part = range(start, min(start + size, len(rows)))
            prompts = preprocessor.join([rows[i] for i in part])
            begun = preprocessor.join([continued(rows[i], drafts[i].tokens) for i in part])
            moved = {name: value.to(self.device) for name, value in begun.items()}
            seeds = [draw_seed(self.seed, names[i], drafts[i].tokens) for i in part]
            replies = self.generator.sample(moved, n, seeds, options)
            tokens = [
                [(drafts[i].tokens + reply.tokens)[: self.max_new_tokens] for reply in group]
                for i, group in zip(part, replies, strict=True)
            ]
            texts = [
                self.generator.reply_texts(column, prompts)
                for column in ([group[k] for group in tokens] for k in range(n))
            ]
            for row, i in enumerate(part):
                made = [(tokens[row][k], texts[k][row]) for k in range(n)]
                self.tokens += sum(len(ids) - len(drafts[i].tokens) for ids, _ in made)
                out.append([self._draft(drafts[i].sections + 1, ids, text) for ids, text in made])
        return out

    def _draft(self, sections: int, tokens: tuple[int, ...], text: str) -> Draft:
        ended = tokens[-1] in self.generator.ends or any(mark in text for mark in STOP)
        done = ended or len(tokens) >= self.max_new_tokens or sections >= len(SECTIONS)
        return Draft(tokens, text, sections, done)


def draw_seed(seed: int, name: str, tokens: Sequence[int]) -> int:
    """The seed of the draws that continue a text: 63 bits that depend on all three."""
    told = f"{seed}/{name}/{' '.join(map(str, tokens))}"
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8]) >> 1
