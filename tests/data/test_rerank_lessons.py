from collections import Counter

import pytest
from PIL import Image

from embedrl.data.render import SUMMARIZE, RenderOptions
from embedrl.data.rerank_lessons import NO, YES, RerankLessons, rerank_chat
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError, DataError
from embedrl.types import Pair, Side


class Rows:
    name = "rows"
    modality = "text"

    def __init__(self, *targets, negatives=()):
        self.targets, self.negatives = targets, negatives

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        negatives = tuple(Side(text) for text in self.negatives)
        return Pair(Side(f"query {index}"), Side(self.targets[index]), "rows", str(index), negatives)


def text_of(lesson):
    return "".join(part.get("text", "<picture>") for part in lesson.chat[0]["content"])


def candidate(lesson):
    """The text of the lesson's candidate."""
    return text_of(lesson).split("\n")[-2]


def test_the_target_is_a_yes_and_other_targets_are_noes():
    lessons = RerankLessons([Rows("a", "b", "c", "b")], negatives=2, style="brief")
    assert len(lessons) == 12
    for row, target in enumerate("abcb"):
        yes, *noes = (lessons[3 * row + i] for i in range(3))
        assert yes.reply == YES
        assert text_of(yes) == f"query :\nquery {row}\ntarget :\n{target}\nmatch ?"
        assert [no.reply for no in noes] == [NO, NO]
        shown = [candidate(no) for no in noes]
        assert sorted([target, *shown]) == ["a", "b", "c"]  # every other one once, equal ones never


def test_own_hard_negatives_come_first_and_a_row_is_a_function_of_its_number():
    source = Rows(*"abcdefgh", negatives=("x", "y"))
    lessons, again = (RerankLessons([source], negatives=3) for _ in range(2))
    assert [candidate(lessons[1 + i]) for i in range(2)] == ["x", "y"]
    assert [lessons[i] for i in range(len(lessons))] == [again[i] for i in reversed(range(len(again)))][::-1]
    other = RerankLessons([source], negatives=3, seed=1)
    assert [lessons[4 * i + 3] for i in range(8)] != [other[4 * i + 3] for i in range(8)]


def test_the_draw_is_even():
    source = Rows(*(str(i) for i in range(20)))
    drawn = Counter(candidate(RerankLessons([source], 1, seed=seed)[1]) for seed in range(400))
    assert set(drawn) == {str(i) for i in range(1, 20)}
    assert max(drawn.values()) < 45  # 21 are expected, with a standard deviation of 4.5


def test_both_sides_come_with_notes_and_evidence():
    pair = WorldSource("grounding", size=1)[0]
    chat = rerank_chat(pair.query, pair.target, RenderOptions())
    content = chat[0]["content"]
    assert sum(part["type"] == "image" for part in content) > 2  # pictures and crops of both
    texts = "".join(part.get("text", "") for part in content)
    assert texts.count("</rethink>") == 2
    assert SUMMARIZE not in texts
    assert texts.index("Query:") < texts.index("Candidate:") < texts.index('Reply "yes" or "no"')
    assert all(isinstance(part["image"], Image.Image) for part in content if part["type"] == "image")


@pytest.mark.parametrize(
    ("sources", "options", "words"),
    [
        ([], {}, "at least one source"),
        ([Rows("a", "b")], {"negatives": 0}, "negatives is 0"),
        ([Rows("a")], {}, "rows has 1 pair"),
        ([Rows("a", "b")], {"limit": 1}, "rows has 1 pair"),
    ],
)
def test_wrong_options(sources, options, words):
    with pytest.raises(ConfigError, match=words):
        RerankLessons(sources, **options)


def test_too_few_other_targets_is_one_line():
    lessons = RerankLessons([Rows("a", "b", "a")], negatives=2)
    assert lessons[1].reply == NO
    with pytest.raises(DataError, match="rows/0: its data set has fewer than 2 other targets; lower `negatives`"):
        lessons[2]
    with pytest.raises(IndexError):
        lessons[9]
    with pytest.raises(DataError, match="rows/0 candidate: the side is empty"):
        RerankLessons([Rows(" ", "b")], negatives=1)[0]
