"""Which pictures belong behind which sentences of an answer? The question to a model, and the reply it should give.

Source: the inserter of M2IO-R1 (arXiv 2508.06328); the words and the form of the reply are this project's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedrl.tcot.prompts import Style
from embedrl.types import Chat
from embedrl.utils.reserved_words import escape

if TYPE_CHECKING:
    from PIL.Image import Image

_WORDS = {
    "full": (
        "Here are a question, the numbered sentences of its answer, and numbered pictures. Choose the pictures that "
        "show what a sentence says, and place each after that sentence. Leave out pictures of what the answer does not "
        'speak of. Reply with a JSON list alone, such as [{"image": 2, "sentence": 1}], in the order of the sentences; '
        "with [] if no picture belongs there.",
        "Question: ",
        "Sentence {}: {}",
        "Picture {}: {}",
        "The JSON list:",
    ),
    "brief": ("which picture matches which row ?", "question : ", "row {} : {}", "picture {} : {}", "answer :"),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """A picture in an answer.

    Attributes:
        image: Number of the picture.
        sentence: Number of the sentence that it stands behind, from 1.
    """

    image: int
    sentence: int


@dataclass(frozen=True, slots=True)
class NumberedPicture:
    """A picture that may be placed.

    Attributes:
        number: Its number in prompt and reply.
        caption: What it shows, in words; may be empty.
        image: Its pixels.
    """

    number: int
    caption: str
    image: Image


def inserter_chat(
    question: str, sentences: Sequence[str], pictures: Sequence[NumberedPicture], style: Style = "full"
) -> Chat:
    """The request to place pictures behind the sentences of an answer.

    Texts are data: each is written in one line, and words that a tokenizer would read as its own are escaped.

    Args:
        question: What was asked.
        sentences: The answer's sentences; the first one has number 1.
        pictures: The pictures.
        style: `full` explains the request; `brief` is for small models that were trained on it.

    Returns:
        One user message, to which the reply is what `placement_reply` writes.
    """
    instruction, asks, says, shows, end = _WORDS[style]
    lines = [instruction, asks + _line(question)]
    lines += [says.format(number, _line(sentence)) for number, sentence in enumerate(sentences, 1)]
    content: list[dict[str, Any]] = [{"type": "text", "text": escape("\n".join(lines)) + "\n"}]
    for picture in pictures:
        caption = escape(shows.format(picture.number, _line(picture.caption)).rstrip())
        content += [{"type": "text", "text": f"{caption}\n"}, {"type": "image", "image": picture.image}]
    content.append({"type": "text", "text": end})
    return [{"role": "user", "content": content}]


def placement_reply(placements: Sequence[Placement]) -> str:
    """Placements as the reply that the inserter gives.

    >>> placement_reply([Placement(image=2, sentence=1)])
    '[{"image": 2, "sentence": 1}]'
    """
    return json.dumps([{"image": one.image, "sentence": one.sentence} for one in placements])


def _line(text: str) -> str:
    return " ".join(text.split())
