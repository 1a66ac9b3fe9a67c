"""`embedrl annotate` against a real HTTP server: what is sent, and what is kept."""

import json
import time

import pytest
import yaml
from chat_server import asked_pictures, asked_text, completion, serving, valid_tcot
from making import annotate, lines, picture, released, source, world, write_mix

from embedrl.data.formats import JsonlSource
from embedrl.tcot import prompts
from embedrl.tcot.parser import parse
from embedrl.tcot.prompts import Situation
from embedrl.tcot.store import TCoTJournal, prompt_version

BROKEN = "<thinking>no cue</thinking><rethink>r</rethink><answer>a</answer>"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def open_output(out):
    rows = yaml.safe_load((out / "mix.yaml").read_text())
    return {row["source"]["init_args"]["dataset"]: JsonlSource(**row["source"]["init_args"]) for row in rows}


def test_every_released_format_and_the_own_one(tmp_path, capsys):
    with serving(valid_tcot) as server:
        assert annotate(released(tmp_path), server, tmp_path / "out") == 0
    sets = open_output(tmp_path / "out")
    assert {name: len(found) for name, found in sets.items()} == {"mmeb": 3, "hound": 3, "own": 3}
    for found in sets.values():
        for pair in (found[i] for i in range(3)):
            for side in (pair.query, pair.target):
                assert parse(side.tcot, side.modality, len(side.frames) or None).ok
                assert all(shown.load().size == (40, 30) for shown in (*side.images, *side.frames))
    assert sets["mmeb"][0].negatives[0].text == "a rock"
    frames = [frame.name for frame in sets["hound"][1].query.frames]
    assert frames == [f"frames/1/{k}.jpg" for k in (0, 1, 2, 3, 4, 5, 6, 8)]  # the ones that were sampled
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    key = report["mmeb"].pop("model")
    assert key.startswith("m#")
    assert f"--tcots.model '{key}'" in capsys.readouterr().out
    assert report["mmeb"] == {"rows": 3, "sampled": 3, "annotated": 3, "left_out": {}}
    # Each T-CoT went to the side that was asked about.
    assert parse(sets["mmeb"][2].target.tcot, "text").tcot.answer == "thing 2"


def test_what_is_sent(tmp_path):
    with serving(valid_tcot) as server:
        annotate(released(tmp_path, rows=1), server, tmp_path / "out", max_tokens=77, extra={"seed": 3})
    asked = {asked_text(body): body for body in server.bodies}
    assert set(asked) == {
        "image query:\nWhat is it?",
        "target text:\nthing 0",
        "video query:\nwhat happens in 0?",
        "target text:\nevent 0",
        "text query for an image:\npage 0",
        "target image:",
    }
    body = asked["image query:\nWhat is it?"]
    assert {key: value for key, value in body.items() if key != "messages"} == {
        "model": "m",
        "max_tokens": 77,
        "temperature": 0.0,
        "seed": 3,
    }
    (shown,) = asked_pictures(body)
    assert (shown.size, shown.format, shown.getpixel((30, 20))) == ((40, 30), "PNG", (0, 90, 160))
    assert len(asked_pictures(asked["video query:\nwhat happens in 0?"])) == 8


def test_large_pictures_are_shrunk_and_may_travel_as_jpeg(tmp_path):
    with serving(valid_tcot) as server:
        annotate(released(tmp_path, rows=1), server, tmp_path / "out", max_pixels=300, image_format="jpeg")
    (shown,) = asked_pictures(next(body for body in server.bodies if asked_text(body) == "target image:"))
    assert (shown.size, shown.format) == ((20, 15), "JPEG")


def test_a_second_run_asks_nothing_and_writes_the_same(tmp_path):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 6), world("video_qa", 2), world("grounding", 3)])
    with serving(valid_tcot) as server:
        assert annotate(mix, server, tmp_path / "out") == 0
        asked = len(server.asked)
        files = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
        assert annotate(mix, server, tmp_path / "out") == 0
        assert len(server.asked) == asked == len(set(server.asked))
        assert files == {path: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
        # Another model's T-CoTs are others; the same model under another address keeps its name.
        assert annotate(mix, server, tmp_path / "out", name="m", model="served-as") == 0
        assert len(server.asked) == asked
        assert annotate(mix, server, tmp_path / "out", model="other") == 0
        assert len(server.asked) == 2 * asked


def test_other_options_and_another_prompt_ask_again(tmp_path, monkeypatch):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 1)])

    def asked(**options):
        before = len(server.asked)
        assert annotate(mix, server, tmp_path / "out", **options) == 0
        return len(server.asked) - before

    with serving(valid_tcot) as server:
        assert [asked(), asked(timeout=9), asked(max_pixels=300)] == [2, 0, 2]
        monkeypatch.setitem(prompts._BRIEF, Situation.QUERY_IMAGE, "image of a query:")
        prompt_version.cache_clear()
        try:
            assert asked() == 1
        finally:
            prompt_version.cache_clear()


