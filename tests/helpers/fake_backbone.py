"""A backbone that is a small MLP with dropout, and data for it: what the Embedder's tests run on."""

from pathlib import Path

import torch
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.utilities import dim_zero_cat

from embedrl.data.collate import ContrastiveBatch, EncodeBatch, Place
from embedrl.data.on_bad import BadSample
from embedrl.metrics.retrieval import RankingMetric
from embedrl.models.backbone import Backbone
from embedrl.types import RetrievalTask, Side

INPUT = 8


class FakeBackbone(Backbone):
    def __init__(self, dim: int = 16, dropout: float = 0.1, seed: int = 0, poison: str = "") -> None:
        super().__init__()
        self.dim, self.dropout, self.seed, self.poison = dim, dropout, seed, poison
        self.net: nn.Sequential | None = None

    def build(self):
        if self.net is not None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.net = nn.Sequential(
                nn.Linear(INPUT, 32),
                nn.Tanh(),
                nn.Dropout(self.dropout),
                nn.Sequential(nn.Linear(32, 32), nn.Tanh()),
                nn.Dropout(self.dropout),
                nn.Linear(32, self.dim, bias=False),
            )
        self.net[0].requires_grad_(False)
        self.calls = 0

    def preprocessor(self):
        raise NotImplementedError

    def encode(self, inputs):
        self.calls += 1
        vectors = nn.functional.normalize(self.net(inputs["x"]).float(), dim=-1)
        if self.poison == "gradient" and vectors.requires_grad:
            vectors.register_hook(lambda g: g * torch.inf)
        return vectors

    def shard_units(self):
        return [self.net[3]]

    def export(self, out: Path, merge: bool = True):
        raise NotImplementedError


class MeanRelevantScore(RankingMetric):
    """A metric that is not the kit's: the mean score of the relevant candidates among the best."""

    full_state_update = False
    name = "relevant_score"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, ranking) -> None:
        self.scores.append(ranking.scores[ranking.relevance > 0])

    def compute(self):
        return self.scale * dim_zero_cat(self.scores).mean()


def contrastive_batch(step, pairs=12, micro_batch_size=5, rank=0, world=1, negatives=True):
    """This rank's share of a global batch that is a function of the step; negatives are ragged, targets repeat."""
    g = torch.Generator().manual_seed(1000 + step)
    latent = torch.randn(pairs, INPUT, generator=g)
    latent[pairs - 1] = latent[0]
    queries = latent + 0.3 * torch.randn(pairs, INPUT, generator=g)
    hard = latent[:, None] + 0.5 * torch.randn(pairs, 3, INPUT, generator=g)
    counts = [(3 if i < 2 else i % 3) if negatives else 0 for i in range(pairs)]
    mine = range(rank * pairs // world, (rank + 1) * pairs // world)
    flat = torch.cat([queries[mine], latent[mine], *(hard[i, : counts[i]] for i in mine)])
    order = torch.randperm(len(flat), generator=g)
    return ContrastiveBatch(
        micro_batches=[{"x": part} for part in flat[order].split(micro_batch_size)],
        order=order,
        num_pairs=len(mine),
        query_keys=[f"q{i}" for i in mine],
        target_keys=[f"t{i % (pairs - 1)}" for i in mine],
        negative_counts=[counts[i] for i in mine],
        negative_keys=[f"n{i}.{j}" for i in mine for j in range(counts[i])],
        datasets=["fake"] * len(mine),
        ids=[f"id{i}" for i in mine],
        scores=[float(i) for i in mine],
        negative_scores=[i + j / 10 for i in mine for j in range(counts[i])],
        skipped=[BadSample("fake", "id", "broken_row", "one line")] if step == 2 and rank == 0 else [],
    )


class StatefulLoader:
    """Batches by position; remembers how many it has handed out."""

    def __init__(self, make, length):
        self.make, self.length, self.seen = make, length, 0

    def __len__(self):
        return self.length

    def __iter__(self):
        while self.seen < self.length:
            self.seen += 1
            yield self.make(self.seen - 1)
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def fake_task(name, seed):
    """A task with its sides' inputs: queries are noisy candidates; query q's answer is candidate q."""
    g = torch.Generator().manual_seed(seed)
    candidates = torch.randn(20, INPUT, generator=g)
    queries = candidates[:7] + 0.05 * torch.randn(7, INPUT, generator=g)
    sides = [Side(text=f"{name} {i}") for i in range(20)]
    return RetrievalTask(name, sides[:7], sides, [{i: 1.0} for i in range(7)]), queries, candidates


class FakeData(LightningDataModule):
    def __init__(self, batches=12, micro_batch_size=5, pairs=12, families=("alpha", "beta")):
        super().__init__()
        self.batches, self.micro_batch_size, self.pairs = batches, micro_batch_size, pairs
        self.made = [fake_task(name, seed) for seed, name in enumerate(families)]
        self.tasks = [task for task, _, _ in self.made]

    def _train_batch(self, step):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return contrastive_batch(step, self.pairs, self.micro_batch_size, rank, world)

    def train_dataloader(self):
        return StatefulLoader(self._train_batch, self.batches)

    def _encode_batch(self, index):
        """Batch 2i embeds task i's queries, batch 2i + 1 its candidates; with two ranks each takes every other row."""
        task, role = divmod(index, 2)
        rows = self.made[task][1 + role]
        mine = list(range(self.trainer.global_rank, len(rows), self.trainer.world_size))
        order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(index))
        parts = rows[mine][order].split(4)
        items = [[Place(task, ("query", "candidate")[role], i)] for i in mine]
        return EncodeBatch([{"x": part} for part in parts], order, items)

    def val_dataloader(self):
        return DataLoader([self._encode_batch(i) for i in range(2 * len(self.made))], batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader
