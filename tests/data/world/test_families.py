"""Each family checked against its pictures and texts by an oracle of its own, written without the families' code."""

from collections import Counter

import pytest

from embedrl.data.world import FAMILIES, WorldSource, WorldTasks, vocabulary
from embedrl.data.world.page import PAGE_SIZE, label_split
from embedrl.data.world.scene import (
    CLOSE_UP_SIZE,
    FRAME_SIZE,
    OWN_MARKS,
    OWN_TRIPLES,
    SCENE_SIZE,
    SPLITS,
    mark_split,
    triple_split,
)
from embedrl.data.world.vocabulary import COLORS, COORDINATES, NUMBERS, PAGE_WORDS, PLACES, SHAPES
from embedrl.types import Modality

N = 128
HELD_OUT = ["val", "test"]


def look(thing):
    return (COLORS[thing.color], SHAPES[thing.shape], thing.mark)


def kinds(things):
    return [f"{COLORS[t.color]} {SHAPES[t.shape]}" for t in things]


def scene(side):
    return side.images[0].spec.things


def story(side):
    """Kinds and looks in order of appearance."""
    seen = []
    for frame in side.frames:
        seen += [t for t in frame.spec.things if t not in seen]
    return seen


def facts(things):
    return {(k, PLACES[t.cell]) for k, t in zip(kinds(things), things, strict=True)}


def caption_facts(text):
    mentions = [m.split() for m in text.split(" , ")]
    return {(" ".join(words[:2]), " ".join(words[2:])) for words in mentions}


def place(things, words):
    return [t for t in things if PLACES[t.cell] == words]


def named(things, name):
    found = [t for t, k in zip(things, kinds(things), strict=True) if k == name]
    assert len(found) == 1
    return found[0]


def meant(things, phrase):
    """The object that a phrase such as `red star` or `object left of the red star` means."""
    for words, step in {"right of": 1, "left of": -1, "above": -3, "below": 3}.items():
        if f"{words} the " in phrase:
            reference = named(things, phrase.split(f"{words} the ")[1])
            column = reference.cell % 3
            assert 0 <= column + (step if abs(step) == 1 else 0) < 3
            return next(t for t in things if t.cell == reference.cell + step)
    return named(things, phrase)


def target_look(query):
    phrase = query.text.removeprefix("find the ").removesuffix(" .")
    return look(meant(scene(query), phrase))


def composed_look(query):
    words = query.text.removeprefix("find this ").removesuffix(" .").split()
    thing = named(scene(query), " ".join(words[:2]))
    return (words[3], SHAPES[thing.shape], thing.mark)


def vqa_answer(query):
    text = query.text.removeprefix("what is ").removesuffix(" ?")
    things = scene(query)
    if text.startswith("at the "):
        return kinds(place(things, text.removeprefix("at the ")))[0]
    return kinds([meant(things, text)])[0]


def video_answer(query):
    _, _, word, _, *name, _ = query.text.split()
    names = kinds(story(query))
    return names[names.index(" ".join(name)) + (1 if word == "after" else -1)]


def moment_look(query):
    name = query.text.removeprefix("find the moment when the ").removesuffix(" appears .")
    return look(named(story(query), name))


def highlighted(side):
    page = side.images[0].spec
    return (PAGE_WORDS[page.rows[page.highlighted].word], str(page.rows[page.highlighted].number))


ORACLES = {
    "cls": lambda q, c: c.text == Counter(kinds(scene(q))).most_common(1)[0][0],
    "vqa": lambda q, c: c.text == vqa_answer(q),
    "t2i": lambda q, c: caption_facts(q.text.removeprefix("find the picture : ").removesuffix(" .")) <= facts(scene(c)),
    "i2t": lambda q, c: caption_facts(c.text) <= facts(scene(q)),
    "composed": lambda q, c: composed_look(q) in map(look, scene(c)),
    "grounding": lambda q, c: target_look(q) in map(look, scene(c)),
    "video_qa": lambda q, c: c.text == video_answer(q),
    "video_ret": lambda q, c: (
        kinds(story(c)) == q.text.removeprefix("find the video : the ").removesuffix(" .").split(" , then the ")
    ),
    "moment": lambda q, c: moment_look(q) in map(look, story(c)),
    "doc": lambda q, c: " ".join(highlighted(c)) == q.text.removeprefix("find the page : ").removesuffix(" ."),
}


