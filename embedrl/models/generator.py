"""The contract of a model that writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from embedrl.data.inputs import GeneratorPreprocessor, ModelInputs
from embedrl.distributed.loadable import Loadable


class Generator(Loadable):
    """A model that reads a chat and writes a reply: see `Loadable` for how it is built, sharded and exported."""

    forward_methods: tuple[str, ...] = ("loss", "generate")

    @abstractmethod
    def preprocessor(self) -> GeneratorPreprocessor:
        """The preprocessor that fits this model; needs no weights."""

    @abstractmethod
    def loss(self, inputs: ModelInputs) -> Tensor:
        """Mean cross-entropy over the tokens of the replies, a scalar."""

    @abstractmethod
    def generate(
        self,
        inputs: ModelInputs,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Write one reply per prompt.

        Args:
            inputs: What `preprocessor().prompts(...)` returned, moved to the model's device.
            max_new_tokens: Longest reply in tokens.
            temperature: 0 takes the likeliest token; otherwise tokens are drawn from the global RNG.
            top_p: Draw among the likeliest tokens that hold this much probability.
            stop: Texts that end a reply; they stay in it, with the rest of the token that completed one.

        Returns:
            The replies, without the end-of-turn token.
        """

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Same as `loss`, so that wrappers with hooks on `forward` (FSDP, DDP) work."""
        return self.loss(inputs)
