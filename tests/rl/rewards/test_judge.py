"""Discriminators: what they answer, and how they fail."""

import pytest
import torch

from embedrl.errors import ConfigError, NonFiniteError, RewardError
from embedrl.rl.rewards.judge import ChoiceScorer, Question, ReferenceJudge, Verdict, read_index

QUESTIONS = [Question(f"0/query/{i}", f"question {i}", 12) for i in range(6)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1", 0),
        ("12", 11),
        (" 3\n", 2),
        ("3.", 2),
        ("**3**", 2),
        ("[3]", 2),
        ('"3"', 2),
        ("03", 2),
        ("0", "out_of_range"),
        ("13", "out_of_range"),
        ("999999", "out_of_range"),
        ("", "unreadable"),
        ("-3", "unreadable"),
        ("3.5", "unreadable"),
        ("3 or 4", "unreadable"),
        ("1, 2", "unreadable"),
        ("The best is 3", "unreadable"),
        ("three", "unreadable"),
        ("٣", "unreadable"),
        ("9" * 5000, "unreadable"),
        ("[" * 5000, "unreadable"),
    ],
)
def test_read_index(answer, expected):
    verdict = read_index(answer, 12)
    assert verdict == (Verdict(None, expected) if isinstance(expected, str) else Verdict(expected))


@pytest.mark.parametrize(("index", "cause"), [(None, ""), (0, "timeout")])
def test_a_verdict_is_an_index_or_a_cause(index, cause):
    with pytest.raises(ValueError, match="verdict"):
        Verdict(index, cause)


class Scorer:
    def __init__(self, score):
        self.score = score

    def score_choices(self, prompts, choices):
        self.prompts, self.choices = prompts, choices
        return [self.score(prompt, texts) for prompt, texts in zip(prompts, choices, strict=True)]


def test_the_reference_takes_the_likeliest_number():
    scores = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    rows = iter(scores)
    scorer = Scorer(lambda prompt, texts: next(rows))
    assert isinstance(scorer, ChoiceScorer)
    verdicts = ReferenceJudge(scorer).choose(QUESTIONS)
    assert [v.index for v in verdicts] == scores.argmax(1).tolist()
    torch.testing.assert_close(torch.tensor([v.probabilities for v in verdicts]), scores.softmax(1))
    assert scorer.choices == [[str(n) for n in range(1, 13)]] * 6
    assert scorer.prompts[2] == [{"role": "user", "content": [{"type": "text", "text": "question 2"}]}]


@pytest.mark.parametrize(("min_mass", "index", "cause"), [(0.0, 4, ""), (0.5, None, "unclear"), (0.0005, 4, "")])
def test_the_reference_is_unclear_where_no_number_is_likely(min_mass, index, cause):
    scores = torch.full((12,), 1e-5).index_fill_(0, torch.tensor([4]), 6e-4).log()  # it would say "Maybe"
    (verdict,) = ReferenceJudge(Scorer(lambda *_: scores), min_mass).choose(QUESTIONS[:1])
    assert (verdict.index, verdict.cause) == (index, cause)
    with pytest.raises(ConfigError, match=r"judge\.min_mass is 2"):
        ReferenceJudge(min_mass=2)


def test_the_reference_takes_the_first_of_equals():
    assert ReferenceJudge(Scorer(lambda *_: torch.zeros(12))).choose(QUESTIONS[:1])[0].index == 0


def test_a_number_that_cannot_be_said_is_never_taken():
    scores = torch.full((12,), -torch.inf).index_fill_(0, torch.tensor([4]), -3.0)
    assert ReferenceJudge(Scorer(lambda *_: scores)).choose(QUESTIONS[:1])[0].probabilities[4] == 1


@pytest.mark.parametrize(
    ("score", "error"),
    [
        (torch.full((12,), torch.nan), NonFiniteError),
        (torch.full((12,), -torch.inf), NonFiniteError),
        (torch.zeros(11), RewardError),
        (torch.zeros(12, 1), RewardError),
    ],
)
def test_the_reference_refuses_broken_scores(score, error):
    with pytest.raises(error):
        ReferenceJudge(Scorer(lambda *_: score)).choose(QUESTIONS)


def test_the_reference_needs_a_model():
    with pytest.raises(ConfigError, match="scorer"):
        ReferenceJudge().choose(QUESTIONS)