@pytest.fixture(scope="module")
def tasks():
    return {split: {t.name: t for t in WorldTasks(split, N, teacher="none").tasks()} for split in HELD_OUT}


@pytest.mark.parametrize("split", HELD_OUT)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_query_has_one_right_candidate_and_qrels_name_it(tasks, split, family):
    task = tasks[split][family]
    assert len(task.queries) == len(task.qrels) == N
    assert len({c.key for c in task.candidates}) == len(task.candidates)
    step = 3 if family in ("grounding", "composed", "moment", "video_ret", "t2i") else 1
    for query, qrels in list(zip(task.queries, task.qrels, strict=True))[::step]:
        right = [i for i, candidate in enumerate(task.candidates) if ORACLES[family](query, candidate)]
        assert dict.fromkeys(right, 1.0) == dict(qrels)
        assert len(right) == 1


@pytest.mark.parametrize("family", ["composed", "grounding", "moment"])
def test_pools_hold_rivals_that_differ_in_the_mark_alone(tasks, family):
    task = tasks["val"][family]
    show = story if family == "moment" else scene
    looks = [look(show(candidate)[0]) for candidate in task.candidates]
    rivals = [
        sum(other[:2] == looks[i][:2] and other[2] != looks[i][2] for other in looks) for (i,) in map(tuple, task.qrels)
    ]
    assert sum(count > 0 for count in rivals) / N > 0.9
    assert sum(rivals) / N > 1.5


def test_pages_have_rivals_with_the_same_word_and_pages_with_the_label_elsewhere(tasks):
    task = tasks["val"]["doc"]
    labels = [highlighted(candidate) for candidate in task.candidates]
    for (right,) in map(tuple, task.qrels):
        assert any(word == labels[right][0] and number != labels[right][1] for word, number in labels)
    wanted = {labels[right] for (right,) in map(tuple, task.qrels)}
    traps = 0
    for candidate in task.candidates:
        page = candidate.images[0].spec
        rows = {(PAGE_WORDS[r.word], str(r.number)) for i, r in enumerate(page.rows) if i != page.highlighted}
        traps += bool(rows & wanted)
    assert traps > 10


def pictures(side):
    return [image.spec for image in (*side.images, *side.frames)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_splits_hold_only_their_own_combinations(split, family):
    """Queries, targets and hard negatives alike; close-ups have no place, so only their mark counts."""
    own = OWN_TRIPLES[split]
    allowed = {"train", own}
    for pair in WorldSource(family, split, size=60, teacher="none", negatives=1):
        for side in (pair.query, pair.target, *pair.negatives):
            for spec in pictures(side):
                if hasattr(spec, "rows"):
                    owners = [label_split(row.word, row.number) for row in spec.rows]
                    assert owners[spec.highlighted] == own
                    assert set(owners) <= allowed | ({"test"} if split == "test2" else set())
                    assert split != "test2" or "test" in owners
                    continue
                assert {mark_split(t.mark) for t in spec.things} <= {OWN_MARKS[split]}
                if spec.size != CLOSE_UP_SIZE and not (family == "moment" and side is not pair.query):
                    assert {triple_split(t.color, t.shape, t.cell) for t in spec.things} <= allowed
            if side is pair.query and pictures(side) and split != "train":
                things = {t for spec in pictures(side) for t in spec.things}
                assert own in {triple_split(t.color, t.shape, t.cell) for t in things}


@pytest.mark.parametrize("family", FAMILIES)
def test_another_split_or_seed_is_another_world(family):
    def names(split, seed):
        pairs = WorldSource(family, split, size=40, seed=seed, teacher="none")
        return {image.name for p in pairs for side in (p.query, p.target) for image in (*side.images, *side.frames)}

    worlds = [names("train", 0), names("train", 1), names("val", 0), names("test", 0), names("test2", 0)]
    assert len(set.union(*worlds)) == sum(map(len, worlds))


def could_be_of(split, spec):
    """Whether a split's rules could make this scene, frame or page."""
    if hasattr(spec, "rows"):
        owners = [label_split(row.word, row.number) for row in spec.rows]
        return owners[spec.highlighted] == split and set(owners) <= {"train", split}
    marks = {mark_split(t.mark) for t in spec.things}
    return marks <= {split} and {triple_split(t.color, t.shape, t.cell) for t in spec.things} <= {"train", split}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("moment", "video_qa", "video_ret")])
