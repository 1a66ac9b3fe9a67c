"""The base that ships: small, from the recipe in the repository, and able to do what the recipe teaches."""

import json
from pathlib import Path
from statistics import mean

import pytest
import torch

from embedrl.data.world.lessons.curriculum import WorldExam
from embedrl.metrics.replies import score_reply
from embedrl.models.qwen_vl.loading import SHIPPED
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner

FOLDER = SHIPPED["embedrl:world_base"]
GATES = {"iou": 0.7, "f1": 0.9, "answer": 0.9}
ANSWERS = ("answer_place", "answer_relation", "answer_twice", "answer_after")


def test_it_is_small_and_says_where_it_comes_from():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000
    recipe = Path(__file__).parents[2] / "configs/world/base.yaml"
    assert (FOLDER / "recipe.yaml").read_text() == recipe.read_text()


def test_its_recorded_scores_pass():
    held_out = json.loads((FOLDER / "scores.json").read_text())["held_out"]
    found = {name: [s[name] for kind, s in held_out.items() if name in s] for name in GATES}
    found["answer"] = [held_out[kind]["answer"] for kind in ANSWERS]
    for name, gate in GATES.items():
        assert mean(found[name]) >= gate, name


@pytest.mark.parametrize(
    ("kind", "figure"), [("point", "iou"), ("moment", "f1"), ("answer_relation", "answer"), ("read_number", "answer")]
)
def test_it_can_do_what_was_recorded(kind, figure):
    torch.set_num_threads(1)
    base = QwenVLReasoner("embedrl:world_base", evidence_pixels=PixelBudget(2304, 6912))
    base.build()
    exam = WorldExam([kind], each=24, split="test", seed=1)
    lessons = [exam[i] for i in range(24)]
    inputs = base.eval().preprocessor().prompts([lesson.chat for lesson in lessons])
    scores = [score_reply(reply, x) for reply, x in zip(base.generate(inputs, 72), lessons, strict=True)]
    recorded = json.loads((FOLDER / "scores.json").read_text())["held_out"][kind][figure]
    # Twenty-four lessons: three standard errors of a share are at most 0.2 here.
    assert mean(score[figure] for score in scores) > recorded - 0.2
