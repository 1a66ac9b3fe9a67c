"""How much a reranker in training adds to an Embedder's ranking, logged with every validation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.data.render import RenderOptions
from embedrl.data.sources import TaskSource
from embedrl.distributed.fsdp2 import FSDP2Strategy, build_frozen
from embedrl.distributed.unshard import unsharded
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.inference.reranker import Reranker
from embedrl.metrics.retrieval import HitRate, score, training_metrics
from embedrl.metrics.task_scorer import TaskResult
from embedrl.tcot.prompts import Style
from embedrl.training.retrieval_log import log_results
from embedrl.types import RetrievalTask
from embedrl.utils.ranges import check_least


class RerankedRetrieval(Callback):
    """Logs, with every validation, the figures of tasks after the model in training ordered the best candidates anew.

    A frozen Embedder ranks the candidates of `tasks`; the module's `generator` reads every query with its best
    candidates (`embedrl.inference.Reranker`). Logs `val/<task>/hit@1` and so on after reranking, and
    `val/before/<task>/hit@1` of the Embedder alone; there, hit@`depth` is the most that reranking can reach.

    Args:
        tasks: Where the tasks come from.
        embedder: The frozen Embedder.
        depth: How many of the best candidates of every query are read.
        render: What the model is shown of both sides.
        style: Style of the question.
        max_tokens: About how many tokens go through the model at once.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        tasks: list[TaskSource],
        embedder: FrozenEmbedder,
        depth: int = 10,
        render: RenderOptions = RenderOptions(),  # noqa: B008 - frozen
        style: Style = "full",
        max_tokens: int = 8192,
    ) -> None:
        check_least(1, {"depth": depth, "max_tokens": max_tokens})
        self.sources, self.embedder, self.depth = tasks, embedder, depth
        self.render, self.style, self.max_tokens = render, style, max_tokens
        self.tasks: list[RetrievalTask] = []
        self.before: list[TaskResult] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Under FSDP2, load the Embedder now: one process reads its weights for all, so all must call together."""
        if isinstance(trainer.strategy, FSDP2Strategy):
            build_frozen(self.embedder.backbone, trainer.strategy)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank, read, log."""
        self._score(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same as `test/...`."""
        self._score(trainer, pl_module, "test")

    def _score(self, trainer: Trainer, module: Any, stage: str) -> None:
        if not self.before:  # neither the tasks nor the Embedder changes
            self.tasks = [task for source in self.sources for task in source.tasks()]
            metrics = training_metrics()
            if self.depth not in [metric.k for metric in metrics]:
                metrics.append(HitRate(self.depth))
            self.before = self.embedder.score(self.tasks, module.device, trainer.global_rank, metrics)
        reranker = Reranker(module.generator, self.render, self.style, self.max_tokens)
        after = []
        with unsharded(module.generator):
            for result in self.before:
                ranking = reranker.rerank(result.task, result.ranking, self.depth, trainer.global_rank)
                after.append(replace(result, ranking=ranking, metrics=score(ranking, training_metrics())))
        log_results(module, stage, after)
        for result in self.before:
            names = {f"{stage}/before/{result.task.name}/{name}": value for name, value in result.metrics.items()}
            module.log_dict(names, sync_dist=True)
