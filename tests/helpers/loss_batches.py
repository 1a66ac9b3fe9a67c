"""Batches for losses."""

import torch

from embedrl.losses.contrastive import batch_labels

NONE = torch.empty(0, 8, dtype=torch.float64)


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=-1)


def labels_of(queries, targets, negatives=(), counts=None, **scores):
    counts = ([len(negatives)] if len(negatives) else []) if counts is None else counts
    return batch_labels(*([str(k) for k in side] for side in (queries, targets, negatives)), counts, **scores)


def distinct(n, negatives=0, **scores):
    return labels_of(range(n), range(100, 100 + n), range(200, 200 + negatives), **scores)
