"""`embedrl answer`: a question to an index, answered by a model, with sources and pictures."""

from __future__ import annotations

import sys
from pathlib import Path

from embedrl.answer.answer import check_new
from embedrl.answer.asking import Pictures, answer_question
from embedrl.commands.index import Device, open_with_models
from embedrl.construction.vlm import VLM
from embedrl.errors import ConfigError
from embedrl.tcot.prompts import Style
from embedrl.utils.console import escaped, tell


def answer(
    index: str,
    question: str | None = None,
    vlm: VLM | None = None,
    inserter: VLM | None = None,
    k: int = 8,
    where: str | None = None,
    reason: bool = False,
    hybrid: bool = False,
    pictures: Pictures = "thumbnails",
    out: Path | None = None,
    embedder: str | None = None,
    reasoner: str | None = None,
    style: Style | None = None,
    inserter_style: Style = "full",
    device: Device = "auto",
) -> None:
    """Answer a question from the items of an index: Markdown with numbered sources, and pictures behind the sentences.

    What a model writes never ends the command: what is wrong with it is named on stderr, and what can be read is used.

    Args:
        index: The index.
        question: The question.
        vlm: The model that answers: `embedrl.construction.LocalVLM` in this process, or
            `embedrl.construction.EndpointVLM` behind an OpenAI-compatible endpoint.
        inserter: The model that places the pictures; by default the one that answers.
        k: Number of items that the model is given.
        where: Only rows for which this SQL condition over the index's columns holds, such as `year > 2020`.
        reason: Let the Reasoner write the question's T-CoT before the search.
        hybrid: Rank by the words of the question, too (reciprocal rank fusion with full text).
        pictures: What the models see and `--out` holds: the index's thumbnails, or the items' own files.
        out: Write `answer.md` and its pictures into this new folder; by default the Markdown is printed.
        embedder: Where the index's model lies now, if not where it was.
        reasoner: A Reasoner for `--reason`; by default the one that the index was made with.
        style: That Reasoner's prompt; by default the index's.
        inserter_style: The inserter's prompt: `full` explains it; `brief` is for models that were trained on it.
        device: Where the index's models compute; auto takes a GPU if there is one.

    Raises:
        ConfigError: If a flag is wrong or missing.
        DataError: If there is no index, or the search returns nothing.
        EndpointError: If an endpoint does not answer.
    """
    if not (question and question.strip()):
        raise ConfigError("--question is missing: give one")
    if vlm is None:
        raise ConfigError(
            "--vlm is missing: name the model that answers, such as "
            "--vlm embedrl.construction.LocalVLM --vlm.path MODEL"
        )
    if out is not None:
        check_new(out)
    opened = open_with_models(index, embedder, reasoner, device, reason, style)
    done = answer_question(
        opened, question, vlm, inserter,
        k=k, where=where, reason=reason, hybrid=hybrid, pictures=pictures, style=inserter_style,
    )  # fmt: skip
    for problem in done.problems:
        tell(f"in a model's reply: {problem}")
    if out is None:
        sys.stdout.write(escaped(done.markdown(None)))
    else:
        tell(f"wrote {done.save(out)}")
