"""Where an inserter places pictures in the built-in world's stories: by chance, after cross-entropy, and after GRPO.

    python benchmarks/inserter_world.py --out runs/inserter_world

Trains `configs/world/inserter.yaml`, then `configs/world/inserter_grpo.yaml`, and scores greedy replies to held-out
stories. Chance is computed: the expected scores over all ways to place the pictures. What is finished is not repeated,
and a training that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fitting import fit
from jsonargparse import auto_cli
from timing import report

from embedrl.data.inserter import Placement, placement_reply
from embedrl.data.world import WorldStories
from embedrl.metrics.placement import score_placements
from embedrl.metrics.replies import score_reply
from embedrl.models.generator import Generator
from embedrl.tcot.schema import STOP
from embedrl.training.trained_model import load_reasoner
from embedrl.types import Lesson

SPLITS = ("val", "test")
FIGURES = ("format", "image_f1", "placement", "order", "exact")
SOME, ALL = "chance: each picture anywhere or left out", "chance: each picture anywhere"
SFT, GRPO = "after cross-entropy", "after GRPO"
BATCH = 32  # stories that are answered at once

Scores = list[dict[str, float]]
"""The figures of each story; `order` only where the gold placement has one."""


@dataclass(frozen=True)
class Setting:
    """How large the benchmark is.

    Attributes:
        steps: Optimizer steps of each training; None means the recipes'.
        stories: Held-out stories of each split.
        max_new_tokens: Longest reply.
    """

    steps: int | None = None
    stories: int = 256
    max_new_tokens: int = 160


SMALLEST = Setting(steps=2, stories=4, max_new_tokens=8)


def train(out: Path, seed: int, setting: Setting) -> Iterator[tuple[str, str]]:
    """Train both recipes, one after the other, unless that is done.

    Yields:
        A row, and the folder of its model.
    """
    few: dict[str, object] = {"seed_everything": seed}
    if setting.steps is not None:
        few |= {"trainer__max_steps": setting.steps, "checkpoint__every_n_steps": setting.steps}
        few["data__init_args__batch_size"] = 4
    sft = fit("world/inserter.yaml", out / "sft_run", out / "sft", **few)
    yield SFT, sft
    few["model__init_args__generator__init_args__path"] = sft
    if setting.steps is not None:
        few |= {"model__init_args__group_size": 2, "model__init_args__rollout__max_new_tokens": 4}
    yield GRPO, fit("world/inserter_grpo.yaml", out / "grpo_run", out / "grpo", **few)


def by_chance(lesson: Lesson, leave_out: bool) -> dict[str, float]:
    """Expected figures of a placement that is drawn at random: each picture behind any sentence, independently.

    Args:
        lesson: A story.
        leave_out: Whether a picture may also stand nowhere, as likely as behind any one sentence.
    """
    gold = lesson.gold
    choices = range(0 if leave_out else 1, gold["sentences"] + 1)
    found: dict[str, list[float]] = defaultdict(list)
    for places in itertools.product(choices, repeat=len(gold["images"])):
        placed = sorted(
            (Placement(image, place) for image, place in zip(gold["images"], places, strict=True) if place),
            key=lambda one: (one.sentence, one.image),
        )
        reply = placement_reply(placed)
        for name, value in score_placements(reply, gold["images"], gold["sentences"], gold["placements"]).items():
            found[name].append(value)
        found["exact"].append(float(set(placed) == set(gold["placements"])))
    return {name: statistics.mean(values) for name, values in found.items()}


def answer(model: Generator, lessons: Sequence[Lesson], max_new_tokens: int) -> Scores:
    """Figures of a model's greedy replies."""
    preprocessor = model.preprocessor()
    scores = []
    for start in range(0, len(lessons), BATCH):
        part = lessons[start : start + BATCH]
        replies = model.generate(preprocessor.prompts([one.chat for one in part]), max_new_tokens, stop=STOP)
        scores += [score_reply(reply, lesson) for reply, lesson in zip(replies, part, strict=True)]
    return scores


def measure(out: Path, models: dict[str, str], setting: Setting) -> dict[str, dict[str, Scores]]:
    """The scores of every row on every split; what is there is not computed again."""
    stories = {split: [*_stories(split, setting.stories)] for split in SPLITS}
    found: dict[str, dict[str, Scores]] = {}
    for row in (SOME, ALL, *models):
        file = out / f"scores_{Path(models[row]).name if row in models else 'some' if row == SOME else 'all'}.json"
        if not file.exists():
            if row in models:
                model = load_reasoner(models[row])
                model.build()
                scores = {split: answer(model, lessons, setting.max_new_tokens) for split, lessons in stories.items()}
            else:
                scores = {s: [by_chance(one, row == SOME) for one in lessons] for s, lessons in stories.items()}
            file.write_text(json.dumps(scores) + "\n")
        found[row] = json.loads(file.read_text())
    return found


def _stories(split: str, size: int) -> Iterable[Lesson]:
    lessons = WorldStories(size, split)  # type: ignore[arg-type]  # a name of SPLITS
    return (lessons[i] for i in range(size))


def table(found: dict[str, dict[str, Scores]]) -> list[dict[str, object]]:
    """A row for each way to place and each split."""
    return [
        {"placed": row, "split": split, **{name: _mean(scores, name) for name in FIGURES}, "stories": len(scores)}
        for split in SPLITS
        for row, splits in found.items()
        for scores in [splits[split]]
    ]


def _mean(scores: Scores, name: str) -> str:
    """Mean ± half of the normal 95 % interval over the stories that have the figure."""
    values = [one[name] for one in scores if name in one]
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {half:.3f}" if values else ""


def main(out: Path = Path("runs/inserter_world"), seed: int = 0, smallest: bool = False) -> None:
    """Run the benchmark and write its table after each training.

    Args:
        out: Where models, `inserter_world.md` and `inserter_world.json` go.
        seed: Seed of the trainings.
        smallest: Two steps a training, to try it out.
    """
    setting = SMALLEST if smallest else Setting()
    torch.set_num_threads(1)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    models: dict[str, str] = {}
    for row, model in train(out, seed, setting):
        models[row] = model
        report("inserter_world", table(measure(out, models, setting)), out, setting=asdict(setting), seed=seed)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
