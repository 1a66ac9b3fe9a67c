"""Any Qwen3-VL checkpoint as an embedding backbone: a family of its own, for what makes it fast."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from embedrl.errors import ConfigError
from embedrl.models.attention_mask import block_mask
from embedrl.models.backbone import ModelInputs
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.export import BUDGETS, budget_options, load_budgets
from embedrl.models.qwen_vl.flat_attention import by_groups
from embedrl.models.qwen_vl.flat_rows import FlatRow, is_sparse
from embedrl.models.qwen_vl.last_layer import ReadPlaces, only_at
from embedrl.models.qwen_vl.loading import NETWORKS, load_processor
from embedrl.models.qwen_vl.patch_embedding import make_linear
from embedrl.models.qwen_vl.preprocess import PixelBudget, QwenVLPreprocessor
from embedrl.models.vlm.base import EmbedsAtToken, VisionLanguageModel
from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.family import VLMFamily


class QwenVL(VisionLanguageModel):
    """The base of the Embedder's and the Reasoner's Qwen3-VL: several texts in a row, positions made by loader workers.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter in peft's layout (it counts as the base that it names
            with the adapter merged), a Hugging Face Hub name, `embedrl:world_base` (the base of the built-in world,
            which ships with the package) or `embedrl:tiny` (the same architecture with random weights).
        lora: LoRA options; null trains the weights themselves.
        train_vision: Whether the vision tower and its mergers are trained too; only without LoRA, whose scope decides.
        image_pixels: Budget of pictures and pages; null means the checkpoint's own.
        evidence_pixels: Budget of evidence crops and key frames; null means what an exported folder says (in its
            `embedrl_config.json`), or else `image_pixels`.
        frame_pixels: Budget of one video frame; null means the checkpoint's own.
        max_length: Longest sequence in tokens; a longer one is an error.
        padding_side: Where shorter rows are padded when embedding; the vectors do not depend on it.
        dtype: float32, bfloat16, or auto for the checkpoint's own.
        attn_implementation: sdpa, eager or flash_attention_2.
        gradient_checkpointing: Recompute each layer in the backward pass to save memory.
    """

    networks = NETWORKS

    def __init__(
        self,
        path: str,
        lora: LoRAOptions | None = None,
        train_vision: bool = False,
        image_pixels: PixelBudget | None = None,
        evidence_pixels: PixelBudget | None = None,
        frame_pixels: PixelBudget | None = None,
        max_length: int = 8192,
        padding_side: Literal["left", "right"] = "right",
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            path, lora, train_vision, max_length, padding_side, dtype, attn_implementation, gradient_checkpointing
        )
        self.image_pixels, self.evidence_pixels, self.frame_pixels = image_pixels, evidence_pixels, frame_pixels
        self._stored: dict[str, PixelBudget] = {}

    @property
    def differences(self) -> VLMFamily:
        """See `VisionLanguageModel.differences`."""
        return family_of("qwen3_vl")

    def read_processor(self) -> Any:
        """See `VisionLanguageModel.read_processor`."""
        self._stored = load_budgets(self.path)
        processor = load_processor(self.path)
        self._set_budgets(processor)
        return processor

    def reading_options(self) -> dict[str, Any]:
        """See `VisionLanguageModel.reading_options`."""
        return budget_options(self._chosen())

    def adopt(self, network: Any) -> None:
        """See `VisionLanguageModel.adopt`."""
        make_linear(network)
        super().adopt(network)

    def _adapted(self, network: Any, lora: LoRAOptions) -> None:
        """The patterns are this family's own."""

    def preprocessor(self) -> QwenVLPreprocessor:
        """The preprocessor that fits this model; needs no weights."""
        images, evidence, frames = self._budgets(self.processor)
        return QwenVLPreprocessor(self.processor, images, evidence, frames, self.max_length, self.padding_side)

    @property
    def takes_blocks(self) -> bool:
        """Whether several texts in one row can be kept apart by a mask of blocks."""
        return self.attn_implementation in ("sdpa", "eager")

    def _tensors(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """What the network takes: all of the inputs, a mask of blocks in place of `segments` (see `block_mask`).

        Raises:
            ConfigError: If several texts share a row and the attention implementation takes no mask of blocks.
        """
        others = ("labels", "sources", "segments", "last_segments")
        tensors = {name: value for name, value in inputs.items() if name not in others}
        if "attention_groups" in inputs:
            # They say what is seen; transformers would make a mask of the whole row if it got none.
            tensors["attention_mask"] = inputs["attention_mask"][:, None, None, :0]
        elif "segments" not in inputs:
            if bool(inputs["attention_mask"][:, 0].all()):
                # Padded behind, if at all: no token sees what comes after it, and attention is fastest without a mask.
                del tensors["attention_mask"]
        else:
            if not self.takes_blocks:
                raise ConfigError(
                    f"attn_implementation={self.attn_implementation} cannot keep texts in one row apart: "
                    "use sdpa, or shared_prefix=false"
                )
            mask = block_mask(inputs["segments"], self._score_dtype(inputs), inputs.get("last_segments"))
            tensors["attention_mask"] = mask
        return tensors

    def _score_dtype(self, inputs: ModelInputs) -> torch.dtype:
        kind: str = inputs["input_ids"].device.type
        dtype: torch.dtype = self.network.get_input_embeddings().weight.dtype
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype

    def _flat(self, inputs: ModelInputs) -> FlatRow | None:
        """The batch as one row of its real tokens, if that is cheaper."""
        if not self.takes_blocks or "attention_groups" in inputs or not is_sparse(inputs):
            return None
        by_groups(self.core.get_decoder().config)
        row = FlatRow.of(inputs, self._score_dtype(inputs))
        if self.routing is not None:
            row.inputs["sources"] = row.places(self._pooled(inputs))
        return row

    def hidden_states(self, inputs: ModelInputs) -> Tensor:
        """See `VisionLanguageModel.hidden_states`; of a padded batch, padding is left out, and its states are 0."""
        row = self._flat(inputs)
        return super().hidden_states(inputs) if row is None else row.padded(super().hidden_states(row.inputs))

    def hidden_at(self, inputs: ModelInputs, tokens: Tensor) -> Tensor:
        """See `VisionLanguageModel.hidden_at`; the last layer computes these tokens alone."""
        row = self._flat(inputs)
        if row is not None:
            inputs, tokens = row.inputs, row.places(tokens)
        layers, deep = self.core.get_decoder().layers, self.core.config.vision_config.deepstack_visual_indexes
        # Routers count all tokens; pictures are added behind the first `deep` layers.
        if not self.takes_blocks or not len(tokens) or self.routing is not None or len(layers) <= len(deep):
            return super().hidden_at(inputs, tokens)
        if row is None:
            places, groups = ReadPlaces.of(tokens, *inputs["input_ids"].shape), None
        else:
            asking, order = torch.unique(tokens, return_inverse=True)  # replies share the last token of their prompt
            places, groups = ReadPlaces(asking[None], order), row.asking(asking)
        with only_at(layers[-1], places, groups):
            return self.hidden_states(inputs).flatten(0, 1)[places.order]

    def _chosen(self) -> dict[str, PixelBudget]:
        """The budgets that were chosen, by this model's options or by the folder that it was loaded from."""
        options = {name: getattr(self, name) for name in BUDGETS}
        return self._stored | {name: budget for name, budget in options.items() if budget is not None}

    def _budgets(self, processor: Any) -> tuple[PixelBudget, PixelBudget, PixelBudget]:
        chosen, size, video = self._chosen(), processor.image_processor.size, processor.video_processor
        factor = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
        images = chosen.get("image_pixels") or PixelBudget(size["shortest_edge"], size["longest_edge"])
        # The video processor counts pixels over all frames, except for its cap, which is in tokens a frame.
        cap = factor * getattr(video, "max_video_tokens", 768)
        frames = chosen.get("frame_pixels") or PixelBudget(min(video.size["shortest_edge"], cap), cap)
        return images, chosen.get("evidence_pixels") or images, frames

    def _set_budgets(self, processor: Any) -> None:
        """Write the chosen budgets into the processor, as far as it has a place for them.

        It has none for evidence, nor for the least pixels of a frame: `embedrl_config.json` of an export has all.
        """
        images, _, frames = self._budgets(processor)
        processor.image_processor.size = {"shortest_edge": images.min_pixels, "longest_edge": images.max_pixels}
        if "frame_pixels" in self._chosen():
            factor = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
            processor.video_processor.max_video_tokens = frames.max_pixels // factor
            processor.video_processor.cap_pixels_per_frame = True


class QwenVLBackbone(QwenVL, EmbedsAtToken):
    """A Qwen3-VL that embeds: the hidden state at `<emb>`, L2-normalised. Source: Embed-RL §3.1, Eq. 1-2."""

    @property
    def shares_prefix(self) -> bool:
        """See `Backbone.shares_prefix`; flash attention takes no mask of blocks."""
        return self.takes_blocks
