"""An OpenCLIP export through `embedrl.Embedder`: moved, and reading transparent pictures as training did."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import embedrl
from embedrl.data.images import ImageFile
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.models.open_clip.backbone import FusionWeights, OpenClipBackbone
from embedrl.types import Side

CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An OpenCLIP Embedder, and its export in another place than it was written to."""
    place = tmp_path_factory.mktemp("clip")
    (place / "clip.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    backbone = OpenClipBackbone(str(place / "clip.json"), fusion=FusionWeights(text=2.0))
    backbone.build()
    backbone.eval().export(place / "model")
    (place / "elsewhere").mkdir()
    shutil.move(place / "model", place / "elsewhere/model")
    return backbone, place / "elsewhere/model"


def test_a_moved_export_reads_as_training_did(trained, tmp_path):
    backbone, folder = trained
    colours = Image.effect_noise((40, 30), 90).convert("RGB")
    clear = colours.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((40, 30)))
    clear.save(tmp_path / "clear.png")
    clear.convert("P").save(tmp_path / "palette.png")
    embedder = embedrl.Embedder.from_pretrained(folder, device="cpu")
    files = [ImageFile(str(tmp_path / name)) for name in ("clear.png", "palette.png")]
    sides = [*(Side(images=(file,)) for file in files), Side("a fox", images=(files[0],)), Side("a fox")]
    expected = FrozenEmbedder(backbone).embed(sides, [str(i) for i in range(4)], torch.device("cpu"))
    shutil.move(folder, tmp_path / "again")  # what is loaded needs its folder no more
    shown = [tmp_path / "clear.png", tmp_path / "palette.png", {"text": "a fox", "image": clear}, "a fox"]
    np.testing.assert_allclose(embedder.encode(shown), expected, atol=1e-5)
    assert np.abs(embedder.encode(clear) - embedder.encode(colours)).max() > 1e-3  # not the colours beneath
    again = embedrl.Embedder.from_pretrained(tmp_path / "again", device="cpu")
    assert again.fingerprint == embedder.fingerprint
    assert again.fingerprint == embedrl.Embedder(backbone, device="cpu").fingerprint
    shutil.move(tmp_path / "again", folder)


@pytest.mark.slow
def test_it_trains_and_goes_on(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedder = embedrl.Embedder.from_pretrained(trained[1], device="cpu")
    pairs = [(colour, Image.new("RGB", (32, 32), colour)) for colour in ("red", "green", "blue", "white")]
    first = embedder.fit(pairs, out="runs", steps=1, batch_size=4)
    second = first.fit(pairs, out="runs", steps=1, batch_size=4)
    assert len({embedder.fingerprint, first.fingerprint, second.fingerprint}) == 3
    assert second.backbone.weights == FusionWeights(text=2.0)
