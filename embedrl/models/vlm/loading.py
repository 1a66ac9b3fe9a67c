"""Reading checkpoints of any vision-language family: processor, configuration, weights.

A folder with a LoRA adapter in peft's layout counts as its base with the adapter merged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from embedrl.errors import CheckpointError, unreadable
from embedrl.models.adapters import adapter_base
from embedrl.models.checkpoint_files import check_adapter_token, checkpoint_place, config_identity, unread
from embedrl.models.networks import NetworkReader
from embedrl.models.vlm.families import family_of
from embedrl.models.vlm.family import VLMFamily

TINY = "embedrl:tiny/"
ENCODERS = ("embedding_gemma2",)
"""The model types of encoders that read texts and pictures in one row."""
CURE = (
    "give a folder with the checkpoint of a vision-language model or a LoRA adapter, a Hub name, "
    "or embedrl:tiny/FAMILY, such as embedrl:tiny/qwen2_5_vl"
)


def load_config(path: str) -> Any:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: If it cannot be read, or transformers knows no vision-language model of its type.
    """
    if base := adapter_base(path):
        return load_config(base)
    return _load_config(path, *config_identity(path))


@lru_cache(maxsize=8)
def _load_config(path: str, file: str, written: int) -> Any:
    if path.startswith(TINY):
        return _tiny().build_config(path.removeprefix(TINY))
    place = _place(path)
    with unreadable(unread(path, "config.json"), CURE, CheckpointError):
        raw, _ = PreTrainedConfig.get_config_dict(place)
    kind = raw.get("model_type")
    if kind is None:
        raise CheckpointError(f"{path}: cannot read config.json (there is none, or it names no model_type); {CURE}")
    version = f"transformers {transformers.__version__}"
    if "auto_map" in raw and kind not in _known():
        raise CheckpointError(
            f"{path}: model_type {kind!r} brings code of its own, which is never run, and {version} has none for it; "
            f"{CURE}"
        )
    if kind not in _known():
        raise CheckpointError(f"{path}: model_type is {kind!r}, no vision-language model of {version}; {CURE}")
    if why := family_of(kind).refused:
        raise CheckpointError(f"{path}: model_type {kind!r} cannot be used: {why}; {CURE}")
    with unreadable(unread(path, "config.json"), CURE, CheckpointError):
        config = AutoConfig.from_pretrained(place)
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(f"{path}: model_type {kind!r} cannot be used: it is an encoder with a decoder; {CURE}")
    return config


def load_encoder_config(path: str) -> Any:
    """The configuration of a checkpoint of an encoder that reads texts and pictures in one row.

    Raises:
        CheckpointError: If it cannot be read, or is of no such encoder.
    """
    if base := adapter_base(path):
        return load_encoder_config(base)
    if path.startswith(TINY):
        config = _tiny().build_config(path.removeprefix(TINY))
    else:
        with unreadable(unread(path, "config.json"), CURE, CheckpointError):
            config = AutoConfig.from_pretrained(_place(path))
    if config.model_type not in ENCODERS:
        raise CheckpointError(
            f"{path}: model_type {config.model_type!r} is no encoder of texts and pictures ({', '.join(ENCODERS)}): a "
            "vision-language model goes to embedrl.VLMBackbone, two towers go to embedrl.TwoTowerBackbone"
        )
    return config


def load_processor(path: str, load: Callable[[str], Any] = load_config, family: VLMFamily | None = None) -> Any:
    """The processor of a checkpoint; an adapter's is its base's.

    Args:
        path: The checkpoint.
        load: Reads the configuration of a checkpoint.
        family: Its family; None: as its configuration says.

    Raises:
        CheckpointError: If it cannot be read, reads no pictures, has no chat template, or is another family's.
    """
    if base := adapter_base(path):
        processor = load_processor(base, load, family)
        check_adapter_token(path, processor.tokenizer)
        return processor
    config = load(path)
    if path.startswith(TINY):
        return _tiny().build_processor(path.removeprefix(TINY))
    with unreadable(unread(path, "the processor"), CURE, CheckpointError):
        processor = AutoProcessor.from_pretrained(_place(path))
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise CheckpointError(
            f"{path}: a {type(processor).__name__} alone, no processor of pictures and texts: save the processor "
            "that belongs to the checkpoint beside it"
        )
    _check_belongs(path, processor, config)
    template = processor.chat_template or processor.tokenizer.chat_template
    processor.chat_template = template or (family or family_of(config.model_type)).template or None
    if processor.chat_template is None:
        raise CheckpointError(
            f"{path}: the processor has no chat template: write one to chat_template.jinja, "
            "as the family's instruction-tuned checkpoints have it"
        )
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _check_belongs(path: str, processor: Any, config: Any) -> None:
    """Refuse a processor that marks pictures by another token than the model reads."""
    names = ("image_token_id", "image_token_index")
    read = {token for name in names if isinstance(token := getattr(config, name, None), int)}
    tokenizer = processor.tokenizer
    owners = (processor, tokenizer)
    marked = {token for owner in owners if isinstance(token := getattr(owner, "image_token_id", None), int)}
    if mark := family_of(config.model_type).image_mark:
        marked = {int(tokenizer.convert_tokens_to_ids(mark))}
    if read and marked and not read & marked:
        raise CheckpointError(
            f"{path}: the model ({config.model_type}) reads pictures at token {min(read)}, but its "
            f"{type(processor).__name__} marks them by token {min(marked)}: it belongs to another checkpoint; "
            "save the model's own processor beside it"
        )


def _known() -> set[str]:
    """The model types of transformers' mapping, with those that a family's own package has added to it."""
    return {config.model_type for config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING}


def _tiny() -> Any:
    """The writers of tiny models: they know the built-in world, which no other checkpoint needs."""
    from embedrl.models.vlm.tiny import build

    return build


def _place(path: str) -> str:
    return checkpoint_place(path, CURE)


def _tiny_network(path: str, config: Any, attn_implementation: str) -> Any:
    return _tiny().build_model(config, attn_implementation) if path.startswith(TINY) else None


NETWORKS = NetworkReader(AutoModelForImageTextToText, load_config, _place, _tiny_network, CURE)
ENCODER_NETWORKS = NetworkReader(AutoModel, load_encoder_config, _place, _tiny_network, CURE)
