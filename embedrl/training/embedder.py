"""The Embedder as a LightningModule: contrastive training with gradient caching, and retrieval scores."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from embedrl.data.collate import ContrastiveBatch, EncodeBatch
from embedrl.data.inputs import ModelInputs
from embedrl.data.on_bad import BadSample
from embedrl.distributed.collectives import gather_rows, max_over_ranks, world_size
from embedrl.distributed.gradient_sync import GradientSync
from embedrl.errors import ConfigError, NonFiniteError, listed
from embedrl.losses.contrastive import BatchLabels, ContrastiveLoss, batch_labels
from embedrl.metrics.retrieval import RankingMetric, check_metrics
from embedrl.metrics.task_scorer import TaskResult, TaskScorer
from embedrl.models.backbone import Backbone
from embedrl.training.base import TrainingModule
from embedrl.training.gradient_cache import GradientCache
from embedrl.training.progress import total_steps
from embedrl.training.retrieval_log import log_results
from embedrl.utils.ragged import cat_rows


class VectorModule(TrainingModule):
    """What contrastive trainings share: the gradient-cached step, and scoring.

    A subclass calls `prepare` in `__init__`, and gives `contrast`.

    Attributes:
        validation: What the last validation or test scored; callbacks draw from it.
    """

    def prepare(
        self, backbone: Backbone, gradient_cache: bool, metrics: list[RankingMetric] | None, dims: Sequence[int] = ()
    ) -> None:
        """Take the arguments that all contrastive trainings have.

        Args:
            backbone: The model in training.
            gradient_cache: Whether to encode every micro-batch twice.
            metrics: What validation and test log of every task.
            dims: Shorter vectors to score as well.

        Raises:
            ConfigError: If a metric cannot be logged.
        """
        if metrics is not None:
            check_metrics(metrics, "model.metrics")
        self.backbone, self.gradient_cache, self.metrics, self.dims = backbone, gradient_cache, metrics, dims
        backbone.trained_dims = dims  # a checkpoint names them, as an exported folder does
        self.validation: list[TaskResult] = []
        self._scorer = TaskScorer([])
        self._bad_sides: list[BadSample] = []

    @abstractmethod
    def contrast(self, outputs: Tensor, batch: ContrastiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over all ranks.

        Args:
            outputs: What `learn` made of this rank's sides in flat order, `[queries + targets + negatives, columns]`.
            batch: This rank's batch.

        Returns:
            The loss, whose gradient is that of the whole batch, and metrics to log as `train/<name>`.
        """

    def learn(self, inputs: ModelInputs) -> Tensor:
        """What the loss is made of: by default the vectors of one micro-batch, `[rows, columns]`."""
        return self._encode(inputs)

    @property
    def trained_model(self) -> Backbone:
        """The backbone."""
        return self.backbone

    def configure_model(self) -> None:
        """See `TrainingModule.configure_model`.

        Raises:
            ConfigError: If a model without anything to train is to be trained.
        """
        super().configure_model()
        if self._trainer is not None and self.trainer.training and not any(p.requires_grad for p in self.parameters()):
            raise ConfigError(
                "model.backbone has nothing to train: an exported adapter with experts is complete; train from its "
                "base, or go on with the run (--ckpt_path)"
            )

    # ---------------------------------------------------------------- training

    def _encode(self, inputs: ModelInputs) -> Tensor:
        """Unit vectors of one micro-batch, `[rows, dim]`."""
        vectors: Tensor = self.backbone(self.to_device(inputs))
        return vectors

    def training_step(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        """First pass and loss.

        Raises:
            NonFiniteError: If a vector or the loss is NaN or infinite.
        """
        calls = max_over_ranks(len(batch.micro_batches), self.device)
        cache_vision_features, routing = self.backbone.cache_vision_features, self.backbone.routing
        uncounted, collecting = (nullcontext,) * 2 if routing is None else (routing.uncounted, routing.collecting)
        self._cache = GradientCache(
            self.learn, batch.micro_batches, self.device, calls, self.gradient_cache, cache_vision_features, uncounted
        )
        with collecting():
            self._vectors = self._cache.forward()
        order = batch.order.to(self.device)
        prints = None if routing is None else routing.fingerprints()
        self._prints = None if prints is None else gather_rows(prints[order.argsort()])
        loss, metrics = self.contrast(self._vectors[order.argsort()], batch)
        if routing is not None:
            balance, figures = routing.loss(self.device)
            loss, metrics = loss + balance, metrics | figures
        self.processed = {"pairs": batch.num_pairs * world_size()}
        self.samples = [f"{dataset}/{name}" for dataset, name in zip(batch.datasets, batch.ids, strict=True)]
        self._check_finite(order, batch, loss)
        self._sync = GradientSync(self.trainer.strategy.model)
        self._sync.hold()
        self.log_step_means({"train/loss": loss}, prog_bar=True)
        self.log_step_means({f"train/{name}": value for name, value in metrics.items()})
        self.log_totals({"raw_sides": batch.raw_sides})
        return loss

    def _check_finite(self, order: Tensor, batch: ContrastiveBatch, loss: Tensor) -> None:
        # After the loss, so that no rank is left waiting for the one that raises.
        bad = order[~torch.isfinite(self._vectors.detach()).flatten(1).all(dim=1)].tolist()
        if bad or not torch.isfinite(loss):
            pairs = [i for i, count in enumerate(batch.negative_counts) for _ in range(count)]
            owners = [*range(batch.num_pairs), *range(batch.num_pairs), *pairs]
            names = sorted({self.samples[owners[i]] for i in bad}) or self.samples
            what = f"{len(bad)} vectors are" if bad else "the loss is"
            raise NonFiniteError(
                f"step {self.global_step}: {what} not finite in {listed(names)}; lower the learning rate"
            )

    def backward(self, loss: Tensor) -> None:
        """Second pass: from the loss to the vectors' gradient, from there to the parameters'."""
        torch.autograd.backward(loss)
        assert self._vectors.grad is not None
        if self.backbone.routing is not None:
            self.backbone.routing.send_back(world_size())
        # Every rank holds the gradient of the whole batch's loss; DDP and FSDP are about to average over ranks.
        self._cache.backward(self._vectors.grad * world_size(), self._sync.release)

    # ---------------------------------------------------------------- scoring

    def _embed(self, batch: EncodeBatch) -> Tensor:
        """The vectors of a batch in flat order, `[rows, dim]`."""
        vectors = cat_rows([self._encode(inputs) for inputs in batch.micro_batches])
        return vectors[batch.order.to(vectors.device).argsort()]

    def on_validation_epoch_start(self) -> None:
        """Start collecting vectors.

        Raises:
            ConfigError: If the datamodule has no tasks.
        """
        tasks = getattr(getattr(self.trainer, "datamodule", None), "tasks", None)
        if not tasks:
            raise ConfigError("nothing to score: give the data module tasks (data.val, data.test)")
        self._scorer, self._bad_sides = TaskScorer(tasks, self.metrics, self.dims), []

    def validation_step(self, batch: EncodeBatch, batch_idx: int) -> None:
        """Embed one batch of sides."""
        self._scorer.add(batch.items, self._embed(batch), batch.bad)
        self._bad_sides += batch.bad.values()

    def score(self, stage: str) -> None:
        """Score the tasks and log `<stage>/<task>/hit@1` and so on, and their means; bad sides are left out and named.

        Raises:
            TooManyBadError: If too many sides are bad.
            DataError: If nothing is left of a task.
        """
        self.skipped(self._bad_sides)
        limit: int | float = getattr(self.trainer, f"limit_{stage}_batches")
        limited = isinstance(limit, int) or limit != 1.0  # 1 is one batch, 1.0 is all of them
        self.validation = self._scorer.results(partial=self.trainer.sanity_checking or limited)
        self._scorer = TaskScorer([])
        log_results(self, stage, self.validation)

    def predict_step(self, batch: EncodeBatch, batch_idx: int) -> dict[str, Any]:
        """Embed one batch of sides.

        Returns:
            `items`: for each row, every place its vector belongs; `vectors`: `[rows, dim]` on the CPU. Bad sides have
            no row.
        """
        self.skipped(list(batch.bad.values()))
        vectors, good = self._embed(batch).cpu(), [i for i in range(len(batch.items)) if i not in batch.bad]
        return {"items": [batch.items[i] for i in good], "vectors": vectors[good]}


class EmbedderModule(VectorModule):
    """Trains a backbone so that a query's vector finds its target's. Source: Embed-RL §3.1, Eq. 1, B.1.

    Optimisation is Lightning's automatic one: gradient caching lives in `training_step` (first pass and loss) and
    `backward` (second pass), so clipping, accumulation, precision, callbacks and resuming work as documented there.

    Args:
        backbone: The model family and its options; its weights load when a run starts.
        loss: The loss on the vectors of the whole contrastive batch.
        optimizer: The optimizer's class and options, such as AdamW with its learning rate.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        gradient_cache: Encode every micro-batch twice, so that memory does not grow with the batch; false keeps all
            graphs: the same gradients, faster, for batches that fit.
        seed: Seed of dropout; every step draws from (seed, step, rank), so a resumed run repeats it. None: the run's
            (`seed_everything`).
        metrics: What validation and test log of every task, such as `embedrl.metrics.HitRate` with its k; None:
            hit@1, hit@5, hit@10 and ndcg@5.
    """

    def __init__(
        self,
        backbone: Backbone,
        loss: ContrastiveLoss,
        optimizer: OptimizerCallable,
        schedule: str = "cosine",
        warmup_steps: int = 10,
        gradient_cache: bool = True,
        seed: int | None = None,
        metrics: list[RankingMetric] | None = None,
    ) -> None:
        super().__init__(locals())
        if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
            raise ConfigError("model.loss has trainable parameters: move them into the backbone, which is synchronised")
        check_vectors(backbone, loss)
        self.loss = loss
        self.prepare(backbone, gradient_cache, metrics, loss.dims)

    def contrast(self, outputs: Tensor, batch: ContrastiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on the vectors of all ranks."""
        kind, labels = gather_labels(batch, self.global_rank, outputs.device)
        everyone = gather_rows(outputs)
        if self._prints is not None:  # in the order of the labels' rows: queries, targets, negatives
            ordered = torch.cat([self._prints[kind == i] for i in range(3)])
            progress = self.global_step / max(total_steps(self.trainer) or 0, 1)
            labels = replace(labels, fingerprints=ordered, progress=progress)
        return self.loss(everyone[kind == 0], everyone[kind == 1], everyone[kind == 2], labels)

    def describe_export(self, out: Path) -> None:
        """Name the lengths of a Matryoshka loss, as Hugging Face configurations do."""
        if self.loss.dims:
            names = ("config.json", "open_clip_config.json")
            path = next(out / name for name in names if (out / name).is_file())
            config = json.loads(path.read_text(encoding="utf-8"))
            config |= {"is_matryoshka": True, "matryoshka_dimensions": list(self.loss.dims)}
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_vectors(backbone: Backbone, loss: ContrastiveLoss) -> None:
    """Check that a loss compares what a backbone gives.

    Raises:
        ConfigError: If one is for one vector a token and the other for one vector a side.
    """
    if backbone.multi_vector and not loss.multi_vector:
        raise ConfigError(
            f"model.loss {type(loss).__name__} compares one vector a side, model.backbone {type(backbone).__name__} "
            "gives one a token: take embedrl.losses.MaxSimInfoNCE"
        )
    if loss.multi_vector and not backbone.multi_vector:
        raise ConfigError(
            f"model.loss {type(loss).__name__} compares one vector a token, model.backbone {type(backbone).__name__} "
            "gives one a side: put it into embedrl.LateInteraction, or take embedrl.losses.InfoNCE"
        )


def gather_labels(batch: ContrastiveBatch, rank: int, device: torch.device) -> tuple[Tensor, BatchLabels]:
    """The labels of all ranks' rows, and of each row whether it is a query (0), a target (1) or a negative (2)."""
    own = batch_labels(
        batch.query_keys, batch.target_keys, batch.negative_keys, batch.negative_counts,
        batch.scores, batch.negative_scores,
    )  # fmt: skip
    pairs = torch.arange(batch.num_pairs)
    kind = torch.repeat_interleave(torch.arange(3), torch.tensor([len(pairs), len(pairs), len(own.negatives)]))
    content = torch.cat([own.queries, own.targets, own.negatives])
    # Pairs are numbered over all ranks; scores travel as their bits, beside the integers.
    owners = torch.cat([pairs, pairs, own.owners]) + (rank << 32)
    scores = torch.cat([torch.full_like(own.scores, torch.nan), own.scores, own.negative_scores]).view(torch.int64)
    rows = gather_rows(torch.stack([kind, content, owners, scores], dim=1).to(device))
    queries, targets, negatives = (rows[rows[:, 0] == i] for i in range(3))
    labels = BatchLabels(
        queries[:, 1],
        targets[:, 1],
        negatives[:, 1],
        torch.searchsorted(queries[:, 2].contiguous(), negatives[:, 2].contiguous()),
        targets[:, 3].contiguous().view(torch.float64),
        negatives[:, 3].contiguous().view(torch.float64),
    )
    return rows[:, 0], labels
