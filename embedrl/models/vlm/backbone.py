"""Any vision-language model of transformers as an embedding backbone."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from embedrl.models.backbone import ModelInputs
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.vlm.base import EmbedsAtToken, VisionLanguageModel
from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.loading import NETWORKS, load_processor
from embedrl.models.vlm.preprocess import VLMPreprocessor
from embedrl.models.vlm.rows import TOKENS, picture_inputs
from embedrl.models.vlm.settings import PictureSettings, load_settings, stored_family
from embedrl.utils.public_names import public_path


class AnyVLM(VisionLanguageModel):
    """The base of any family's Embedder and Reasoner.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter in peft's layout (it counts as the base that it names
            with the adapter merged), a Hugging Face Hub name, or `embedrl:tiny/FAMILY`, a tiny model of a family with
            random weights, such as `embedrl:tiny/qwen2_5_vl`.
        family: What is different in the checkpoint's family; null: what this package knows about its model type, and
            the common path if that is nothing.
        lora: LoRA options; null trains the weights themselves.
        train_vision: Whether the vision tower and the projector are trained too; only without LoRA, whose scope
            decides.
        image_pixels: Budget of a picture, where the family's processor has one; null means the checkpoint's own.
        image_settings: Options of the family's image processor by its own names, such as `{max_patches: 4}`.
        video_settings: Options of its video processor.
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
        family: VLMFamily | None = None,
        lora: LoRAOptions | None = None,
        train_vision: bool = False,
        image_pixels: PixelBudget | None = None,
        image_settings: dict[str, Any] | None = None,
        video_settings: dict[str, Any] | None = None,
        max_length: int = 8192,
        padding_side: Literal["left", "right"] = "right",
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            path, lora, train_vision, max_length, padding_side, dtype, attn_implementation, gradient_checkpointing
        )
        self.family = family
        self.image_pixels, self.image_settings, self.video_settings = image_pixels, image_settings, video_settings
        self._preprocessor: VLMPreprocessor | None = None
        self._stored: PictureSettings | None = None

    @property
    def differences(self) -> VLMFamily:
        """What is different in the family."""
        if self.family is not None:
            return self.family
        stored = self.stored.family
        return stored_family(self.path, stored) if stored else family_of(self.networks.config(self.path).model_type)

    @property
    def settings(self) -> PictureSettings:
        """How pictures are read: by this model's options or those of the folder that it is loaded from."""
        family = "" if self.family is None else public_path(type(self.family))
        own = PictureSettings(self.image_pixels, self.image_settings or {}, self.video_settings or {}, family)
        return own.over(self.stored)

    @property
    def stored(self) -> PictureSettings:
        """What the folder says that this model is loaded from, read once: on the Hub, it is a request."""
        if self._stored is None:
            self._stored = load_settings(self.path)
        return self._stored

    def read_processor(self) -> Any:
        """See `VisionLanguageModel.read_processor`."""
        processor = load_processor(self.path, self.networks.config, self.family)
        self.settings.write_into(processor, self.differences)
        return processor

    def reading_options(self) -> dict[str, Any]:
        """See `VisionLanguageModel.reading_options`."""
        return self.settings.plain()

    def preprocessor(self) -> VLMPreprocessor:
        """The preprocessor that fits this model; needs no weights."""
        if self._preprocessor is None:
            self._preprocessor = VLMPreprocessor(self.processor, self.differences, self.max_length, self.padding_side)
        return self._preprocessor

    def _tensors(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """What the network takes of the inputs, pixels in its own dtype."""
        dtype = self.network.get_input_embeddings().weight.dtype
        names = [name for name in (*TOKENS, *picture_inputs(inputs)) if name in inputs]
        return self.differences.put_together(
            {
                # Not what positions are made of, such as the seconds of a grid.
                name: inputs[name].to(dtype) if name.startswith("pixel_values") else inputs[name]
                for name in names
            }
        )


class VLMBackbone(AnyVLM, EmbedsAtToken):
    """A vision-language model that embeds: the hidden state at `<emb>`, L2-normalised. Source: Embed-RL §3.1, Eq. 1-2.

    A `QwenVLBackbone` gives the same vectors of a Qwen3-VL, faster.
    """
