import pytest

from embedrl.data.rerank_lessons import RerankLessons
from embedrl.data.rerank_replies import read_ranking, read_verdict
from embedrl.data.rerank_thoughts import RerankThoughts
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError
from embedrl.tcot.parser import parse


def words(lesson):
    return "".join(part.get("text", "[picture]") for part in lesson.chat[0]["content"])


def sources():
    return [WorldSource("vqa", size=6, negatives=1), WorldSource("t2i", size=4, negatives=1)]


def test_verdicts_are_the_questions_of_the_plain_lessons_with_balanced_rewards():
    plain, lessons = RerankLessons(sources(), 2, "brief"), RerankThoughts(sources(), negatives=2, style="brief")
    assert len(lessons) == len(plain) == 30
    for i, lesson in enumerate(lessons[j] for j in range(30)):
        pair, candidate, relevant = plain.question(i)
        assert lesson.gold["relevant"] is relevant is (i % 3 == 0)
        verdict = read_verdict(lesson.reply)
        assert verdict is not None
        assert verdict.relevant is relevant
        assert f"shown : {parse(candidate.tcot, candidate.modality).tcot.answer} ." in verdict.thought
        assert words(lesson) == words(plain[i]).replace("match ?", "think , match ?")
        assert lesson.kind == f"{pair.dataset.removeprefix('world/')}_verdict"
    every = [lessons[i] for i in range(30)]
    always = [sum(lesson.gold["balance"] * (lesson.gold["relevant"] is said) for lesson in every)
              for said in (True, False)]  # fmt: skip
    assert always == pytest.approx([15, 15])  # half of the lessons, whichever is always said


def test_a_ranking_shows_the_target_and_its_negatives_in_a_drawn_order():
    lessons = RerankThoughts(sources(), "ranking", 3, True, "brief")
    assert len(lessons) == 10
    places = set()
    for i in range(10):
        lesson = lessons[i]
        pair = sources()[i // 6][i if i < 6 else i - 6]
        assert sorted(lesson.gold["grades"]) == [0, 0, 0, 1]
        place = lesson.gold["grades"].index(1.0)
        places.add(place)
        ranking = read_ranking(lesson.reply, 4, True)
        assert ranking is not None
        assert ranking.order[0] == place + 1
        assert ranking.answer == lesson.gold["reference"] == parse(pair.target.tcot, pair.target.modality).tcot.answer
        shown = words(lesson).split(f"target {place + 1} :\n")[1].split("\ntarget")[0]
        assert ranking.answer in shown
        assert lessons[i].gold == lesson.gold
    assert len(places) > 1
    assert words(lesson).endswith("think , rank , answer ?")


def test_the_full_style_says_what_to_do():
    render = words(RerankThoughts(sources(), "ranking", 2)[0])
    assert "3 candidates" in render
    assert "Candidate 2:" in render
    assert "<ranking></ranking>" in render
    assert "answer in" not in render
    assert "reference" not in RerankThoughts(sources(), "ranking", 2)[0].gold
    assert "<answer>irrelevant</answer>" in words(RerankThoughts(sources())[0])


def test_wrong_options():
    with pytest.raises(ConfigError, match="negatives is 0"):
        RerankThoughts(sources(), negatives=0)
    with pytest.raises(IndexError):
        RerankThoughts(sources())[20]
