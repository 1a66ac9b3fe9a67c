"""Reading checkpoints of two-tower models: processor, configuration, weights.

A folder with a LoRA adapter counts as its base with the adapter merged, or with the experts beside the weights.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from embedrl.errors import CheckpointError, ConfigError, unreadable
from embedrl.models.adapters import adapter_base
from embedrl.models.checkpoint_files import check_loaded, checkpoint_place
from embedrl.models.expert_files import take_adapter, take_shape

TINY = "embedrl:tiny/"
CURE = (
    "give a folder with the checkpoint of a two-tower model or its LoRA adapter, a Hub name such as "
    "google/siglip2-base-patch16-224, or embedrl:tiny/FAMILY, such as embedrl:tiny/siglip2"
)
IMAGES, TEXTS = "get_image_features", "get_text_features"
"""The methods that make a model of transformers a two-tower model."""


def load_config(path: str) -> Any:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: If it cannot be read, or transformers knows no two-tower model of its type.
    """
    if base := adapter_base(path):
        return load_config(base)
    if path.startswith(TINY):
        return _tiny().build_config(path.removeprefix(TINY))
    place = checkpoint_place(path, CURE)
    with unreadable(f"{path}: cannot read config.json", CURE, CheckpointError):
        raw, _ = PreTrainedConfig.get_config_dict(place)
    kind, version = raw.get("model_type"), f"transformers {transformers.__version__}"
    if kind is None:
        raise CheckpointError(f"{path}: cannot read config.json (there is none, or it names no model_type); {CURE}")
    if kind not in CONFIG_MAPPING:
        own = "brings code of its own, which is never run, and" if "auto_map" in raw else "is of a family that"
        raise CheckpointError(f"{path}: model_type {kind!r} {own} {version} does not know; {CURE}")
    with unreadable(f"{path}: cannot read config.json", CURE, CheckpointError):
        config = AutoConfig.from_pretrained(place)
    if type(config) not in MODEL_MAPPING:
        raise CheckpointError(f"{path}: {version} has no model of type {kind!r} as a whole; {CURE}")
    cls = _class_of(config)
    if not (hasattr(cls, IMAGES) and hasattr(cls, TEXTS)):
        raise CheckpointError(
            f"{path}: a {cls.__name__} ({kind}) has no towers of pictures and of texts ({IMAGES}, {TEXTS}): a "
            f"vision-language model goes to embedrl.VLMBackbone; {CURE}"
        )
    return config


def load_processor(path: str) -> Any:
    """The processor of a checkpoint; an adapter's is its base's.

    Raises:
        CheckpointError: If it cannot be read, reads no pictures or no texts, or belongs to another checkpoint.
    """
    if base := adapter_base(path):
        return load_processor(base)
    config = load_config(path)
    if path.startswith(TINY):
        return _tiny().build_processor(path.removeprefix(TINY))
    with unreadable(f"{path}: cannot read the processor", CURE, CheckpointError):
        processor = AutoProcessor.from_pretrained(checkpoint_place(path, CURE))
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{path}: a {type(processor).__name__} alone, no processor of pictures and texts: save the processor "
            "that belongs to the checkpoint beside it"
        )
    _check_belongs(path, processor, config)
    return processor


def _check_belongs(path: str, processor: Any, config: Any) -> None:
    """Refuse a processor that makes other inputs than the towers read."""
    cure = "it belongs to another checkpoint; save the model's own processor beside it"
    name, kind, cls = type(processor.image_processor).__name__, config.model_type, _class_of(config)
    words, rows = len(processor.tokenizer), config.text_config.vocab_size
    if words > rows:
        raise CheckpointError(f"{path}: the tokenizer has {words} tokens, but the text tower ({kind}) {rows}: {cure}")
    made = processor.image_processor(images=[Image.new("RGB", (32, 32))], return_tensors="pt")
    read = inspect.signature(getattr(cls, IMAGES)).parameters
    if odd := [key for key in made if key not in read]:
        raise CheckpointError(f"{path}: its {name} makes {odd[0]}, which the model ({kind}) does not read: {cure}")
    if lacking := [key for key in ("spatial_shapes",) if key in read and key not in made]:
        raise CheckpointError(f"{path}: its {name} makes no {lacking[0]}, which the model ({kind}) reads: {cure}")
    side = getattr(config.vision_config, "image_size", None)
    if isinstance(side, int) and "spatial_shapes" not in read:
        height, width = made["pixel_values"].shape[-2:]
        if (height, width) != (side, side):
            raise CheckpointError(
                f"{path}: its {name} makes pictures of {width} x {height} pixels, but the model ({kind}) reads "
                f"{side} x {side}: {cure}"
            )


def load_network(path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
    """The towers with their weights, from safetensors alone.

    Raises:
        CheckpointError: If weights are missing, left over, or of another shape; the message names them.
        ConfigError: If the model cannot be computed exactly with this attention.
    """
    if base := adapter_base(path):
        return take_adapter(load_network(base, dtype, attn_implementation), path)
    config = load_config(path)
    cls = _class_of(config)
    # AIMv2 with sdpa reads a text without padding in both directions, and with padding, beside others, in one.
    if attn_implementation == "sdpa" and (config.model_type == "aimv2" or not cls._supports_sdpa):
        raise ConfigError(f"backbone.attn_implementation: {path} is an {cls.__name__}: set it to eager")
    if path.startswith(TINY):
        network = _tiny().build_model(copy.deepcopy(config), attn_implementation)
        return network.to(torch.float32 if dtype == "auto" else dtype)
    with unreadable(f"{path}: cannot read the weights", CURE, CheckpointError):
        network, info = AutoModel.from_pretrained(
            checkpoint_place(path, CURE),
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the misfits are reported by name below
        )
    check_loaded(path, info, ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return network


def empty_network(path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
    """The model that `load_network` returns, without its weights; call it under `torch.device("meta")`.

    Where the weights decide on the dtype (`auto`, and config.json does not say), it may differ.

    Raises:
        CheckpointError: If config.json cannot be read.
    """
    if base := adapter_base(path):
        return take_shape(empty_network(base, dtype, attn_implementation), path)
    config = copy.deepcopy(load_config(path))  # what follows writes into it
    dtype = (config.dtype or torch.float32) if isinstance(dtype, str) else dtype
    if path.startswith(TINY):
        return _tiny().build_model(config, attn_implementation).to(dtype)
    return AutoModel.from_config(config, dtype=dtype, attn_implementation=attn_implementation)


def _class_of(config: Any) -> type[Any]:
    """The class of a configuration's model."""
    cls: Any = MODEL_MAPPING[type(config)]
    chosen: type[Any] = cls[0] if isinstance(cls, tuple) else cls
    return chosen


def _tiny() -> Any:
    """The writers of tiny models: they know the built-in world, which no other checkpoint needs."""
    from embedrl.models.two_towers import tiny

    return tiny
