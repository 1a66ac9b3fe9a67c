from dataclasses import replace

import pytest
from fake_data import IMAGE_TCOT, Numbers, Quarters

from embedrl.data.checked_rows import MAX_IN_A_ROW, CheckedRows
from embedrl.data.pair_dataset import PairDataset, SampleKey
from embedrl.data.render import RenderOptions
from embedrl.errors import DataError, TooManyBadError
from embedrl.tcot.store import content_hash
from embedrl.types import Modality, Pair, Side

RAW = RenderOptions(tcot="none")


class Boxes:
    """Pairs with pictures and boxes."""

    name = "boxes"
    modality = Modality.IMAGE

    def __len__(self):
        return 3

    def __getitem__(self, index):
        side = Side(text=str(index), images=(Quarters((100, 100)),), tcot=IMAGE_TCOT)
        return Pair(side, side.with_tcot(""), "boxes", str(index))


def crops(example):
    return [part["image"].tobytes() for part in example.query[0]["content"] if part.get("evidence")]


def test_an_example_holds_the_rendered_pair_and_its_keys():
    source = Numbers(negatives=2)
    example = PairDataset([Numbers(name="other"), source], RAW, max_negatives=2)[SampleKey(1, 5)]
    pair = source[5]
    assert example.query[0]["content"][0]["text"] == "query 5 of numbers"
    assert example.target[0]["content"][0]["text"] == "target 5 of numbers"
    assert [chat[0]["content"][0]["text"] for chat in example.negatives] == ["negative 0 5", "negative 1 5"]
    assert (example.query_key, example.target_key) == (content_hash(pair.query), content_hash(pair.target))
    assert example.negative_keys == [content_hash(side) for side in pair.negatives]
    assert (example.dataset, example.id, example.raw_sides) == ("numbers", "5", 0)


def test_negatives_are_limited():
    dataset = PairDataset([Numbers(negatives=2)], RAW, max_negatives=1)
    assert [len(dataset[SampleKey(0, row)].negatives) for row in range(3)] == [0, 1, 1]


def test_a_negative_that_is_the_target_is_refused_if_it_is_read():
    class Repeated(Numbers):
        def __getitem__(self, index):
            pair = super().__getitem__(index)
            return replace(pair, negatives=(pair.query, pair.target.with_tcot("<answer>another T-CoT</answer>")))

    assert len(PairDataset([Repeated()], RAW, max_negatives=1)[SampleKey(0, 3)].negatives) == 1
    rows = PairDataset([Repeated()], RAW, max_negatives=2)
    with pytest.raises(DataError, match=r"^numbers/3 \(negative 1\): the same as the pair's target"):
        rows[SampleKey(0, 3)]


def test_names_of_the_mix_replace_those_of_the_source():
    dataset = PairDataset([Numbers(broken=(0,))], RAW, names=["renamed"])
    assert dataset[SampleKey(0, 1)].dataset == "renamed"
    with pytest.raises(DataError, match=r"renamed/0 \(query\)"):
        dataset[SampleKey(0, 0)]


def test_noise_depends_on_seed_and_key_alone():
    options = RenderOptions(jitter=200, on_missing_tcot="raw")
    first, second = PairDataset([Boxes()], options, seed=1), PairDataset([Boxes()], options, seed=1)
    second[SampleKey(0, 2, 3)]  # another order of access changes nothing
    assert crops(first[SampleKey(0, 1, 0)]) == crops(second[SampleKey(0, 1, 0)])
    assert crops(first[SampleKey(0, 1, 0)]) != crops(first[SampleKey(0, 1, 1)])
    assert crops(first[SampleKey(0, 1, 0)]) != crops(PairDataset([Boxes()], options, seed=2)[SampleKey(0, 1, 0)])


def test_raw_sides_are_counted():
    assert PairDataset([Boxes()], RenderOptions(on_missing_tcot="raw"))[SampleKey(0, 0)].raw_sides == 1


def test_raise_names_dataset_id_and_side():
    with pytest.raises(DataError, match=r"^numbers/4 \(query\): broken\.png: truncated"):
        PairDataset([Numbers(broken=(4,))], RAW)[SampleKey(0, 4)]


def skipping(size, *broken):
    return CheckedRows(PairDataset([Numbers(size=size, broken=broken)], RAW), "skip")


def test_skip_takes_the_next_row_and_reports():
    rows = skipping(6, 4, 5)
    drawn = rows[SampleKey(0, 4)]
    assert (drawn.sample.id, drawn.key.row) == ("0", 0)  # around the end
    assert [(bad.dataset, bad.id, bad.cause) for bad in drawn.skipped] == [
        ("numbers", "4", "broken_row"),
        ("numbers", "5", "broken_row"),
    ]
    assert rows[SampleKey(0, 3)].skipped == []


def test_skip_gives_up_after_ten_in_a_row():
    good = skipping(30, *range(MAX_IN_A_ROW - 1))
    assert len(good[SampleKey(0, 0)].skipped) == MAX_IN_A_ROW - 1
    with pytest.raises(TooManyBadError, match="numbers: 10 bad rows in a row, the last: numbers/9"):
        skipping(30, *range(MAX_IN_A_ROW))[SampleKey(0, 0)]


def test_skip_hides_no_other_error():
    class Wrong(Numbers):
        def __getitem__(self, index):
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        CheckedRows(PairDataset([Wrong()], RAW), "skip")[SampleKey(0, 0)]
