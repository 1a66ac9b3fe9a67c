import pytest

from embedrl.data.datamodules.unified import UnifiedDataModule
from embedrl.data.pair_dataset import PairDataset, SampleKey
from embedrl.data.render import RenderOptions
from embedrl.data.world import WorldSource
from embedrl.errors import ConfigError


def test_only_the_reasoned_sides_come_with_their_reasoning():
    data = UnifiedDataModule(2, 2, 2, reasoned=["query"], render=RenderOptions(cues="printed"))
    queries, targets = data.side_options()
    pairs = PairDataset([WorldSource(family="vqa", teacher="perfect")], queries, target_options=targets)
    example = pairs[SampleKey(0, 0)]
    marked = [[bool(part.get("reasoning")) for part in c[0]["content"]] for c in (example.query, example.target)]
    assert any(marked[0])
    assert not any(marked[1])
    assert example.raw_sides == 0  # nothing is missing that was asked for


@pytest.mark.parametrize("reasoned", [[], ["both"], ["query", "negative"]])
def test_other_sides_are_refused(reasoned):
    with pytest.raises(ConfigError, match=r"data.reasoned is \[.*\]: give query, target or both"):
        UnifiedDataModule(2, 2, 2, reasoned=reasoned)
