"""A backbone that needs no checkpoint: texts as counts of their letters, through one matrix."""

import os
import signal

import torch
from torch import nn

from embedrl.data.render import SUMMARIZE
from embedrl.models.backbone import Backbone
from embedrl.types import Chat, RetrievalTask, Side


def counts(chat: Chat) -> torch.Tensor:
    text = " ".join(part["text"] for message in chat for part in message["content"] if part["type"] == "text")
    letters = torch.zeros(128)
    for letter in text.replace(SUMMARIZE, ""):
        letters[ord(letter) % 128] += 1
    return letters


class Letters:
    def __call__(self, chats):
        return {"x": torch.stack([counts(chat) for chat in chats])}

    def length(self, chat):
        return sum(len(part.get("text", "")) for message in chat for part in message["content"])


class ToyBackbone(Backbone):
    """`seed` draws the weights; `scale` is an option that changes the vectors and no weight.

    `poison` makes the vector of a side with that letter NaN. The process dies when TOY_DIES_AFTER sides are embedded.
    """

    def __init__(self, seed: int = 0, scale: float = 1.0, poison: str = "") -> None:
        super().__init__()
        self.seed, self.scale, self.poison = seed, scale, poison
        self.net: nn.Linear | None = None
        self.embedded = 0

    def build(self):
        if self.net is None:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                self.net = nn.Linear(128, 16)

    def preprocessor(self):
        return Letters()

    def encode(self, inputs):
        if self.embedded >= int(os.environ.get("TOY_DIES_AFTER", "1000000")):
            os.kill(os.getpid(), signal.SIGKILL)
        self.embedded += len(inputs["x"])
        vectors = nn.functional.normalize(torch.tanh(self.scale * self.net(inputs["x"])), dim=1)
        if self.poison:
            vectors[inputs["x"][:, ord(self.poison)] > 0] = torch.nan
        return vectors

    def export(self, out, merge=True):
        raise NotImplementedError


class ToyTokens(ToyBackbone):
    """One to three vectors a side, by its letters."""

    multi_vector = True

    def encode(self, inputs):
        counts = inputs["x"].sum(1).long() % 3 + 1
        places = torch.arange(int(counts.max()))
        shifted = torch.stack([super(ToyTokens, self).encode({"x": inputs["x"] + place}) for place in places], dim=1)
        return shifted * (places < counts[:, None])[..., None]


class NamedTasks:
    """A task whose sides have names and of which one side occurs twice."""

    def tasks(self) -> list[RetrievalTask]:
        sides = [Side("a"), Side("b"), Side("c")]
        return [RetrievalTask("named", sides[:2], sides, [{0: 1.0}, {1: 1.0}], query_ids=["q/1", "../q"])]
