import math
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.data.sampler import SubBatchSampler
from embedrl.errors import ConfigError


def make(sizes=(40, 60, 20), weights=None, videos=None, **kwargs):
    settings_ = {"batch_size": 8, "sub_batch_size": 4, "num_batches": 10, **kwargs}
    return SubBatchSampler(sizes, weights or [1.0] * len(sizes), videos or [False] * len(sizes), **settings_)


def epochs(sampler, count):
    batches = []
    for epoch in range(count):
        sampler.start = epoch * len(sampler)
        batches += list(sampler)
    return batches


def sub_batches(batches, size):
    return [batch[i : i + size] for batch in batches for i in range(0, len(batch), size)]


@st.composite
def mixes(draw):
    sub_batch_size = draw(st.sampled_from([2, 4, 6]))
    count = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(sub_batch_size, 25), min_size=count, max_size=count))
    videos = [False, *draw(st.lists(st.booleans(), min_size=count - 1, max_size=count - 1))]
    return {
        "sizes": sizes,
        "weights": draw(st.lists(st.floats(0.1, 5), min_size=count, max_size=count)),
        "videos": videos,
        "sub_batch_size": sub_batch_size,
        "batch_size": sub_batch_size * draw(st.integers(1, 4)),
        "max_video_sub_batches": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 1000)),
        "num_batches": draw(st.integers(1, 12)),
    }


@given(mixes())
@settings(max_examples=60, deadline=None)
def test_invariants(mix):
    batches = epochs(make(**mix), 2)
    assert len(batches) == 2 * mix["num_batches"]
    assert all(len(batch) == mix["batch_size"] for batch in batches)
    seen = [[] for _ in mix["sizes"]]
    for batch in batches:
        parts = sub_batches([batch], mix["sub_batch_size"])
        videos = sum(mix["videos"][part[0].source] for part in parts)
        assert videos <= mix["max_video_sub_batches"]
        for part in parts:
            assert len({key.source for key in part}) == 1
            assert len({key.row for key in part}) == len(part)
            seen[part[0].source] += part
    for source, (keys, size) in enumerate(zip(seen, mix["sizes"], strict=True)):
        for draw in range(math.ceil(len(keys) / size)):
            stretch = keys[draw * size : (draw + 1) * size]
            assert all(key.draw == draw and key.source == source for key in stretch)
            assert len({key.row for key in stretch}) == len(stretch)  # no repetition before it is exhausted
            assert len(stretch) < size or {key.row for key in stretch} == set(range(size))


@given(mixes(), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_ranks_share_the_same_global_batches(mix, start):
    def batches(rank, world_size):
        sampler = make(**mix, rank=rank, world_size=world_size)
        sampler.start = start
        return list(sampler)

    size = mix["sub_batch_size"]
    alone = batches(0, 1)
    assert len(alone) == mix["num_batches"]
    ranks = [batches(rank, 2) for rank in range(2)]
    for i, batch in enumerate(alone):
        parts = [sub_batches([rank[i]], size // 2) for rank in ranks]
        assert [key for a, b in zip(*parts, strict=True) for key in (*a, *b)] == batch


@given(mixes(), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_start_skips_batches(mix, start):
    sampler = make(**mix)
    stream = epochs(make(**{**mix, "num_batches": 32}), 1)
    sampler.start = start
    assert list(sampler) == stream[start : start + mix["num_batches"]]


def test_draw_frequencies_follow_weight_times_size():
    sizes, weights = [1000, 3000, 2000], [2.0, 1.0, 0.5]
    batches = epochs(make(sizes, weights, num_batches=3000), 1)
    counts = Counter(part[0].source for part in sub_batches(batches, 4))
    chances = [2000 / 6000, 3000 / 6000, 1000 / 6000]
    # chi-square with 2 degrees of freedom: 13.8 is exceeded once in a thousand seeds
    assert sum((counts[i] - 6000 * p) ** 2 / (6000 * p) for i, p in enumerate(chances)) < 13.8


def test_draw_frequencies_under_the_video_limit():
    batches = epochs(make([1000, 1000, 1000], videos=[True, False, False], num_batches=3000), 1)
    pairs = Counter(tuple(part[0].source for part in sub_batches([batch], 4)) for batch in batches)
    assert (0, 0) not in pairs
    # the first draw is free; after a video the second is drawn among the others
    expected = {(0, 1): 1 / 6, (0, 2): 1 / 6, **{(a, b): 1 / 9 for a in (1, 2) for b in (0, 1, 2)}}
    chi = sum((pairs[key] - 3000 * p) ** 2 / (3000 * p) for key, p in expected.items())
    assert chi < 24.3  # 7 degrees of freedom, one in a thousand


def test_weight_zero_is_never_drawn_and_not_counted():
    sampler = make([40, 3], [1.0, 0.0], num_batches=None)
    assert len(sampler) == 5
    assert {key.source for batch in epochs(sampler, 5) for key in batch} == {0}


def test_seeds_and_epochs_differ():
    assert epochs(make(seed=1), 1) == epochs(make(seed=1), 1)
    assert epochs(make(seed=1), 1) != epochs(make(seed=2), 1)
    both = epochs(make(seed=1), 2)
    assert both[:10] != both[10:]


def test_epoch_length_defaults_to_one_pass():
    assert len(make([40, 60, 20], num_batches=None)) == 15


@pytest.mark.slow
def test_draws_are_cheap():
    sampler = make([300_000] * 6, batch_size=512, sub_batch_size=256, num_batches=None)
    sampler.start = 2 * len(sampler)
    start = time.perf_counter()
    assert len(next(iter(sampler))) == 512
    assert time.perf_counter() - start < 5  # two passes over 1.8 million rows skipped


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 10}, r"data\.batch_size 10 is not a multiple of data\.sub_batch_size 4"),
        ({"sub_batch_size": 0}, r"data\.sub_batch_size"),
        ({"world_size": 3}, r"data\.sub_batch_size 4 is not a multiple of the 3 processes"),
        ({"sizes": [40, 3]}, r"set1 has 3 rows, fewer than data\.sub_batch_size 4"),
        ({"weights": [1.0, -1.0]}, r"weight -1\.0 of set1"),
        ({"weights": [1.0, float("nan")]}, "weight nan of set1"),
        ({"weights": [0.0, 0.0]}, "no data set with a weight above 0"),
        ({"max_video_sub_batches": 0, "videos": [True, False]}, r"data\.max_video_sub_batches is 0"),
        ({"videos": [True, True]}, r"video data sets only and a batch needs 2 sub-batches"),
        ({"num_batches": None, "batch_size": 120}, r"an epoch has no batch: data\.batch_size 120, 100 rows"),
        ({"num_batches": 0}, r"data\.batches_per_epoch 0"),
        ({"seed": -1}, r"data\.seed"),
    ],
)
def test_impossible_settings_name_the_flag(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make(**{"sizes": [40, 60], "names": ["set0", "set1"], **kwargs})