def test_equal_sides_are_asked_about_once(tmp_path):
    rows = [{"id": str(i), "query": {"text": f"is it {i}?"}, "target": {"text": "no"}} for i in range(5)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mix = write_mix(tmp_path / "m.yaml", [source("embedrl.data.JsonlSource", path=str(tmp_path / "set.jsonl"))])
    with serving(valid_tcot) as server:
        assert annotate(mix, server, tmp_path / "out") == 0
    assert len(server.asked) == 6


def test_a_bad_tcot_is_asked_for_again_with_the_problem_named(tmp_path):
    def reply(body):
        if len(body["messages"]) == 1:
            return BROKEN
        return valid_tcot(body) if asked_text(body).startswith("target") else completion(BROKEN, "length")

    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 1), world("i2t", 1)])
    with serving(reply) as server:
        assert annotate(mix, server, tmp_path / "out", "--attempts", 3) == 1  # the queries' T-CoTs never get right
        turns = [body["messages"] for body in server.bodies]
        assert sorted(len(messages) for messages in turns) == [1] * 4 + [3] * 6
        again = next(messages for messages in turns if len(messages) == 3)
        assert again[1] == {"role": "assistant", "content": BROKEN}
        assert "holds no JSON" in again[2]["content"][0]["text"] or "cue" in again[2]["content"][0]["text"]
        told = [messages[2]["content"][0]["text"] for messages in turns if len(messages) == 3]
        assert any("cut off" in text for text in told)
        with TCoTJournal(tmp_path / "out" / "tcots.jsonl", read_only=True) as journal:
            found = sorted((r.ok, r.attempts) for r in journal.records())
            assert found == [(False, 3)] * 2 + [(True, 2)] * 2
            assert {r.problems for r in journal.records() if not r.ok} == {("truncated", "no_cue")}
        left_out = lines(tmp_path / "out" / "left_out.jsonl")
        assert [(row["side"], row["cause"]) for row in left_out] == [("query", "truncated")] * 2
        # More attempts go on where the last run gave up; fewer ask nothing.
        annotate(mix, server, tmp_path / "out", "--attempts", 2)
        assert len(server.asked) == 10
        annotate(mix, server, tmp_path / "out", "--attempts", 4)
        assert len(server.asked) == 12


def test_tcots_that_are_there_are_kept_unless_told_otherwise(tmp_path):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 2, teacher="perfect")])
    with serving(valid_tcot) as server:
        assert annotate(mix, server, tmp_path / "kept") == 0
        assert not server.asked
        assert annotate(mix, server, tmp_path / "new", "--keep_existing", "false") == 0
        assert len(server.asked) == 4


def test_no_more_requests_are_under_way_than_allowed(tmp_path):
    def slow(body):
        time.sleep(0.03)
        return valid_tcot(body)

    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 8)])
    with serving(slow) as server:
        annotate(mix, server, tmp_path / "out", concurrency=3)
    assert server.most_open == 3


def test_caps_by_modality(tmp_path):
    mix = write_mix(tmp_path / "mix.yaml", [world("vqa", 9), world("doc", 9), world("video_qa", 9)])
    with serving(valid_tcot) as server:
        caps = json.dumps({"image": 2, "document": 3, "video": 4, "documents": ["world/doc"]})
        assert annotate(mix, server, tmp_path / "out", "--caps", caps) == 0
        assert {name: len(found) for name, found in open_output(tmp_path / "out").items()} == {
            "world/vqa": 2,
            "world/doc": 3,
            "world/video_qa": 4,
        }
        assert annotate(mix, server, tmp_path / "out", "--caps.documents", '["docs"]') == 2


def test_a_changed_picture_is_asked_about_again(tmp_path):
    mix = released(tmp_path, rows=1)
    with serving(valid_tcot) as server:
        annotate(mix, server, tmp_path / "out")
        before = len(server.asked)
        picture(tmp_path / "data/images/0.png", (1, 2, 3))
        annotate(mix, server, tmp_path / "out")
    assert {asked_text(body) for body in server.bodies[before:]} == {"image query:\nWhat is it?", "target image:"}