def test_no_other_split_can_hold_a_scene_of_the_second_test_split(family):
    """By its combinations, not by luck; of a video the whole clip counts, and a close-up has no place."""
    for pair in WorldSource(family, "test2", size=60, teacher="none"):
        specs = [
            spec
            for side in (pair.query, pair.target)
            for spec in pictures(side)
            if getattr(spec, "size", 0) != CLOSE_UP_SIZE
        ]
        assert specs
        assert not any(could_be_of(split, spec) for split in ("train", "val", "test") for spec in specs)
    own = next(iter(WorldSource(family, "val", size=1, teacher="none")))
    assert all(could_be_of("val", spec) for spec in pictures(own.query))


@pytest.mark.parametrize("family", ["moment", "video_qa", "video_ret"])
def test_nor_a_video(family):
    for pair in WorldSource(family, "test2", size=60, teacher="none"):
        clip = [
            t for side in (pair.query, pair.target) for s in pictures(side) if len(pictures(side)) > 3 for t in s.things
        ]
        assert {mark_split(t.mark) for t in clip} == {"test"}
        assert "val" in {triple_split(t.color, t.shape, t.cell) for t in clip}


@pytest.mark.parametrize("family", ["composed", "grounding", "moment"])
def test_a_target_leaks_nothing_of_its_query(family):
    """Background, grain, position and size of a target are unrelated to the query's."""
    same_size = 0
    for pair in WorldSource(family, size=200, teacher="none"):
        (query, *_), (target, *_) = pictures(pair.query), pictures(pair.target)
        assert (query.background, query.grain) != (target.background, target.grain)
        wanted = (composed_look if family == "composed" else target_look if family == "grounding" else moment_look)(
            pair.query
        )
        shown = story(pair.target)[0] if family == "moment" else scene(pair.target)[0]
        assert look(shown) == wanted
        source = next(t for t in (story if family == "moment" else scene)(pair.query) if t.mark == shown.mark)
        same_size += source.size == shown.size and source.x % 48 == shown.x and source.y % 48 == shown.y
    assert same_size < 8


@pytest.mark.parametrize("family", FAMILIES)
def test_negatives_are_wrong_and_like_the_target(family):
    for pair in WorldSource(family, "val", size=30, teacher="none", negatives=2):
        assert ORACLES[family](pair.query, pair.target)
        assert len(pair.negatives) == 2
        for negative in pair.negatives:
            assert not ORACLES[family](pair.query, negative)
            assert negative.modality is pair.target.modality


@pytest.mark.parametrize("family", FAMILIES)
def test_sides_have_the_family_s_modality_and_sizes(family):
    expected = {SCENE_SIZE, PAGE_SIZE, CLOSE_UP_SIZE, FRAME_SIZE}
    for pair in WorldSource(family, size=20):
        modalities = {pair.query.modality, pair.target.modality}
        assert FAMILIES[family].modality in modalities
        assert (Modality.VIDEO in modalities) == (FAMILIES[family].modality is Modality.VIDEO)
        assert {image.load().width for s in (pair.query, pair.target) for image in (*s.images, *s.frames)} <= expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("teacher", ["perfect", "annotator"])
def test_texts_keep_to_the_vocabulary(family, teacher):
    strip = str.maketrans(dict.fromkeys('<>/{}[]",_', " "))
    known = {*vocabulary.words(), *NUMBERS, *map(str, COORDINATES), *map(str, range(1, 9))}
    known |= {"thinking", "rethink", "answer", "bbox", "2d", "key", "text", "keywords", "rethinking"}
    for pair in WorldSource(family, size=60, teacher=teacher, negatives=1):
        for side in (pair.query, pair.target, *pair.negatives):
            assert side.text == side.text.lower()
            used = f"{side.text} {side.tcot}".translate(strip).replace(":", " ").split()
            assert set(used) <= known, set(used) - known


def test_questions_are_of_every_sort():
    texts = [pair.query.text for pair in WorldSource("vqa", size=200, teacher="none")]
    sorts = Counter(text.removeprefix("what is ").split(" the ")[0] for text in texts)
    assert set(sorts) == {"at", "right of", "left of", "above", "below"}
    assert 70 < sorts["at"] < 130
