"""How well T-CoTs retrieve, logged with every validation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.data.on_bad import BadSample
from embedrl.data.sources import TaskSource
from embedrl.distributed.fsdp2 import FSDP2Strategy, build_frozen
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.inference.tcot_writer import write_tcots
from embedrl.metrics.evidence import evidence_counts
from embedrl.metrics.retrieval import RankingMetric, check_metrics
from embedrl.metrics.task_scorer import TaskResult
from embedrl.tcot.prompts import Style
from embedrl.training.retrieval_log import log_results
from embedrl.types import RetrievalTask


class ReasonedRetrieval(Callback):
    """Logs, with every validation, how well the T-CoTs of the model in training retrieve through a frozen Embedder.

    Logs `val/<task>/hit@1` and so on, and their means, under the names that the Embedder's own training uses, and
    `val/evidence_<modality>`, the mean number of cues that its T-CoTs of such sides have. Needs a module with a
    `generator`; a module that has an `embedder` of its own shares it. What is done about bad sides is up to the data
    module's `on_bad`.

    Args:
        tasks: Where the tasks come from.
        embedder: The frozen Embedder; None means the module's.
        style: Style of the prompts.
        batch_size: Prompts that are answered at once.
        max_new_tokens: Longest T-CoT.
        metrics: What to log of every task, as in `EmbedderModule`; None: hit@1, hit@5, hit@10 and ndcg@5.

    Attributes:
        results: What the last validation scored: the tasks with the T-CoTs that were written, and vectors.
    """

    def __init__(
        self,
        tasks: list[TaskSource],
        embedder: FrozenEmbedder | None = None,
        style: Style = "full",
        batch_size: int = 32,
        max_new_tokens: int = 512,
        metrics: list[RankingMetric] | None = None,
    ) -> None:
        if metrics is not None:
            check_metrics(metrics, "ReasonedRetrieval's metrics")
        self.metrics = metrics
        self.sources, self.embedder, self.style = tasks, embedder, style
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self.tasks: list[RetrievalTask] = []
        self.results: list[TaskResult] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Under FSDP2, load the Embedder now: one process reads its weights for all, so all must call together."""
        if self.embedder is not None and isinstance(trainer.strategy, FSDP2Strategy):
            build_frozen(self.embedder.backbone, trainer.strategy)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write T-CoTs, embed, rank, log."""
        self._score(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same as `test/...`."""
        self._score(trainer, pl_module, "test")

    def _score(self, trainer: Trainer, module: Any, stage: str) -> None:
        self.tasks = self.tasks or [task for source in self.sources for task in source.tasks()]
        embedder: FrozenEmbedder = self.embedder or module.embedder
        skip = getattr(getattr(trainer, "datamodule", None), "on_bad", "raise") == "skip"
        skipped: list[BadSample] | None = [] if skip else None
        written = write_tcots(
            self.tasks, module.generator, module.device, self.style, self.batch_size, self.max_new_tokens,
            trainer.global_rank, skipped,
        )  # fmt: skip
        results = embedder.score(written, module.device, trainer.global_rank, self.metrics, skipped)
        sizes = {task.name: len(task.queries) + len(task.candidates) for task in self.tasks}
        self.results = [
            replace(result, left_out=sizes[result.task.name] - len(result.queries) - len(result.candidates))
            for result in results
        ]
        if skipped is not None:
            module.skipped(skipped)
        log_results(module, stage, self.results)
        module.log_dict({f"{stage}/evidence_{m}": mean for m, mean in evidence_counts(written).items()})
