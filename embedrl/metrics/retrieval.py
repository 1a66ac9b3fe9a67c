"""Retrieval metrics of an exact ranking: per query, as means, and as `torchmetrics.Metric` classes that a YAML names.

Ties count against the model (`embedrl.metrics.ranking`). torchmetrics' own retrieval classes (`RetrievalHitRate`, ...)
take raw scores and leave equal ones in the order in which `argsort` returns them: an encoder that maps everything to
one vector can score a perfect hit rate there, and 0 here. They agree where no scores tie; the tests show both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from embedrl.errors import ConfigError
from embedrl.metrics.ranking import Ranking

KS = (1, 5, 10)
"""The cut-offs of `mean_metrics`."""

Gain = Literal["linear", "exponential"]


class RankingMetric(Metric, ABC):
    """A `torchmetrics.Metric` that is updated with rankings: what the slots for metrics in a YAML take.

    A subclass adds its states (`add_state`), and defines `update` and `compute` as torchmetrics wants them. For a mean
    over queries `RetrievalMetric` has them. It keeps its arguments as attributes, so that checkpoints can hold it.

    Attributes:
        k: How many of the best candidates it reads.
    """

    k: int = max(KS)

    @property
    def name(self) -> str:
        """Name in the log: the class's, unless a subclass says otherwise."""
        return type(self).__name__

    @abstractmethod
    def update(self, ranking: Ranking) -> None:
        """Add the queries of a ranking."""

    @abstractmethod
    def compute(self) -> Tensor:
        """The figure of all queries so far, a scalar."""


class RetrievalMetric(RankingMetric):
    """The mean over queries of a figure that is read off a ranking, cut off after the best k candidates.

    Its states are the sum over queries and their number, so that `compute` returns the mean over the queries of all
    processes. A subclass defines `per_query`.

    Args:
        k: How many of the best candidates count.

    Attributes:
        label: First half of the name in the log, as in `hit@5`.

    Raises:
        ConfigError: If k is below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    label: ClassVar[str]
    total: Tensor
    queries: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ConfigError(f"{type(self).__name__}: k is {k}: give 1 or more")
        self.k = k
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("queries", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def name(self) -> str:
        """Name in the log, such as `hit@5`."""
        return f"{self.label}@{self.k}"

    @abstractmethod
    def per_query(self, ranking: Ranking) -> Tensor:
        """The figure of every query, `[queries]`, float64.

        Args:
            ranking: A ranking that keeps at least k candidates.
        """

    def update(self, ranking: Ranking) -> None:
        """Add the queries of a ranking.

        Raises:
            ValueError: If the ranking keeps fewer than k candidates.
        """
        values = self.per_query(ranking)
        self.total += values.sum().to(self.total.device)
        self.queries += len(values)

    def compute(self) -> Tensor:
        """The mean over queries."""
        return self.total / self.queries

    def _hits(self, ranking: Ranking) -> Tensor:
        """1 where a relevant candidate stands, `[queries, k]`."""
        return (self._relevance(ranking) > 0).double()

    def _relevance(self, ranking: Ranking) -> Tensor:
        if self.k > ranking.relevance.shape[1]:
            raise ValueError(f"the ranking keeps {ranking.relevance.shape[1]} candidates: rank with k >= {self.k}")
        return ranking.relevance[:, : self.k]


class HitRate(RetrievalMetric):
    """1 if a relevant candidate is among the best k (accuracy for k = 1)."""

    label = "hit"

    def per_query(self, ranking: Ranking) -> Tensor:
        """1 or 0."""
        return self._hits(ranking).amax(1)


class Precision(RetrievalMetric):
    """Relevant candidates among the best k, over k."""

    label = "precision"

    def per_query(self, ranking: Ranking) -> Tensor:
        """`hits / k`."""
        return self._hits(ranking).sum(1) / self.k


class Recall(RetrievalMetric):
    """Relevant candidates among the best k, over all relevant ones."""

    label = "recall"

    def per_query(self, ranking: Ranking) -> Tensor:
        """`hits / |L|`, L the query's relevant candidates."""
        return self._hits(ranking).sum(1) / ranking.num_relevant.double()


class F1(RetrievalMetric):
    """Harmonic mean of precision and recall."""

    label = "f1"

    def per_query(self, ranking: Ranking) -> Tensor:
        """`2 · hits / (k + |L|)`, which is 2PR / (P + R), also where both are 0."""
        return 2 * self._hits(ranking).sum(1) / (self.k + ranking.num_relevant.double())


