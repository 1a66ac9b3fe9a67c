"""The value of a T-CoT so far: how likely it is that its query finds the target."""

from __future__ import annotations

from collections.abc import Sequence

from embedrl.data.step_lessons import step_chat
from embedrl.inference.yes_no import YesNoModel
from embedrl.types import Side


class StepModel(YesNoModel):
    """Says how likely it is that a query finds its target by a T-CoT, finished or not; it sees no candidate.

    Source: the process reward model of AR-MCTS (arXiv 2412.14835) §3.4.

    Args:
        generator: A model that learned it from `embedrl.data.StepLessons`, such as `embedrl.QwenVLReasoner` on an
            exported folder; built when first used.
        render: What to show of a query and its T-CoT, which is read leniently.
        style: Style of the question: that of the lessons.
        max_tokens: About how many tokens, padding included, go through the model at once.

    Raises:
        ConfigError: If the generator does not say how likely its replies are, or a number is out of range.
    """

    verb, noun = "value steps", "step model"

    def values(self, sides: Sequence[Side], names: Sequence[str]) -> list[float]:
        """The probability that each finds its target, in 0..1.

        Args:
            sides: Queries with their T-CoTs.
            names: Their names for errors.

        Raises:
            DataError: If a side cannot be shown, or the model cannot read it.
            NonFiniteError: If the model gives NaN.
        """
        chats = [step_chat(side, self.render, self.style, where=name) for side, name in zip(sides, names, strict=True)]
        return self.answers(chats, ", ".join(dict.fromkeys(names))).sigmoid().tolist()
