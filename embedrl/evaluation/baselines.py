"""Baselines to compare a metric with: chance, and a text search engine, which sees no pixels."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import mean_metrics
from embedrl.types import RetrievalTask

_K1, _B = 1.2, 0.75


def word_tokens(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and the marks that belong to letters, without case."""
    kept = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.casefold())
    return "".join(kept).split()


def bm25(queries: Sequence[str], documents: Sequence[str]) -> Tensor:
    """BM25 scores, `[queries, documents]`, float64; 0 where no word is shared.

    Each word of a query counts once. Stop words are not left out: they weigh little.

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, with
    `idf = ln(1 + (N - n + 0.5) / (n + 0.5))`, `k1 = 1.2`, `b = 0.75`, as in Lucene.

    Args:
        queries: The queries.
        documents: The documents, at least one.
    """
    counts = [Counter(word_tokens(document)) for document in documents]
    lengths = torch.tensor([sum(count.values()) for count in counts], dtype=torch.float64)
    norm = _K1 * (1 - _B + _B * lengths / lengths.mean().clamp(min=1))
    scores = torch.zeros(len(queries), len(documents), dtype=torch.float64)
    columns: dict[str, Tensor] = {}
    for row, query in enumerate(queries):
        for word in set(word_tokens(query)):
            if word not in columns:
                frequencies = torch.tensor([count[word] for count in counts], dtype=torch.float64)
                holders = int((frequencies > 0).sum())
                idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
                columns[word] = idf * frequencies * (_K1 + 1) / (frequencies + norm)
            scores[row] += columns[word]
    return scores


def text_only(task: RetrievalTask, texts: Sequence[str]) -> dict[str, float]:
    """Metrics of BM25 on a task whose queries are texts; ties pessimistic, as for a model.

    Args:
        task: The task.
        texts: The text that represents each candidate.
    """
    scores = bm25([side.text for side in task.queries], texts)
    return mean_metrics(rank(scores, torch.eye(len(texts), dtype=scores.dtype), task.qrels, task.pools))


def chance(task: RetrievalTask, k: int) -> float:
    """The expected hit@k of a random order, mean over queries: `1 - C(n - r, k) / C(n, k)`.

    Args:
        task: The task; `n` candidates per query, `r` of them relevant.
        k: The cut-off.
    """
    sizes = [len(task.candidates)] * len(task.qrels) if task.pools is None else [len(pool) for pool in task.pools]
    misses = [
        math.comb(n - _relevant(judged), min(k, n)) / math.comb(n, min(k, n))
        for n, judged in zip(sizes, task.qrels, strict=True)
    ]
    return 1 - sum(misses) / len(misses)


def _relevant(judged: Mapping[int, float]) -> int:
    return sum(value > 0 for value in judged.values())
