import pytest
import torch

from embedrl.errors import ConfigError
from embedrl.metrics.confidence import ConfidenceGate, delta_s
from embedrl.metrics.ranking import rank

INF = float("inf")
SCORES = torch.tensor([[0.9, 0.5, 0.1], [0.6, 0.58, 0.5], [0.7, 0.7, -INF], [0.4, -INF, -INF]], dtype=torch.float64)


def test_delta_s_is_the_gap_to_the_mean_of_the_next():
    assert delta_s(SCORES, 2).tolist() == pytest.approx([0.4, 0.02, 0.0, INF])
    assert delta_s(SCORES, 3).tolist() == pytest.approx([0.6, 0.06, 0.0, INF])


def test_of_two_it_is_the_rankings_own():
    vectors = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    ranking = rank(vectors[:4], vectors[4:], [{i: 1.0} for i in range(4)])
    torch.testing.assert_close(delta_s(ranking.scores), ranking.delta_s.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"below": 0.1}, [False, True, True, False]),
        ({"below": 0.1, "top": 3}, [False, True, True, False]),
        ({"below": 0.0}, [False] * 4),
        ({"below": -1.0}, [False] * 4),
        ({"below": 3.0}, [True, True, True, False]),  # a single candidate is right, or wrong, whoever thinks
        ({"below": INF}, [True, True, True, False]),
        ({"share": 0.0}, [False] * 4),
        ({"share": 0.25}, [False, False, True, False]),
        ({"share": 0.75}, [True, True, True, False]),
        ({"share": 1.0}, [True] * 4),
    ],
)
def test_who_thinks(options, expected):
    assert ConfidenceGate(**options).thinks(SCORES).tolist() == expected


def test_equally_sure_queries_think_together():
    assert ConfidenceGate(share=0.5).thinks(SCORES[[1, 1, 1, 0]]).tolist() == [True, True, True, False]


def test_one_query():
    gate = ConfidenceGate(below=0.1)
    assert [gate.thinks_of(scores) for scores in ([], [0.3], [0.3, 0.25], [0.3, 0.1])] == [False, False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "gate.below .* or gate.share .*, one of both"),
        ({"below": 0.1, "share": 0.5}, "one of both"),
        ({"below": float("nan")}, "gate.below is nan"),
        ({"share": 1.5}, "gate.share is 1.5"),
        ({"share": 0.5, "top": 1}, "gate.top is 1"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ConfidenceGate(**options)
