import pytest
from fake_data import FakePreprocessor, NumberTasks
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.data.collate import EncodeCollator
from embedrl.data.render import RenderOptions
from embedrl.data.side_dataset import EncodeDataset
from embedrl.errors import ConfigError, DataError
from embedrl.types import RetrievalTask, Side

RAW = RenderOptions(tcot="none")


@given(st.integers(1, 40), st.integers(2, 9), st.integers(2, 5), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_ranks_share_the_sides_without_duplicates_and_in_step(size, batch_size, micro_batch_size, world_size):
    tasks = [*NumberTasks("a", size).tasks(), *NumberTasks("b", 3).tasks()]
    try:
        datasets = [EncodeDataset(tasks, RAW, batch_size, rank, world_size) for rank in range(world_size)]
    except ConfigError:
        assert size < 8  # only a handful of sides cannot be shared out
        return
    assert len({len(dataset) for dataset in datasets}) == 1
    assert len({dataset.largest for dataset in datasets}) == 1
    collator = EncodeCollator(FakePreprocessor(), micro_batch_size, -(-datasets[0].largest // micro_batch_size))
    places, rendered = [], []
    for step in range(len(datasets[0])):
        batches = [collator(dataset[step]) for dataset in datasets]
        assert len({len(batch.micro_batches) for batch in batches}) == 1
        for batch in batches:
            assert len(batch.items) <= batch_size
            assert max(len(inputs["value"]) for inputs in batch.micro_batches) <= micro_batch_size
            places += [place for row in batch.items for place in row]
            rendered += [row[0] for row in batch.items]
    expected = [
        (t, kind, i)
        for t, task in enumerate(tasks)
        for kind, sides in (("query", task.queries), ("candidate", task.candidates))
        for i in range(len(sides))
    ]
    assert sorted(places) == sorted(expected)
    assert len(rendered) == len({side for task in tasks for side in (*task.queries, *task.candidates)})


def test_one_side_with_two_tcots_is_two_sides():
    side = Side(text="a")
    task = RetrievalTask("t", [side, side.with_tcot("x"), side], [side], [{0: 1.0}] * 3)
    dataset = EncodeDataset([task], RAW, 8)
    assert [[tuple(place) for place in sample.places] for sample in dataset[0]] == [
        [(0, "query", 0), (0, "query", 2), (0, "candidate", 0)],
        [(0, "query", 1)],
    ]


def test_errors_name_task_and_place():
    task = RetrievalTask("broken", [Side(text="a"), Side()], [Side(text="b")], [{0: 1.0}] * 2)
    with pytest.raises(DataError, match="broken/query 1: the side is empty"):
        EncodeDataset([task], RAW, 8)[0]


def test_more_processes_than_sides_is_an_error():
    with pytest.raises(ConfigError, match="2 sides leave one of the 4 processes without work"):
        EncodeDataset(NumberTasks(size=1).tasks(), RAW, 8, world_size=4)


def test_batch_size_is_checked():
    with pytest.raises(ConfigError, match="encode_batch_size is 0"):
        EncodeDataset([], RAW, 0)
