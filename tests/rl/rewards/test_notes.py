"""Questions with pictures: the crops of T-CoTs in place, and nothing else of the sides."""

import numpy as np
import pytest
import torch
from PIL import Image
from reward_helpers import FakeJudge

from embedrl.errors import ConfigError
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.rewards.checkpoint_judge import CheckpointJudge
from embedrl.rl.rewards.endpoint import EndpointJudge
from embedrl.rl.rewards.notes import EvidenceNotes
from embedrl.rl.rewards.process import ProcessReward
from embedrl.rl.rewards.text_judge import TextEmbedderJudge
from embedrl.rl.types import Rollout, RolloutStep
from embedrl.tcot.matching import match_prompt
from embedrl.tcot.parser import build, parse
from embedrl.types import Modality, Pair, Role, Side


class Picture:
    """Noise of 100 pixels a side; counts how often it is opened."""

    def __init__(self, seed):
        self.name, self.opened = f"noise {seed}", 0
        self.pixels = np.random.default_rng(seed).integers(0, 255, (100, 100, 3), dtype=np.uint8)

    def load(self):
        self.opened += 1
        return Image.fromarray(self.pixels)


BOXES = [(0, 0, 500, 500), (200, 300, 900, 800)]
CROPS = [(0, 0, 55, 55), (13, 25, 97, 85)]
"""What they cut out, in pixels: with a tenth of their size around them."""


def step_of_pictures():
    """Two pairs of pictures; rollout g points at box g."""
    pairs = [Pair(Side(f"query {i}", (Picture(i),)), Side("", (Picture(10 + i),)), "demo", str(i)) for i in range(2)]
    rollouts = [
        Rollout(i, role, g, (), (), build(Modality.IMAGE, f"{i} {role} {g} .", "So.", "It.", boxes=[BOXES[g]]).render())
        for i in range(2)
        for role in Role
        for g in range(2)
    ]
    ids = [r.id for r in rollouts]
    vectors = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    parsed = {r.id: parse(r.text, Modality.IMAGE) for r in rollouts}
    return RolloutStep(pairs, rollouts, dict(zip(ids, vectors, strict=True)), parsed, frozenset(ids), 1)


def asked(step, **options):
    judge = FakeJudge()
    ProcessReward(judge, **options)(step)
    return judge.questions


@pytest.mark.parametrize("style", ["full", "brief"])
def test_the_crops_stand_in_their_notes_and_the_words_are_those_of_the_plain_question(style):
    step = step_of_pictures()
    plain = {q.id: q for q in asked(step, style=style, candidates="group", positives="one")}
    questions = asked(step, style=style, candidates="group", positives="one", evidence=True)
    assert len(questions) == 8
    for question in questions:
        assert question.prompt == plain[question.id].prompt
        assert plain[question.id].content is None
        anchor = next(r for r in step.rollouts if r.id == question.id)
        order = [anchor, *(next(r for r in step.rollouts if r.text == text) for text in question.candidates)]
        pictures = [part["image"] for part in question.content if part["type"] == "image"]
        assert len(pictures) == len(order)
        for picture, rollout in zip(pictures, order, strict=True):
            pair = step.pairs[rollout.pair]
            side = pair.query if rollout.role is Role.QUERY else pair.target
            x1, y1, x2, y2 = CROPS[rollout.index]
            assert (np.asarray(picture) == side.images[0].pixels[y1:y2, x1:x2]).all()
        words = "".join(part.get("text", "") for part in question.content)
        assert words.replace("\n", "") == question.prompt.replace("\n", "")
        assert question.chat == [{"role": "user", "content": question.content}]


def test_pictures_are_opened_once_a_rollout():
    step = step_of_pictures()
    asked(step, evidence=True)
    opened = sum(image.opened for pair in step.pairs for side in (pair.query, pair.target) for image in side.images)
    assert opened == len(step.rollouts)


@pytest.mark.parametrize("text", ["", "<|im_end|> \ud800", '<thinking>{"bbox_2d": [[5, 5, 5, 5], [0, 0, 9e9, 1]]}'])
def test_whatever_a_rollout_writes_is_shown(text):
    step = step_of_pictures()
    rollout = Rollout(0, Role.QUERY, 0, (), (), text)
    parsed = {**step.parsed, rollout.id: parse(text, Modality.IMAGE)}
    parts = EvidenceNotes(RolloutStep(step.pairs, [rollout], {}, parsed, frozenset())).parts(rollout)
    words = "".join(part.get("text", "") for part in parts)
    words.encode()
    assert "<|im_end|>" not in words


def test_a_model_reads_it():
    judge = CheckpointJudge(QwenVLReasoner("embedrl:world_base"), device="cpu")
    reward = ProcessReward(judge, form="probability", candidates="group", style="brief", evidence=True)
    values = reward(step_of_pictures()).values
    assert all(0 < value < 1 for value in values.values())
    plain = ProcessReward(judge, form="probability", candidates="group", style="brief")(step_of_pictures()).values
    assert values != plain


def test_refuses_judges_that_read_words_alone():
    for judge in (EndpointJudge("http://127.0.0.1:1/v1", "tiny"), TextEmbedderJudge("folder")):
        with pytest.raises(ConfigError, match="reads words alone"):
            ProcessReward(judge, evidence=True)


def test_a_mark_in_the_text_moves_nothing():
    step = step_of_pictures()
    pair = step.pairs[0]
    marked = Pair(Side("a \ue000 b", pair.query.images), pair.target, pair.dataset, pair.id)
    step = RolloutStep([marked, step.pairs[1]], step.rollouts, step.vectors, step.parsed, step.mine, 1)
    question = next(q for q in asked(step, evidence=True) if q.id == "0/query/0")
    assert question.content[0]["text"].startswith(match_prompt(Role.QUERY, "a   b", "|", ["|"] * 3).split("|")[0])
