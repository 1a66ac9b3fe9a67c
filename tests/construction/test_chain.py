"""annotate → filter → split → fit, killed on the way: nothing that was answered is asked again, and nothing differs."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from chat_server import asked_text, completion, fingerprint, serving, valid_tcot
from making import lines, run, vlm, world, write_mix

CONFIGS = Path(__file__).parents[2] / "configs"
CONCURRENCY = 4
FAMILIES = ("vqa", "grounding", "video_qa")


def reply(body):
    """A judgement, or a T-CoT; those of some sides are bad at first, of a few for good. Holds the request's name."""
    time.sleep(0.02)
    if body.get("logprobs"):
        yes = "circle" in asked_text(body).partition("Target:")[2]
        tops = [{"token": "Yes", "logprob": -0.1 if yes else -3.0}, {"token": "No", "logprob": -3.0 if yes else -0.1}]
        return completion("Yes" if yes else "No", logprobs={"content": [{"token": "x", "top_logprobs": tops}]})
    draw = int(fingerprint(body)[:4], 16) % 10
    if draw == 0 or (draw < 4 and len(body["messages"]) == 1):
        return f"<thinking>request {fingerprint(body)}</thinking><rethink>r</rethink><answer>a</answer>"
    return valid_tcot(body)


def start(words, log):
    command = [sys.executable, "-m", "embedrl", *map(str, words)]
    return subprocess.Popen(command, stdout=log.open("a"), stderr=subprocess.STDOUT)


def finish(words, log):
    process = start(words, log)
    assert process.wait(240) == 0, log.read_text()[-2000:]


def journalled(path):
    """The requests whose answers the journal holds to the last byte."""
    text = path.read_text(errors="replace") if path.exists() else ""
    whole = [line for line in text.split("\n")[:-1] if line]
    return {name for line in whole for name in re.findall("request ([0-9a-f]{16})", line)}


def chain(size, tmp_path, kills):
    mix = write_mix(tmp_path / "mix.yaml", [world(family, size) for family in FAMILIES])
    rng = random.Random(7)
    with serving(reply) as server:
        words = ["annotate", "--mix", mix, "--style", "brief", "--attempts", 2, *vlm(server, concurrency=CONCURRENCY)]
        finish([*words, "--out", tmp_path / "calm"], tmp_path / "calm.log")
        everything = len(server.asked)
        assert len(set(server.asked)) == everything
        server.asked.clear()
        server.finished.clear()
        journal = tmp_path / "out" / "tcots.jsonl"
        answered = []  # at each kill: the number of requests so far, and those of them that the journal holds
        for number, mark in enumerate(sorted(rng.sample(range(1, everything), kills)), start=1):
            lost = len(server.asked) - len(answered[-1][1]) if answered else 0
            process = start([*words, "--out", tmp_path / "out"], tmp_path / "out.log")
            while len(server.finished) < mark + lost and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            while server.open:
                time.sleep(0.01)
            answered.append((len(server.asked), journalled(journal)))
            lost = len(server.asked) - len(answered[-1][1])
            assert lost <= CONCURRENCY * number, "more was lost than what was under way"
        finish([*words, "--out", tmp_path / "out"], tmp_path / "out.log")
        for seen, names in answered:
            assert not names & set(server.asked[seen:]), "a question that had its answer was asked again"
        assert set(server.asked) == journalled(journal)
        assert everything <= len(server.asked) <= everything + kills * CONCURRENCY

        assert sorted(lines(journal), key=json.dumps) == sorted(
            lines(tmp_path / "calm" / "tcots.jsonl"), key=json.dumps
        )
        for family in FAMILIES:
            name = f"world_{family}.jsonl"
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
        for name in ("report.json", "left_out.jsonl"):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()

        asked = len(server.asked)
        judged = ["filter", "--mix", tmp_path / "out" / "mix.yaml", "--out", tmp_path / "kept", *vlm(server)]
        assert run(*judged) == 0
        pairs = len(server.asked) - asked
        assert run(*judged) == 0
        assert len(server.asked) == asked + pairs, "a verdict was asked for twice"
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    for counts in report.values():
        assert counts["kept"] + sum(counts["left_out"].values()) == counts["sampled"] == size
    kept = {name: counts["kept"] for name, counts in report.items()}
    assert sum(counts["left_out"].get("conflict", 0) for counts in report.values()) > 0
    drawn = {"world/vqa": kept["world/vqa"] // 2}
    assert (
        run("split", "--mix", tmp_path / "kept" / "mix.yaml", "--out", tmp_path / "split", "--rl", json.dumps(drawn))
        == 0
    )
    assert len(lines(tmp_path / "split" / "rl" / "world_vqa.jsonl")) == drawn["world/vqa"]
    return kept


def train(mix, tmp_path, monkeypatch, capsys):
    """Two steps of the Embedder on the mix."""
    overlay = {
        "trainer": {"max_steps": 2, "limit_val_batches": 0, "enable_progress_bar": False, "callbacks": None},
        "model": {"init_args": {"backbone": str(CONFIGS / "parts/backbone/tiny.yaml")}},
        "data": {
            "init_args": {"mix": str(mix), "batch_size": 4, "sub_batch_size": 2, "micro_batch_size": 4, "val": []}
        },
    }
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay))
    monkeypatch.chdir(tmp_path)
    config = CONFIGS / "quickstart" / "embedder.yaml"
    assert run("fit", "--config", config, "--config", path) == 0, capsys.readouterr().err


def test_a_small_chain_killed_on_the_way(tmp_path, monkeypatch, capsys):
    kept = chain(6, tmp_path, kills=2)
    assert all(kept.values())
    train(tmp_path / "split" / "embedder" / "mix.yaml", tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_five_hundred_pairs_killed_three_times(tmp_path, monkeypatch, capsys):
    chain(167, tmp_path, kills=3)
    train(tmp_path / "split" / "embedder" / "mix.yaml", tmp_path, monkeypatch, capsys)
