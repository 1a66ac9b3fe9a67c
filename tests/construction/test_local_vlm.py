"""A model in this process in the place of an endpoint: batches, answers, errors."""

import asyncio
import json

import pytest
import torch
from making import lines, run, world, write_mix
from PIL import Image

from embedrl.construction.local_vlm import LocalVLM
from embedrl.construction.vlm import VLM
from embedrl.data.world.source import WorldSource
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.store import TCoTJournal
from embedrl.types import Role

FLAG = {
    "class_path": "embedrl.construction.LocalVLM",
    "init_args": {"path": "embedrl:world_base", "max_tokens": 12, "batch_size": 4, "device": "cpu"},
}


def ask(vlm, chats):
    async def everybody():
        async with vlm.session():
            return await asyncio.gather(*map(vlm.write, chats), return_exceptions=True)

    return asyncio.run(everybody())


@pytest.fixture
def chats():
    pairs = [WorldSource("vqa", size=5, teacher="none")[i] for i in range(5)]
    return [reasoning_chat(pair.query, Role.QUERY, pair.target.modality, "brief") for pair in pairs]


def test_what_is_asked_together_is_answered_together(chats, monkeypatch):
    vlm = LocalVLM("embedrl:world_base", max_tokens=12, batch_size=4, device="cpu")
    assert isinstance(vlm, VLM)
    sizes, generate = [], vlm.generator.generate

    def counted(inputs, tokens):
        sizes.append(len(inputs["input_ids"]))
        return generate(inputs, tokens)

    monkeypatch.setattr(vlm.generator, "generate", counted)
    together = [answer.text for answer in ask(vlm, chats)]
    assert sum(sizes) == 5
    assert max(sizes) >= 4
    assert together == [ask(vlm, [chat])[0].text for chat in chats]


def test_a_bad_chat_spoils_no_other_of_its_batch(chats):
    vlm = LocalVLM("embedrl:world_base", max_tokens=4, batch_size=4, device="cpu")
    strip = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (1, 300))}]}]
    first, bad, last = ask(vlm, [chats[0], strip, chats[1]])
    assert isinstance(bad, DataError)
    assert bad.cause == "thin_picture"
    assert [first.text, last.text] == [answer.text for answer in ask(vlm, chats[:2])]


def test_yes_or_no_is_weighed(chats):
    vlm = LocalVLM("embedrl:world_base", device="cpu")

    async def weigh():
        async with vlm.session():
            return await vlm.yes_or_no(chats[0])

    word, probability = asyncio.run(weigh())
    expected = vlm.generator.score_choices([chats[0]], [("Yes", "No")])[0].double().softmax(0)[0]
    assert probability == pytest.approx(float(expected))
    assert word == ("Yes" if probability > 0.5 else "No")


def test_everybody_in_a_failed_batch_is_told(chats, monkeypatch):
    vlm = LocalVLM("embedrl:world_base", batch_size=4, device="cpu")
    monkeypatch.setattr(vlm.generator, "generate", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    assert {type(answer) for answer in ask(vlm, chats)} == {torch.OutOfMemoryError}


def test_annotate_in_process_records_what_the_base_cannot_do(tmp_path):
    """The base was never taught T-CoTs: every side fails, each recorded once, and no mix is written."""
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 3)])
    words = ["annotate", "--mix", mix, "--out", tmp_path / "out", "--style", "brief", "--attempts", 1]
    assert run(*words, "--vlm", json.dumps(FLAG)) == 1
    with TCoTJournal(tmp_path / "out" / "tcots.jsonl", read_only=True) as journal:
        assert {record.ok for record in journal.records()} == {False}
    assert len(lines(tmp_path / "out" / "left_out.jsonl")) == 3
    assert not (tmp_path / "out" / "mix.yaml").exists()


def test_options_out_of_range():
    with pytest.raises(ConfigError, match=r"vlm\.max_tokens is 0"):
        LocalVLM("embedrl:world_base", max_tokens=0)
