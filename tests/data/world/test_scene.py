import random
from collections import Counter

import pytest

from embedrl.data.world.page import label_split, labels
from embedrl.data.world.scene import (
    ALL_CELLS,
    CORNER_CELLS,
    MARKS,
    OWN_MARKS,
    OWN_TRIPLES,
    OWNERS,
    SPLITS,
    TEXTURES,
    fill,
    mark_split,
    marks,
    random_scene,
    round_box,
    triple_split,
    triples,
)
from embedrl.data.world.video import make_clip
from embedrl.data.world.vocabulary import COLORS, NUMBERS, PAGE_WORDS, SHAPES, words


def test_every_pair_of_a_triple_keeps_most_of_its_triples_in_train():
    counts = Counter()
    for color, shape, cell in triples("train"):
        counts[("cs", color, shape)] += 1
        counts[("cp", color, cell)] += 1
        counts[("sp", shape, cell)] += 1
    assert len(counts) == len(COLORS) * len(SHAPES) + len(COLORS) * 9 + len(SHAPES) * 9
    assert min(counts.values()) >= 4


@pytest.mark.parametrize("cells", [ALL_CELLS, CORNER_CELLS])
def test_triples_are_shared_out_without_overlap(cells):
    shares = [set(triples(split, cells)) for split in OWNERS]
    assert sum(map(len, shares)) == len(set.union(*shares)) == len(COLORS) * len(SHAPES) * len(cells)
    assert len(shares[0]) / sum(map(len, shares)) == pytest.approx(0.78, abs=0.01)


def test_marks_are_shared_out_and_every_half_occurs_in_train():
    assert sorted(m for split in OWNERS for m in marks(split)) == list(range(MARKS))
    assert [len(marks(split)) for split in OWNERS] == [35, 7, 7]
    assert {m // TEXTURES for m in marks("train")} == {m % TEXTURES for m in marks("train")} == set(range(TEXTURES))


def test_labels_are_shared_out_and_every_part_occurs_in_train():
    assert sum(len(labels(split)) for split in OWNERS) == len(PAGE_WORDS) * len(NUMBERS)
    train = labels("train")
    assert {word for word, _ in train} == set(range(len(PAGE_WORDS)))
    assert {str(number) for _, number in train} == set(NUMBERS)


def test_splits_are_fixed():
    assert [triple_split(*t) for t in ((0, 0, 0), (0, 0, 1), (0, 0, 2))] == ["val", "test", "train"]
    assert [mark_split(m) for m in (0, 1, 7)] == ["val", "train", "test"]
    assert [label_split(0, n) for n in (10, 14, 50)] == ["test", "val", "val"]


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_hold_their_own_combinations(split):
    for seed in range(200):
        scene = random_scene(random.Random(seed), split)
        owners = Counter(triple_split(t.color, t.shape, t.cell) for t in scene.things)
        assert owners[OWN_TRIPLES[split]] >= 1
        assert set(owners) <= {"train", OWN_TRIPLES[split]}
        assert {mark_split(t.mark) for t in scene.things} == {OWN_MARKS[split]}
        assert 4 <= len(scene.things) <= 6
        assert len({t.kind for t in scene.things}) == len({t.cell for t in scene.things}) == len(scene.things)
        assert [t.cell for t in scene.things] == sorted(t.cell for t in scene.things)


def test_boxes_lie_in_their_cell():
    for seed in range(200):
        scene = random_scene(random.Random(seed))
        for thing in scene.things:
            x1, y1, x2, y2 = thing.pixel_box
            row, column = divmod(thing.cell, 3)
            assert column * 48 <= x1 < x2 <= column * 48 + 48
            assert row * 48 <= y1 < y2 <= row * 48 + 48


@pytest.mark.parametrize(
    ("box", "rounded"),
    [
        ((11, 9, 29.9, 31), (20, 0, 40, 40)),
        ((0, 0, 1000, 1000), (0, 0, 1000, 1000)),
        ((500, 500, 501, 501), (500, 500, 520, 520)),
        ((999, 999, 1000, 1000), (980, 980, 1000, 1000)),
        ((-40, -3, 20, 1020), (0, 0, 20, 1000)),
    ],
)
def test_round_box(box, rounded):
    assert round_box(box) == rounded


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_clips_show_one_or_two_objects_in_contiguous_stretches(count):
    for seed in range(60):
        rng = random.Random(seed)
        clip = make_clip(rng, fill(rng, "train", [], count, cells=CORNER_CELLS))
        assert len(clip.frames) == 8
        starts = [event.frames[0] for event in clip.events]
        assert starts == sorted(set(starts))
        assert starts[0] == 1
        for event in clip.events:
            assert event.frames == tuple(range(event.frames[0], event.frames[-1] + 1))
            assert event.frames == tuple(i for i, f in enumerate(clip.frames, 1) if event.thing in f.things)
        assert {len(frame.things) for frame in clip.frames} <= {1, 2}


def test_words_are_single_and_lower_case():
    assert all(word == word.lower() and " " not in word for word in words())
