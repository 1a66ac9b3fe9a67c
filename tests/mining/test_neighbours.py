import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.errors import ConfigError
from embedrl.metrics.ranking import Blocks
from embedrl.mining.neighbours import MiningOptions, find_neighbours


def unit(rows, seed):
    return torch.nn.functional.normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def blocks(vectors, size):
    return Blocks(len(vectors), lambda: vectors.split(size))


OPTIONS = st.builds(
    MiningOptions,
    negatives=st.integers(1, 4),
    depth=st.integers(4, 12),
    first=st.integers(0, 3),
    margin=st.none() | st.floats(0, 0.5),
    share=st.none() | st.floats(0.5, 1.0),
    least_positive=st.none() | st.floats(-0.5, 0.5),
)


@settings(max_examples=30, deadline=None)
@given(OPTIONS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_equals_a_search_of_the_whole_corpus(options, seed, rng):
    queries, corpus = unit(6, seed), unit(15, seed + 1)
    own = [rng.randrange(15) for _ in range(6)]
    known = [{place, *rng.sample(range(15), rng.randrange(3))} for place in own]
    mined = list(find_neighbours(queries, blocks(corpus, 4), own, known, options))
    for i, one in enumerate(mined):
        scores = (corpus.double() @ queries[i].double()).tolist()
        positive = scores[own[i]]
        assert one.score == pytest.approx(positive, abs=1e-6)
        ceiling = positive
        if options.margin is not None:
            ceiling = min(ceiling, positive - options.margin)
        if options.share is not None:
            ceiling = min(ceiling, positive - (1 - options.share) * abs(positive))
        others = sorted((j for j in range(15) if j not in known[i]), key=lambda j: -scores[j])[: options.depth]
        assert one.rank == sum(scores[j] >= positive for j in others)
        looked_at = others[options.first :]
        assert [j for j, _ in one.above] == [j for j in looked_at if scores[j] >= ceiling]
        assert one.doubtful == (options.least_positive is not None and positive < options.least_positive)
        below = [j for j in looked_at if scores[j] < ceiling]
        assert [j for j, _ in one.negatives] == ([] if one.doubtful else below[: options.negatives])
        for j, score in [*one.negatives, *one.above]:
            assert score == pytest.approx(scores[j], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "positive", "ceiling"),
    [
        ({"share": None}, 0.8, 0.8),
        ({}, 0.8, 0.76),
        ({}, -0.4, -0.42),  # a share of a negative cosine lies below it, too
        ({"share": None, "margin": 0.1}, 0.8, 0.7),
        ({"margin": 0.1}, 0.8, 0.7),
        ({"margin": 0.01}, 0.8, 0.76),
    ],
)
def test_the_ceiling(options, positive, ceiling):
    assert MiningOptions(**options).ceiling(positive) == pytest.approx(ceiling)


@pytest.mark.parametrize(
    "options",
    [
        {"negatives": 0}, {"depth": 0}, {"first": -1}, {"first": 50}, {"margin": -0.1}, {"margin": 3.0}, {"share": 0.0},
        {"share": 1.5}, {"least_positive": 2.0}, {"margin": float("nan")},
    ],
)  # fmt: skip
def test_refuses_options_out_of_range(options):
    with pytest.raises(ConfigError, match=rf"--options\.{next(iter(options))}"):
        MiningOptions(**options)
