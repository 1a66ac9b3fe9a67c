"""Orders the best candidates of a query anew: a vision-language model reads query and candidate together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from embedrl.data.rerank_lessons import rerank_chat
from embedrl.distributed.collectives import gather_objects, world_size
from embedrl.errors import ConfigError
from embedrl.inference.yes_no import YesNoModel
from embedrl.metrics.ranking import GRID, Ranking
from embedrl.types import Chat, RetrievalTask, Side


class Reranker(YesNoModel):
    """Says how surely a candidate is what the query asks for: sigmoid(log p(yes) - log p(no)).

    Both sides are shown with their T-CoTs and evidence, if they have some. Source: the reranker of Qwen3-VL-Embedding
    (arXiv 2601.04720).

    Args:
        generator: A model that learned it from `embedrl.data.RerankLessons`, such as `embedrl.QwenVLReasoner` on an
            exported folder; built when first used.
        render: What to show of both sides; T-CoTs are read leniently.
        style: Style of the question: that of the lessons.
        max_tokens: About how many tokens, padding included, go through the model at once.

    Raises:
        ConfigError: If the generator does not say how likely its replies are, or a number is out of range.
    """

    verb, noun = "rerank", "reranker"

    def score(self, query: Side, candidates: Sequence[Side], where: str = "") -> Tensor:
        """How surely each candidate is a yes: `logits` as probabilities, `[candidates]` in 0..1.

        Args:
            query: The query.
            candidates: The candidates.
            where: Name of the query for errors.

        Raises:
            DataError: If a side cannot be shown, or the model cannot read both at once.
            NonFiniteError: If the model gives NaN.
        """
        return self.logits(query, candidates, where).sigmoid()

    def logits(self, query: Side, candidates: Sequence[Side], where: str = "") -> Tensor:
        """What `score` is the sigmoid of: log p(yes) - log p(no), `[candidates]`, float32, on the CPU.

        Args:
            query: The query.
            candidates: The candidates.
            where: Name of the query for errors.

        Raises:
            DataError: If a side cannot be shown, or the model cannot read both at once.
            NonFiniteError: If the model gives NaN.
        """
        return self.answers([self.question(query, side, where) for side in candidates], where or "query")

    def question(self, query: Side, candidate: Side, where: str = "") -> Chat:
        """What the model is asked about one candidate.

        Args:
            query: The query.
            candidate: The candidate.
            where: Name of the query for errors.
        """
        return rerank_chat(query, candidate, self.render, self.style, where=where)

    def rerank(self, task: RetrievalTask, ranking: Ranking, depth: int, rank: int = 0) -> Ranking:
        """The ranking with the best candidates of every query in a new order, distributed over ranks.

        A relevant candidate ranks behind the less relevant ones of equal score, as in `embedrl.metrics.rank`. What
        stood behind the first `depth` candidates stays where it is.

        Args:
            task: The task that was ranked.
            ranking: Its ranking.
            depth: How many of the best candidates of every query are read.
            rank: Rank of this process.

        Raises:
            ConfigError: If `depth` is below 1, or above what the ranking keeps of a larger pool.
            DataError: If a side cannot be shown; the message names the task and the query.
        """
        if depth < 1:
            raise ConfigError(f"rerank depth is {depth}: give 1 or more")
        width = ranking.indices.shape[1]
        pool = len(task.candidates) if task.pools is None else max(map(len, task.pools))
        if width < min(depth, pool):
            raise ConfigError(
                f"rerank depth is {depth}, but the ranking keeps {width} candidates: rank with k >= depth"
            )
        depth = min(depth, width)
        mine = []
        for row in range(rank, len(task.queries), world_size()):
            kept = [i for i in ranking.indices[row, :depth].tolist() if i >= 0]
            sides = [task.candidates[i] for i in kept]
            # Logits: scores of a sure model tie at 1.
            mine.append((row, self.logits(task.queries[row], sides, f"{task.name}/query {row}").tolist()))
        scores = torch.full(ranking.scores.shape, -torch.inf, dtype=ranking.scores.dtype)
        for row, values in gather_objects(mine):
            scores[row, : len(values)] = torch.tensor(values, dtype=scores.dtype)
        return reordered(ranking, scores[:, :depth])


def reordered(ranking: Ranking, scores: Tensor) -> Ranking:
    """A ranking with its first candidates in the order of other scores.

    Args:
        ranking: The ranking.
        scores: Scores of the first candidates, `[queries, depth]`; `-inf` where there is none.
    """
    depth = scores.shape[1]
    relevance, first = ranking.relevance[:, :depth], ranking.indices[:, :depth]
    steps = (scores.double() / GRID).round()
    # Three stable sorts, the last one deciding: by position, then the less relevant first, then by score.
    order = first.argsort(dim=1, stable=True)
    order = order.gather(1, relevance.gather(1, order).argsort(dim=1, stable=True))
    order = order.gather(1, steps.gather(1, order).argsort(dim=1, descending=True, stable=True))

    def put(values: Tensor, new: Tensor) -> Tensor:
        return torch.cat([new.gather(1, order).to(values.dtype), values[:, depth:]], dim=1)

    return replace(
        ranking,
        indices=put(ranking.indices, first),
        scores=put(ranking.scores, scores),
        relevance=put(ranking.relevance, relevance),
    )
