"""A Reasoner that needs no checkpoint."""

import torch
from torch import nn

from embedrl.models.generator import Generator
from embedrl.tcot.parser import build
from embedrl.types import Modality


class Scribe(Generator):
    """Writes a T-CoT with the prompt's last word; counts what it is asked, and stops after `limit` prompts."""

    limit: int | None = None

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.asked = seed, []
        self.net = nn.Linear(1, 1)
        nn.init.constant_(self.net.weight, seed)
        nn.init.zeros_(self.net.bias)

    def build(self):
        pass

    def preprocessor(self):
        class Prompts:
            def prompts(self, chats):
                texts = [chat[0]["content"][-1]["text"] for chat in chats]
                codes = [[ord(letter) for letter in text[-12:].rjust(12)] for text in texts]
                return {"x": torch.tensor(codes)}

        return Prompts()

    def loss(self, inputs):
        raise NotImplementedError

    def generate(self, inputs, max_new_tokens=512, temperature=0.0, top_p=1.0, stop=()):
        texts = ["".join(map(chr, row)).strip() for row in inputs["x"].tolist()]
        if self.limit is not None and len(self.asked) + len(texts) > self.limit:
            raise KeyboardInterrupt
        self.asked += texts
        word = [text.split()[-1] for text in texts]
        return [build(Modality.TEXT, "t", "r", f"{w} by {self.seed}", keywords=[w]).render() for w in word]

    def export(self, out, merge=True):
        raise NotImplementedError
