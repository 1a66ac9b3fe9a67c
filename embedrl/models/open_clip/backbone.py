"""Two-tower models of open_clip as an embedding backbone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.adapters import to_export
from embedrl.models.backbone import Backbone, ModelInputs
from embedrl.models.export_options import write_options
from embedrl.models.feature_cache import FeatureCache
from embedrl.models.open_clip.config import (
    CONFIG_FILE,
    FOLDER,
    HUB,
    WEIGHTS_FILE,
    find_weights,
    make_model,
    make_tokenizer,
    make_transform,
    read_config,
)
from embedrl.models.open_clip.inputs import OpenClipPreprocessor
from embedrl.models.open_clip.towers import ClipLoRA, TowerWeights, add_tower_lora, load_tower, projections
from embedrl.models.two_towers.fusion import FusionWeights, fuse, settle, stored_fusion
from embedrl.utils.public_names import public_path


class OpenClipBackbone(Backbone):
    """An open_clip model that embeds text, pictures, videos and mixtures of them by late fusion.

    Text, pictures, evidence and frames are embedded one by one and averaged (`FusionWeights`); `read_text` says which
    text the text tower reads. Batch normalisation always uses its running statistics, so that a vector does not depend
    on the batch it was computed in, which gradient caching relies on.

    Args:
        model: open_clip's name of a model, `hf-hub:ORG/NAME`, `local-dir:FOLDER` (an export), the path of a JSON file,
            or `embedrl:NAME` for a configuration shipped with this package.
        pretrained: open_clip's tag, or a safetensors file with weights for both towers; null starts from scratch,
            except that a Hugging Face text tower loads the weights beside its configuration.
        vision_weights: Weights of the image tower alone.
        trainable: `full` trains everything, `projections` the layers that map a tower's features to the shared space,
            `lora` adapters, and those projections that are modules of their own.
        lora: Options of `trainable: lora`.
        fusion: Weights of the kinds of input; null means those of an export, or else 1 for each.
        cache_features: With `projections`, a timm image tower and a Hugging Face text tower: cache the frozen towers'
            features of this many pictures and of this many texts; 0 computes them each time.
        gradient_checkpointing: Recompute the towers' layers in the backward pass to save memory.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        vision_weights: TowerWeights | None = None,
        trainable: Literal["full", "projections", "lora"] = "full",
        lora: ClipLoRA | None = None,
        fusion: FusionWeights | None = None,
        cache_features: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if (trainable == "lora") != (lora is not None):
            raise ConfigError("backbone.lora goes with backbone.trainable: lora; give both or neither")
        if cache_features and trainable != "projections":
            raise ConfigError("backbone.cache_features: only frozen towers are remembered; set trainable: projections")
        self.model, self.pretrained, self.vision_weights = model, pretrained, vision_weights
        self.trainable, self.lora, self.fusion = trainable, lora, fusion
        self.cache_features, self.gradient_checkpointing = cache_features, gradient_checkpointing
        self.net: nn.Module | None = None
        self.weights = fusion or FusionWeights()
        self._feature_caches: tuple[FeatureCache, FeatureCache] | None = None

    @property
    def clip(self) -> Any:
        """The open_clip model, its adapters included."""
        if self.net is None:
            raise RuntimeError("OpenClipBackbone.build() must be called before the model is used")
        return self.net.get_base_model() if isinstance(self.net, PeftModel) else self.net

    def build(self) -> None:
        """Create the towers, load weights, freeze what is frozen. Does nothing when called again.

        Raises:
            ConfigError: If the model, the weights or a package cannot be found, or nothing would be trained.
            CheckpointError: If weights do not fit.
        """
        if self.net is not None:
            return
        config = read_config(self.model, self.pretrained)
        weights = find_weights(self.model, self.pretrained)
        clip = make_model(config, load_towers=weights is None)
        if weights is not None:
            try:
                open_clip.load_checkpoint(clip, weights, strict=True, weights_only=True)
            except RuntimeError as error:
                raise CheckpointError(f"{weights} does not fit {self.model}: {str(error).splitlines()[-1]}") from error
        if self.vision_weights is not None:
            load_tower(getattr(clip.visual, "trunk", clip.visual), self.vision_weights)
        self._adopt(clip)

    def build_on_meta(self) -> None:
        """See `Backbone.build_on_meta`; no weights are read.

        Raises:
            ConfigError: If the model or a package cannot be found, or nothing would be trained.
        """
        if self.net is None:
            with torch.device("meta"):
                self._adopt(make_model(read_config(self.model, self.pretrained), load_towers=False))

    def _adopt(self, clip: Any) -> None:
        """Freeze what is frozen."""
        if self.fusion is None:
            self.weights = _stored_fusion(self.model)
        if self.gradient_checkpointing:
            clip.set_grad_checkpointing(True)
        self.net = self._freeze(clip)
        if self.cache_features:
            self._feature_caches = self._make_feature_caches(clip)
        self.train(self.training)

    def _freeze(self, clip: nn.Module) -> nn.Module:
        if self.lora is not None:
            adapted: nn.Module = add_tower_lora(clip, self.lora)
            return adapted
        trained = set(projections(clip))
        if self.trainable == "full":  # the loss has its own temperature: open_clip's logit scale stays out
            trained = {name for name, _ in clip.named_parameters() if not name.startswith("logit_")}
        if not trained:
            raise ConfigError(f"backbone.trainable: projections: {self.model} has none; give its configuration one")
        for name, parameter in clip.named_parameters():
            parameter.requires_grad_(name in trained)
        return clip

    def _make_feature_caches(self, clip: Any) -> tuple[FeatureCache, FeatureCache]:
        if not hasattr(clip.visual, "trunk") or not hasattr(getattr(clip, "text", None), "pooler"):
            raise ConfigError("backbone.cache_features needs a timm image and a Hugging Face text tower; set it to 0")

        def text_features(ids: Tensor) -> Tensor:
            mask = (ids != clip.text.config.pad_token_id).long()
            features: Tensor = clip.text.pooler(clip.text.transformer(input_ids=ids, attention_mask=mask), mask)
            return features

        return FeatureCache(clip.visual.trunk, self.cache_features), FeatureCache(text_features, self.cache_features)

    def train(self, mode: bool = True) -> OpenClipBackbone:
        """Switch dropout of what is trained; frozen modules and batch normalisation stay in evaluation mode."""
        super().train(mode)
        settle(self.net)
        return self

    def preprocessor(self) -> OpenClipPreprocessor:
        """The preprocessor that fits this model; needs no weights."""
        config = read_config(self.model, self.pretrained)
        size = config.preprocess["size"]
        height, width = (size, size) if isinstance(size, int) else size
        context = config.model["text_cfg"].get("context_length", 77)
        return OpenClipPreprocessor(make_tokenizer(config), make_transform(config), context, (height, width))

    def encode(self, inputs: ModelInputs) -> Tensor:
        """Embed one micro-batch: see `FusionWeights`.

        Args:
            inputs: See `OpenClipPreprocessor`.

        Returns:
            Unit vectors, float32, `[batch, dim]`.
        """
        texts, pictures = self._texts(inputs["text_ids"]), self._pictures(inputs["pixel_values"])
        return fuse(inputs, texts, pictures, self.weights, self.parameters())

    def _texts(self, ids: Tensor) -> Tensor | None:
        """The text tower's vectors."""
        if not len(ids):
            return None
        clip, caches = self.clip, self._feature_caches
        vectors: Tensor = clip.encode_text(ids) if caches is None else clip.text.proj(caches[1](ids))
        return vectors

    def _pictures(self, pixels: Tensor) -> Tensor | None:
        """The image tower's vectors."""
        if not len(pixels):
            return None
        clip, caches = self.clip, self._feature_caches
        vectors: Tensor = clip.encode_image(pixels) if caches is None else clip.visual.head(caches[0](pixels))
        return vectors

    def reading_options(self) -> dict[str, Any]:
        """The weights of the kinds of input."""
        return {"fusion": asdict(self.weights)}

    def export(self, out: Path, merge: bool = True) -> None:
        """Write a folder for `open_clip.create_model_and_transforms("local-dir:OUT")`; it may be moved.

        open_clip looks up a Hugging Face text tower by a path and no place in it is safe but `.`: it loads such a
        folder from inside alone (`local-dir:.`). This class loads either from anywhere.

        Args:
            out: The folder to write.
            merge: True folds LoRA into the weights; False writes peft's adapter alone.

        Raises:
            ConfigError: If the adapter alone is asked for and there is none.
        """
        clip = to_export(self.net if isinstance(self.net, PeftModel) else self.clip, merge)
        out.mkdir(parents=True, exist_ok=True)
        if not merge:
            clip.save_pretrained(str(out))
            write_options(out, public_path(type(self)), self.reading_options())
            return
        config = read_config(self.model, self.pretrained)
        tokenizer = make_tokenizer(config)
        if isinstance(tokenizer, HFTokenizer):
            tokenizer.save_pretrained(str(out))
        if "hf_model_name" in config.model["text_cfg"]:
            clip.text.config.save_pretrained(out)
            config.model["text_cfg"].update(hf_model_name=".", hf_tokenizer_name=".")
        written = {"model_cfg": config.model, "preprocess_cfg": config.preprocess}
        (out / CONFIG_FILE).write_text(json.dumps(written, indent=2), encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, str(out / WEIGHTS_FILE))
        write_options(out, public_path(type(self)), self.reading_options())


def _stored_fusion(model: str) -> FusionWeights:
    """See `stored_fusion`."""
    if not model.startswith((FOLDER, HUB)):
        return FusionWeights()
    return stored_fusion(model.removeprefix(FOLDER).removeprefix(HUB))
