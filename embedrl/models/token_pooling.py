"""Pooling of a side's token vectors to a budget: which tokens are put together, and their mean."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

TokenPooling = Literal["hierarchical", "sequential"]


@torch.no_grad()
def token_groups(vectors: Tensor, budget: int, pooling: TokenPooling) -> Tensor:
    """The group of each token, `[tokens]`, numbered in the order of their first tokens.

    Args:
        vectors: Unit vectors, `[tokens, dim]`.
        budget: At most this many groups; with no more tokens than that, each is a group of its own.
        pooling: `hierarchical`: Ward's clusters. `sequential`: runs of neighbours of nearly equal length.

    Source: Clavié et al. 2024 (arXiv 2409.14683), whose best method is the hierarchical one; ColPali's
    `HierarchicalTokenPooler`.
    """
    count = len(vectors)
    if count <= budget:
        return torch.arange(count, device=vectors.device)
    if pooling == "sequential":
        return torch.arange(count, device=vectors.device) * budget // count
    # Ward's method needs Euclidean distances; between unit vectors they are √(2 - 2 cos).
    tree = linkage(vectors.double().cpu().numpy(), method="ward")
    clusters = fcluster(tree, t=budget, criterion="maxclust").tolist()
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    return torch.tensor([numbers[cluster] for cluster in clusters], device=vectors.device)


def mean_of_groups(vectors: Tensor, groups: Tensor) -> Tensor:
    """The mean of each group, normalised again, `[groups, dim]`; gradients flow to every token.

    Args:
        vectors: Unit vectors, `[tokens, dim]`.
        groups: What `token_groups` returned.
    """
    sums = vectors.new_zeros(int(groups.max()) + 1, vectors.shape[1]).index_add(0, groups, vectors)
    return functional.normalize(sums, dim=-1)  # of a sum as of a mean


def pool_tokens(vectors: Tensor, budget: int, pooling: TokenPooling = "hierarchical") -> Tensor:
    """A side's token vectors, pooled to a budget, `[at most budget, dim]`.

    Args:
        vectors: Unit vectors, `[tokens, dim]`.
        budget: At most this many vectors.
        pooling: See `token_groups`.
    """
    return mean_of_groups(vectors, token_groups(vectors, budget, pooling))
