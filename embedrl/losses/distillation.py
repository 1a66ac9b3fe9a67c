"""Distillation from scores: the Embedder learns how a teacher spreads its belief over a query's candidates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError, DataError
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss
from embedrl.losses.graded import CURE, check_scored, own_similarities


class Distillation(ContrastiveLoss):
    """KL(teacher ‖ Embedder) between softmaxes over a query's target and its k hard negatives, mean over such queries.

    The teacher's scores (a reranker's, or another Embedder's cosines) stand in the mix. Pairs without scores or without
    negatives do not count. Source: Qwen3-VL-Embedding (arXiv 2601.04720), stage 3.

    Args:
        temperature: Of the Embedder's cosines.
        teacher_temperature: Of the teacher's scores: 1 for logits of a reranker, the teacher's own for cosines.

    Raises:
        ConfigError: If a temperature is not positive.
    """

    def __init__(self, temperature: float = 0.02, teacher_temperature: float = 1.0) -> None:
        for name, value in (("temperature", temperature), ("teacher_temperature", teacher_temperature)):
            if not value > 0:
                raise ConfigError(f"loss.{name} is {value}: give a positive number")
        self.temperature, self.teacher_temperature = temperature, teacher_temperature

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, labels: BatchLabels
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metric is the share of queries whose best candidate is the teacher's.

        Raises:
            DataError: If no pair of the batch has scores for its target and at least one negative, or a pair has them
                for some of its candidates only.
        """
        check_scored(labels, "Distillation")
        positive, other = own_similarities(queries, targets, negatives, labels)
        student = _table(positive, other, labels.owners) / self.temperature
        teacher = _table(labels.scores, labels.negative_scores, labels.owners) / self.teacher_temperature
        some = (~labels.scores.isnan()).long()
        some = some.index_add(0, labels.owners, (~labels.negative_scores.isnan()).long())
        all_of = 1 + torch.bincount(labels.owners, minlength=len(some))
        if bool(((some > 0) & (some < all_of)).any()):
            raise DataError(f"Distillation: a pair has scores for some of its candidates only: {CURE}")
        rows = (some > 1).nonzero().flatten()
        if not len(rows):
            raise DataError(f"Distillation: no pair of this batch has a scored negative: {CURE}")
        student, teacher = student[rows], teacher[rows].to(student.dtype)
        terms = functional.kl_div(_log_softmax(student), _log_softmax(teacher), reduction="none", log_target=True)
        loss = terms.masked_fill(teacher == -torch.inf, 0.0).sum() / len(rows)
        return loss, {"teacher_agreement": (student.argmax(1) == teacher.argmax(1)).to(loss.dtype).mean()}


def _table(first: Tensor, others: Tensor, owners: Tensor) -> Tensor:
    """Values of each pair's candidates in a row, the target first, then `-inf`: `[pairs, 1 + most]`."""
    counts = torch.bincount(owners, minlength=len(first))
    starts = counts.cumsum(0) - counts
    order = owners.argsort(stable=True)
    places = torch.arange(len(owners), device=owners.device) - starts[owners[order]]
    table = first.new_full((len(first), 1 + int(counts.max())), -torch.inf)
    columns = (owners[order], 1 + places)
    return table.index_put((torch.arange(len(first), device=first.device), torch.zeros_like(counts)), first).index_put(
        columns, others[order]
    )


def _log_softmax(logits: Tensor) -> Tensor:
    """Over the candidates; absent ones keep a finite value, which is masked afterwards."""
    absent = logits == -torch.inf
    return functional.log_softmax(logits, dim=1).masked_fill(absent, 0.0)
