import math

import pytest
import torch
from cli_process import logged
from recipes import CONFIGS, SMALL, VERIFIABLE_RL, overlays
from torchmetrics.functional.retrieval import retrieval_normalized_dcg

from embedrl.cli import main
from embedrl.errors import RewardError
from embedrl.rl.rewards.rerank import RankingAnswer, RankingReward, RerankFormat, VerdictReward
from embedrl.types import Lesson

YES, NO = "<think>x</think><answer>relevant</answer>", "<think>x</think><answer>irrelevant</answer>"


def verdict(relevant, balance=1.0):
    return Lesson([], "", "verdict", {"relevant": relevant, "balance": balance})


def ranking(grades, **gold):
    return Lesson([], "", "ranking", {"grades": grades, **gold})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rankings_are_trained_by_their_rewards(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    form = {"init_args": {"form": "ranking", "negatives": 2, "answers": True}}
    rankings = {
        "model": {"init_args": {"rewards": str(CONFIGS / "parts/reply_reward/rerank_ranking.yaml")}},
        "data": {"init_args": {"train": form, "val": {"init_args": {"limit": 2, **form["init_args"]}}}},
    }
    words = ["--config", str(CONFIGS / "world/reranker_grpo.yaml"), *overlays(tmp_path, SMALL, VERIFIABLE_RL, rankings)]
    assert main(["fit", *words, "--checkpoint.monitor", "val/ndcg"]) == 0, capsys.readouterr().err
    (run,) = tmp_path.rglob("version_0")
    for name in ("format", "ndcg", "ranking_answer", "total"):
        assert sorted(logged(run, f"reward/{name}/mean")) == [0, 1]
    for name in ("ndcg", "ranking_answer", "reward", "vqa_ranking/ndcg"):
        assert logged(run, f"val/{name}")


@pytest.mark.parametrize(
    ("lesson", "reply", "form", "value"),
    [
        (verdict(True, 2.0), YES, 1.0, 2.0),
        (verdict(True, 2.0), NO, 1.0, 0.0),
        (verdict(False, 0.66), NO, 1.0, 0.66),
        (verdict(False), "irrelevant", 0.0, 0.0),  # the form counts: no verdict can be read
    ],
)
def test_a_verdict(lesson, reply, form, value):
    assert RerankFormat()(lesson, reply) == form
    assert VerdictReward()(lesson, reply) == value


@pytest.mark.parametrize(
    ("grades", "order"),
    [([0, 1, 0], [2, 1, 3]), ([0, 1, 0], [1, 3, 2]), ([3, 0, 1, 2], [2, 3, 1, 4]), ([3, 0, 1, 2], [1, 4, 3, 2])],
)
def test_ndcg_is_that_of_torchmetrics(grades, order):
    reply = f"<think>x</think><ranking>{', '.join(map(str, order))}</ranking>"
    lesson = ranking([float(grade) for grade in grades])
    scores = torch.zeros(len(grades))
    for place, number in enumerate(order):
        scores[number - 1] = -place
    expected = retrieval_normalized_dcg(scores, torch.tensor(grades))
    assert RerankFormat()(lesson, reply) == 1.0
    assert RankingReward()(lesson, reply) == pytest.approx(float(expected))


def test_a_ranking_that_cannot_be_read_is_worth_nothing():
    lesson = ranking([1.0, 0.0], reference="red star")
    assert RerankFormat()(lesson, "<think>x</think><ranking>1, 2</ranking>") == 0.0  # no answer
    assert RankingReward()(lesson, "<think>x</think><ranking>1, 1</ranking><answer>red star</answer>") == 0.0
    assert RankingReward()(ranking([0.0, 0.0]), "<think>x</think><ranking>1, 2</ranking>") == 0.0


@pytest.mark.parametrize(
    ("answer", "value"), [("red star", 1.0), ("Red", 2 / 3), ("a red red star", 2 * 2 / 6), ("blue", 0.0), ("", 0.0)]
)
def test_the_words_of_an_answer(answer, value):
    reply = f"<think>x</think><ranking>1</ranking><answer>{answer}</answer>"
    assert RankingAnswer()(ranking([1.0], reference="red star"), reply) == pytest.approx(value)
    assert RankingAnswer()(ranking([1.0]), reply) == 0.0
    assert math.isfinite(value)


def test_lessons_of_another_kind():
    with pytest.raises(RewardError, match="the lesson asks for a ranking"):
        VerdictReward()(ranking([1.0]), YES)
    with pytest.raises(RewardError, match="the lesson asks for a verdict"):
        RankingReward()(verdict(True), YES)
    with pytest.raises(RewardError, match="'story' is none to rerank by"):
        RerankFormat()(Lesson([], "", "story"), YES)
