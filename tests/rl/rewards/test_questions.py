"""Which candidates a rollout meets: against plain double loops."""

import random
from dataclasses import replace

import pytest
from reward_helpers import step_of

from embedrl.rl.rewards.comparison import compare_roles
from embedrl.rl.rewards.questions import QuestionOptions, choose_candidates
from embedrl.tcot.parser import build, parse
from embedrl.types import Modality, Role


def asked(step, candidates="group", positives="one", drop_twins=False, hard_negatives=2):
    options = QuestionOptions(hard_negatives, candidates, positives, drop_twins)
    return {a.anchor.id: a for role in Role for a in choose_candidates(step, compare_roles(step, role, True), options)}


def nearest_to_the_group(step, anchor, count):
    """Of each of the nearest other pairs, the rollout nearest to the sum over the anchor's group; by loops."""
    scores = {}
    for candidate in step.rollouts:
        if candidate.role == anchor.role or candidate.pair == anchor.pair:
            continue
        total = 0.0
        for mate in step.rollouts:
            if mate.group == anchor.group:
                total += float(step.vectors[mate.id] @ step.vectors[candidate.id])
        scores[candidate] = total
    best = {}
    for candidate, score in scores.items():
        if candidate.pair not in best or score > scores[best[candidate.pair]]:
            best[candidate.pair] = candidate
    return set(sorted(best.values(), key=lambda c: -scores[c])[:count])


@pytest.mark.parametrize("hard_negatives", [1, 3, 9])
def test_a_group_has_one_list_in_one_order(hard_negatives):
    step = step_of(range(6), range(6), 4, missing=3)
    questions = asked(step, hard_negatives=hard_negatives)
    assert questions.keys() == {r.id for r in step.rollouts}
    lists = {}
    for one in questions.values():
        lists.setdefault(one.anchor.group, set()).add(one.candidates)
    assert all(len(different) == 1 for different in lists.values())
    for one in questions.values():
        negatives = {c for c in one.candidates if c.pair != one.anchor.pair}
        assert negatives == nearest_to_the_group(step, one.anchor, hard_negatives)
        (right,) = one.right
        assert one.candidates[right].pair == one.anchor.pair
        assert one.candidates[right].role != one.anchor.role


def test_all_rollouts_of_the_partner_may_be_among_them():
    step = step_of(range(5), range(5), 3)
    for one in asked(step, positives="all").values():
        assert len(one.right) == 3
        assert len(one.candidates) == 5


def test_what_a_process_asks_depends_on_neither_its_share_nor_the_order_of_rollouts():
    step = step_of(range(5), range(5), 4)
    plain = {name: one.candidates for name, one in asked(step).items()}
    rollouts = list(step.rollouts)
    random.Random(2).shuffle(rollouts)
    assert {name: one.candidates for name, one in asked(replace(step, rollouts=rollouts)).items()} == plain
    mine = frozenset(list(plain)[3:9])  # a part of a group
    assert {n: one.candidates for n, one in asked(replace(step, mine=mine)).items()} == {n: plain[n] for n in mine}


def test_one_rollout_changes_no_question_of_its_group_but_by_its_vector():
    """The notes of a rollout reach the question of its own group as the anchor alone."""
    step = step_of(range(5), range(5), 4)
    plain = asked(step)
    changed = [replace(r, text="other") if r.id == "2/query/1" else r for r in step.rollouts]
    after = asked(replace(step, rollouts=changed))
    for name, one in plain.items():
        if one.anchor.group == "2/query":
            assert [c.id for c in after[name].candidates] == [c.id for c in one.candidates]


def test_the_drawn_positive_and_the_order_change_with_the_seed():
    drawn = set()
    for seed in range(60):
        one = asked(replace(step_of(range(3), range(3), 4), seed=seed))["0/query/0"]
        drawn.add((next(c.index for c in one.candidates if c.pair == 0), *one.right))
    assert drawn == {(index, place) for index in range(4) for place in range(3)}


def answering(step, answers):
    """The step with these answers, by pair and role."""
    parsed = {
        r.id: parse(build(Modality.TEXT, "Look.", "This.", answers[r.pair], keywords=["x"]).render(), Modality.TEXT)
        for r in step.rollouts
    }
    return replace(step, parsed=parsed)


@pytest.mark.parametrize("candidates", ["group", "rollout"])
@pytest.mark.parametrize("positives", ["all", "one"])
def test_textual_twins_make_room_for_the_next_nearest(candidates, positives):
    step = answering(step_of(range(6), range(6), 2), ["red star", "Red  star", "blue", "red star", "green", "black"])
    kept = asked(step, candidates, positives, hard_negatives=3)
    dropped = asked(step, candidates, positives, True, 3)
    twins = {0, 1, 3}
    for one in dropped.values():
        pairs = {c.pair for c in one.candidates}
        if one.anchor.pair in twins:
            assert pairs & twins == {one.anchor.pair}
        assert len(pairs) == 4
    assert any({c.pair for c in one.candidates} & twins - {one.anchor.pair} for one in kept.values())


def test_nothing_but_twins_is_no_question():
    step = answering(step_of(range(3), range(3), 2), ["same", "same", "same"])
    assert all(not one.candidates for one in asked(step, drop_twins=True).values())


def test_notes_without_an_answer_are_no_twins():
    step = step_of(range(3), range(3), 2)
    step = replace(step, parsed={r.id: parse("nothing", Modality.TEXT) for r in step.rollouts})
    assert all(len(one.candidates) == 3 for one in asked(step, drop_twins=True).values())


def test_the_question_holds_its_texts_apart_too():
    step = step_of("ab", "xy", 1)
    one = asked(step)["0/query/0"]
    question = one.question(step, "full")
    assert question.id == "0/query/0"
    assert question.choices == len(question.candidates) == 2
    assert question.anchor == f"query a\n{one.anchor.text}"
    assert question.candidates == tuple(c.text for c in one.candidates)
    assert all(note in question.prompt for note in question.candidates)
    assert "target" not in question.prompt.replace("target 0", "")  # in the names of rollouts alone
