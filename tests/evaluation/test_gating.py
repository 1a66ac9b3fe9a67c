"""Queries that think on demand, in an evaluation."""

import json
from pathlib import Path

import pytest
import torch
from scribe import Scribe
from toy_embedder import ToyBackbone

from embedrl.cli import main
from embedrl.data.on_bad import OnBad
from embedrl.data.render import RenderOptions
from embedrl.evaluation.gating import reason_on_demand
from embedrl.evaluation.remaining import Remaining
from embedrl.evaluation.tcots import TCoTOptions, TCoTs
from embedrl.evaluation.vectors import VectorCache
from embedrl.metrics.confidence import ConfidenceGate
from embedrl.tcot.parser import build
from embedrl.types import Modality, RetrievalTask, Side

CPU = torch.device("cpu")
TINY = str(Path(__file__).parents[2] / "configs/parts/backbone/tiny.yaml")
RAW = RenderOptions(on_missing_tcot="raw")


def task(tcot=False):
    """Queries of letters; the third equals the second."""

    def side(text):
        made = build(Modality.TEXT, "t", "r", f"of {text}", keywords=[text]).render() if tcot else ""
        return Side(text=text, tcot=made)

    queries, candidates = ["aaaa", "abcd", "abcd", "xxyy", "mnop"], ["aaaab", "abce", "abcc", "xxyz", "qrst"]
    return RetrievalTask("toy", [side(q) for q in queries], [side(c) for c in candidates], [{0: 1.0}] * 5)


def demanded(folder, gate, generator=None, **kind):
    """The task's T-CoTs as the gate has it, and the counts."""
    options = TCoTOptions(gate=gate)
    writer = TCoTs(options, generator, CPU, folder / "tcots.jsonl")
    vectors = VectorCache(folder / "vectors", ToyBackbone(), RAW, CPU)
    left = Remaining(task(**kind), OnBad("raise"))
    left.hash(vectors)
    counts = reason_on_demand(left, writer, vectors, gate, 0)
    writer.close()
    return left.task, counts


def raw_gaps(folder, answered):
    """Δs of each raw query among the candidates with their T-CoTs, by hand."""
    vectors = VectorCache(folder / "vectors", ToyBackbone(), RAW, CPU)
    raw = [side.with_tcot("") for side in answered.queries]
    q, c = (torch.cat(list(vectors.embed(s, vectors.hashes(s), "x").read())) for s in (raw, answered.candidates))
    best = (q @ c.T).sort(1, descending=True).values
    return (best[:, 0] - best[:, 1]).tolist()


def test_the_least_sure_get_the_tasks_own_tcots(tmp_path):
    answered, counts = demanded(tmp_path, ConfidenceGate(share=0.4), tcot=True)
    gaps = raw_gaps(tmp_path, answered)
    mark = sorted(gaps)[1]
    assert [bool(side.tcot) for side in answered.queries] == [gap <= mark for gap in gaps]
    assert all(side.tcot for side in answered.candidates)
    assert counts == {"thinking": sum(gap <= mark for gap in gaps)}
    assert 0 < counts["thinking"] < 5
    assert {side.tcot for side in answered.queries if side.tcot} <= {side.tcot for side in task(tcot=True).queries}


def test_the_reasoner_writes_for_those_alone(tmp_path):
    scribe = Scribe()
    answered, counts = demanded(tmp_path, ConfidenceGate(share=0.4), scribe)
    thinking = {side.text for side in answered.queries if side.tcot}
    assert 0 < len(thinking) < 4
    assert len(scribe.asked) == 5 + len(thinking)
    assert counts["written"] == len(scribe.asked)
    assert (counts["cached"], counts["absent"]) == (0, 0)
    again, counted = demanded(tmp_path, ConfidenceGate(share=0.4), scribe)
    assert again == answered
    assert (counted["written"], counted["cached"]) == (0, 5 + len(thinking))
    assert len(scribe.asked) == 5 + len(thinking)


@pytest.mark.parametrize(("share", "thinking"), [(0.0, 0), (1.0, 5)])
def test_an_empty_gate_and_one_that_lets_all_think(share, thinking, tmp_path):
    answered, counts = demanded(tmp_path, ConfidenceGate(share=share), tcot=True)
    assert counts == {"thinking": thinking}
    expected = task(tcot=True)
    queries = expected.queries if thinking else [side.with_tcot("") for side in expected.queries]
    assert (answered.queries, answered.candidates) == (queries, expected.candidates)


def evaluate(out, *words):
    tasks = [
        {"class_path": "embedrl.data.world.WorldTasks", "init_args": {"split": "val", "size": 6, "families": ["vqa"]}}
    ]
    flags = ["eval", "--benchmark", "world", "--tasks", json.dumps(tasks), "--backbone", TINY, "--out", str(out)]
    return main([*flags, *words])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_through_the_command_line(tmp_path, capsys):
    raw = ["--render.on_missing_tcot", "raw", "--encode.cache", str(tmp_path / "vectors")]
    results = {}
    for share in ("0", "0.5", "1"):
        assert evaluate(tmp_path / share, *raw, "--tcots.gate.share", share) == 0, capsys.readouterr().err
        (results[share],) = json.loads((tmp_path / share / "report.json").read_text())["sets"]
    assert evaluate(tmp_path / "all", *raw) == 0
    (everybody,) = json.loads((tmp_path / "all/report.json").read_text())["sets"]
    assert results["1"]["metrics"] == everybody["metrics"]
    assert [results[share]["tcots"] for share in results] == [{"thinking": n} for n in (0, 3, 6)]
    assert [results[share]["raw_sides"] for share in results] == [6, 3, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tcots.gate.share", "0.5"], "give --render.on_missing_tcot raw"),
        (["--tcots.gate.share", "2", "--render.on_missing_tcot", "raw"], "gate.share is 2"),
        (["--tcots.gate.top", "3", "--render.on_missing_tcot", "raw"], "one of both"),
    ],
)
def test_a_wrong_flag_is_said_in_one_line(words, said, tmp_path, capsys):
    assert evaluate(tmp_path / "out", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("embedrl: error: ")
    assert said in error
