"""What plain transformers makes of chats, and the families that are compared with it."""

from importlib.util import find_spec

import pytest
import torch
from qwen_helpers import EMB, image, text, user, video
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from embedrl.models.vlm.tiny.build import FAMILIES

CHATS = [
    [user(image(0), text("the red star")), EMB],
    [user(text("a text alone , rather longer than the others , to make them pad")), EMB],
    [user(video(1, frames=4), text("what comes after ?")), EMB],
    [user(image(2), image(3, (144, 60)), text("\n<thinking>"), image(4, (40, 40)), text("</thinking>")), EMB],
    [user(video(5, frames=4), image(6)), EMB],
]
MIXTURES = ("qwen3_vl_moe", "qwen3_5_moe", "ernie4_5_vl_moe", "kimi_k25")
"""Their experts are fused into one tensor: LoRA takes the attention alone."""
QUICK = "qwen2_5_vl"
"""The family of the default tests."""


def families(default=(QUICK,)):
    """Every family as a parameter; those that are not `default` are slow."""

    def marks(name):
        missing = pytest.mark.skipif(
            name == "smolvlm" and find_spec("num2words") is None, reason="SmolVLM's processor needs num2words"
        )
        return [missing] if name in default else [missing, pytest.mark.slow]

    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in FAMILIES])


@torch.no_grad()
def plain_vectors(folder, chats, reads_video):
    """The vectors of chats, one at a time."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    vectors = []
    for chat in chats:
        content = chat[0]["content"]
        if not reads_video:
            content = [
                shown
                for part in content
                for shown in (
                    [part] if part["type"] != "video" else [{"type": "image", "image": x} for x in part["video"]]
                )
            ]
        lengths = [len(part["video"]) for part in content if part["type"] == "video"]
        metadata = [{"total_num_frames": n, "fps": 2.0, "frames_indices": list(range(n))} for n in lengths]
        options = {"videos_kwargs": {"do_sample_frames": False, "video_metadata": metadata}} if lengths else {}
        chat = [chat[0] | {"content": content}, *chat[1:]]
        if model.config.model_type == "paligemma" and not any(part["type"] == "image" for part in content):
            # Its processor takes no text alone: bos, the prompt, a newline, as after a picture; all of it is prefix.
            text = f"<bos>{processor.apply_chat_template(chat)}\n"
            inputs = processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        else:
            inputs = processor.apply_chat_template(
                chat, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options
            )
            inputs.pop("labels", None)
        hidden = model.model(**inputs).last_hidden_state[0]
        last = (inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids("<emb>")).nonzero()[-1, 0]
        vectors.append(functional.normalize(hidden[last], dim=0))
    return torch.stack(vectors)
