"""A model in this process in the place of an endpoint: batches, answers, errors."""

import asyncio

import pytest
import torch
from documented import ROOT, blocks
from making import lines, run, world, write_mix
from PIL import Image

from embedrl.construction.local_vlm import LocalVLM
from embedrl.construction.vlm import VLM
from embedrl.data.world.source import WorldSource
from embedrl.errors import ConfigError, DataError
from embedrl.models.qwen_vl.loading import SHIPPED
from embedrl.tcot.chat import reasoning_chat
from embedrl.tcot.store import TCoTJournal
from embedrl.types import Role

FEW = ["--caps.documents", "[]"]  # the recipe's are not in the mix of a test


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

    def counted(inputs, tokens, **options):
        sizes.append(len(inputs["input_ids"]))
        return generate(inputs, tokens, **options)

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

    answer = asyncio.run(weigh())
    yes, no = (
        float(vlm.generator.score_choices([chats[0]], [words], whole=False)[0].double().exp().sum())
        for words in (["Yes", "yes"], ["No", "no"])
    )
    # Choices of other lengths are scored together: the same up to rounding.
    assert answer.mass == pytest.approx(yes + no, rel=1e-5)
    assert answer.p_yes == pytest.approx(yes / (yes + no), rel=1e-5)
    # The base was never taught to judge: it says neither, and what it says is written down.
    assert answer.mass < 0.5
    assert answer.text not in ("Yes", "No", "")


def test_a_retrained_model_is_another_one(tmp_path):
    """By its weights, not by its folder; what only says where and how many at once does not count."""
    base = "embedrl:world_base"
    moved = {"path": str(SHIPPED[base]), "name": base, "batch_size": 3}
    changes = [{}, moved, {"max_tokens": 7}, {"dtype": "bfloat16"}, {"name": "other"}]
    keys = [LocalVLM(**{"path": base, "device": "cpu", **change}).key for change in changes]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    retrained = LocalVLM(base, device="cpu")
    retrained.generator.build()
    with torch.no_grad():
        next(iter(retrained.generator.parameters()))[0, 0] += 1
    assert retrained.key not in keys


def test_everybody_in_a_failed_batch_is_told(chats, monkeypatch):
    vlm = LocalVLM("embedrl:world_base", batch_size=4, device="cpu")

    def generate(*_, **__):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(vlm.generator, "generate", generate)
    assert {type(answer) for answer in ask(vlm, chats)} == {torch.OutOfMemoryError}


def test_annotate_in_process_as_documented_records_what_the_base_cannot_do(tmp_path, capsys):
    """The base was never taught T-CoTs: every side fails, each recorded once, and no mix is written."""
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 3)])
    (text,) = (text for _, text in blocks() if text.startswith("# my_vlm.yaml"))
    (tmp_path / "my_vlm.yaml").write_text(text)
    here = {"path": "embedrl:world_base", "max_tokens": 12, "dtype": "float32", "device": "cpu"}
    words = ["annotate", "--config", ROOT / "configs/construction/annotate.yaml", "--vlm", tmp_path / "my_vlm.yaml"]
    words += [word for name, value in here.items() for word in (f"--vlm.init_args.{name}", value)]
    assert run(*words, "--mix", mix, "--out", tmp_path / "out", "--style", "brief", "--attempts", 1, *FEW) == 1
    assert "embedrl:world_base knows the built-in world alone" in capsys.readouterr().err
    with TCoTJournal(tmp_path / "out" / "tcots.jsonl", read_only=True) as journal:
        assert {record.ok for record in journal.records()} == {False}
    assert len(lines(tmp_path / "out" / "left_out.jsonl")) == 3
    assert not (tmp_path / "out" / "mix.yaml").exists()


def test_options_out_of_range():
    with pytest.raises(ConfigError, match=r"vlm\.max_tokens is 0"):
        LocalVLM("embedrl:world_base", max_tokens=0)
