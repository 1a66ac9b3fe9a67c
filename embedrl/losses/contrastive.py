"""Contrastive losses on vectors.

A loss sees the vectors of the whole contrastive batch, gathered over all ranks, and nothing of the model: the
`EmbedderModule` gathers, and sends the gradient back. So a loss of your own is one class, exact on any number of ranks
and micro-batches.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from embedrl.errors import ConfigError


@dataclass(frozen=True)
class PairKeys:
    """The content of the rows of a batch, so that a loss can distinguish duplicates from negatives.

    Attributes:
        queries: Hash of each query's content, `[pairs]`, int64.
        targets: Hash of each target's content, `[pairs]`, int64.
        negatives: Hash of each hard negative's content, `[negatives]`, int64.
    """

    queries: Tensor
    targets: Tensor
    negatives: Tensor


def key_hashes(keys: Sequence[str]) -> Tensor:
    """Content keys as int64 numbers, `[len(keys)]`, equal on every rank and in every run."""
    digests = (hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.long)


class ContrastiveLoss(ABC):
    """The contract of a loss; subclass it and name the class in the YAML (`loss: {class_path: ..., init_args: ...}`).

    Keep every argument of `__init__` as an attribute of the same name: checkpoints rebuild the loss from them.
    """

    @abstractmethod
    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, keys: PairKeys
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a contrastive batch.

        Args:
            queries: Unit vectors, `[pairs, dim]`.
            targets: Unit vectors, `[pairs, dim]`; row i belongs to query i.
            negatives: Unit vectors of the hard negatives of all pairs, `[negatives, dim]`; may have no rows.
            keys: The content of every row.

        Returns:
            The loss (a scalar: the mean over pairs) and metrics to log as `train/<name>`.
        """


class InfoNCE(ContrastiveLoss):
    """InfoNCE averaged over both directions (query → target, target → query). Source: Embed-RL §3.1, Eq. 1.

    Every other pair of the batch is a negative; hard negatives join the candidates of all queries.

    Args:
        temperature: τ; 0.02 is a logit scale of 50.
        mask_duplicates: Leave out a candidate with the content of a known positive: of the row's own target, or of
            another target of the same query in the batch. False reproduces the paper, where they are false negatives.

    Raises:
        ConfigError: If `temperature` is not positive.
    """

    def __init__(self, temperature: float = 0.02, mask_duplicates: bool = True) -> None:
        if temperature <= 0:
            raise ConfigError(f"loss.temperature is {temperature}: give a positive number, such as 0.02")
        self.temperature = temperature
        self.mask_duplicates = mask_duplicates

    def __call__(
        self, queries: Tensor, targets: Tensor, negatives: Tensor, keys: PairKeys
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `ContrastiveLoss`; the metrics are those of the direction query → target."""
        with torch.autocast(queries.device.type, enabled=False):
            similarity = queries @ torch.cat([targets, negatives]).T
        pairs = len(queries)
        masked = self._masked(keys)
        rows = torch.arange(pairs, device=queries.device)
        logits = (similarity / self.temperature).masked_fill(masked, -torch.inf)
        there = functional.cross_entropy(logits, rows)
        back = functional.cross_entropy(logits[:, :pairs].T, rows)  # a known pair is masked in both directions
        return (there + back) / 2, _metrics(similarity.detach(), masked)

    @torch.no_grad()
    def _masked(self, keys: PairKeys) -> Tensor:
        """True where a candidate is a duplicate of a positive, `[pairs, pairs + negatives]`; never on the diagonal."""
        pairs = len(keys.targets)
        candidates = torch.cat([keys.targets, keys.negatives])
        if not self.mask_duplicates:
            return torch.zeros(pairs, len(candidates), dtype=torch.bool, device=candidates.device)
        same_query = (keys.queries[:, None] == keys.queries).float()
        same_target = (keys.targets[:, None] == candidates).float()
        masked = same_query @ same_target > 0  # some pair has this row's query and this candidate as its target
        masked.fill_diagonal_(False)
        return masked


@torch.no_grad()
def _metrics(similarity: Tensor, masked: Tensor) -> dict[str, Tensor]:
    """In-batch hit@1 (a tie is a miss), mean similarities, and the share of negatives that were masked."""
    positive = similarity.diagonal()
    other = ~masked
    other.fill_diagonal_(False)
    best_other = similarity.masked_fill(~other, -torch.inf).amax(1)
    count = max(similarity.numel() - len(similarity), 1)
    return {
        "hit@1": (positive > best_other).to(similarity.dtype).mean(),
        "similarity_positive": positive.mean(),
        "similarity_negative": (similarity * other).sum() / other.sum().clamp(min=1),
        "masked": masked.sum() / count,
    }
