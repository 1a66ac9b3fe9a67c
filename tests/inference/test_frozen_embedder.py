import torch
from qwen_helpers import picture

from embedrl.data.opened import OpenedImage
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.vlm.backbone import VLMBackbone
from embedrl.types import Side

TCOTS = [f"<thinking>{a}</thinking><rethink>{a}</rethink><answer>{a}</answer>" for a in ("a star", "a ring")]
SIDE = Side(text="what is it ?", images=(OpenedImage("seen", picture(0)),))
CPU = torch.device("cpu")


def embedded(embedder, sides):
    return embedder.embed(sides, [f"side {i}" for i in range(len(sides))], CPU)


def test_sides_that_are_read_again_for_each_tcot_are_told_once(caplog):
    several, single = [SIDE.with_tcot(tcot) for tcot in TCOTS], [SIDE.with_tcot(TCOTS[0])] * 2
    embedder = FrozenEmbedder(VLMBackbone("embedrl:tiny/qwen2_vl"))
    embedded(embedder, single)
    assert not caplog.records, "nothing is read twice"
    vectors = [embedded(embedder, several) for _ in range(2)]
    (record,) = caplog.records
    assert "embedder.shared_prefix: a VLMBackbone cannot keep texts in one row apart" in record.getMessage()
    caplog.clear()
    quiet = FrozenEmbedder(VLMBackbone("embedrl:tiny/qwen2_vl"), shared_prefix=False)
    torch.testing.assert_close(embedded(quiet, several), vectors[0], atol=1e-6, rtol=0)
    embedded(FrozenEmbedder(QwenVLBackbone("embedrl:tiny")), several)
    assert not caplog.records
