import random
import re

import pytest

from embedrl.data.world.lessons.curriculum import OBJECTS, Stage, WorldExam, WorldLessons
from embedrl.data.world.lessons.kinds import LESSONS
from embedrl.data.world.vocabulary import COORDINATES, NUMBERS, words
from embedrl.errors import ConfigError
from embedrl.metrics.replies import score_reply
from embedrl.types import Lesson

ALL = {"describe": 1.0, "point": 1.0, "moment": 1.0}


def plain(lesson):
    """A lesson as something that can be compared."""
    parts = [part for message in lesson.chat for part in message["content"]]
    pixels = [p.tobytes() for part in parts for p in part.get("video", [part["image"]] if "image" in part else [])]
    return pixels, [part.get("text") for part in parts], lesson.reply, lesson.kind, lesson.gold


def make(kind, split="train", seed=0):
    return LESSONS[kind](random.Random(seed), split, OBJECTS)


@pytest.mark.parametrize("kind", LESSONS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_kind_is_deterministic_and_its_own_reply_scores_full_marks(kind, split):
    for seed in range(8):
        lesson = make(kind, split, seed)
        assert plain(lesson) == plain(make(kind, split, seed))
        assert lesson.kind == kind
        scores = score_reply(lesson.reply, lesson)
        assert scores.pop("exact") == 1.0
        # Texts hold coordinates on a grid of 20, so the best box is not quite the exact one.
        assert all(value > (0.85 if name == "iou" else 0.999) for name, value in scores.items()), scores
    assert plain(make(kind, split, 0)) != plain(make(kind, split, 1))


@pytest.mark.parametrize("kind", LESSONS)
def test_lessons_stay_inside_the_closed_vocabulary(kind):
    known = {*words(), *NUMBERS, *map(str, COORDINATES), *map(str, range(10))}
    for seed in range(20):
        lesson = make(kind, "val", seed)
        question = lesson.chat[0]["content"][-1]["text"]
        reply = re.sub(r'"bbox_2d"|"key_frames"|[\[\]{},]', " ", lesson.reply)
        assert set(f"{question} {reply}".replace(": [", " ").split()) <= known | {":"}


def test_splits_and_seeds_are_disjoint():
    def replies(split, seed=0):
        source = WorldLessons([Stage(None, ALL)], 60, split, seed)
        return {str(plain(source[i])) for i in range(len(source))}

    sets = [replies("train"), replies("val"), replies("test"), replies("train", 1)]
    assert all(not a & b for i, a in enumerate(sets) for b in sets[:i])
    exam = WorldExam(["describe"], 60)
    assert not {str(plain(exam[i])) for i in range(60)} & sets[1]


def test_train_lessons_hold_no_held_out_combination_and_val_lessons_do():
    from embedrl.data.world.scene import triple_split
    from embedrl.data.world.vocabulary import COLORS, PLACES, SHAPES

    def splits(lesson):
        found = re.findall(rf"({'|'.join(PLACES)}) (\w+) (\w+)", lesson.reply)
        assert found
        return {triple_split(COLORS.index(c), SHAPES.index(s), PLACES.index(p)) for p, c, s in found}

    for seed in range(40):
        assert splits(make("describe", "train", seed)) == {"train"}
        assert "val" in splits(make("describe", "val", seed))
        assert "test" not in splits(make("describe", "val", seed))


def test_the_curriculum_changes_where_it_says():
    stages = [Stage(5, {"describe": 1.0}, (1, 1)), Stage(5, {"where": 1.0}), Stage(None, {"read_page": 1.0})]
    source = WorldLessons(stages, 15)
    assert [source[i].kind for i in range(15)] == ["describe"] * 5 + ["where"] * 5 + ["read_page"] * 5
    assert all(len(source[i].reply.split()) == 4 for i in range(5))  # one object each
    with pytest.raises(IndexError):
        source[15]


def test_the_exam_holds_every_kind_equally():
    exam = WorldExam(each=2)
    assert [exam[i].kind for i in range(len(exam))] == [kind for kind in LESSONS for _ in range(2)]
    assert WorldExam(["where"], each=3).kinds == ("where",)
    with pytest.raises(IndexError):
        exam[len(exam)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Stage(None, {"walk": 1.0}), "no lessons called"),
        (lambda: Stage(None, {}), "positive weight"),
        (lambda: Stage(None, {"where": -1.0}), "positive weight"),
        (lambda: WorldLessons([], 5), "every stage but the last"),
        (lambda: WorldLessons([Stage(None, ALL), Stage(None, ALL)], 5), "every stage but the last"),
        (lambda: WorldExam(["walk"]), "no lessons called"),
    ],
)
def test_settings_that_cannot_be_met(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_choose_has_one_right_answer():
    for seed in range(30):
        lesson: Lesson = make("choose", "val", seed)
        texts = re.findall(r"\d : ([^;]*) ;", lesson.chat[0]["content"][-1]["text"])
        assert 2 <= len(set(texts)) == len(texts) <= 4
        assert 1 <= int(lesson.gold["answer"]) <= len(texts)
