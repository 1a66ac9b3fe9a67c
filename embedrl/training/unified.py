"""One model that reasons and embeds, in training: contrastive losses on two vectors, cross-entropy on the reasoning."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from embedrl.data.collate import ContrastiveBatch
from embedrl.data.inputs import ModelInputs
from embedrl.distributed.collectives import gather_rows
from embedrl.distributed.unshard import unsharded
from embedrl.errors import ConfigError
from embedrl.losses.unified import VECTORS, LossRow, UnifiedBatch, check_losses, total_loss
from embedrl.metrics.retrieval import RankingMetric
from embedrl.models.dropout import evaluating
from embedrl.models.packing import IGNORE
from embedrl.models.sampling import SamplingOptions
from embedrl.models.unified.latent import cut_rows
from embedrl.models.unified.latent_model import LatentModel
from embedrl.models.unified.model import UnifiedModel
from embedrl.training.embedder import VectorModule, gather_labels
from embedrl.training.gradient_conflict import check_conflict, gradient_conflict, layers_of
from embedrl.training.latent_curriculum import LatentCurriculum
from embedrl.training.progress import total_steps
from embedrl.utils.ranges import check_least


class UnifiedEmbedderModule(VectorModule):
    """Trains one vision-language model to reason about a side and to embed it, with and without its reasoning.

    One forward pass gives the vector at `<disc_emb>`, the vector at `<gen_emb>` and the likelihood of the reasoning;
    `losses` says what counts. Gradient caching covers all of them: each side's outputs are cached and pushed through
    again, so that clipping, accumulation and resuming work as in `EmbedderModule`. Use it with
    `embedrl.UnifiedDataModule`. Validation scores the mode that the data module's `render` says.

    Args:
        backbone: The model and its options, such as `embedrl.QwenVLUnified`; its weights load when a run starts.
        losses: The parts of the loss with their weights.
        optimizer: The optimizer's class and options, such as AdamW with its learning rate.
        schedule: Course of the learning rate after the warm-up, by the names of `transformers.get_scheduler`.
        warmup_steps: Optimizer steps over which the learning rate rises from 0.
        gradient_cache: Read every micro-batch twice, so that memory does not grow with the batch.
        seed: Seed of dropout; None: the run's (`seed_everything`).
        metrics: What validation and test log of every task; None: hit@1, hit@5, hit@10 and ndcg@5.
        rationale_for_contrast: Behind which reasoning the vectors at `<gen_emb>` are taken: the `given` one, or the one
            that the model writes itself at that step, greedily (`self`), so that no given answer leaks into them. The
            cross-entropy is on the given one either way. `self` needs `data.render.cues: printed`.
        max_new_tokens: Longest reasoning that it writes itself.
        gradient_conflict_every: Every so many steps, log the cosine between the gradients of the contrastive losses and
            of the cross-entropies, by layer, as `train/conflict/<layer>`; 0: never. It does not change the training. A
            step that measures reads the batch twice more, and holds two more gradients. Of batches that make a step
            together (`trainer.accumulate_grad_batches`), the last one is measured.
        latent_curriculum: Of a model with latent steps (`embedrl.QwenVLLatent`), how they come in the place of words;
            null: all of them from the first step.

    Raises:
        ConfigError: If the losses do not fit the model.

    Source: UME-R1 (arXiv 2511.00405): all four parts, weights 1; RGE (arXiv 2511.16150): `gen`, and the query's
    reasoning.
    """

    def __init__(
        self,
        backbone: UnifiedModel,
        losses: list[LossRow],
        optimizer: OptimizerCallable,
        schedule: str = "cosine",
        warmup_steps: int = 10,
        gradient_cache: bool = True,
        seed: int | None = None,
        metrics: list[RankingMetric] | None = None,
        rationale_for_contrast: Literal["given", "self"] = "given",
        max_new_tokens: int = 256,
        gradient_conflict_every: int = 0,
        latent_curriculum: LatentCurriculum | None = None,
    ) -> None:
        super().__init__(locals())
        check_least(1, {"model.max_new_tokens": max_new_tokens})
        check_least(0, {"model.gradient_conflict_every": gradient_conflict_every})
        if not isinstance(backbone, UnifiedModel):
            raise ConfigError(
                f"model.backbone is a {type(backbone).__name__}, which does not reason: take embedrl.QwenVLUnified or "
                "embedrl.VLMUnified"
            )
        if backbone.lora is not None and backbone.lora.experts is not None:
            raise ConfigError(
                "model.backbone.lora.experts: routers are balanced at one vector a side, and this model has two: leave "
                "experts out, or train an Embedder"
            )
        if rationale_for_contrast not in ("given", "self"):
            raise ConfigError(f"model.rationale_for_contrast is {rationale_for_contrast!r}: give given or self")
        if isinstance(backbone, LatentModel) and rationale_for_contrast == "self":
            raise ConfigError(
                "model.rationale_for_contrast: self is about words, which give way to latent steps: leave it out"
            )
        if latent_curriculum is not None and not isinstance(backbone, LatentModel):
            raise ConfigError("model.latent_curriculum: this backbone has no latent steps: take embedrl.QwenVLLatent")
        self.latent_curriculum = latent_curriculum
        self.losses, self.gradient_conflict_every = losses, gradient_conflict_every
        self._conflict: dict[str, Tensor] = {}
        self.rationale_for_contrast, self.max_new_tokens = rationale_for_contrast, max_new_tokens
        self.prepare(backbone, gradient_cache, metrics)

    def setup(self, stage: str) -> None:
        """Check the losses against the model's layout.

        Raises:
            ConfigError: If they do not fit.
        """
        super().setup(stage)
        check_losses(self.losses, self.vectors)
        log_every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        check_conflict(self.gradient_conflict_every, self.losses, log_every)
        if self.rationale_for_contrast == "self" and "gen" not in self.vectors:
            raise ConfigError(
                "model.rationale_for_contrast: self is about the gen vector: set backbone.layout.gen: true"
            )

    @property
    def unified(self) -> UnifiedModel:
        """The backbone by its own type."""
        assert isinstance(self.backbone, UnifiedModel)
        return self.backbone

    @property
    def vectors(self) -> list[str]:
        """The names of the model's vectors, in the order of its outputs."""
        layout = self.unified.arrangement
        return [name for name, there in zip(VECTORS, (layout.disc, layout.gen), strict=True) if there]

    def training_step(self, batch: ContrastiveBatch, batch_idx: int) -> Tensor:
        """First pass and loss; before it, the model writes the reasoning that is read, if it is its own.

        Raises:
            NonFiniteError: If a vector or the loss is NaN or infinite.
        """
        if self.rationale_for_contrast == "self":
            with unsharded(self.backbone), evaluating(self.backbone):
                batch = replace(batch, micro_batches=[self._with_own_replies(m) for m in batch.micro_batches])
        if isinstance(self.backbone, LatentModel):
            self.log("train/latent_steps", float(self.latent_steps))
        return super().training_step(batch, batch_idx)

    @property
    def latent_steps(self) -> int:
        """Latent steps that this step of the training takes; 0 of a model that has none."""
        if not isinstance(self.backbone, LatentModel):
            return 0
        total, curriculum = self.backbone.latent_steps, self.latent_curriculum
        if curriculum is None or self._trainer is None:
            return total
        return curriculum.steps(self.global_step, total_steps(self.trainer) or 0, total)

    def backward(self, loss: Tensor) -> None:
        """Second pass; behind it, where the step is one to measure, the conflict of its gradients."""
        super().backward(loss)
        self._conflict = {}
        every, step = self.gradient_conflict_every, self.global_step + 1  # as the trainer counts what it logs
        if every and step % every == 0 and not self.trainer.fit_loop._should_accumulate():
            assert self._vectors.grad is not None
            self._conflict = gradient_conflict(self._cache, self._vectors.grad, layers_of(self.unified), self._sync)

    def on_after_backward(self) -> None:
        """Log the conflict, if it was measured."""
        self.log_dict({f"train/conflict/{layer}": value for layer, value in self._conflict.items()})

    @torch.no_grad()
    def _with_own_replies(self, inputs: ModelInputs) -> ModelInputs:
        """A micro-batch with prompts and the model's own replies to them packed together, as `own/...`."""
        prompts = {name.removeprefix("prompt/"): v for name, v in inputs.items() if name.startswith("prompt/")}
        if not prompts:
            raise ConfigError("model.rationale_for_contrast: self needs embedrl.UnifiedDataModule")
        options = SamplingOptions(self.max_new_tokens, temperature=0.0)
        seeds = [0] * len(prompts["input_ids"])  # greedy: nothing is drawn
        replies = [row[0] for row in self.unified.sample(self.to_device(prompts), 1, seeds, options)]
        packed = self.unified.pack_replies(prompts, replies)
        rest = {name: value for name, value in inputs.items() if not name.startswith("prompt/")}
        return rest | {f"own/{name}": value for name, value in packed.items()}

    def learn(self, inputs: ModelInputs) -> Tensor:
        """Both vectors, the reasoning's negative log-likelihood, and its tokens, `[rows, vectors · dim + 2]`."""
        tokens = self._tokens(inputs)
        given = {name: v for name, v in inputs.items() if not name.startswith(("own/", "prompt"))}
        moved, model = self.to_device(given), self.unified
        outputs = model.outputs(moved, self.latent_steps) if isinstance(model, LatentModel) else model.outputs(moved)
        own = {name.removeprefix("own/"): v for name, v in inputs.items() if name.startswith("own/")}
        if own:
            vectors, rows = self.unified.reply_vectors(self.to_device(own)), inputs["prompt_rows"]
            outputs = outputs + 0 * vectors.sum()  # every micro-batch takes part in the second pass, rows or none
            if len(rows):
                first = outputs.shape[1] - 1 - vectors.shape[1]  # behind the gen vector comes the likelihood alone
                behind = torch.cat([outputs[rows, :first], vectors, outputs[rows, -1:]], dim=1)
                outputs = outputs.index_copy(0, rows.to(outputs.device), behind)
        return torch.cat([outputs, tokens.to(outputs)[:, None]], dim=1)

    def _tokens(self, inputs: ModelInputs) -> Tensor:
        """Tokens that the likelihood of each row is summed over, `[rows]`."""
        steps, labels = self.latent_steps, inputs["labels"]
        if steps:
            assert isinstance(self.backbone, LatentModel)
            labels = cut_rows(inputs, steps, self.backbone.latent_steps).labels
        return (labels != IGNORE).sum(1)

    def contrast(self, outputs: Tensor, batch: ContrastiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses on what all ranks made of the batch."""
        kind, labels = gather_labels(batch, self.global_rank, outputs.device)
        everyone = gather_rows(outputs)
        columns = everyone[:, :-2].chunk(len(self.vectors), dim=1)
        named = dict(zip(self.vectors, columns, strict=True))
        return total_loss(self.losses, UnifiedBatch(named, everyone[:, -2], everyone[:, -1].detach(), kind, labels))
