import pytest

from embedrl.data.rerank_replies import CandidateRanking, RelevanceVerdict, read_ranking, read_verdict


@pytest.mark.parametrize("relevant", [True, False])
def test_a_verdict_is_read_as_it_was_written(relevant):
    verdict = RelevanceVerdict("asked : a . shown : b .", relevant)
    assert read_verdict(verdict.render()) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "relevant",
        "<answer>relevant</answer>",
        "<think>x</think>relevant",
        "<think>x</think><answer>maybe</answer>",
        "<think>x</think><answer>relevant</answer> and more",
        "so <think>x</think><answer>relevant</answer>",
        "<think>x</think><answer>relevant",
        "<think>x<think>y</think><answer>relevant</answer>",
        "<think>x<answer>relevant</answer></think><answer>irrelevant</answer>",
    ],
)
def test_what_is_no_verdict(reply):
    assert read_verdict(reply) is None


@pytest.mark.parametrize("answer", [None, "red star", ""])
def test_a_ranking_is_read_as_it_was_written(answer):
    ranking = CandidateRanking("1 : a . 2 : b .", (3, 1, 2), answer)
    assert read_ranking(ranking.render(), 3, answer is not None) == ranking


@pytest.mark.parametrize(
    ("reply", "candidates", "answers"),
    [
        ("<think>x</think><ranking>1, 2</ranking>", 3, False),  # one is missing
        ("<think>x</think><ranking>1, 2, 4</ranking>", 3, False),  # invented
        ("<think>x</think><ranking>1, 2, 2</ranking>", 3, False),  # twice
        ("<think>x</think><ranking>1, 2, 2, 3</ranking>", 3, False),
        ("<think>x</think><ranking>1 2 3</ranking>", 3, False),
        ("<think>x</think><ranking>, 1</ranking>", 1, False),
        ("<think>x</think><ranking></ranking>", 1, False),
        ("<ranking>1</ranking>", 1, False),
        ("<think>x</think><ranking>1</ranking><answer>a</answer>", 1, False),  # not asked for
        ("<think>x</think><ranking>1</ranking>", 1, True),  # asked for
        ("<think>x</think><ranking>1</ranking><answer>a<answer>b</answer>", 1, True),
    ],
)
def test_what_is_no_ranking(reply, candidates, answers):
    assert read_ranking(reply, candidates, answers) is None
