from itertools import pairwise

import pytest

from embedrl.data.tcot_lessons import TCoTLessons
from embedrl.data.world import WorldSource
from embedrl.data.world.source import needs
from embedrl.errors import ConfigError, DataError
from embedrl.metrics.replies import score_reply
from embedrl.tcot.chat import counterpart_of, reasoning_chat
from embedrl.tcot.prompts import Situation, prompt
from embedrl.types import Modality, Role, Side


def test_both_sides_of_every_pair_become_lessons():
    sources = [WorldSource("vqa", size=3), WorldSource("moment", size=2)]
    lessons = TCoTLessons(sources, style="brief")
    assert len(lessons) == 10
    assert [lessons[i].kind for i in range(10)] == ["vqa_query", "vqa_target"] * 3 + [
        "moment_query",
        "moment_target",
    ] * 2
    assert lessons[7].reply == sources[1][0].target.tcot
    image, text = lessons[0].chat[0]["content"]
    pair = sources[0][0]
    assert image["image"].tobytes() == pair.query.images[0].load().tobytes()
    assert text["text"] == f"{prompt(Situation.QUERY_IMAGE, 'brief')}\n{pair.query.text}"
    assert len(lessons[6].chat[0]["content"][0]["video"]) == 8


@pytest.mark.parametrize("family", ["cls", "grounding", "moment", "doc", "video_ret"])
def test_the_perfect_teacher_gets_full_marks_and_its_gold_is_what_retrieval_needs(family):
    source = WorldSource(family, split="val", size=4)
    lessons = TCoTLessons([source])
    for index in range(len(lessons)):
        lesson = lessons[index]
        pair = source[index // 2]
        scores = score_reply(lesson.reply, lesson)
        assert scores.pop("words") > 5
        assert set(scores.values()) == {1.0}
        needed = needs(pair.id)[index % 2]
        assert lesson.gold["answer"] == needed.answer
        assert tuple(lesson.gold.get("keywords", ())) == needed.keywords
        assert tuple(lesson.gold.get("frames", ())) == needed.frames
        assert len(lesson.gold.get("boxes", ())) == len(needed.boxes)


def test_one_role_and_a_limit():
    lessons = TCoTLessons([WorldSource("t2i", size=50)], roles=["target"], limit=4)
    assert [lessons[i].kind for i in range(len(lessons))] == ["t2i_target"] * 4
    assert all(a.reply != b.reply for a, b in pairwise(lessons[i] for i in range(4)))


def test_the_prompt_depends_on_the_counterpart_of_a_text_query():
    side = Side(text="a red star")
    asked = {m: reasoning_chat(side, Role.QUERY, m)[0]["content"][0]["text"] for m in Modality}
    assert asked[Modality.VIDEO] != asked[Modality.IMAGE] == asked[Modality.TEXT]
    pair = WorldSource("video_ret")[0]
    assert counterpart_of(pair, Role.QUERY) is Modality.VIDEO
    assert counterpart_of(pair, Role.TARGET) is Modality.TEXT


def test_a_side_without_a_tcot_is_named():
    with pytest.raises(DataError, match=r"world/vqa/vqa-train-0-1 target: no T-CoT.*annotate"):
        TCoTLessons([WorldSource("vqa", teacher="none")])[3]
    with pytest.raises(ConfigError, match="at least one source"):
        TCoTLessons([])
    with pytest.raises(DataError, match="empty"):
        reasoning_chat(Side(), Role.QUERY, Modality.IMAGE)
