"""Video question answering: a video with a question against the question's own options."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from string import ascii_uppercase

from embedrl.evaluation.readers.build import TaskBuilder, UnusableError
from embedrl.evaluation.readers.files import Row, frames, joined, read_rows
from embedrl.types import Side


def read(build: TaskBuilder, root: Path) -> None:
    """Read rows of a question, its options and the right one; the table's options name the columns.

    `video`: the frame folder, `{column}` filled in (`{subset}` is the file's name). `answers`: the column of the
    options, or several columns, or the options themselves after `=`. `correct`: whether `answer` is the option's text,
    its letter or its index. `shown`: how the question shows the options. `encoded`: what of an option is embedded.

    Args:
        build: Takes the queries and candidates.
        root: The root of the local copy.

    Raises:
        DataError: As `read_task`.
    """
    row_options = build.row.options
    for index, row in enumerate(read_rows(root / build.row.paths["rows"])):
        with build.unless_bad(row.where):
            options = _options(row, row_options["answers"])
            right = _right(row, row_options["correct"], options)
            shown = _shown(row.text("question"), options, row_options["shown"])
            video = frames(root, build.row.paths["frames"], _filled(row, row_options["video"]))
            query = Side(joined(build.row.instruction, shown), frames=video)
            lettered = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
            names = lettered if row_options["encoded"] == "lettered" else options
            for name in names:
                build.candidate(name, partial(Side, _bare(name) if row_options["encoded"] == "bare" else name))
            build.query(str(index), query, {names[right]: 1.0}, names)


def _options(row: Row, answers: str) -> list[str]:
    if answers.startswith("="):
        return answers[1:].split()
    keys = answers.split()
    return row.texts(keys[0]) if len(keys) == 1 else [row.text(key) for key in keys]


def _right(row: Row, kind: str, options: list[str]) -> int:
    """The index of the right option."""
    if kind == "index":
        number = row.number("answer")
        place = int(number) if number.is_integer() else -1
    else:
        answer = row.text("answer")
        known = list(ascii_uppercase[: len(options)]) if kind == "letter" else options
        place = known.index(answer) if answer in known else -1
    if not 0 <= place < len(options):
        raise UnusableError(
            "unreadable row", f"the answer {row.values['answer']!r:.60} is none of its {len(options)} options"
        )
    return place


def _shown(question: str, options: list[str], form: str) -> str:
    """The question with its options, in the form of the public protocol."""
    if form == "lettered":
        lines = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
        return "\n".join([question, "Options:", *lines])
    if form == "lines":
        return "\n".join([question, *options])
    return f"{question}? (A) yes; (B) no." if form == "yes_no" else question + " ".join(options)


def _bare(option: str) -> str:
    """`x` of an option `A. x`; an option without a letter stays as it is."""
    letter, dot, text = option.partition(". ")
    return text.strip(". ") if dot and len(letter) == 1 else option


def _filled(row: Row, template: str) -> str:
    """A template with the row's columns filled in."""
    for key in [part.split("}")[0] for part in template.split("{")[1:]]:
        template = template.replace(f"{{{key}}}", row.file if key == "subset" else row.name(key))
    return template
