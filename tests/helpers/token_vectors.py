"""Token vectors of sides, and a small backbone that gives some."""

import torch
from fake_backbone import FakeBackbone
from torch import nn


def tokens(*counts, dim=4, seed=0, dtype=torch.float64):
    """Unit vectors of sides with these numbers of tokens, padded with zeros."""
    g = torch.Generator().manual_seed(seed)
    sides = [nn.functional.normalize(torch.randn(n, dim, generator=g, dtype=dtype), dim=-1) for n in counts]
    return nn.utils.rnn.pad_sequence(sides, batch_first=True)


def slow_maxsim(query, document):
    """The mean over a query's tokens of the best dot product, by plain loops; padding is rows of zeros."""
    query, document = ([row.tolist() for row in side if any(row.tolist())] for side in (query, document))
    best = [max(sum(a * b for a, b in zip(q, d, strict=True)) for d in document) for q in query]
    return sum(best) / len(best)


class FakeTokens(FakeBackbone):
    """One to four vectors a side."""

    multi_vector = True

    def encode(self, inputs):
        x = inputs["x"]
        counts = 1 + (2 * x[:, 0].abs()).long().clamp(max=3)
        places = torch.arange(int(counts.max()))
        vectors = self.net(x[:, None] + places[:, None]).float()
        vectors = nn.functional.normalize(vectors, dim=-1)
        return vectors * (places < counts[:, None])[..., None]
