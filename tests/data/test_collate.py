import pickle

import pytest
import torch
from fake_data import FakePreprocessor, Frame, Quarters
from hypothesis import given, settings
from hypothesis import strategies as st

from embedrl.data.collate import ContrastiveCollator, EncodeCollator, EncodeSample, Place
from embedrl.data.pair_dataset import Example
from embedrl.data.render import RenderOptions, render
from embedrl.errors import ConfigError, DataError
from embedrl.types import Side

RAW = RenderOptions(tcot="none")


def example(number, negatives=(), extra=0):
    def chat(n):
        return render(Side(text=f"{n} " + "x" * extra), RAW)

    return Example(
        query=chat(number),
        target=chat(number + 1000),
        negatives=[chat(n) for n in negatives],
        query_key=f"q{number}",
        target_key=f"t{number}",
        negative_keys=[f"n{n}" for n in negatives],
        dataset="set",
        id=str(number),
    )


def flat(batch):
    """The micro-batches' values in flat order, as a loss would put vectors back."""
    values = torch.cat([inputs["value"] for inputs in batch.micro_batches])
    out = torch.full_like(values, float("nan"))
    out[batch.order] = values
    return out.int().tolist()


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=17),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_values_come_back_to_their_flat_positions(shapes, micro_batch_size):
    examples = [
        example(i, [2000 + 10 * i + j for j in range(negatives)], extra) for i, (extra, negatives) in enumerate(shapes)
    ]
    batch = ContrastiveCollator(FakePreprocessor(), micro_batch_size)(examples)
    count = len(examples)
    assert flat(batch) == [
        *range(count),
        *range(1000, 1000 + count),
        *(2000 + 10 * i + j for i, (_, negatives) in enumerate(shapes) for j in range(negatives)),
    ]
    sizes = [len(inputs["value"]) for inputs in batch.micro_batches]
    assert max(sizes) <= micro_batch_size
    assert len(sizes) == -(-sum(sizes) // micro_batch_size)  # as few as possible
    lengths = torch.cat([inputs["size"] for inputs in batch.micro_batches])
    assert (lengths[1:] >= lengths[:-1]).all()
    assert sorted(batch.order.tolist()) == list(range(sum(sizes)))


def test_fields():
    batch = ContrastiveCollator(FakePreprocessor(), 4)([example(1, [5, 6]), example(2)])
    assert batch.num_pairs == 2
    assert batch.query_keys == ["q1", "q2"]
    assert batch.target_keys == ["t1", "t2"]
    assert batch.negative_counts == [2, 0]
    assert batch.negative_keys == ["n5", "n6"]
    assert batch.datasets == ["set", "set"]
    assert batch.ids == ["1", "2"]
    assert batch.order.dtype == torch.long


def test_equal_lengths_keep_their_order():
    batch = ContrastiveCollator(FakePreprocessor(), 3)([example(i) for i in range(5)])
    assert batch.order[:5].tolist() == [0, 1, 2, 3, 4]


def test_text_several_images_and_video_in_one_batch():
    sides = [
        Side(text="1"),
        Side(text="2", images=(Quarters(), Quarters((8, 8)))),
        Side(text="3", frames=(Frame(0), Frame(9))),
        Side(text="4", images=(Quarters(),), frames=(Frame(0),)),
    ]
    samples = [EncodeSample(render(side, RAW), [Place(0, "query", i)], str(i)) for i, side in enumerate(sides)]
    batch = EncodeCollator(FakePreprocessor(), 2)(samples)
    assert flat(batch) == [1, 2, 3, 4]
    assert batch.items == [[Place(0, "query", i)] for i in range(4)]


def test_a_given_number_of_micro_batches():
    examples = [example(i) for i in range(3)]
    batch = ContrastiveCollator(FakePreprocessor(), 4, num_micro_batches=4)(examples)
    assert [len(inputs["value"]) for inputs in batch.micro_batches] == [1, 2, 1, 2]
    assert flat(batch) == [0, 1, 2, 1000, 1001, 1002]
    with pytest.raises(ConfigError, match=r"raise data\.micro_batch_size"):
        ContrastiveCollator(FakePreprocessor(), 1, num_micro_batches=7)(examples)


def test_a_chat_that_the_preprocessor_refuses_is_named():
    bad = example(2)
    bad.target = render(Side(text="toolong"), RAW)
    with pytest.raises(DataError, match=r"^set/2 \(target\): longer than max_length"):
        ContrastiveCollator(FakePreprocessor(), 8)([example(1), bad])


@pytest.mark.parametrize("collator", [ContrastiveCollator, EncodeCollator])
def test_micro_batch_size_is_checked(collator):
    with pytest.raises(ConfigError, match=r"data\.micro_batch_size is 0"):
        collator(FakePreprocessor(), 0)


def test_collators_are_picklable():
    collator = pickle.loads(pickle.dumps(ContrastiveCollator(FakePreprocessor(), 2)))
    assert flat(collator([example(1)])) == [1, 1001]
