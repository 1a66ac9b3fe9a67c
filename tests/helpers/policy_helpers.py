"""Small policies, prompts, and what plain transformers makes of them."""

import numpy as np
import torch
from PIL import Image

from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner


def picture(seed, size=(96, 96)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def prompt(words, images=(), frames=0):
    parts = [{"type": "image", "image": picture(seed)} for seed in images]
    if frames:
        parts.append({"type": "video", "video": [picture(9 + i, (64, 64)) for i in range(frames)], "fps": 2.0})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": words}]}]


PROMPTS = {
    "image": prompt("what is this ?", images=[0]),
    "images": prompt("which of the two is larger , the first or the other ?", images=[1, 2]),
    "video": prompt("and then ?", frames=3),
    "text": prompt("a question without any picture , rather longer than the others , is it ?"),
}


def policy_model(lora=True, path="embedrl:tiny", dropout=0.0, scope="language", **options):
    """A tiny policy in training mode whose adapter, if any, does something."""
    lora = LoRAOptions(r=4, alpha=8, dropout=dropout, scope=scope) if lora else None
    model = QwenVLReasoner(path, lora=lora, **options)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.build()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return model


def random_replies(model, counts, longest=9, seed=0):
    """Groups of replies of 1 to `longest` ordinary tokens."""
    g = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(1, longest + 1, (n,), generator=g).tolist() for n in counts]
    return [[torch.randint(0, 200, (n,), generator=g).tolist() for n in group] for group in lengths]


def plain_logits(model, chat, replies):
    """Logits that predict each token of each reply: the prompt repeated for every reply, positions by transformers."""
    inputs = model.preprocessor().prompts([chat] * len(replies))
    inputs.pop("position_ids")
    longest = max(map(len, replies))
    tokens = torch.tensor([[*reply, *[0] * (longest - len(reply))] for reply in replies])
    mask = torch.tensor([[1] * len(reply) + [0] * (longest - len(reply)) for reply in replies])
    start = inputs["input_ids"].shape[1]
    for name, more in (("input_ids", tokens), ("attention_mask", mask), ("mm_token_type_ids", 0 * tokens)):
        inputs[name] = torch.cat([inputs[name], more.to(inputs[name].dtype)], dim=1)
    logits = model.network(**inputs, use_cache=False).logits[:, start - 1 : -1].float()
    model.core.rope_deltas = None
    config = model.network.config
    banned = torch.zeros(logits.shape[-1], dtype=torch.bool)
    banned[len(model.processor.tokenizer) :] = True
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        banned[getattr(config, name)] = True
    return logits.masked_fill(banned, -1e30), tokens, mask.bool()


def plain_logprobs(model, chat, replies, temperature=1.0):
    """Log-probabilities and entropies `[replies, T]` by plain transformers, 0 where there is no token."""
    logits, tokens, mask = plain_logits(model, chat, replies)
    distribution = torch.distributions.Categorical(logits=logits / temperature)
    return distribution.log_prob(tokens) * mask, distribution.entropy() * mask, mask
