"""What a policy writes too long: it is counted, cut or told apart, and ends no run."""

from collections import Counter

import pytest
import torch
from policy_helpers import policy_model
from policy_words import GOOD, text_step, words
from qwen_helpers import picture, text, user

from embedrl.data.lenient_render import fitting_chat
from embedrl.data.render import render
from embedrl.errors import TooLongError
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.rl.policy import Policy, ReferenceScorer
from embedrl.rl.rewards.endpoint import _is_too_long
from embedrl.rl.rewards.judge import Question, ReferenceJudge
from embedrl.rl.rewards.process import ProcessReward
from embedrl.types import Role, Side
from embedrl.utils.chat_client import NoAnswer


@pytest.fixture(scope="module")
def policy():
    return policy_model(max_length=2048).eval()


def test_notes_that_are_too_long_have_no_verdict_and_are_counted(policy):
    scorer = ReferenceScorer(Policy(policy))
    reward = ProcessReward(ReferenceJudge(scorer), patience=1, max_failures=0.0)
    step = text_step({(0, Role.QUERY): "word " * 5000}, count=3)
    result = reward(step)
    mine = {q for q, value in result.values.items() if value is None}
    assert "0/query/0" in mine
    assert result.metrics["failed/too_long"] == len(mine) / 6


def test_a_reasoner_given_by_name_as_judge_says_too_long(policy):
    other = policy_model(lora=False, max_length=40).eval()
    questions = [Question("a", "short", 2), Question("b", "word " * 50, 2), Question("c", "short", 2)]
    verdicts = ReferenceJudge(other).choose(questions)
    assert [verdict.cause for verdict in verdicts] == ["", "too_long", ""]
    assert verdicts[0] == verdicts[2]
    scorer = ReferenceScorer(Policy(policy, reference=other))  # its own limit counts, not the policy's
    assert [scorer.fits(question.chat) for question in questions] == [True, False, True]


def test_questions_go_through_the_model_in_pieces_with_equal_scores(policy):
    chats = [[user(text("word " * n))] for n in (5, 60, 7, 90, 33)]
    choices = [["1", "2"], ["1", "2", "3"], ["1"], ["4", "12"], ["1", "2"]]
    sizes = []
    hook = policy.core.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["position_ids"][0].numel()), with_kwargs=True
    )
    try:
        whole = policy.score_choices(chats, choices, 10**6)
        assert len(sizes) == 1
        parts = policy.score_choices(chats, choices, 150)
    finally:
        hook.remove()
    assert len(sizes) > 3
    assert max(sizes[1:]) <= 150
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert policy.score_choices([], []) == []


@pytest.mark.parametrize(
    ("cause", "detail", "expected"),
    [
        ("http_400", "This model's maximum context length is 4096 tokens", True),
        ("http_413", "", True),
        ("http_400", "unknown model", False),
        ("http_500", "context length", False),
    ],
)
def test_a_servers_refusal_for_length_is_told_apart(cause, detail, expected):
    assert _is_too_long(NoAnswer(cause, detail)) is expected


def test_a_tcot_that_is_too_long_loses_evidence_then_its_end(policy):
    preprocessor = policy_model(max_length=400).preprocessor()
    repairs = Counter()
    assert fitting_chat(Side("q", tcot=GOOD), LENIENT, preprocessor, "", None, repairs) == render(
        Side("q", tcot=GOOD), LENIENT
    )
    assert not repairs
    chat = fitting_chat(Side("q", tcot="word " * 200_000), LENIENT, preprocessor, "", None, repairs)
    assert preprocessor.fits(chat)
    assert repairs["cut"]
    assert "word word" in words(chat)
    with pytest.raises(TooLongError):  # that is the data's fault
        preprocessor([fitting_chat(Side("word " * 999, tcot="a"), LENIENT, preprocessor, "", None, repairs)])


@pytest.mark.parametrize("count", [1, 20, 380, 385, 390, 395, 400, 900])
def test_fits_says_what_reading_does(count):
    preprocessor = policy_model(lora=False, max_length=400).preprocessor()
    chat = [user({"type": "image", "image": picture(0)}, text("x " * (count // 2)))]
    try:
        preprocessor.prompts([chat])
        reads = True
    except TooLongError:
        reads = False
    assert preprocessor.fits(chat, prompt=True) is reads
