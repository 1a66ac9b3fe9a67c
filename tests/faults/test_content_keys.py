"""What is another content has another key, wherever a key decides: the loss, validation, rewards, caches, journals."""

import json
import os
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from PIL import Image
from reward_helpers import step_of
from toy_embedder import Letters, ToyBackbone

from embedrl.construction.judgement import verdict_key
from embedrl.construction.rows import PairWriter
from embedrl.data.formats import JsonlSource
from embedrl.data.images import ImageFile
from embedrl.data.opened import OpenedImage, open_pairs, open_side
from embedrl.data.pair_dataset import PairDataset, SampleKey
from embedrl.data.render import RenderOptions
from embedrl.data.side_dataset import EncodeDataset
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.losses.contrastive import batch_labels, known_pairs
from embedrl.metrics.evidence import evidence_counts
from embedrl.rl.rewards.comparison import compare_roles
from embedrl.tcot.prompts import situation
from embedrl.tcot.store import content_hash, tcot_key
from embedrl.types import Modality, Pair, RetrievalTask, Role, Side

CPU = torch.device("cpu")
RAW = RenderOptions(tcot="none")


class Colours(Letters):
    def __call__(self, chats):
        inputs = super().__call__(chats)
        for row, chat in zip(inputs["x"], chats, strict=True):
            for part in (part for message in chat for part in message["content"] if part["type"] == "image"):
                row[:3] += torch.tensor(part["image"].getpixel((0, 0)), dtype=torch.float32)
        return inputs


class ColourBackbone(ToyBackbone):
    def preprocessor(self):
        return Colours()


@pytest.fixture
def sources(tmp_path):
    """Two data sets, each with its own root, the same names of pictures and the same texts; pictures 2 are copies."""
    made = []
    for number, name in enumerate(("one", "two")):
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        rows = []
        for i in range(4):
            colour = (200, 200, 200) if i == 2 else (60 * i, 120 * number, 30)
            Image.new("RGB", (8, 6), colour).save(root / f"images/{i}.png")
            rows.append({"id": str(i), "query": {"text": f"q {name} {i}"}, "target": {"images": [f"images/{i}.png"]}})
        (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.append(JsonlSource(str(root / "pairs.jsonl"), cache_dir=str(tmp_path / "cache")))
    return made


def every_pair(sources):
    return [source[i] for source in sources for i in range(4)]


def test_the_loss_masks_copies_and_no_other_picture_of_the_same_name(sources):
    dataset = PairDataset(sources, RAW)
    examples = [dataset[SampleKey(source, row)] for source in (0, 1) for row in range(4)]
    known = known_pairs(batch_labels([e.query_key for e in examples], [e.target_key for e in examples]))
    known.fill_diagonal_(False)
    assert known.nonzero().tolist() == [[2, 6], [6, 2]]  # 2 and 6 hold the same picture


def test_validation_embeds_every_picture(sources):
    pairs = every_pair(sources)
    task = RetrievalTask("t", [p.query for p in pairs], [p.target for p in pairs], [{i: 1.0} for i in range(8)])
    batches = EncodeDataset([task], RAW, 100)
    assert sum(len(batches[i]) for i in range(len(batches))) == 16
    twice = EncodeDataset([task, replace(task, name="again")], RAW, 100)
    assert sum(len(twice[i]) for i in range(len(twice))) == 16
    tcots = [side.with_tcot("<thinking>t</thinking>") for side in task.candidates]
    assert evidence_counts([replace(task, candidates=tcots)])[Modality.IMAGE] == 0


@pytest.mark.parametrize("opened", [False, True])
def test_the_frozen_embedder_returns_each_pictures_own_vector(sources, opened):
    pairs = every_pair(sources)
    sides = [pair.target for pair in (open_pairs(pairs) if opened else pairs)]
    names = [str(i) for i in range(8)]
    together = FrozenEmbedder(ColourBackbone(), RAW).embed(sides, names, CPU)
    alone = [FrozenEmbedder(ColourBackbone(), RAW).embed([side], ["x"], CPU) for side in sides]
    torch.testing.assert_close(together, torch.cat(alone))
    assert len({tuple(row) for row in together.tolist()}) == 7  # two are copies


def test_a_reward_takes_another_picture_of_the_same_name_for_a_wrong_answer(sources):
    step = replace(step_of("ab", "cd", 1), pairs=[source[0] for source in sources])
    compared = compare_roles(step, Role.QUERY, mask_duplicates=True)
    assert compared.negative.tolist() == [[False, True], [True, False]]


def _files(*places):
    return tuple(ImageFile(place, place.rpartition("/")[2]) for place in places)


DIFFERENT = [
    Side(),
    Side("a"),
    Side("a", _files("x/0.png")),
    Side("a", _files("y/0.png")),
    Side("a", (ImageFile("x/0.png", "other"),)),
    Side("a", (OpenedImage("0.png", None),)),
    Side("a", (OpenedImage("|", None),)),
    Side("a", (OpenedImage("|", None), OpenedImage("|", None))),
    Side("a", frames=(OpenedImage("|", None),)),
    Side("a\0x/0.png"),
    Side("a\0|"),
    Side("a\0\0|"),
    Side("a", (OpenedImage("b\0c", None),)),
    Side("a", (OpenedImage("b", None), OpenedImage("c", None))),
    Side("a\0b", (OpenedImage("c", None),)),
    Side("a", _files("x/0.png", "x/1.png")),
    Side("a", _files("x/1.png", "x/0.png")),
    Side("a", _files("x/0.png"), frames=_files("x/1.png")),
    Side("a", frames=_files("x/0.png", "x/1.png")),
    Side("a", frames=_files("x/1.png", "x/0.png")),
    Side("a", frames=_files("x/0.png", "x/1.png"), fps=1.0),
    Side("a", frames=_files("x/0.png", "x/1.png"), fps=4.0),
    Side("\ud800"),
]


def test_no_two_contents_share_a_key():
    assert [(a, b) for a, b in combinations(DIFFERENT, 2) if a.key == b.key] == []


def test_a_key_does_not_depend_on_the_tcot_nor_on_the_rate_of_no_video():
    assert Side("a", tcot="x").key == Side("a").key == Side("a", fps=1.0).key
    opened = OpenedImage("0.png", None, "x/0.png")
    assert Side("a", (opened,)).key == Side("a", _files("x/0.png")).key


def test_copies_have_one_content(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9), "red" if name != "c" else "blue").save(tmp_path / name / "x.png")
    a, b, c = (Side(images=(ImageFile(str(tmp_path / name / "x.png"), "x.png"),)) for name in ("a", "b", "c"))
    assert content_hash(a) == content_hash(b) != content_hash(c)
    assert content_hash(open_side(a, "a")) == content_hash(a)


