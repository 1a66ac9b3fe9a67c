import math

import pytest

from embedrl.errors import ConfigError, NonFiniteError
from embedrl.rl.reply_rewards import ReplyRewardRow, score_by, total_reply_rewards
from embedrl.rl.types import Rollout
from embedrl.types import Lesson, Role


class Says:
    """1 if the reply holds the gold word; no verdict on an empty reply."""

    name = "says"

    def __call__(self, lesson, reply):
        return float(lesson.gold["word"] in reply) if reply else None


class Length:
    name = "length"

    def __init__(self, value=None):
        self.value = value

    def __call__(self, lesson, reply):
        return float(len(reply)) if self.value is None else self.value


LESSONS = {4: Lesson([], "", "a", {"word": "fox"}), 5: Lesson([], "", "b", {"word": "owl"})}
ROWS = [ReplyRewardRow(Says(), 2.0), ReplyRewardRow(Length(), 0.5)]


def rollout(place, index, text):
    return Rollout(place, Role.QUERY, index, (), (), text)


def test_a_rollout_is_rewarded_by_its_own_lesson_and_no_verdict_is_not_zero():
    rollouts = [rollout(4, 0, "a fox"), rollout(4, 1, "an owl"), rollout(5, 0, "an owl"), rollout(5, 1, "")]
    rewards = total_reply_rewards(ROWS, LESSONS, rollouts)
    assert rewards.totals == {"4/query/0": 4.5, "4/query/1": 3.0, "5/query/0": 5.0, "5/query/1": None}
    assert rewards.parts["says"] == {"4/query/0": 1.0, "4/query/1": 0.0, "5/query/0": 1.0, "5/query/1": None}
    assert rewards.metrics["reward/says/mean"] == pytest.approx(2 / 3)
    assert rewards.metrics["reward/total/invalid"] == 0.25


def test_the_scores_of_a_greedy_reply():
    assert score_by(ROWS, LESSONS[5], "owl") == {"says": 1.0, "length": 3.0, "reward": 3.5}
    assert score_by(ROWS, LESSONS[5], "") == {"length": 0.0}  # no total without every verdict


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ([], ConfigError, "rewards is empty"),
        ([ReplyRewardRow(Length()), ReplyRewardRow(Length())], ConfigError, "'length' is taken"),
        ([ReplyRewardRow(Length(), 0.0)], ConfigError, "weight 0.0 of length"),
        ([ReplyRewardRow(Length(math.nan))], NonFiniteError, "reward length of 1 rollouts"),
    ],
)
def test_wrong_rows(rows, error, says):
    with pytest.raises(error, match=says):
        total_reply_rewards(rows, LESSONS, [rollout(4, 0, "x")])
