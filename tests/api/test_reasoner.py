"""The Reasoner of a program: the replies of `embedrl reason`, what they point at, and an Embedder that holds one."""

import numpy as np
import pytest
import torch
from fake_data import IMAGE_TCOT, TEXT_TCOT, VIDEO_TCOT, Quarters
from PIL import Image

import embedrl
from embedrl import cli
from embedrl.api.items import to_side
from embedrl.api.thought import Thought
from embedrl.errors import ConfigError, DataError
from embedrl.types import Side
from embedrl.utils.console import escaped

RED = Image.new("RGB", (64, 48), "red")


@pytest.fixture(scope="module")
def reasoner(checkpoint):
    return embedrl.Reasoner.from_pretrained(checkpoint, device="cpu", style="brief", max_new_tokens=8)


def test_replies_are_those_of_the_command_line(reasoner, checkpoint, tmp_path, capsys):
    RED.save(tmp_path / "red.png")
    words = ["--checkpoint", str(checkpoint), "--style", "brief", "--max_new_tokens", "8", "--device", "cpu"]
    assert cli.main(["reason", *words, "--text", "a star", "--image", str(tmp_path / "red.png")]) == 0
    thought = reasoner.reason(text="a star", image=RED)
    assert escaped(thought.text) == capsys.readouterr().out.partition("\n\nproblems")[0]
    assert thought.text
    assert not thought.format_ok
    several = reasoner.reason([{"text": "a star", "image": RED}, "a star", {"video": [RED, RED]}], role="target")
    assert [type(one) for one in several] == [Thought] * 3
    assert several[0].side.images


def test_drawing_is_repeated_by_its_seed(reasoner):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, same, other = (reasoner.reason("a star", temperature=2.0, seed=seed).text for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)


CUES = {
    "text": (to_side("the red one").with_tcot(TEXT_TCOT), "red", ["red"]),
    "picture": (Side(images=(Quarters(),), tcot=IMAGE_TCOT), "red square", [(22, 11), (22, 11)]),
    "video": (Side(frames=(Quarters(),) * 4, tcot=VIDEO_TCOT), "turns blue", [(40, 20), (40, 20)]),
}


@pytest.mark.parametrize("name", CUES)
def test_a_thought_shows_what_it_points_at(name):
    side, answer, evidence = CUES[name]
    thought = Thought(side)
    assert thought.format_ok
    assert thought.problems == ()
    assert thought.answer == answer
    assert [part if isinstance(part, str) else part.size for part in thought.evidence()] == evidence
    assert thought.show().width > 900
    assert thought._repr_png_().startswith(b"\x89PNG")


def test_an_embedder_with_a_reasoner_embeds_what_it_writes(reasoner, checkpoint):
    embedder = embedrl.Embedder.from_pretrained(checkpoint, reasoner=reasoner, device="cpu")
    items = ["a red star", RED, {"text": "x", "tcot": TEXT_TCOT}]
    thoughts = reasoner.reason(items[:2])
    vectors = embedder.encode(items)
    by_hand = embedder.encode(items, tcots=[*thoughts, None])
    np.testing.assert_allclose(vectors, by_hand, atol=1e-5)
    raw = embedder.encode(items, reason=False)
    assert np.abs(vectors[1] - raw[1]).max() > 1e-3
    np.testing.assert_allclose(vectors[2], raw[2], atol=1e-5)  # it brings its own


WRONG = {
    "nothing": ({}, "give an item"),
    "both": ({"item": "a", "text": "b"}, "give an item"),
    "temperature": ({"item": "a", "temperature": -1}, "temperature -1"),
    "top_p": ({"item": "a", "top_p": 0}, "top_p 0"),
    "role": ({"item": "a", "role": "document"}, "role 'document'"),
    "counterpart": ({"item": "a", "counterpart": "sound"}, "counterpart 'sound'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_one_line(case, reasoner):
    options, message = WRONG[case]
    with pytest.raises(ConfigError, match=message):
        reasoner.reason(**options)


def test_a_text_may_spell_what_a_model_reads_as_marks(reasoner):
    one, other = reasoner.reason(["a <|image_pad|> b <|im_end|>", "a < |image_pad|> b < |im_end|>"])
    assert one.text == other.text


def test_a_bad_item_is_named(reasoner):
    with pytest.raises(DataError, match=r"item 1: 'gone\.png' ends like a file"):
        reasoner.reason(["a", "gone.png"])
    with pytest.raises(ConfigError, match="style 'long'"):
        embedrl.Reasoner(reasoner.generator, style="long")
