"""The Embedder and the Reasoner that come with the package: what the quickstarts make of the base."""

import json

import pytest
import torch

import embedrl
from embedrl.data.world import WorldTasks
from embedrl.models.qwen_vl.loading import SHIPPED
from embedrl.training.trained_model import load_embedder, load_reasoner

EMBEDDER, REASONER = "embedrl:world_embedder", "embedrl:world_reasoner"


@pytest.mark.parametrize("name", [EMBEDDER, REASONER])
def test_they_are_small_and_say_where_they_come_from(name):
    folder = SHIPPED[name]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000_000
    assert (folder / "recipe.yaml").is_file()
    text = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".yaml"))
    assert "/tmp" not in text


def test_the_embedder_ranks_as_its_validation_says():
    recorded = json.loads((SHIPPED[EMBEDDER] / "scores.json").read_text())
    embedder = embedrl.FrozenEmbedder(load_embedder(EMBEDDER))
    [result] = embedder.score(WorldTasks("test", 32, ["t2i"]).tasks(), torch.device("cpu"))
    assert result.metrics["hit@1"] > 0.5, recorded


def test_the_reasoner_writes_tcots():
    reasoner = embedrl.Reasoner(load_reasoner(REASONER), style="brief", max_new_tokens=96)
    side = WorldTasks("test", 1, ["t2i"], teacher="none").tasks()[0].candidates[0]
    thought = reasoner.reason(side, role="target")
    assert thought.format_ok, thought.text
    assert thought.cues.boxes
