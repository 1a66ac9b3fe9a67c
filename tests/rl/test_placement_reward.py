import pytest
import yaml
from egrl_small import CONFIGS

from embedrl.cli import main
from embedrl.data.inserter import Placement
from embedrl.data.world import WorldStories
from embedrl.errors import ConfigError
from embedrl.rl import PlacementReward
from embedrl.types import Lesson

PIECES = ("format", "image_f1", "placement", "order")
GOLD = {"placements": (Placement(1, 1), Placement(2, 3)), "images": [1, 2, 3], "sentences": 4}


@pytest.mark.parametrize(
    ("reply", "values"),
    [
        ('<thinking> x </thinking>[{"image": 1, "sentence": 1}, {"image": 2, "sentence": 3}]', (1, 1, 1, 1)),
        ('[{"image": 2, "sentence": 1}, {"image": 1, "sentence": 2}]', (1, 1, (1 / 3 + 2 / 3) / 2, -1)),
        ('[{"image": 1, "sentence": 1}, {"image": 3, "sentence": 3}]', (1, 1 / 2, 1 / 2, 0)),
        ('[{"image": 1, "sentence": 1}, {"image": 1, "sentence": 3}]', (0, 2 / 3, 1 / 2, 0)),
        ('[{"image": 9, "sentence": 1}]', (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_pieces_by_hand(reply, values):
    lesson = Lesson([], "", "insert", GOLD)
    rewards = [PlacementReward(piece) for piece in PIECES]
    assert [reward(lesson, reply) for reward in rewards] == pytest.approx(values)
    assert [reward.name for reward in rewards] == [f"placing_{piece}" for piece in PIECES]


def test_a_story_without_an_order_has_the_same_for_every_reply():
    lesson = Lesson([], "", "insert", GOLD | {"placements": (Placement(1, 1),)})
    assert {PlacementReward("order")(lesson, reply) for reply in ("", '[{"image": 1, "sentence": 1}]')} == {0.0}


def test_stories_earn_everything_by_their_own_replies():
    stories = WorldStories(12, "val")
    assert {PlacementReward(piece)(stories[i], stories[i].reply) for i in range(12) for piece in PIECES[:3]} == {1.0}


def test_a_lesson_of_another_kind():
    with pytest.raises(ConfigError, match="PlacementReward: a lesson 'answer' holds no placements"):
        PlacementReward("format")(Lesson([], "", "answer"), "[]")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_rolls_out_and_improves(tmp_path, capsys):
    small = {
        "trainer": {"max_steps": 1, "val_check_interval": 1, "callbacks": []},
        "model": {"init_args": {
            "generator": {"init_args": {"path": "embedrl:tiny"}}, "group_size": 2, "filter_groups": False,
            "rollout": {"max_new_tokens": 4}, "max_new_tokens": 4,
        }},
        "data": {"init_args": {"batch_size": 2, "val": {"init_args": {"size": 2}}}},
    }  # fmt: skip
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump(small))
    words = ["--config", str(CONFIGS / "world/inserter_grpo.yaml"), "--config", str(overlay)]
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "runs")]) == 0, capsys.readouterr().err
    assert list((tmp_path / "runs").rglob("last.ckpt"))
