"""Is a candidate what a query asks for? The question, and pairs as lessons that teach a model to answer it.

Source: the reranker of Qwen3-VL-Embedding (arXiv 2601.04720): cross-entropy on yes or no, negatives mined or drawn.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from embedrl.data.lenient_render import as_lenient
from embedrl.data.render import RenderOptions, side_content
from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.prompts import Style
from embedrl.types import Chat, Lesson, Pair, Side

YES, NO = "yes", "no"
"""The two replies."""

_WORDS = {
    "full": (
        "Here is a query, then one candidate of a collection. Each may come with notes and close-ups of what matters.\n"
        "Query:",
        "Candidate:",
        f'Is the candidate what the query asks for? Reply "{YES}" or "{NO}".',
    ),
    "brief": ("query :", "target :", "match ?"),
}
_TRIES = 100  # draws after which a data set is taken to have no other target


def rerank_chat(query: Side, candidate: Side, render: RenderOptions, style: Style = "full", *, where: str = "") -> Chat:
    """The question whether a candidate is what a query asks for, with the T-CoTs and the evidence of both.

    Args:
        query: The query.
        candidate: The candidate.
        render: What to show of both; T-CoTs are read leniently, and a side without one is shown as it is.
        style: `full` explains the question; `brief` is for small models that were trained on it.
        where: `dataset/id`, put in front of every error.

    Returns:
        One user message, to which the reply is `YES` or `NO`.

    Raises:
        DataError: If a side is empty, or a picture is broken.
    """
    options = as_lenient(render)
    before, between, after = _WORDS[style]
    content: list[dict[str, Any]] = [{"type": "text", "text": f"{before}\n"}]
    content += side_content(query, options, where=f"{where} query".strip())
    content.append({"type": "text", "text": f"\n{between}\n"})
    content += side_content(candidate, options, where=f"{where} candidate".strip())
    content.append({"type": "text", "text": f"\n{after}"})
    return [{"role": "user", "content": content}]


class RerankLessons:
    """Pairs as lessons for a reranker: the target of a query is a yes, other targets are a no; a `LessonSource`.

    The negatives of a pair are its own hard negatives (`embedrl mine` finds some), then targets of other pairs of its
    data set, drawn by the seed and the row alone. A target that equals the pair's is never drawn.

    Args:
        sources: The data sets.
        negatives: Candidates that are a no, for each one that is a yes.
        style: Style of the question.
        render: What to show of both sides.
        limit: Use only this many pairs of every data set, the first ones; None means all.
        seed: Seed of the draw.

    Raises:
        ConfigError: If there is no source, a number is out of range, or a data set has a single pair.
    """

    def __init__(
        self,
        sources: Sequence[PairSource],
        negatives: int = 3,
        style: Style = "full",
        render: RenderOptions = RenderOptions(),  # noqa: B008 - frozen
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if not sources:
            raise ConfigError("rerank lessons need at least one source")
        if negatives < 1:
            raise ConfigError(f"negatives is {negatives}: give 1 or more, or every reply is a yes")
        self.sources, self.negatives, self.style, self.render = list(sources), negatives, style, render
        self.limit, self.seed = limit, seed
        self._sizes = [len(source) if limit is None else min(limit, len(source)) for source in sources]
        for source, size in zip(sources, self._sizes, strict=True):
            if size < 2:
                raise ConfigError(f"{source.name} has {size} pair: a negative is the target of another one; give more")
        self._ends = list(accumulate(size * (1 + negatives) for size in self._sizes))
        self.name = ", ".join(source.name for source in sources)

    def __len__(self) -> int:
        """Number of questions."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Lesson:
        """Question `index`: of one pair come the yes, then the noes.

        Raises:
            DataError: If a side is broken, or the data set has no other target; the message names `dataset/id`.
        """
        pair, candidate, relevant = self.question(index)
        chat = rerank_chat(pair.query, candidate, self.render, self.style, where=f"{pair.dataset}/{pair.id}")
        return Lesson(chat, YES if relevant else NO, f"{pair.dataset.rpartition('/')[2]}_rerank")

    def question(self, index: int) -> tuple[Pair, Side, bool]:
        """The pair of question `index`, the candidate, and whether it is what the query asks for.

        Raises:
            DataError: If the data set has no other target; the message names `dataset/id`.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        row, which = divmod(index - (self._ends[number - 1] if number else 0), 1 + self.negatives)
        source = self.sources[number]
        pair = source[row]
        if which == 0:
            return pair, pair.target, True
        return pair, self._negative(source, self._sizes[number], row, pair, which - 1), False

    def _negative(self, source: PairSource, size: int, row: int, pair: Pair, which: int) -> Side:
        """A candidate that is a no: each of a pair's is another one, as far as the data set has others."""
        if which < len(pair.negatives):
            return pair.negatives[which]
        rng = random.Random(f"{self.seed}/{source.name}/{row}")
        keys, drawn = {pair.target.key, *(side.key for side in pair.negatives)}, len(pair.negatives)
        for _ in range(_TRIES):
            side = source[rng.randrange(size)].target
            if side.key in keys:
                continue
            if drawn == which:
                return side
            keys.add(side.key)
            drawn += 1
        raise DataError(
            f"{pair.dataset}/{pair.id}: its data set has fewer than {which + 1} other targets; lower `negatives`"
        )
