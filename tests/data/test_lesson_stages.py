import pytest

from embedrl.data.lesson_stages import LessonStage, LessonStages
from embedrl.errors import ConfigError
from embedrl.types import Lesson


class Numbers:
    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Lesson([], f"{self.name}{index}", self.name)


def replies(lessons):
    return [lessons[i].reply for i in range(len(lessons))]


def test_stages_follow_one_another_each_in_an_order_of_its_own():
    lessons = LessonStages([LessonStage(Numbers("a", 5), 4), LessonStage(Numbers("b", 3), 7)])
    read = replies(lessons)
    assert len(read) == len(lessons) == 11
    assert {reply[0] for reply in read[:4]} == {"a"}
    assert len(set(read[:4])) == 4
    assert sorted(read[4:7]) == sorted(read[7:10]) == ["b0", "b1", "b2"]  # anew when all were drawn
    assert replies(lessons) == read
    assert replies(LessonStages(lessons.stages, seed=1)) != read
    assert lessons.name == "a, then b"


@pytest.mark.parametrize(
    "stages", [[], [LessonStage(Numbers("a", 0), 1)], [LessonStage(Numbers("a", 1), 0)]]
)  # fmt: skip
def test_wrong_stages(stages):
    with pytest.raises(ConfigError, match="stages: give one or more"):
        LessonStages(stages)
