"""Pictures in memory: opened once, under the same key, and a broken one names its pair."""

import pickle

import pytest
from PIL import Image

from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.images import ImageFile
from embedrl.data.opened import open_pairs
from embedrl.errors import DataError
from embedrl.types import Pair, Side


@pytest.fixture
def pictures(tmp_path):
    for i in range(3):
        Image.new("RGB", (9, 9), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    return [ImageFile(str(tmp_path / f"{i}.png"), f"{i}.png") for i in range(3)]


@pytest.fixture
def pairs(pictures):
    a, b, c = pictures
    return [
        Pair(Side("which ?", (a, b)), Side("that", (b,)), "demo", "0", negatives=(Side("no", (c,)),)),
        Pair(Side("then ?", frames=(c, c, a), fps=1.0), Side("words"), "demo", "1"),
    ]


def test_every_picture_is_opened_once_and_sides_keep_their_keys(pairs, monkeypatch):
    names, load = [], ImageFile.load
    monkeypatch.setattr(ImageFile, "load", lambda self: names.append(self.name) or load(self))
    opened = open_pairs(pairs)
    assert sorted(names) == ["0.png", "1.png", "2.png"]
    for mine, pair in zip(opened, pairs, strict=True):
        assert (mine.id, mine.dataset, mine.negatives) == (pair.id, pair.dataset, pair.negatives)
        for side, source in ((mine.query, pair.query), (mine.target, pair.target)):
            assert (side.key, side.modality, side.fps) == (source.key, source.modality, source.fps)
            for picture, file in zip((*side.images, *side.frames), (*source.images, *source.frames), strict=True):
                assert picture.load().tobytes() == load(file).tobytes()
    assert opened[0].query.images[1].load() is opened[0].target.images[0].load()
    open_pairs(opened)
    assert len(names) == 3


def test_a_batch_comes_from_a_worker_with_its_pictures_and_tells_others_none(pairs, monkeypatch):
    batch = pickle.loads(pickle.dumps(PairBatch(pairs, "demo")))
    monkeypatch.setattr(ImageFile, "load", None)
    assert batch.opened[0].query.images[1].load() is batch.opened[0].target.images[0].load()
    assert batch.pairs == pairs
    assert all(isinstance(image, ImageFile) for pair in batch.pairs for image in pair.query.images)


@pytest.mark.parametrize("role", ["query", "target"])
def test_a_broken_picture_names_its_pair(tmp_path, role):
    sides = {"query": Side("red"), "target": Side("star"), role: Side("red", (ImageFile(str(tmp_path / "no.png")),))}
    with pytest.raises(DataError, match=rf"demo/7 \({role}\): picture .*no\.png does not exist"):
        PairBatch([Pair(**sides, dataset="demo", id="7")], "demo")
