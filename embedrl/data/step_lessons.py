"""Will a T-CoT so far find the target? The question, and rollouts as lessons that teach a step model to answer it.

Source: the process reward model of AR-MCTS (arXiv 2412.14835) §3.4. Of its two stages, preference between steps of one
question and pointwise cross-entropy, this is the second on balanced questions, which decide as the first does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedrl.data.lenient_render import as_lenient
from embedrl.data.mix import MixRow, check_labels
from embedrl.data.render import RenderOptions, side_content
from embedrl.data.rerank_lessons import NO, YES
from embedrl.data.rolled_out import RolledOut, RolledOutStore
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.prompts import Style
from embedrl.tcot.schema import SECTIONS
from embedrl.types import Chat, Lesson, Side

_WORDS = {
    "full": (
        "Here is a query, then notes on it, which may be unfinished, with close-ups of what they name.\nQuery:",
        f'Will these notes find what the query asks for? Reply "{YES}" or "{NO}".',
    ),
    "brief": ("query :", "match ?"),
}


def step_chat(side: Side, render: RenderOptions, style: Style = "full", *, where: str = "") -> Chat:
    """The question whether a T-CoT so far will find the target of its query.

    Args:
        side: The query with its T-CoT, finished or not.
        render: What to show of it; the T-CoT is read leniently.
        style: `full` explains the question; `brief` is for small models that were trained on it.
        where: Name of the query, put in front of every error.

    Returns:
        One user message, to which the reply is `yes` or `no`.

    Raises:
        DataError: If the side is empty, or a picture is broken.
    """
    before, after = _WORDS[style]
    content: list[dict[str, Any]] = [{"type": "text", "text": f"{before}\n"}]
    content += side_content(side, as_lenient(render), where=where)
    content.append({"type": "text", "text": f"\n{after}"})
    return [{"role": "user", "content": content}]


def sections_of(tcot: str) -> list[str]:
    """A T-CoT after each of its sections; what departs from the template is there whole alone.

    >>> sections_of("<thinking>a</thinking><rethink>b</rethink><answer>c</answer>")[:2]
    ['<thinking>a</thinking>', '<thinking>a</thinking><rethink>b</rethink>']
    """
    ends = [tcot.find(f"</{name}>") + len(name) + 3 for name in SECTIONS[:-1] if f"</{name}>" in tcot]
    return [*(tcot[:end] for end in ends if end < len(tcot)), tcot]


def even(outcomes: list[int]) -> list[int]:
    """Places of as many outcomes of one kind as of the other, the first ones of each.

    >>> even([1, 1, 0, 1, 0])
    [0, 1, 2, 4]
    """
    count = min(sum(outcomes), len(outcomes) - sum(outcomes))
    return sorted(i for kind in (0, 1) for i in [i for i, one in enumerate(outcomes) if one == kind][:count])


class StepLessons:
    """Rollouts as lessons for a step model: a T-CoT after each of its sections, and whether it found its target.

    A part of a T-CoT that several rollouts begin with is learned with the outcome of each: the value of a step by Monte
    Carlo. A `LessonSource`.

    Args:
        mix: The pairs that were rolled out: the mix of `embedrl.rl.RolloutSuccess`.
        rollouts: The file that it wrote by `rollouts`.
        style: Style of the question.
        render: What to show of a query and its T-CoT.
        balanced: Take as many T-CoTs that succeed as fail of each query, so that the T-CoT decides, and not how hard
            the query is; queries whose T-CoTs all do the same are left out. False takes all.
        part: Which pairs of each data set, as shares of the file: `[0, 0.9]` to train, `[0.9, 1]` to validate.

    Raises:
        ConfigError: If `part` is no part, or holds no pair.
        DataError: If the file is missing or broken, or holds a data set that is not in the mix.
    """

    name = "steps"

    def __init__(
        self,
        mix: list[MixRow],
        rollouts: Path,
        style: Style = "full",
        render: RenderOptions = RenderOptions(),  # noqa: B008 - frozen
        balanced: bool = True,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 0 <= part[0] < part[1] <= 1:
            raise ConfigError(f"StepLessons.part is {list(part)}: give two shares that rise, in 0..1")
        self.sources = {name: row.source for name, row in zip(check_labels(mix), mix, strict=True)}
        self.rollouts, self.style, self.render = rollouts, style, render
        by_set: dict[str, list[RolledOut]] = {name: [] for name in self.sources}
        if not rollouts.is_file():
            raise DataError(
                f"StepLessons.rollouts {rollouts}: no such file; `embedrl validate` with RolloutSuccess.rollouts "
                "writes it"
            )
        with RolledOutStore(rollouts, read_only=True) as store:
            for record in store.records():
                if record.dataset not in by_set:
                    raise DataError(
                        f"{rollouts}: holds {record.dataset}, which is not in the mix ({', '.join(by_set)}): give the "
                        "mix that was rolled out"
                    )
                by_set[record.dataset].append(record)
        self._lessons: list[tuple[RolledOut, str, int]] = []
        for records in by_set.values():
            first, last = (round(share * len(records)) for share in part)
            for record in records[first:last]:
                for i in even(record.successes) if balanced else range(len(record.successes)):
                    self._lessons += [(record, so_far, record.successes[i]) for so_far in sections_of(record.tcots[i])]
        if not self._lessons:
            raise ConfigError(
                f"StepLessons.part {list(part)}: holds no pair of {rollouts}"
                f"{' with T-CoTs that succeed and that fail' if balanced else ''}; roll out more, or widen it"
            )

    def __len__(self) -> int:
        """Number of T-CoTs and their beginnings."""
        return len(self._lessons)

    def __getitem__(self, index: int) -> Lesson:
        """Lesson `index`: those of one pair come one after another.

        Raises:
            DataError: If the pair is broken, or another one than was rolled out; the message names `dataset/id`.
        """
        record, so_far, success = self._lessons[index]
        pair = self.sources[record.dataset][record.row]
        if pair.id != record.id:
            raise DataError(
                f"{record.key}: row {record.row} is {pair.id} now: {self.rollouts} was drawn of other data; draw it "
                "again"
            )
        reply = YES if success else NO
        chat = step_chat(pair.query.with_tcot(so_far), self.render, self.style, where=record.key)
        return Lesson(chat, reply, f"{record.dataset.rpartition('/')[2]}_step", {"answer": reply})
