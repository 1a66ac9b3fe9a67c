"""Two-tower models of transformers (CLIP, SigLIP, SigLIP 2 ...) as an embedding backbone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from embedrl.errors import ConfigError
from embedrl.models.backbone import Backbone, ModelInputs
from embedrl.models.checkpoint_files import DTYPES
from embedrl.models.dropout import checkpoint_layers
from embedrl.models.expert_files import check_experts, save_network
from embedrl.models.experts import routed_layers, routing_of
from embedrl.models.export_options import write_options
from embedrl.models.lora import LoRAOptions, add_lora_on
from embedrl.models.routing import Routing
from embedrl.models.two_towers.fusion import FusionWeights, fuse, settle, stored_fusion
from embedrl.models.two_towers.loading import TINY, empty_network, load_config, load_network, load_processor
from embedrl.models.two_towers.preprocess import IMAGE_PREFIX, TEXT_PREFIX, TwoTowerPreprocessor
from embedrl.models.two_towers.towers import frozen_parts, linear_layers
from embedrl.models.vision_cache import cache_vision_features
from embedrl.models.vlm.family import VLMFamily
from embedrl.models.vlm.settings import PictureSettings, load_settings
from embedrl.utils.public_names import public_path


class TwoTowerBackbone(Backbone):
    """A two-tower model of transformers that embeds text, pictures, videos and mixtures of them by late fusion.

    Any model with `get_text_features` and `get_image_features`: CLIP, SigLIP, SigLIP 2 (of fixed resolution or NaFlex),
    MetaCLIP 2, AltCLIP, Chinese-CLIP, TIPSv2, and with `eager` attention ALIGN and AIMv2. Text, pictures, evidence and
    frames are embedded one by one and averaged (`FusionWeights`), as `OpenClipBackbone` does.

    Args:
        path: A checkpoint folder, the folder of a LoRA adapter in peft's layout (it counts as the base that it names
            with the adapter merged), a Hugging Face Hub name, or `embedrl:tiny/FAMILY` (clip, siglip, siglip2), a tiny
            model with random weights.
        trainable: `full` trains everything, `projections` the layers that map a tower's features to the shared space,
            `lora` adapters.
        lora: Options of `trainable: lora`; `language` is the text tower, `projector` those layers.
        fusion: Weights of the kinds of input; null means those of an export, or else 1 for each.
        image_settings: Options of the image processor by its own names, such as `{max_num_patches: 576}` for NaFlex.
        max_length: Longest text in tokens, what is longer is cut off; null: as many as the text tower has positions.
        dtype: float32, bfloat16, or auto for the checkpoint's own.
        attn_implementation: sdpa, eager or flash_attention_2.
        gradient_checkpointing: Recompute each layer in the backward pass to save memory.
    """

    def __init__(
        self,
        path: str,
        trainable: Literal["full", "projections", "lora"] = "full",
        lora: LoRAOptions | None = None,
        fusion: FusionWeights | None = None,
        image_settings: dict[str, Any] | None = None,
        max_length: int | None = None,
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        attn_implementation: str = "sdpa",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if (trainable == "lora") != (lora is not None):
            raise ConfigError("backbone.lora goes with backbone.trainable: lora; give both or neither")
        if max_length is not None and max_length < 2:
            raise ConfigError(f"backbone.max_length is {max_length}: give at least 2 tokens, or null")
        self.path, self.trainable, self.lora, self.fusion = path, trainable, lora, fusion
        self.image_settings, self.max_length = image_settings, max_length
        self.dtype, self.attn_implementation = dtype, attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.net: nn.Module | None = None
        self._routing: Routing | None = None
        self._preprocessor: TwoTowerPreprocessor | None = None
        self.weights = fusion or FusionWeights()

    @property
    def towers(self) -> Any:
        """The model, its adapters included."""
        if self.net is None:
            raise RuntimeError("TwoTowerBackbone.build() must be called before the model is used")
        return self.net.get_base_model() if isinstance(self.net, PeftModel) else self.net

    @property
    def settings(self) -> PictureSettings:
        """How pictures are read: by this model's options or those of the folder that it is loaded from."""
        return PictureSettings(image_settings=self.image_settings or {}).over(load_settings(self.path))

    def build(self) -> None:
        """Load the weights, add LoRA, freeze what is frozen. Does nothing when called again.

        Raises:
            CheckpointError: If the checkpoint is missing or no two-tower model, or its weights or processor do not fit.
            ConfigError: If the LoRA scope matches nothing, or nothing would be trained.
        """
        if self.net is None:
            self.preprocessor()
            self._adopt(load_network(self.path, DTYPES[self.dtype], self.attn_implementation))

    def build_on_meta(self) -> None:
        """As `build`, without reading weights: every tensor is on the meta device. Does nothing when called again.

        Raises:
            CheckpointError: If the checkpoint's processor or configuration cannot be read.
            ConfigError: As `build`.
        """
        if self.net is None:
            self.preprocessor()
            with torch.device("meta"):
                self._adopt(empty_network(self.path, DTYPES[self.dtype], self.attn_implementation))

    def _adopt(self, network: Any) -> None:
        """Add LoRA, freeze what is frozen."""
        if self.fusion is None and not self.path.startswith(TINY):
            self.weights = stored_fusion(self.path)
        loaded = bool(routed_layers(network))
        if self.lora is None:
            frozen_parts(network, self.trainable)
            if loaded:
                network.requires_grad_(False)
            self.net = network
        else:
            check_experts(self, self.lora, loaded)
            self.net = add_lora_on(self.path, network, self.lora, linear_layers(network, self.lora))
            self._routing = routing_of(network)
        if self.gradient_checkpointing:
            checkpoint_layers(network)
        self.train()

    @property
    def routing(self) -> Routing | None:
        """See `Backbone.routing`; every token counts, and there is no pooled one."""
        return self._routing

    @property
    def merges(self) -> bool:
        """See `Loadable.merges`."""
        return self.net is None or not routed_layers(self.net)

    def train(self, mode: bool = True) -> TwoTowerBackbone:
        """Switch dropout of what is trained; frozen modules and batch normalisation stay in evaluation mode."""
        super().train(mode)
        settle(self.net)
        return self

    def preprocessor(self) -> TwoTowerPreprocessor:
        """The preprocessor that fits this model; needs no weights.

        Raises:
            ConfigError: If the image processor lacks an option of `image_settings`, or `max_length` is too large.
        """
        if self._preprocessor is None:
            processor, text = load_processor(self.path), load_config(self.path).text_config
            self.settings.write_into(processor, VLMFamily())
            most = min(text.max_position_embeddings, processor.tokenizer.model_max_length)
            if self.max_length is not None and self.max_length > most:
                raise ConfigError(
                    f"backbone.max_length is {self.max_length}, but the text tower of {self.path} reads {most} tokens"
                )
            self._preprocessor = TwoTowerPreprocessor(processor, self.max_length or most)
        return self._preprocessor

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch: see `FusionWeights`.

        Args:
            inputs: See `TwoTowerPreprocessor`.

        Returns:
            Unit vectors, float32, `[batch, dim]`.
        """
        towers = self.towers
        texts = _features(towers.get_text_features, TEXT_PREFIX, inputs, towers.dtype)
        pictures = _features(towers.get_image_features, IMAGE_PREFIX, inputs, towers.dtype)
        return fuse(inputs, texts, pictures, self.weights, self.parameters())

    def cache_vision_features(self, seen: list[Any]) -> AbstractContextManager[None]:
        """While open, a frozen image tower reuses the features in `seen` of the same pictures."""
        tower = getattr(self.towers, "vision_model", None)
        return nullcontext() if tower is None else cache_vision_features(tower, seen)

    def reading_options(self) -> dict[str, Any]:
        """The weights of the kinds of input, and how pictures are read."""
        return {"fusion": asdict(self.weights), **self.settings.plain()}

    def export(self, out: Path, merge: bool = True) -> None:
        """Write a plain Hugging Face checkpoint with processor and `embedrl_config.json`.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes peft's adapter alone (and the processor).

        Raises:
            ConfigError: If the adapter alone is asked for and there is none, or the adapter cannot be merged.
        """
        save_network(out, self.net, merge, self.lora)
        self.preprocessor().processor.save_pretrained(out)
        write_options(out, public_path(type(self)), self.reading_options())


def _features(tower: Any, prefix: str, inputs: ModelInputs, dtype: torch.dtype) -> Tensor | None:
    """What a tower makes of its inputs, `[rows, dim]`; None if there are none."""
    own = {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}
    if not own:
        return None
    if "pixel_values" in own:
        own["pixel_values"] = own["pixel_values"].to(dtype)
    made = tower(**own)
    features: Tensor = made if isinstance(made, Tensor) else made.pooler_output
    return features
