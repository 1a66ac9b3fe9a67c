import json

import pytest
import yaml
from egrl_small import CONFIGS

from embedrl.cli import main
from embedrl.data.world import WorldStories
from embedrl.data.world.vocabulary import COLORS, SHAPES, kind, words
from embedrl.errors import ConfigError

KINDS = [kind(color, shape) for color in COLORS for shape in SHAPES]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_picture_stands_behind_the_one_sentence_that_speaks_of_it(split):
    """An independent reading of the story: the sentence that holds the caption's words."""
    stories = WorldStories(60, split)
    unrelated = 0
    for index in range(len(stories)):
        story = stories.story(index)
        spoken = {}
        for picture in story.pictures:
            (name,) = [one for one in KINDS if one == picture.caption]
            numbers = [number for number, sentence in enumerate(story.sentences, 1) if name in sentence]
            assert len(numbers) <= 1
            spoken |= {picture.number: numbers[0]} if numbers else {}
            unrelated += not numbers
        assert {one.image: one.sentence for one in story.placements} == spoken
        assert [one.sentence for one in story.placements] == sorted(spoken.values())
        assert [picture.number for picture in story.pictures] == list(range(1, len(story.pictures) + 1))
        assert 1 <= len(story.pictures) <= 5
    assert unrelated > 20


def test_a_lesson_is_a_function_of_its_number_and_its_words_are_the_worlds():
    stories = WorldStories(5)
    first, again = stories[3], WorldStories(5)[3]
    assert first == again
    assert first.reply != stories[4].reply or first.chat != stories[4].chat
    assert WorldStories(5, seed=1)[3].chat != first.chat
    known = {*words(), *map(str, range(10))}
    texts = [part["text"] for part in first.chat[0]["content"] if part["type"] == "text"]
    assert {word for text in texts for word in text.split()} <= known
    thought, _, reply = first.reply.partition("</thinking>")
    assert set(thought.split()) <= known | {"<thinking>"}
    assert [set(one) for one in json.loads(reply)] == [{"image", "sentence"}] * len(first.gold["placements"])


def test_splits_say_different_things_of_an_object():
    told = {
        split: {sentence for i in range(100) for sentence in WorldStories(100, split).story(i).sentences}
        for split in ("train", "val", "test")
    }
    assert not told["train"] & told["val"]
    assert not told["train"] & told["test"]
    assert not told["val"] & told["test"]


@pytest.mark.parametrize("options", [{"size": 0}, {"placed": 0}, {"placed": 5}, {"unrelated": -1}, {"split": "x"}])
def test_wrong_options(options):
    with pytest.raises(ConfigError):
        WorldStories(**{"size": 1, **options})
    with pytest.raises(IndexError):
        WorldStories(1)[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_trains_an_inserter(tmp_path, capsys):
    small = {
        "trainer": {"max_steps": 2, "val_check_interval": 2, "callbacks": [], "log_every_n_steps": 1},
        "model": {"init_args": {"generator": {"init_args": {"path": "embedrl:tiny"}}, "max_new_tokens": 4}},
        "data": {"init_args": {"batch_size": 4, "micro_batch_size": 4, "val": {"init_args": {"size": 2}}}},
    }
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump(small))
    words = ["--config", str(CONFIGS / "world/inserter.yaml"), "--config", str(overlay)]
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "runs")]) == 0, capsys.readouterr().err
    assert list((tmp_path / "runs").rglob("last.ckpt"))
    assert "insert" in capsys.readouterr().out