class MAP(RetrievalMetric):
    """Average precision: the mean of the precisions at the places of the hits."""

    label = "map"

    def per_query(self, ranking: Ranking) -> Tensor:
        """`Σ P@i · hit_i / min(|L|, k)`."""
        hits = self._hits(ranking)
        precisions = hits.cumsum(1) / _places(self.k, hits.device)
        return (precisions * hits).sum(1) / ranking.num_relevant.double().clamp(max=self.k)


class MRR(RetrievalMetric):
    """Reciprocal rank of the first hit; 0 without one."""

    label = "mrr"

    def per_query(self, ranking: Ranking) -> Tensor:
        """`1 / rank`."""
        hits = self._hits(ranking)
        return (hits / _places(self.k, hits.device)).amax(1)


class NDCG(RetrievalMetric):
    """Discounted cumulative gain, over that of the best possible ranking; the discount is `1 / log2(place + 1)`.

    Args:
        k: How many of the best candidates count.
        gain: What a candidate of relevance r is worth: r (`linear`) or `2^r - 1` (`exponential`).

    Raises:
        ConfigError: If an option is out of range.
    """

    label = "ndcg"

    def __init__(self, k: int, gain: Gain = "linear") -> None:
        super().__init__(k)
        if gain not in ("linear", "exponential"):
            raise ConfigError(f"NDCG: gain is {gain!r}: give linear or exponential")
        self.gain = gain

    @property
    def name(self) -> str:
        """`ndcg@5`, `ndcg_exponential@5`."""
        return super().name if self.gain == "linear" else f"{self.label}_{self.gain}@{self.k}"

    def per_query(self, ranking: Ranking) -> Tensor:
        """`DCG / ideal DCG`."""
        relevance, ideal = self._relevance(ranking), ranking.ideal[:, : self.k]
        if self.gain == "exponential":
            relevance, ideal = 2**relevance - 1, 2**ideal - 1
        discount = 1 / torch.log2(_places(self.k, relevance.device) + 1)
        return (relevance * discount).sum(1) / (ideal * discount).sum(1)


def per_query_metrics(ranking: Ranking, ks: Sequence[int] = KS) -> dict[str, Tensor]:
    """The figures of an evaluation for every query, `{"hit@1": [queries], ...}`.

    Their names are those of the leaderboards: nDCG is `ndcg_linear@k` and `ndcg_exponential@k`.

    Args:
        ranking: A ranking that keeps at least `max(ks)` candidates.
        ks: The cut-offs.

    Raises:
        ValueError: If the ranking keeps fewer.
    """
    out: dict[str, Tensor] = {}
    for k in ks:
        families: list[RetrievalMetric] = [HitRate(k), Precision(k), Recall(k), F1(k), MAP(k), MRR(k)]
        out |= {metric.name: metric.per_query(ranking) for metric in families}
        out[f"ndcg_linear@{k}"] = NDCG(k).per_query(ranking)
        out[f"ndcg_exponential@{k}"] = NDCG(k, "exponential").per_query(ranking)
    return out


def mean_metrics(ranking: Ranking, ks: Sequence[int] = KS) -> dict[str, float]:
    """The mean over queries of every figure; `Args` as in `per_query_metrics`."""
    return {name: values.mean().item() for name, values in per_query_metrics(ranking, ks).items()}


def training_metrics() -> list[RankingMetric]:
    """What validations log unless a YAML names other metrics: hit@1, hit@5, hit@10 and ndcg@5."""
    return [HitRate(1), HitRate(5), HitRate(10), NDCG(5)]


def check_metrics(metrics: Sequence[RankingMetric], flag: str) -> None:
    """Refuse metrics that would overwrite each other in the log.

    Args:
        metrics: The metrics.
        flag: Where they were given, such as `model.metrics`.

    Raises:
        ConfigError: If two have one name, or there is none.
    """
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{flag} has more than one {twice[0]}: leave one out, or give its class another `name`")
    if not names:
        raise ConfigError(f"{flag} is empty: name a metric, or leave {flag} out")


def score(ranking: Ranking, metrics: Sequence[RankingMetric]) -> Mapping[str, float]:
    """The value of every metric on one ranking, by its name in the log.

    Nothing is exchanged between processes and no state is left behind: every process has the whole ranking.

    Args:
        ranking: The ranking.
        metrics: The metrics.

    Raises:
        ConfigError: If a metric does not return a number.
    """
    return {metric.name: _value(metric, ranking) for metric in metrics}


def _value(metric: RankingMetric, ranking: Ranking) -> float:
    metric.reset()
    value: Any = metric(ranking)  # `forward`, unlike `compute`, does not synchronise
    metric.reset()
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ConfigError(f"the metric {metric.name} returned {value!r}: `compute` must return one number")
    return value.item()


def _places(k: int, device: torch.device) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64, device=device)
