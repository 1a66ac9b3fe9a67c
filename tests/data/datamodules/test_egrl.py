import os
from types import SimpleNamespace

import pytest

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.world import WorldSource
from embedrl.data.world.image import WorldImage
from embedrl.errors import ConfigError


def batches(rank=0, world_size=1, **options):
    mix = [MixRow(WorldSource(family, size=24, teacher="none", alike=2)) for family in ("vqa", "doc")]
    data = EGRLDataModule(**{"batch_size": 8, "mix": mix, "block_size": 2, **options})
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)
    return list(data.train_dataloader())


def row(pair):
    source = WorldSource(pair.dataset.removeprefix("world/"), size=24, teacher="none", alike=2)
    return [other.id for other in source].index(pair.id)


def test_a_step_is_of_one_data_set_and_keeps_blocks_together():
    found = batches()
    assert len(found) == 6
    for batch in found:
        assert {pair.dataset for pair in batch.pairs} == {batch.dataset}
        rows = [row(pair) for pair in batch.pairs]
        assert all(a % 2 == 0 and b == a + 1 for a, b in zip(rows[::2], rows[1::2], strict=True))
        assert len(set(rows)) == 8
    assert {batch.dataset for batch in found} == {"world/vqa", "world/doc"}


def test_processes_share_out_the_blocks():
    whole = [[pair.id for pair in batch.pairs] for batch in batches()]
    parts = [[[pair.id for pair in batch.pairs] for batch in batches(rank, 2)] for rank in (0, 1)]
    assert whole == [a + b for a, b in zip(*parts, strict=True)]


@pytest.mark.parametrize("options", [{"block_size": 3}, {"block_size": 0}, {"mix": []}])
def test_wrong_options(options):
    with pytest.raises(ConfigError, match=r"data\."):
        batches(**options)


def pixels(batch):
    return [image.load().tobytes() for pair in batch.opened for image in (*pair.query.images, *pair.target.images)]


def test_pictures_are_opened_in_the_loaders_workers(monkeypatch):
    expected, main, load = batches(), os.getpid(), WorldImage.load

    def elsewhere(image):
        assert os.getpid() != main
        return load(image)

    monkeypatch.setattr(WorldImage, "load", elsewhere)
    found = batches(num_workers=1)
    assert [pixels(batch) for batch in found] == [pixels(batch) for batch in expected]
    assert all(pixels(batch) for batch in found)
    with pytest.raises(AssertionError):
        batches()
