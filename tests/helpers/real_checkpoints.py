"""Checkpoints in the layouts that are published: Qwen3-VL's, with sharded weights and a file for each processor."""

import json
from dataclasses import dataclass, field

import torch
from tokenizers import AddedToken
from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLVideoProcessor

from embedrl.models.qwen_vl.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS, build_tokenizer


@dataclass
class Layout:
    """A checkpoint to write.

    Attributes:
        words: The words of its tokenizer: its vocabulary is as large as they make it.
        spare: Rows of the embedding beyond the tokenizer's tokens.
        tied: Whether the LM head is the embedding (2B, 4B) or has weights of its own (8B).
        emb: Whether it is a released Embedder: `<emb>` in the tokenizer, its id in the configuration.
        text: Changes to the text model's shape.
        vision: Changes to the vision tower's shape.
    """

    words: tuple[str, ...]
    spare: int
    tied: bool
    emb: bool = False
    text: dict = field(default_factory=dict)
    vision: dict = field(default_factory=dict)


LAYOUTS = {
    # As the 2B: tied, and its padded vocabulary has room.
    "tied, room to spare": Layout(("the", "red", "star"), 17, True),
    # As the 8B: its own LM head, a deeper tower with more DeepStack; and no row to spare.
    "untied, must grow": Layout(
        ("a", "blue", "ring", "left", "of"),
        0,
        False,
        text={"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2},
        vision={"depth": 4, "hidden_size": 48, "out_hidden_size": 96, "deepstack_visual_indexes": [0, 2]},
    ),
    # As Embed-RL-2B: merged, plain, with its token.
    "released Embedder": Layout(("the", "red", "star"), 9, True, emb=True),
}


def write(folder, layout: Layout, seed=0):
    """Write the checkpoint; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(layout.words)
    if layout.emb:
        tokenizer.add_tokens([AddedToken("<emb>", special=True, normalized=False)], special_tokens=True)
    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": layout.tied,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": len(tokenizer) + layout.spare,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "initializer_range": 0.1,
            "rope_theta": 5000000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
            "tie_word_embeddings": layout.tied,
            **layout.text,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 80,
            "num_heads": 4,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 16,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.1,
            **layout.vision,
        },
    }
    if layout.emb:
        config["emb_token_ids"] = [tokenizer.convert_tokens_to_ids("<emb>")]
    torch.manual_seed(seed)
    network = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config))
    network.save_pretrained(folder, max_shard_size="200KB")
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    patches = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    Qwen2VLImageProcessor(size=size, **patches).save_pretrained(folder)
    Qwen3VLVideoProcessor(size=size, **patches).save_pretrained(folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"processor_class": "Qwen3VLProcessor"}))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder
