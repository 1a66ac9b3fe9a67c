"""Vectors whose scores are known."""

import math

import torch


def unit(*shape, seed=0):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def on_axis(*scores):
    """One query and candidates whose dot products with it are `scores`."""
    query = torch.tensor([[1.0, 0.0]])
    return query, torch.tensor([[s, math.sqrt(1 - s * s)] for s in scores])
