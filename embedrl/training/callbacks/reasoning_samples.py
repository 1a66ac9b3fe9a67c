"""The same held-out queries at every validation: T-CoTs that the Reasoner writes, and how well they retrieve."""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from embedrl.data.lenient_render import as_lenient
from embedrl.errors import ConfigError
from embedrl.tcot.parser import parse
from embedrl.training.callbacks.reasoned_retrieval import ReasonedRetrieval
from embedrl.training.progress import curve_step
from embedrl.types import RetrievalTask
from embedrl.utils.file_names import file_name
from embedrl.utils.tensorboard import tensorboard_writer
from embedrl.visualization.sample_card import Standing, draw_sample, standing

if TYPE_CHECKING:
    from embedrl.metrics.task_scorer import TaskResult


class ReasoningSamples(Callback):
    """After every validation, some queries with their T-CoTs: to TensorBoard, and to `reasoning_samples/` as PNG.

    Under IMAGES and TEXT, `reasoning/<task>/<query>` has one entry per validation, so that the slider shows the T-CoT
    change: input and evidence, the T-CoT, its similarity with the right and the best wrong candidate, and the rank.
    Needs the callback `ReasonedRetrieval`, and shows what that has written and scored: nothing is generated again.
    TensorBoard shows ten validations, unless it is started with `--samples_per_plugin images=100,text=100`.

    Args:
        num_samples: Queries, spread evenly over the tasks.
        seed: Which queries: the same ones in every validation of every run with this seed.
    """

    def __init__(self, num_samples: int = 10, seed: int = 0) -> None:
        if num_samples < 1:
            raise ConfigError(f"ReasoningSamples.num_samples is {num_samples}: give 1 or more")
        self.num_samples, self.seed = num_samples, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the callback that scores.

        Raises:
            ConfigError: If there is none.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self._scored = next((c for c in callbacks if isinstance(c, ReasonedRetrieval)), None)
        if self._scored is None:
            raise ConfigError("trainer.callbacks: ReasoningSamples shows what ReasonedRetrieval scores; add that, too")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the samples."""
        log_dir = trainer.log_dir  # on every process: rank 0 broadcasts it
        if trainer.sanity_checking or not trainer.is_global_zero or self._scored is None:
            return
        results = self._scored.results
        module: Any = pl_module
        embedder = self._scored.embedder or module.embedder
        writer = tensorboard_writer(trainer)
        step = curve_step(trainer.global_step, pl_module)
        for index, row in choose_queries([result.task for result in results], self.num_samples, self.seed):
            result = results[index]
            picture = draw_sample(result, row, as_lenient(embedder.render))
            name = f"{result.task.name}/{row}"
            if writer is not None:
                writer.add_image(f"reasoning/{name}", np.asarray(picture), step, dataformats="HWC")
                writer.add_text(f"reasoning/{name}", sample_markdown(result, row), step)
            if log_dir:
                folder = Path(log_dir) / "reasoning_samples" / f"step_{step:06d}"
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(folder / f"{file_name(name)}.png")


def choose_queries(tasks: Sequence[RetrievalTask], count: int, seed: int) -> list[tuple[int, int]]:
    """Some queries as (task, query), spread evenly over the tasks; a function of seed and task sizes.

    Args:
        tasks: The tasks.
        count: Number of queries; fewer only if there are no more.
        seed: Which.
    """
    rng = random.Random(seed)
    left = [rng.sample(range(len(task.queries)), len(task.queries)) for task in tasks]
    order = rng.sample(range(len(tasks)), len(tasks))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and any(left):
        chosen += [(index, left[index].pop()) for index in order if left[index]][: count - len(chosen)]
    return sorted(chosen)


def sample_markdown(result: TaskResult, row: int) -> str:
    """A query and its T-CoTs in Markdown."""
    task, stand = result.task, standing(result, row)
    right = f"right candidate, similarity {stand.similarity:.3f}"
    shown = [("query", task.queries[row]), (right, task.candidates[stand.right])]
    if stand.wrong is not None:
        wrong = f"best wrong candidate, similarity {stand.wrong_similarity:.3f}"
        shown.append((wrong, task.candidates[stand.wrong]))
    parts = [f"**{_headline(stand)}**"]
    for title, side in shown:
        problems = parse(side.tcot, side.modality, len(side.frames) or None).problems
        verdict = "; ".join(problem.message for problem in problems) if problems else "none"
        parts.append(f"**{title}** ({side.modality})")
        tcot = re.sub(r"(?=<(?:rethink|answer)>)", "\n", side.tcot)
        parts.append(_block(f"{side.text}\n\n{tcot}\n\nproblems: {verdict}"))
    return "\n\n".join(parts)


def _headline(stand: Standing) -> str:
    gap = "" if stand.wrong is None else f", {stand.similarity - stand.wrong_similarity:+.3f} to the best wrong one"
    return f"{stand.text}, similarity {stand.similarity:.3f}{gap}"


def _block(text: str) -> str:
    """A code block: TensorBoard would interpret the tags of a T-CoT as HTML."""
    lines = [line for part in text.strip().splitlines() for line in textwrap.wrap(part, 100) or [""]]
    return "\n".join(f"    {line}" for line in lines)
