"""What an OpenAI-compatible endpoint's answer may hold besides its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def first_token(choice: Mapping[str, Any]) -> Mapping[str, float] | None:
    """The likeliest first tokens with a letter or digit; None where the endpoint leaves them out."""
    try:
        tokens = choice["logprobs"]["content"]
        spoken = (token for token in tokens if any(map(str.isalnum, str(token["token"]))))
        first = next(spoken, tokens[0])
        values = ((str(top["token"]), float(top["logprob"])) for top in first["top_logprobs"])
        return {token: min(value, 0.0) for token, value in values if value < 0.01}  # rounding may pass 0; NaN never
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def hint(message: Mapping[str, Any]) -> str:
    """What to do about a model that thinks, and says nothing."""
    if message.get("reasoning_content") or message.get("reasoning"):
        return (
            ": the model has only thought so far: raise max_tokens, or switch thinking off, for many models by "
            "extra: {chat_template_kwargs: {enable_thinking: false}}"
        )
    return ""
