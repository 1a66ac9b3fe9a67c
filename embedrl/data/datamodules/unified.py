"""The data of unified training: pairs of which one side or both come with a reasoning to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.inputs import Preprocessor
from embedrl.data.mix import MixRow
from embedrl.data.on_bad import MAX_BAD, OnBadMode
from embedrl.data.render import RenderOptions
from embedrl.data.sources import TaskSource
from embedrl.errors import ConfigError
from embedrl.types import Side

Reasoned = Literal["query", "target"]


class UnifiedDataModule(EmbedderDataModule):
    """As `EmbedderDataModule`, for a unified model; in training, every side has all tokens of the model's layout.

    In validation and test, sides are embedded in the mode that `render` says: with the T-CoTs of the tasks, or
    (`tcot: none`) in disc mode.

    Args:
        batch_size: Pairs in a batch, all processes together.
        sub_batch_size: Pairs in a sub-batch, which holds one data set; divides `batch_size`.
        micro_batch_size: Sides (not pairs) that go through the model at once.
        mix: The data sets to train on: a list, or a file that holds one.
        val: Where the validation tasks come from.
        test: Where the tasks of `test` and `predict` come from.
        render: What the model reads of a side and its reasoning: `tcot: full` with `cues: on` shows evidence between
            reasoning and `<gen_emb>`, `cues: printed` does not; `tcot: as_written` takes any text as reasoning.
        reasoned: The sides that come with their reasoning; the others are read without. RGE: the query alone.
        max_video_sub_batches: At most this many video sub-batches per batch.
        batches_per_epoch: Batches per epoch; None means the number of rows // batch_size.
        max_negatives: Use at most this many of a pair's hard negatives.
        encode_batch_size: Sides in a batch of `validate`, `test` and `predict`, per process.
        seed: Seed of the order of the rows and of the noise on the evidence; None: the run's (`seed_everything`).
        num_workers: Loader processes; 0 loads in the training process.
        persistent_workers: Keep the loader processes from one epoch to the next.
        on_bad: A bad row or side: `raise`, or `skip` it, as in `EmbedderDataModule`.
        max_bad: The most different bad rows and sides that `skip` leaves out; one more ends the run.

    Raises:
        ConfigError: If no side is reasoned, or one is named that is none.
    """

    def __init__(
        self,
        batch_size: int,
        sub_batch_size: int,
        micro_batch_size: int,
        mix: list[MixRow] | None = None,
        val: list[TaskSource] | None = None,
        test: list[TaskSource] | None = None,
        render: RenderOptions = RenderOptions(),  # noqa: B008 (frozen)
        reasoned: Sequence[Reasoned] = ("query", "target"),
        max_video_sub_batches: int = 1,
        batches_per_epoch: int | None = None,
        max_negatives: int = 0,
        encode_batch_size: int = 64,
        seed: int | None = None,
        num_workers: int = 0,
        persistent_workers: bool = False,
        on_bad: OnBadMode = "raise",
        max_bad: int = MAX_BAD,
    ) -> None:
        super().__init__(
            batch_size, sub_batch_size, micro_batch_size, mix, val, test, render, max_video_sub_batches,
            batches_per_epoch, max_negatives, encode_batch_size, seed, num_workers, persistent_workers, on_bad, max_bad,
        )  # fmt: skip
        if not reasoned or set(reasoned) - {"query", "target"}:
            raise ConfigError(f"data.reasoned is {list(reasoned)}: give query, target or both")
        self.reasoned = list(reasoned)

    def setup(self, stage: str) -> None:
        """Collect the stage's tasks, their sides without the reasoning that is not read.

        Raises:
            ConfigError: As `EmbedderDataModule.setup`.
        """
        super().setup(stage)
        if "query" not in self.reasoned:
            self.tasks = [replace(task, queries=_bare(task.queries)) for task in self.tasks]
        if "target" not in self.reasoned:
            self.tasks = [replace(task, candidates=_bare(task.candidates)) for task in self.tasks]

    def scoring_options(self) -> RenderOptions:
        """How the sides of tasks are rendered: those of a role that is not reasoned have no reasoning."""
        return self.render if len(self.reasoned) > 1 else replace(self.render, on_missing_tcot="raw")

    def side_options(self) -> tuple[RenderOptions, RenderOptions]:
        """How queries and targets are rendered."""
        raw = replace(self.render, tcot="none")
        return tuple(self.render if role in self.reasoned else raw for role in ("query", "target"))  # type: ignore[return-value]

    def train_preprocessor(self) -> Preprocessor:
        """The model's, with every token of the layout in every row.

        Raises:
            ConfigError: If the model is no unified one.
        """
        preprocessor: Any = self._preprocessor()
        if not hasattr(preprocessor, "for_training"):
            raise ConfigError("embedrl.UnifiedDataModule needs a unified model: embedrl.QwenVLUnified or VLMUnified")
        module: Any = self._current_trainer.lightning_module
        own = getattr(module, "rationale_for_contrast", "given") == "self"
        whole: Preprocessor = preprocessor.for_training(prompts_too=own)
        return whole


def _bare(sides: Sequence[Side]) -> list[Side]:
    """The sides without their reasoning."""
    return [side.with_tcot("") for side in sides]
