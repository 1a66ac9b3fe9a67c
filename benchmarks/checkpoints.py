"""The models of the speed benchmarks: Qwen3-VLs with random weights, exported as folders that every library loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.tiny import CHAT_TEMPLATE, build_tokenizer, world_words

Model = Literal["tiny", "130m", "2b"]
VOCABULARY = 151_936  # Qwen's; the tokenizer knows the built-in world's words and bytes, and leaves the rest unused
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # 52 M parameters in the layers, 78 M in the word embeddings: the proportions of the small Qwen3s.
    "130m": (
        {
            "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 64, "mrope_section": [12, 10, 10],
        },
        {
            "depth": 8, "hidden_size": 384, "intermediate_size": 1536, "num_heads": 6, "out_hidden_size": 512,
            "num_position_embeddings": 256, "deepstack_visual_indexes": [1, 3, 5],
        },
    ),
    # Qwen3-VL-2B-Instruct's config.json.
    "2b": (
        {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128, "mrope_section": [24, 20, 20],
        },
        {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
        },
    ),
}  # fmt: skip


def write(model: Model, out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint with random weights as an exported Embedder: transformers, sentence-transformers, TRL load it.

    Args:
        model: Which.
        out: The folder to write.
        dtype: Of the weights in the files.

    Returns:
        The folder.
    """
    path = "embedrl:tiny"
    if model != "tiny":
        path = str(out / "plain")
        _write_shape(model, out / "plain", dtype)
    backbone = QwenVLBackbone(path, dtype="bfloat16" if dtype is torch.bfloat16 else "float32")
    backbone.build()
    backbone.export(out / "embedder")
    return out / "embedder"


def _write_shape(model: str, out: Path, dtype: torch.dtype) -> None:
    tokenizer = build_tokenizer(world_words())
    token = tokenizer.convert_tokens_to_ids
    text, vision = SHAPES[model]
    rope = {
        "rope_type": "default", "rope_theta": 5e6, "mrope_section": text["mrope_section"], "mrope_interleaved": True
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config={k: v for k, v in text.items() if k != "mrope_section"}
        | {"vocab_size": VOCABULARY, "rope_parameters": rope, "pad_token_id": None},
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        torch.manual_seed(0)
        network = Qwen3VLForConditionalGeneration(config).to(dtype)
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(out)
    patches = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    images = Qwen2VLImageProcessor(size={"shortest_edge": 4 * 32**2, "longest_edge": 768 * 32**2}, **patches)
    videos = Qwen3VLVideoProcessor(do_sample_frames=False, **patches)
    Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE).save_pretrained(out)
