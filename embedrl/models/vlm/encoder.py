"""Encoders of transformers that read texts, pictures and videos in one row, as an embedding backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from embedrl.models.backbone import Backbone, ModelInputs
from embedrl.models.vlm.backbone import AnyVLM
from embedrl.models.vlm.loading import ENCODER_NETWORKS


class EncoderBackbone(AnyVLM, Backbone):
    """A multimodal encoder that embeds (EmbeddingGemma 2): the mean over its tokens, L2-normalised.

    It takes the same arguments as `VLMBackbone`, reads a side as that does, and attends in both directions. There is no
    `<emb>`: the checkpoint was trained with the mean.
    """

    networks = ENCODER_NETWORKS

    @property
    def processor(self) -> Any:
        """The encoder's processor, loaded at first use."""
        if self._processor is None:
            self._processor = self.read_processor()
        return self._processor

    def read_processor(self) -> Any:
        """See `VisionLanguageModel.read_processor`; a chat is read by the family's template, not the checkpoint's."""
        processor = super().read_processor()
        processor.chat_template = self.differences.template
        return processor

    def _take(self, network: Any, tokenizer: Any) -> None:
        self.adopt(network)

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch.

        Returns:
            Unit vectors, float32, one per chat: `[chats, dim]`.
        """
        hidden, mask = self.hidden_states(inputs).float(), inputs["attention_mask"][..., None].float()
        return functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