def _replaced(path, colour):
    """Other bytes under the same name, of the same size and time."""
    before = path.stat()
    content = path.read_bytes()
    Image.new("RGB", (8, 6), colour).save(path)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert path.read_bytes() != content


def test_a_replaced_file_meets_nothing_from_before(tmp_path):
    path = tmp_path / "x.bmp"
    Image.new("RGB", (8, 6), "red").save(path)
    side = Side("a", (ImageFile(str(path), "x.bmp"),))
    pair = Pair(side, Side("b"), "set", "0")

    def seen():
        vectors = VectorCache(tmp_path / "vectors", ColourBackbone(), RAW, CPU, EncodeOptions())
        [vector] = torch.cat(list(vectors.embed([side], vectors.hashes([side]), "x").read())).tolist()
        writer = PairWriter(tmp_path / "out", "set", object(), 1.0)
        writer.write(pair)
        writer.close()
        [row] = [json.loads(line) for line in (tmp_path / "out/set.jsonl").read_text().splitlines()]
        pixel = Image.open(tmp_path / "out" / row["query"]["images"][0]).getpixel((0, 0))
        key = tcot_key(side, situation(Modality.IMAGE, Role.QUERY, Modality.TEXT), "full", "m")
        return tuple(vector), key, verdict_key(pair, "m"), pixel, vectors.computed

    first, again = seen(), seen()
    assert again == (*first[:4], 0)
    _replaced(path, "blue")
    second = seen()
    assert all(a != b for a, b in zip(first[:4], second[:4], strict=True))
    assert second[3:] == ((0, 0, 255), 1)


def test_pictures_of_one_name_are_saved_apart(tmp_path):
    writer = PairWriter(tmp_path / "out", "set", object(), 1.0)
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (number * 200, 0, 0)).save(tmp_path / name / "0.png")
        writer.write(Pair(Side("q", (ImageFile(str(tmp_path / name / "0.png"), "0.png"),)), Side("t"), "set", name))
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "out/set.jsonl").read_text().splitlines()]
    saved = [Image.open(tmp_path / "out" / row["query"]["images"][0]).getpixel((0, 0)) for row in rows]
    assert saved == [(0, 0, 0), (200, 0, 0)]
