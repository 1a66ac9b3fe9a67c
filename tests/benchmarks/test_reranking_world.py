"""Reranking and placing pictures in the built-in world, at their smallest setting."""

import json

import pytest
from benchmarked import rows

from embedrl.data.inserter import Placement
from embedrl.types import Lesson


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_reranking_world(benchmark, tmp_path):
    benchmarked = benchmark("reranking_world")
    benchmarked.main(tmp_path, seeds=1, smallest=True)
    before, after, bound, perfect = rows(tmp_path, "reranking_world")
    assert after["hit@1"] == "its best 2, read by the reranker"
    assert float(bound["mean"]) >= max(float(before["mean"]), float(after["mean"]))
    assert float(perfect["vqa"]) == 1.0
    scores = json.loads((tmp_path / "scores_0.json").read_text())
    gain = sum(
        sum(scores["hits"][after["hit@1"]][family]) - sum(hits)
        for family, hits in scores["hits"][before["hit@1"]].items()
    )
    assert after["gain"].startswith(f"{gain / 16:+.3f} (")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "model_0").iterdir()}
    benchmarked.main(tmp_path, seeds=1, smallest=True)  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "model_0").iterdir()} == stamps


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inserter_world(benchmark, tmp_path):
    module = benchmark("inserter_world")
    module.main(tmp_path, smallest=True)
    found = rows(tmp_path, "inserter_world")
    assert [(row["placed"], row["split"]) for row in found] == [
        (name, split) for split in module.SPLITS for name in (module.SOME, module.ALL, module.SFT, module.GRPO)
    ]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "grpo").iterdir()}
    module.main(tmp_path, smallest=True)  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "grpo").iterdir()} == stamps


def test_chance_of_a_placement_by_hand(benchmark):
    """One picture that belongs behind the first of two sentences; behind the second it earns 2/3."""
    by_chance = benchmark("inserter_world").by_chance
    story = Lesson([], "", "insert", {"placements": (Placement(1, 1),), "images": [1], "sentences": 2})
    known = {"format": 1.0, "image_f1": 1.0, "placement": (1 + 2 / 3) / 2, "exact": 1 / 2}
    assert by_chance(story, leave_out=False) == pytest.approx(known)
    known = {"format": 1.0, "image_f1": 2 / 3, "placement": (1 + 2 / 3) / 3, "exact": 1 / 3}
    assert by_chance(story, leave_out=True) == pytest.approx(known)
