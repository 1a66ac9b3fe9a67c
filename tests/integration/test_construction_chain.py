"""annotate → filter → split → fit, killed on the way: nothing that was answered is asked again, and nothing differs."""

import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from chat_server import asked_text, completion, fingerprint, serving, valid_tcot
from making import lines, run, vlm, world, write_mix
from ports import free_port
from processes import command

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
    return command([str(word) for word in words], log)


def finish(words, log):
    process = start(words, log)
    process.join(3000)
    assert process.exitcode == 0, log.read_text()[-2000:]


def whole_lines(path):
    """Number of lines that the journal holds to the last byte."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def journalled(path):
    """The requests whose answers the journal holds to the last byte."""
    text = path.read_text(errors="replace") if path.exists() else ""
    whole = [line for line in text.split("\n")[:-1] if line]
    return {name for line in whole for name in re.findall("request ([0-9a-f]{16})", line)}


def chain(tmp_path, size, kills, reply, options, judged=True):
    """annotate without and with kills, filter, split; returns the kept pairs of each set."""
    mix = write_mix(tmp_path / "mix.yaml", [world(family, size) for family in FAMILIES])
    rng = random.Random(7)
    journal = tmp_path / "out" / "tcots.jsonl"
    with serving(reply) as server:
        words = ["annotate", "--mix", mix, "--style", "brief", "--attempts", 2]
        words += vlm(server, concurrency=CONCURRENCY, **options)
        finish([*words, "--out", tmp_path / "calm"], tmp_path / "calm.log")
        everything = len(server.asked)
        assert len(set(server.asked)) == len(lines(tmp_path / "calm" / "tcots.jsonl")) == everything
        server.asked.clear()
        server.finished.clear()
        answered = []  # at each kill: the number of requests so far, and those that the journal holds
        lost = 0
        for number, mark in enumerate(sorted(rng.sample(range(1, everything), kills)), start=1):
            process = start([*words, "--out", tmp_path / "out"], tmp_path / "out.log")
            while len(server.finished) < mark + lost and process.is_alive():
                time.sleep(0.002)
            time.sleep(rng.random() * 0.02)
            process.kill()
            process.join()
            while server.open:
                time.sleep(0.01)
            answered.append((len(server.asked), journalled(journal)))
            lost = len(server.asked) - whole_lines(journal)
            assert 0 <= lost <= CONCURRENCY * number, "more was lost than what was under way"
        finish([*words, "--out", tmp_path / "out"], tmp_path / "out.log")
        # Every request is either a line of the journal, once, or was under way at a kill.
        assert sorted(journal.read_text().splitlines()) == sorted(
            (tmp_path / "calm" / "tcots.jsonl").read_text().splitlines()
        )
        assert len(server.asked) == everything + lost
        for seen, names in answered:
            assert not names & set(server.asked[seen:]), "a question that had its answer was asked again"
        files = [f"world_{family}.jsonl" for family in FAMILIES]
        for name in [*files, "report.json", "left_out.jsonl"]:
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()

        asked = len(server.asked)
        words = ["filter", "--mix", tmp_path / "out" / "mix.yaml", "--out", tmp_path / "kept"]
        words += vlm(server) if judged else []
        assert run(*words) == 0
        pairs = len(server.asked) - asked
        assert (pairs > 0) == judged
        assert run(*words) == 0
        assert len(server.asked) == asked + pairs, "a verdict was asked for twice"
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    for counts in report.values():
        assert counts["kept"] + sum(counts["left_out"].values()) == counts["sampled"] == size
    kept = {name: counts["kept"] for name, counts in report.items()}
    assert (sum(counts["left_out"].get("conflict", 0) for counts in report.values()) > 0) == judged
    drawn = {"world/vqa": kept["world/vqa"] // 2}
    words = ["split", "--mix", tmp_path / "kept" / "mix.yaml", "--out", tmp_path / "split", "--rl", json.dumps(drawn)]
    assert run(*words) == 0
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


@pytest.mark.slow
def test_a_small_chain_killed_on_the_way(tmp_path, monkeypatch, capsys):
    kept = chain(tmp_path, 6, 2, reply, {})
    assert all(kept.values())
    train(tmp_path / "split" / "embedder" / "mix.yaml", tmp_path, monkeypatch, capsys)


@pytest.fixture
def reasoner(tmp_path, monkeypatch, capsys):
    """The shipped base after a hundred steps on the generic annotator's T-CoTs: most follow the template then."""
    sources = [world(family, 20_000, teacher="annotator", seed=1)["source"] for family in FAMILIES]
    lessons = {
        "class_path": "embedrl.data.TCoTLessons",
        "init_args": {"style": "brief", "sources": sources, "on_bad_tcot": "lenient"},
    }
    ship = {"class_path": "embedrl.training.ExportModel", "init_args": {"out": "reasoner"}}
    overlay = {
        "trainer": {"max_steps": 100, "limit_val_batches": 0, "enable_progress_bar": False, "callbacks": [ship]},
        "data": {"init_args": {"batch_size": 16, "train": lessons, "val": None}},
    }
    (tmp_path / "reasoner.yaml").write_text(yaml.safe_dump(overlay))
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", CONFIGS / "quickstart" / "reasoner.yaml", "--config", "reasoner.yaml"]
    assert run(*words) == 0, capsys.readouterr().err
    return tmp_path / "reasoner"


@pytest.fixture
def transformers_serve(reasoner, tmp_path):
    """`transformers serve` with the Reasoner: its address."""
    port = free_port()
    words = [Path(sys.executable).with_name("transformers"), "serve", reasoner, "--host", "127.0.0.1"]
    words += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "serve.log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_five_hundred_pairs_by_transformers_serve_killed_three_times(
    transformers_serve, reasoner, tmp_path, monkeypatch, capsys
):
    """The server in between only writes down what passes through."""

    def forward(body):
        url, data = f"{transformers_serve}/chat/completions", json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    options = {"model": str(reasoner), "max_tokens": 160}
    size = int(os.environ.get("EMBEDRL_TEST_PAIRS", "501")) // len(FAMILIES)
    kept = chain(tmp_path, size, 3, forward, options, judged=False)
    assert sum(kept.values()) > 0.5 * size * len(FAMILIES)
    train(tmp_path / "split" / "embedder" / "mix.yaml", tmp_path, monkeypatch, capsys)
