"""Where a unified model has a side, its reasoning, its evidence, and its two tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.export_options import OPTIONS_FILE
from embedrl.types import Chat
from embedrl.utils.reserved_words import DISC_TOKEN

REQUEST = (
    "Represent the input above for retrieval. First reason about it, then restate it in a word or a short sentence, "
    "then give its embedding."
)
"""The last line of the user turn, unless a recipe has another one."""


@dataclass(frozen=True)
class UnifiedLayout:
    """What a unified model reads and writes of a side.

    The user turn holds pictures, video and text, then `<disc_emb>`, then the request. The assistant turn holds the
    reasoning and ends with `<gen_emb>`, as other turns end with the end-of-turn token. If the reasoning has evidence
    (crops or key frames), the turn ends as usual, a second user turn shows the evidence, and `<gen_emb>` is the answer
    to it. Nothing before `<disc_emb>` depends on the reasoning, so one forward pass gives both vectors.

    Attributes:
        disc: Whether there is a `<disc_emb>`, whose vector needs no reasoning.
        gen: Whether there is a `<gen_emb>`. Without `disc`, a side that comes without reasoning has it directly at the
            beginning of the assistant turn.
        request: The last line of the user turn; empty: none.
        disc_from: The special token that the row of a new `<disc_emb>` is a copy of; null: see
            `embedrl.models.unified.tokens.SOURCES`.
        gen_from: The same of `<gen_emb>`.
        gate: Whether the model's first token decides if it reasons: a reply that is `<gen_emb>` alone means that it
            does not, and the side is embedded at `<disc_emb>`. A side of training that comes without reasoning then
            teaches that reply.

    Raises:
        ConfigError: If there is no token at all, or the gate lacks one of both.

    Source: UME-R1 (arXiv 2511.00405), both tokens; RGE (arXiv 2511.16150), `gen` alone.
    """

    disc: bool = True
    gen: bool = True
    request: str = REQUEST
    disc_from: str | None = None
    gen_from: str | None = None
    gate: bool = False

    def __post_init__(self) -> None:
        """Check that there is a vector."""
        if not (self.disc or self.gen):
            raise ConfigError("layout.disc and layout.gen are both false: the model would have no vector; set one")
        if self.gate and not (self.disc and self.gen):
            raise ConfigError(
                "layout.gate chooses between both vectors: set layout.disc and layout.gen to true, or the gate to false"
            )


@dataclass
class Arranged:
    """A chat by the layout.

    Attributes:
        prompt: The user turn, which ends where the reasoning begins.
        reasoning: The reasoning; None if the chat has none.
        evidence: The parts that show its evidence.
        cut: Whether the reasoning was cut off before its end, and so has no `<gen_emb>`.
    """

    prompt: Chat
    reasoning: str | None = None
    evidence: list[dict[str, Any]] = field(default_factory=list)
    cut: bool = False

    @property
    def read(self) -> Chat:
        """What is read up to the last reply."""
        if not self.evidence:
            return self.prompt
        reply = {"role": "assistant", "content": [{"type": "text", "text": self.reasoning}]}
        return [*self.prompt, reply, {"role": "user", "content": self.evidence}]


def arrange(chat: Chat, layout: UnifiedLayout) -> Arranged:
    """Put the parts of a chat into the order of the layout.

    Args:
        chat: What `embedrl.data.render.render` or `embedrl.tcot.chat.reasoning_chat` made, whose parts are marked; of
            other chats, the first turn counts as the side.
        layout: The layout.
    """
    arranged = Arranged([])
    content: list[dict[str, Any]] = []
    parts = chat[0]["content"]
    for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
        if part.get("reasoning"):
            arranged.reasoning = (arranged.reasoning or "") + part["text"].lstrip("\n")
            arranged.cut |= bool(part.get("cut"))
        elif part.get("evidence"):
            arranged.evidence.append(part)
        elif "side_text" in part:
            if part["side_text"].strip():
                content.append({"type": "text", "text": part["side_text"]})
        elif not part.get("request"):
            content.append(part)
    tail = [DISC_TOKEN] if layout.disc else []
    tail += [layout.request] if layout.request else []
    for text in tail if content else ():  # an empty side stays empty, which is an error later
        content += [{"type": "text", "text": "\n"}, {"type": "text", "text": text}]
    if not layout.gen:
        arranged.evidence = []  # it would be read by nothing
    arranged.prompt = [{"role": "user", "content": content}]
    return arranged


def stored_layout(path: str, options: Mapping[str, Any]) -> UnifiedLayout | None:
    """The layout that an exported folder names; None if it names none.

    Args:
        path: The folder, for errors.
        options: What its `embedrl_config.json` says.

    Raises:
        CheckpointError: If it is broken.
    """
    values = options.get("layout")
    if values is None:
        return None
    try:
        known = {one.name for one in fields(UnifiedLayout)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown: {unknown[0]}")
        return UnifiedLayout(**values)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}/{OPTIONS_FILE}: broken layout ({error}): export the model again") from error
