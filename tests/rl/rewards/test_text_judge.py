"""The text embedder as a judge, against plain cosines."""

import math

import numpy as np
import pytest
import torch

from embedrl.errors import CheckpointError, ConfigError, NonFiniteError, RewardError
from embedrl.rl.rewards import text_judge
from embedrl.rl.rewards.judge import Judge, Question
from embedrl.rl.rewards.text_judge import TextEmbedderJudge


class Letters:
    """Embeds a text as its counts of letters; remembers what it was given."""

    def __init__(self):
        self.texts = []

    def encode(self, texts, batch_size, show_progress_bar, convert_to_tensor, normalize_embeddings):
        assert (show_progress_bar, convert_to_tensor, normalize_embeddings) == (False, True, True)
        self.texts += texts
        counts = torch.tensor([[text.count(letter) for letter in "abcdef"] for text in texts], dtype=torch.float32)
        return torch.nn.functional.normalize(counts, dim=1)


@pytest.fixture
def letters(monkeypatch):
    model = Letters()
    monkeypatch.setattr(text_judge, "_load", lambda path, device: model)
    return model


QUESTIONS = [
    Question("0/query/0", "", 3, "aab", ("abc", "aabb", "def")),
    Question("0/query/1", "", 2, "fff", ("aab", "fa")),
    Question("1/query/0", "", 2, "aab", ("def", "abc")),
]


def test_it_takes_the_nearest_and_says_how_surely(letters):
    judge: Judge = TextEmbedderJudge("folder", temperature=0.2)
    verdicts = judge.choose(QUESTIONS)
    assert sorted(letters.texts) == sorted({text for q in QUESTIONS for text in (q.anchor, *q.candidates)})

    def vector(text):
        counts = np.array([text.count(letter) for letter in "abcdef"], dtype=float)
        return counts / np.linalg.norm(counts)

    for question, verdict in zip(QUESTIONS, verdicts, strict=True):
        cosines = [float(vector(question.anchor) @ vector(candidate)) for candidate in question.candidates]
        weights = [math.exp(cosine / 0.2) for cosine in cosines]
        assert verdict.probabilities == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-6)
        assert verdict.index == cosines.index(max(cosines))


def test_no_question_loads_nothing(monkeypatch):
    monkeypatch.setattr(text_judge, "_load", lambda path, device: pytest.fail("loaded"))
    assert TextEmbedderJudge("folder").choose([]) == []


def test_refuses_what_it_cannot_compare(letters, monkeypatch):
    with pytest.raises(RewardError, match="0/query/0: a text embedder needs"):
        TextEmbedderJudge("folder").choose([Question("0/query/0", "which ?", 2)])
    monkeypatch.setattr(letters, "encode", lambda texts, *args, **options: torch.full((len(texts), 2), torch.nan))
    with pytest.raises(NonFiniteError, match="the text embedder folder"):
        TextEmbedderJudge("folder").choose(QUESTIONS)


@pytest.mark.parametrize(("option", "value"), [("temperature", 0.0), ("batch_size", 0)])
def test_refuses_options_out_of_range(option, value):
    with pytest.raises(ConfigError, match=rf"judge\.{option}"):
        TextEmbedderJudge("folder", **{option: value})


@pytest.mark.slow
def test_names_a_folder_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="sentence-transformers cannot load it"):
        TextEmbedderJudge(str(tmp_path / "gone"), device="cpu").choose(QUESTIONS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_embedder_judges():
    judge = TextEmbedderJudge("embedrl:world_embedder", device="cpu")
    questions = [Question("a", "", 3, "red star", ("blue circle", "red star", "green cross"))]
    assert judge.choose(questions)[0].index == 1
