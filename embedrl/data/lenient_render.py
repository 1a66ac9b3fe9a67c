"""A side with whatever a Reasoner wrote, as a chat that the Embedder can read: nothing a policy writes is an error."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Protocol, runtime_checkable

from embedrl.data.inputs import Preprocessor
from embedrl.data.render import RenderOptions, render
from embedrl.tcot.schema import ParseResult
from embedrl.types import Chat, Side

REPAIRS = ("reserved_words", "evidence_grown", "evidence_dropped", "cut")
"""What is counted: see `fitting_chat`. Who embeds may count more."""


@runtime_checkable
class HasLimit(Protocol):
    """A preprocessor of a model that reads chats of a limited length; others cut or read any."""

    def fits(self, chat: Chat) -> bool:
        """Whether the chat is short enough."""
        ...


def as_lenient(options: RenderOptions) -> RenderOptions:
    """The options, with T-CoTs read leniently and a missing one left out."""
    return replace(options, on_bad_tcot="lenient", on_missing_tcot="raw")


def fitting_chat(
    side: Side,
    options: RenderOptions,
    preprocessor: Preprocessor,
    where: str,
    parsed: ParseResult | None,
    repairs: Counter[str],
) -> Chat:
    """Render a side; a T-CoT that is too long for the model loses its evidence, then its end, half by half.

    Args:
        side: The side with its T-CoT.
        options: What to show, leniently.
        preprocessor: The Embedder's.
        where: Name of the side for errors.
        parsed: What the parser says about the T-CoT, if that is known.
        repairs: Where to count: `reserved_words` and `evidence_grown` as in `render`; `evidence_dropped` and `cut` for
            a T-CoT that was too long.

    Raises:
        DataError: If the side cannot be shown even without its T-CoT, or is empty.
    """
    chat = render(side, options, where=where, parsed=parsed, repairs=repairs)
    if not isinstance(preprocessor, HasLimit) or not side.tcot.strip() or options.tcot in ("none", "latent"):
        return chat
    if preprocessor.fits(chat):
        return chat
    if _evidence(chat):
        repairs["evidence_dropped"] += 1
        options = replace(options, max_evidence=0)
        chat = render(side, options, where=where, parsed=parsed)
    length = len(side.tcot)
    while length and not preprocessor.fits(chat):
        repairs["cut"] += 1
        length //= 2
        chat = render(side.with_tcot(side.tcot[:length]), options, where=where)
    return chat


def _evidence(chat: Chat) -> bool:
    return any(part.get("evidence") for message in chat for part in message["content"])


def encode_chat(side: Side, options: RenderOptions, where: str, fitting: Preprocessor | None) -> Chat:
    """A side as `render` shows it or, with the preprocessor that it has to fit, as `fitting_chat` does."""
    if fitting is None:
        return render(side, options, where=where)
    return fitting_chat(side, options, fitting, where, None, Counter())
