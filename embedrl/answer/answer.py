"""An answer with its sources and the pictures in it, as an object, as Markdown, and as a folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from embedrl.answer.sentences import as_markdown, split_sentences
from embedrl.data.inserter import Placement
from embedrl.errors import ConfigError
from embedrl.metrics.placement import ReplyProblem
from embedrl.tcot.parser import parse
from embedrl.utils.atomic_files import replacing_folder

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedrl.index.hits import Hit

PAGE, PICTURES = "answer.md", "pictures"
_CAPTION = 200  # characters


@dataclass(frozen=True)
class AnswerSource:
    """An item of the index that an answer may rest on.

    Attributes:
        number: Its number in the answer, from 1; its picture has the same number.
        hit: The item, as the search returned it.
        image: Its picture as the models saw it; None of a text.
    """

    number: int
    hit: Hit
    image: Image | None = None

    @cached_property
    def text(self) -> str:
        """What is known of it in words, in one line: its text, then what its T-CoT answers."""
        answer = parse(self.hit.tcot, self.hit.modality).tcot.answer if self.hit.tcot else ""
        return " ".join(f"{self.hit.text} {answer}".split())

    @property
    def caption(self) -> str:
        """The beginning of its text; without one the name of its file."""
        return (self.text or " ".join(PurePath(self.hit.path).name.split()))[:_CAPTION]


@dataclass(frozen=True)
class Answer:
    """What a model answered to a question.

    Attributes:
        question: What was asked.
        text: The answer as the model wrote it, without what it thought aloud.
        sources: The items that it was given, the best first.
        placements: Pictures behind sentences, by their numbers.
        problems: What was wrong with the replies of the models.
    """

    question: str
    text: str
    sources: tuple[AnswerSource, ...]
    placements: tuple[Placement, ...] = ()
    problems: tuple[ReplyProblem, ...] = ()

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of the text; number 1 is the first."""
        return tuple(sentence.strip() for sentence in split_sentences(self.text))

    def source(self, number: int) -> AnswerSource:
        """The source of a number, from 1."""
        return self.sources[number - 1]

    def markdown(self, pictures: str | None = PICTURES) -> str:
        """The answer as Markdown: its text with pictures, then the numbered sources.

        Whatever models and items say is text there: no link, no picture and no HTML of theirs works.

        Args:
            pictures: The folder of the pictures' links, as `save` makes it; None names the pictures in words.
        """
        text = ""
        for number, sentence in enumerate(split_sentences(self.text), 1):
            text += as_markdown(sentence if not text.endswith("\n\n") else sentence.lstrip())
            for placement in self.placements:
                if placement.sentence == number:
                    text = f"{text.rstrip()}\n\n{self._picture(placement.image, pictures)}\n\n"
        lines = [f"{number}. {self._listed(number)}" for number in range(1, len(self.sources) + 1)]
        return f"{text.strip()}\n\n## Sources\n\n" + "\n".join(lines) + "\n"

    def save(self, folder: str | Path) -> Path:
        """Write `answer.md` and the pictures that it shows, as `pictures/<number>.jpg`.

        Args:
            folder: A new or an empty folder.

        Returns:
            The Markdown file.

        Raises:
            ConfigError: If the folder holds something.
        """
        check_new(folder)
        with replacing_folder(Path(folder)) as part:
            (part / PICTURES).mkdir()
            for placement in self.placements:
                image = self.source(placement.image).image
                assert image is not None  # only pictures are placed
                image.convert("RGB").save(part / PICTURES / f"{placement.image}.jpg", quality=92)
            (part / PAGE).write_text(self.markdown(), encoding="utf-8", errors="backslashreplace")
        return Path(folder) / PAGE

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.markdown(None)

    def _picture(self, number: int, pictures: str | None) -> str:
        caption = as_markdown(self.source(number).caption) or f"picture {number}"
        return f"(picture {number}: {caption})" if pictures is None else f"![{caption}]({pictures}/{number}.jpg)"

    def _listed(self, number: int) -> str:
        source = self.source(number)
        path = " ".join(source.hit.path.split())
        named = f" ({as_markdown(path)})" if path and path != source.caption else ""
        return f"{as_markdown(source.caption) or 'an item without a name'}{named}"


def check_new(folder: str | Path) -> None:
    """Refuse a folder that holds something: what is there would be lost.

    Raises:
        ConfigError: If it does.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"--out {path}: there is something already; give a new folder")
