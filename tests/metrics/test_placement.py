import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrl.data.inserter import Placement, placement_reply
from embedrl.data.world import WorldStories
from embedrl.metrics.placement import (
    image_f1,
    order_score,
    placement_score,
    read_placements,
    score_placements,
)

REPLIES = [
    ('[{"image": 1, "sentence": 2}, {"image": 3, "sentence": 1}]', [(1, 2), (3, 1)], []),
    ("[]", [], []),
    ('<think>[{"image": 9}]</think>\n[{"sentence": 2, "image": 1}]', [(1, 2)], []),
    ('```json\n[{"image": 1, "sentence": 2}]\n```', [(1, 2)], []),
    ("", [], ["invalid_json"]),
    ("Here: []", [], ["invalid_json"]),
    ('[{"image": 1, "sentence": 2}, {"image": 2, "sen', [(1, 2)], ["invalid_json"]),
    ('[{"image": 1, "sentence": 2}, {"image": 7, "sentence": 2}, oh', [(1, 2)], ["invalid_json", "invented_image"]),
    ('{"image": 1, "sentence": 2}', [(1, 2)], ["not_a_list"]),
    ('"../../etc/passwd"', [], ["not_a_list"]),
    ("null", [], ["not_a_list"]),
    ('[{"image": "1", "sentence": 2}]', [], ["bad_entry"]),
    ('[{"image": 1.0, "sentence": 2}, {"image": true, "sentence": 1}]', [], ["bad_entry", "bad_entry"]),
    ('[{"image": 1, "sentence": 2, "path": "/etc/passwd"}]', [], ["bad_entry"]),
    ('[[1, 2], null, {"image": 2, "sentence": 3}]', [(2, 3)], ["bad_entry", "bad_entry"]),
    ('[{"image": 8, "sentence": 1}]', [], ["invented_image"]),
    ('[{"image": 1, "sentence": 1}, {"image": 1, "sentence": 3}]', [(1, 1)], ["repeated_image"]),
    ('[{"image": 1, "sentence": 0}, {"image": 2, "sentence": 5}]', [], ["sentence_out_of_range"] * 2),
    ('[{"image": 1, "sentence": 9}, {"image": 1, "sentence": 4}]', [(1, 4)], ["sentence_out_of_range"]),
    (f'[{{"image": {"9" * 4000}, "sentence": 1}}]', [], ["invented_image"]),
    (f'[{{"image": 1, "sentence": -{"9" * 4000}}}]', [], ["sentence_out_of_range"]),
    (f'[{{"image": {"9" * 9000}, "sentence": 1}}]', [], ["invalid_json"]),
    ("[" * 100_000, [], ["invalid_json"]),
    ("[" * 900 + "]" * 900, [], ["bad_entry"]),
    ("{" * 100_000, [], ["invalid_json"]),
]


@pytest.mark.parametrize(("reply", "placements", "problems"), REPLIES, ids=lambda value: str(value)[:40])
def test_each_fault_is_one_named_problem_and_the_rest_is_used(reply, placements, problems):
    read = read_placements(reply, {1, 2, 3}, 4)
    assert [(one.image, one.sentence) for one in read.placements] == placements
    assert [problem.name for problem in read.problems] == problems
    assert all(len(str(problem)) < 200 for problem in read.problems)


ENTRIES = st.lists(st.dictionaries(st.sampled_from(["image", "sentence", "x"]), st.integers(-3, 9)), max_size=6)
JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(), st.lists)


@given(st.text() | ENTRIES.map(json.dumps) | JSON.map(json.dumps) | ENTRIES.map(lambda one: json.dumps(one)[:-2]))
def test_whatever_a_model_writes_is_read(reply):
    read = read_placements(reply, {1, 3}, 4)
    images = [one.image for one in read.placements]
    assert len(images) == len(set(images))
    assert set(images) <= {1, 3}
    assert all(1 <= one.sentence <= 4 for one in read.placements)
    assert read_placements(placement_reply(read.placements), {1, 3}, 4).placements == read.placements
    scores = score_placements(reply, {1, 3}, 4, [Placement(1, 1), Placement(3, 2)])
    assert all(-1 <= score <= 1 for score in scores.values())


def drawn(rng, least=0):
    images = rng.sample(range(1, 8), rng.randint(least, 6))
    return [Placement(image, rng.randint(1, 5)) for image in images]


def test_f1_and_placement_equal_their_definitions():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)
    for _ in range(100):
        placed, gold = drawn(rng, 1), drawn(rng, 1)
        chosen, right = {one.image for one in placed}, {one.image for one in gold}
        rows = [[image in right for image in range(8)], [image in chosen for image in range(8)]]
        assert image_f1(placed, gold) == pytest.approx(metrics.f1_score(*rows, zero_division=0.0))
        distances = [next((abs(p.sentence - g.sentence) for p in placed if p.image == g.image), math.inf) for g in gold]
        table = {0: 1.0, 1: 2 / 3, 2: 1 / 3}
        assert placement_score(placed, gold) == pytest.approx(sum(table.get(d, 0.0) for d in distances) / len(gold))


def test_order_is_kendalls_tau():
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    compared = 0
    for _ in range(300):
        placed, gold = drawn(rng), drawn(rng)
        score = order_score(placed, gold)
        if len({one.sentence for one in gold}) < 2:
            assert score is None
            continue
        where = {one.image: one.sentence for one in placed}
        shared = [(where[one.image], one.sentence) for one in gold if one.image in where]
        tau = stats.kendalltau(*zip(*shared, strict=True)).statistic if len(shared) > 1 else math.nan
        assert score == pytest.approx(0.0 if math.isnan(tau) else tau)
        compared += not math.isnan(tau)
    assert compared > 50


@pytest.mark.parametrize(
    ("placed", "gold", "scores"),
    [([], [], (1, 1, None)), ([(1, 1)], [], (0, 0, None)), ([], [(1, 1)], (0, 0, None)),
     ([], [(1, 1), (2, 2)], (0, 0, 0)), ([(1, 1), (2, 2)], [(1, 2), (2, 1)], (1, 2 / 3, -1)),
     ([(1, 4), (2, 4)], [(1, 1), (2, 4)], (1, 0.5, 0))],
)  # fmt: skip
def test_the_borders(placed, gold, scores):
    placed, gold = ([Placement(*one) for one in side] for side in (placed, gold))
    assert (image_f1(placed, gold), placement_score(placed, gold), order_score(placed, gold)) == pytest.approx(scores)


def test_gold_placements_of_the_world_earn_everything():
    stories = WorldStories(20)
    orders = 0
    for index in range(20):
        story = stories.story(index)
        images = {picture.number for picture in story.pictures}
        scores = score_placements(stories[index].reply, images, len(story.sentences), story.placements)
        assert set(scores.values()) == {1.0}
        orders += "order" in scores
    assert orders
