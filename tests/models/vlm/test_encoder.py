"""EmbeddingGemma 2: the mean over the tokens of one row, as plain transformers has it."""

import pytest
import torch
from plain_vlm import CHATS
from torch.nn import functional
from transformers import AutoModel, AutoProcessor

from embedrl.errors import CheckpointError
from embedrl.models.exported import load_backbone
from embedrl.models.lora import LoRAOptions
from embedrl.models.vlm.encoder import EncoderBackbone
from embedrl.models.vlm.tiny.build import write

TINY = "embedrl:tiny/embedding_gemma2"


def built(path=TINY, **options):
    backbone = EncoderBackbone(str(path), **options)
    backbone.build()
    return backbone.eval()


@torch.no_grad()
def vectors(backbone, chats=CHATS):
    return backbone(backbone.preprocessor()(chats))


@torch.no_grad()
def plain(folder):
    """The vectors of `CHATS`, one at a time."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for chat in CHATS:
        content = chat[0]["content"]
        marks = {"image": "<|image|>", "video": "<|video|>"}
        text = "".join(part["text"] if part["type"] == "text" else marks[part["type"]] for part in content)
        videos = [part["video"] for part in content if part["type"] == "video"]
        more = {}
        if videos:
            shots = [{"total_num_frames": len(v), "fps": 2.0, "frames_indices": [*range(len(v))]} for v in videos]
            more = {"videos": videos, "videos_kwargs": {"do_sample_frames": False, "video_metadata": shots}}
        images = [part["image"] for part in content if part["type"] == "image"]
        inputs = processor(text=[text], images=[images] if images else None, return_tensors="pt", **more)
        rows.append(functional.normalize(model(**inputs).last_hidden_state[0].mean(0), dim=0))
    return torch.stack(rows)


def test_vectors_equal_plain_transformers_alone_and_in_a_batch(tmp_path):
    write("embedding_gemma2", tmp_path / "base", seed=1)
    backbone = built(tmp_path / "base")
    expected = plain(tmp_path / "base")
    assert expected.shape == (5, 32)
    alone = torch.cat([vectors(backbone, [chat]) for chat in CHATS])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors(backbone), expected, atol=1e-5, rtol=0)
    assert (expected @ expected.T - torch.eye(len(CHATS))).max() < 0.999  # a mean differs less
    backbone.export(tmp_path / "out")
    again = load_backbone(str(tmp_path / "out"))
    assert isinstance(again, EncoderBackbone)
    torch.testing.assert_close(vectors(again), expected, atol=1e-6, rtol=0)
    left = built(tmp_path / "out", padding_side="left")
    torch.testing.assert_close(vectors(left), expected, atol=1e-5, rtol=0)


def test_lora_trains_its_part_and_is_exported(tmp_path):
    for scope, place in (("language", "language_model."), ("vision", "vision_tower."), ("projector", "embed_vision.")):
        backbone = built(lora=LoRAOptions(r=2, dropout=0.0, scope=scope))
        trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
        assert trained
        assert all(place in name for name in trained)
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    backbone.export(tmp_path, merge=False)
    torch.testing.assert_close(vectors(load_backbone(str(tmp_path))), vectors(backbone), atol=1e-5, rtol=0)


def test_other_checkpoints_are_named():
    with pytest.raises(CheckpointError, match="'qwen2_vl' is no encoder of texts and pictures"):
        EncoderBackbone("embedrl:tiny/qwen2_vl").build()
