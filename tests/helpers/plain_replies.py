"""How likely replies are, by plain cross-entropy: neither packing nor choices."""

import math

import torch


def plain_yes(generator, chat):
    """The probability of yes, beside that of no, as replies to a question."""
    inputs = generator.preprocessor().prompts([chat])
    logprobs = []
    for reply in ("yes", "no"):
        tokens = generator.processor.tokenizer(reply, add_special_tokens=False)["input_ids"]
        more = {"input_ids": torch.tensor([tokens]), "attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
        more["mm_token_type_ids"] = torch.zeros(1, len(tokens), dtype=torch.long)
        whole = inputs | {name: torch.cat([inputs[name], row], dim=1) for name, row in more.items()}
        whole.pop("position_ids", None)  # the network makes them itself
        with torch.no_grad():
            logits = generator.network(**whole, use_cache=False).logits[0, -len(tokens) - 1 : -1].float()
        logits[:, generator.suppressed] = -torch.inf
        logprobs.append(float(logits.log_softmax(-1)[range(len(tokens)), tokens].sum()))
    return 1 / (1 + math.exp(logprobs[1] - logprobs[0]))
