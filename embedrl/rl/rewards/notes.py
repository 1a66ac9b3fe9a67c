"""Questions to a discriminator that sees evidence: T-CoTs with their crops and key frames in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedrl.data.render import side_content
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.chat import side_of
from embedrl.tcot.matching import match_prompt
from embedrl.tcot.prompts import Style
from embedrl.tcot.schema import clean_text
from embedrl.types import Role
from embedrl.utils.reserved_words import escape

Part = dict[str, Any]
_MARK = "\ue000"  # stands for notes; no assigned character


class EvidenceNotes:
    """The T-CoTs of a step as parts of a message, each with the pictures that its cues cut out.

    Whole pictures stay out, as the sides' own texts do: with them a judge could find the partner without the T-CoT.

    Args:
        step: The step; its pictures are opened, those of each rollout once.
    """

    def __init__(self, step: RolloutStep) -> None:
        self.step = step
        self._parts: dict[str, list[Part]] = {}

    def parts(self, rollout: Rollout) -> list[Part]:
        """The notes of a rollout.

        Raises:
            DataError: If a picture is broken; what a rollout says is never an error.
        """
        if rollout.id not in self._parts:
            pair = self.step.pairs[rollout.pair]
            side = side_of(pair, rollout.role)
            own = len(side.images) + bool(side.frames) + bool(side.text.strip())
            where = f"{pair.dataset}/{pair.id} rollout {rollout.id}"
            content = side_content(
                side.with_tcot(rollout.text), LENIENT, where=where, parsed=self.step.parsed[rollout.id]
            )
            self._parts[rollout.id] = [_clean(part) for part in content[own:]]
        return self._parts[rollout.id]


def evidence_content(
    role: Role, text: str, notes: Sequence[Part], candidates: Sequence[Sequence[Part]], style: Style
) -> list[Part]:
    r"""The question of `match_prompt` with notes that hold pictures.

    Args:
        role: Role of the side that is asked about.
        text: The side's text.
        notes: Its T-CoT.
        candidates: The candidates' T-CoTs, in the order of their numbers.
        style: Style of the question.

    >>> crop = {"type": "image", "image": None}
    >>> words = [{"type": "text", "text": "so red"}]
    >>> [part.get("text", part["type"]) for part in evidence_content(Role.QUERY, "", [crop, *words], [words], "brief")]
    ['query :\n', 'image', 'so red\n\nso red [1]\n\nwhich target matches ?']
    """
    frame = match_prompt(role, text.replace(_MARK, " "), _MARK, [_MARK] * len(candidates), style).split(_MARK)
    content: list[Part] = []
    for words, following in zip(frame, [notes, *candidates, []], strict=True):
        for part in ({"type": "text", "text": words}, *following):
            if part["type"] == "text" and content and content[-1]["type"] == "text":
                content[-1] = {"type": "text", "text": content[-1]["text"] + part["text"]}
            else:
                content.append(part)
    return content


def _clean(part: Part) -> Part:
    return part | {"text": escape(clean_text(part["text"]))} if part["type"] == "text" else part
