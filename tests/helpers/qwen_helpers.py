"""Small checkpoints and chats for the tests of the Qwen3-VL models."""

import numpy as np
from PIL import Image

from embedrl.models.qwen_vl.tiny import build_config, build_model, build_processor, build_tokenizer, world_words


def write_checkpoint(folder, rows=None, added=(), **config_changes):
    """Save a tiny Qwen3-VL; `rows` is the height of its embedding, `added` are tokens its tokenizer has besides."""
    tokenizer = build_tokenizer(world_words())
    tokenizer.add_tokens(list(added), special_tokens=True)
    config = build_config(tokenizer)
    config.text_config.vocab_size = rows or config.text_config.vocab_size
    for name, value in config_changes.items():
        setattr(config, name, value)
    build_model(config, seed=1).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


def picture(seed=0, size=(96, 96)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def image(seed=0, size=(96, 96), **extra):
    return {"type": "image", "image": picture(seed, size), **extra}


def video(seed=0, frames=3, size=(64, 64)):
    return {"type": "video", "video": [picture(seed + i, size) for i in range(frames)], "fps": 2.0}


EMB = {"role": "assistant", "content": [text("<emb>")]}
