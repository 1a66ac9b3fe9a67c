"""`embedrl judge check` through the command line."""

import json

import pytest
import yaml
from chat_server import serving

from embedrl.cli import main

CALL = ["judge", "check", "--size", "6", "--negatives", "2", "--pool", "4", "--limit", "20", "--rotations", "3"]


@pytest.fixture
def sources(tmp_path):
    """Two families, the first of them by both teachers."""
    rows = [("vqa", "perfect"), ("vqa", "annotator"), ("t2i", "perfect")]
    path = tmp_path / "sources.yaml"
    path.write_text(
        yaml.safe_dump(
            [
                {"class_path": "embedrl.data.world.WorldSource", "init_args": {"family": family, "teacher": teacher}}
                for family, teacher in rows
            ]
        )
    )
    return path


def judge_yaml(tmp_path, name, **options):
    path = tmp_path / "judge.yaml"
    path.write_text(yaml.safe_dump({"class_path": f"embedrl.rl.{name}", "init_args": options}))
    return ["--judge", str(path)]


def test_an_endpoint_that_answers_a_place_is_told(sources, tmp_path, capsys):
    out = tmp_path / "new/judge.json"
    with serving(lambda body: "2") as server:
        judge = judge_yaml(tmp_path, "EndpointJudge", base_url=server.url, model="tiny")
        assert main([*CALL, *judge, "--sources", str(sources), "--style", "brief", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "world/vqa" in told
    assert "Do not train with it" in told
    scores = json.loads(out.read_text())["scores"]
    assert set(scores) == {"world/vqa", "world/t2i", "all"}
    for row in scores.values():
        assert (row["follows"], row["keeps_place"], row["favourite"]) == (0.0, 1.0, 1.0)
        assert row["right"] == row["chance"] == pytest.approx(1 / 3)
    assert scores["all"]["questions"] == 12


def test_an_endpoint_that_reads_is_right_in_every_order(sources, tmp_path, capsys):
    """It knows the candidates by their answers, as the notes of the perfect teacher have them."""

    def reads(body):
        prompt = body["messages"][0]["content"]
        wish, *notes = [part.split("<answer>")[1].split("</answer>")[0] for part in prompt.split("\n\n")[:-1]]
        return str(notes.index(wish) + 1)

    lines = yaml.safe_load(sources.read_text())
    sources.write_text(yaml.safe_dump([row for row in lines if row["init_args"]["teacher"] == "perfect"]))
    with serving(reads) as server:
        judge = judge_yaml(tmp_path, "EndpointJudge", base_url=server.url, model="tiny")
        out = tmp_path / "judge.json"
        assert main([*CALL, *judge, "--sources", str(sources), "--style", "brief", "--out", str(out)]) == 0
    assert "Do not train" not in capsys.readouterr().out
    scores = json.loads(out.read_text())["scores"]["all"]
    assert (scores["right"], scores["follows"], scores["keeps_place"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("judge", "words", "message"),
    [
        (("ReferenceJudge", {}), [], "no model outside of a training"),
        (("TextEmbedderJudge", {"path": "gone"}), ["--rotations", "1"], "--rotations 1"),
        (("TextEmbedderJudge", {"path": "gone"}), ["--negatives", "9"], "pool is 4"),
    ],
)
def test_refuses_what_cannot_be_checked(judge, words, message, sources, tmp_path, capsys):
    given = judge_yaml(tmp_path, judge[0], **judge[1])
    assert main([*CALL, *given, "--sources", str(sources), *words]) == 2
    assert message in capsys.readouterr().err
