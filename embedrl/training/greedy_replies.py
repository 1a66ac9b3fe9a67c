"""Validation of a model that writes: greedy replies to held-out prompts, scored and logged by kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack

from torch import device

from embedrl.data.on_bad import BadSample
from embedrl.data.sft_batches import LessonBatch
from embedrl.distributed.collectives import gather_objects
from embedrl.distributed.unshard import unsharded
from embedrl.metrics.replies import score_reply
from embedrl.models.generator import Generator
from embedrl.tcot.schema import STOP
from embedrl.training.base import TrainingModule
from embedrl.types import Lesson


class GreedyReplies:
    """Writes and scores the replies of one validation.

    Args:
        generator: The model that writes.
        max_new_tokens: Longest reply in tokens.

    Attributes:
        rows: What this process wrote in the last validation: (lesson, reply, scores).
    """

    def __init__(self, generator: Generator, max_new_tokens: int) -> None:
        self.generator, self.max_new_tokens = generator, max_new_tokens
        self.rows: list[tuple[Lesson, str, dict[str, float]]] = []
        self._skipped: list[BadSample] = []
        self._whole = ExitStack()

    def start(self) -> None:
        """Start collecting replies; a sharded model is whole until the scores are logged.

        So ranks may write different numbers of replies, of different lengths, and so may callbacks at the end of the
        epoch, which come before the module's `on_validation_epoch_end`.
        """
        self.rows, self._skipped = [], []
        self._whole.enter_context(unsharded(self.generator))

    def write(self, batch: LessonBatch, where: device) -> None:
        """Write the replies to one batch of prompts; one ends at the end of its turn, or after a T-CoT's last tag.

        Args:
            batch: The prompts.
            where: The model's device.
        """
        self._skipped += batch.skipped
        moved = ({name: value.to(where, non_blocking=True) for name, value in m.items()} for m in batch.micro_batches)
        length = self.max_new_tokens
        written = [reply for inputs in moved for reply in self.generator.generate(inputs, length, stop=STOP)]
        for lesson, reply in zip(batch.lessons, written, strict=True):
            self.rows.append((lesson, reply, score_reply(reply, lesson)))

    def log(self, module: TrainingModule, stage: str) -> None:
        """Log `<stage>/<kind>/exact` and the other figures of `score_reply`, and each one's mean over the kinds.

        `<stage>/problem/<code>` is the share of all T-CoTs that have it, and `<stage>/left_out` the number of bad
        lessons, if there are any.

        Args:
            module: The module in training.
            stage: `val` or `test`.
        """
        self._whole.close()
        module.skipped(self._skipped)
        if left_out := len(gather_objects(self._skipped)):
            module.log(f"{stage}/left_out", float(left_out))
        mine = [(lesson.kind, scores) for lesson, _, scores in self.rows]
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        problems: Counter[str] = Counter()
        for kind, scores in gather_objects(mine):
            for name, value in scores.items():
                if name.startswith("problem/"):
                    problems[name] += 1
                else:
                    values[kind, name].append(value)
        written = sum(len(column) for (_, name), column in values.items() if name == "format")
        module.log_dict({f"{stage}/{name}": count / written for name, count in sorted(problems.items())})
        means: dict[str, list[float]] = defaultdict(list)
        for (kind, name), column in sorted(values.items()):
            means[name].append(sum(column) / len(column))
            module.log(f"{stage}/{kind}/{name}", means[name][-1])
        for name, column in means.items():
            module.log(f"{stage}/{name}", sum(column) / len(column), prog_bar=True)


class WritingModule(TrainingModule):
    """Base of the trainings of a model that writes: validated by greedy replies to lessons.

    A subclass sets `_greedy` in `__init__`.
    """

    _greedy: GreedyReplies

    @property
    def replies(self) -> list[tuple[Lesson, str, dict[str, float]]]:
        """What this process wrote in the last validation or test: (lesson, reply, scores)."""
        return self._greedy.rows

    def on_validation_epoch_start(self) -> None:
        """Start collecting replies."""
        self._greedy.start()

    def validation_step(self, batch: LessonBatch, batch_idx: int) -> None:
        """Write the replies to one batch of prompts, greedily."""
        self._greedy.write(batch, self.device)

    def score(self, stage: str) -> None:
        """Log how good the replies are; see `GreedyReplies.log`."""
        self._greedy.log(self, stage)
