"""`embedrl boundary`: the law in a file, a plot, zones by data set; and what it refuses."""

import json

import numpy as np
import pytest

from embedrl.cli import main
from embedrl.data.world import WorldDifficulty, WorldSource
from embedrl.rl.boundary import Boundary
from embedrl.rl.rollout_success import Score, Scores

TRUTH = Boundary(("objects", "steps", "frames"), (0.5, 0.4, 0.1), (0.0, 0.0, 0.0), 4.0, 4.0)


@pytest.fixture
def measured(tmp_path):
    """Scores of pairs of two families, drawn by a law."""
    rng, difficulty = np.random.default_rng(0), WorldDifficulty()
    with Scores(tmp_path / "success.jsonl") as scores:
        for family in ("vqa", "grounding"):
            for pair in WorldSource(family, size=40, teacher="none"):
                own = np.array([[difficulty(pair.id)[name] for name in TRUTH.names]])
                share = rng.binomial(8, TRUTH.success(own)[0]) / 8
                scores.put(Score(f"{pair.dataset}/{pair.id}", pair.dataset, pair.id, share, 8, 16))
    return tmp_path / "success.jsonl"


def run(success, out, *more):
    words = ["--success", str(success), "--out", str(out), "--difficulty", "embedrl.data.world.WorldDifficulty"]
    return main(["boundary", *words, *more])


def test_the_law_the_plot_and_the_zones(measured, tmp_path, capsys):
    assert run(measured, tmp_path / "out") == 0
    law = json.loads((tmp_path / "out/boundary.json").read_text())
    assert law["names"] == ["objects", "steps", "frames"]
    assert law["weights"][2] == 0, "pictures have one frame, all of them"
    assert law["pairs"] == 80
    assert law["k1"] < law["k2"]
    assert {name: sum(zones.values()) for name, zones in law["zones"].items()} == {
        "world/vqa": 40, "world/grounding": 40,
    }  # fmt: skip
    assert (tmp_path / "out/boundary.png").stat().st_size > 5000
    told = capsys.readouterr().out
    assert "D = 1 / (" in told
    assert "world/grounding" in told


def test_some_data_sets_alone(measured, tmp_path, capsys):
    assert run(measured, tmp_path / "out", "--sets", '["world/vqa"]') == 0
    assert json.loads((tmp_path / "out/boundary.json").read_text())["pairs"] == 40
    assert run(measured, tmp_path / "out", "--sets", '["world/doc"]') == 1
    assert "no pair of world/doc; it holds world/grounding, world/vqa" in capsys.readouterr().err


def test_pairs_of_nowhere(tmp_path, capsys):
    with Scores(tmp_path / "s.jsonl") as scores:
        scores.put(Score("mine/a", "mine", "a", 0.5, 8, 16))
    assert run(tmp_path / "s.jsonl", tmp_path / "out") == 1
    assert "'a' is not a pair of the world" in capsys.readouterr().err
