"""Reading Qwen3-VL checkpoints: processor, configuration, weights.

A folder with a LoRA adapter in peft's layout counts as its base with the adapter merged.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import embedrl
from embedrl.errors import CheckpointError, unreadable
from embedrl.models.adapters import adapter_base, merge_adapter
from embedrl.models.checkpoint_files import check_adapter_token, check_loaded, checkpoint_place
from embedrl.models.export_options import read_options

ASSETS = Path(embedrl.__file__).parent / "assets"
TINY = "embedrl:tiny"
SHIPPED = {"embedrl:world_base": ASSETS / "world_base"}
CURE = "give a folder with a Qwen3-VL checkpoint or a LoRA adapter, a Hub name, embedrl:world_base or embedrl:tiny"


def load_processor(path: str) -> Any:
    """The processor of a checkpoint; an adapter's is its base's.

    Raises:
        CheckpointError: If it cannot be read, or an adapter comes with another `<emb>`.
    """
    if base := adapter_base(path):
        processor = load_processor(base)
        check_adapter_token(path, processor.tokenizer)
        return processor
    if path == TINY:
        return _tiny().build_processor(_tiny().build_tokenizer(_tiny().world_words()))
    with unreadable(f"{path}: cannot read the processor", CURE, CheckpointError):
        return AutoProcessor.from_pretrained(_place(path))


def load_options(path: str) -> dict[str, Any]:
    """What an exported folder says in its `embedrl_config.json`; of an adapter without one, what its base says.

    Raises:
        CheckpointError: If that file is broken.
    """
    kind, options = read_options(_place(path)) if path != TINY else ("", {})
    base = adapter_base(path)
    return load_options(base) if base and not kind else options


def load_class(path: str) -> str:
    """The class that an exported folder, of any family, names in its `embedrl_config.json`; empty if it names none.

    Raises:
        CheckpointError: If that file is broken.
    """
    return "" if path.startswith(TINY) else read_options(_place(path))[0]


@lru_cache(maxsize=8)
def load_config(path: str) -> Qwen3VLConfig:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: If it cannot be read or is not a Qwen3-VL's.
    """
    if base := adapter_base(path):
        return load_config(base)
    if path == TINY:
        return _tiny().build_config(_tiny().build_tokenizer(_tiny().world_words()))
    with unreadable(f"{path}: cannot read config.json", CURE, CheckpointError):
        raw, _ = Qwen3VLConfig.get_config_dict(_place(path))
        if raw.get("model_type") != "qwen3_vl":
            raise CheckpointError(f"{path}: model_type is {raw.get('model_type')!r}, not 'qwen3_vl'; {CURE}")
        return Qwen3VLConfig.from_dict(raw)


def load_network(path: str, dtype: torch.dtype | str, attn_implementation: str) -> Any:
    """The model with its weights, from safetensors alone.

    Raises:
        CheckpointError: If weights are missing, left over, or of another shape; the message names them.
    """
    if base := adapter_base(path):
        return merge_adapter(load_network(base, dtype, attn_implementation), path)
    config = load_config(path)
    if path == TINY:
        return _tiny().build_model(config).to(torch.float32 if dtype == "auto" else dtype)
    with unreadable(f"{path}: cannot read the weights", CURE, CheckpointError):
        network, info = Qwen3VLForConditionalGeneration.from_pretrained(
            _place(path),
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
        return empty_network(base, dtype, attn_implementation)
    config = copy.deepcopy(load_config(path))  # what follows writes into it
    dtype = (config.dtype or torch.float32) if isinstance(dtype, str) else dtype
    if path == TINY:
        return _tiny().build_model(config).to(dtype)
    network = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    # A checkpoint without the file has what its config.json says, which the model was made with.
    with suppress(OSError):
        network.generation_config = GenerationConfig.from_pretrained(_place(path))
    return network


def _tiny() -> ModuleType:
    """The built-in model's file: it knows the built-in world, which no other checkpoint needs."""
    from embedrl.models.qwen_vl import tiny

    return tiny


def is_local(path: str) -> bool:
    """Whether a path is a folder or ships with the package; otherwise it is a Hub name."""
    return path.startswith(("embedrl:", ".", "/", "~")) or Path(path).is_dir()


def _place(path: str) -> str:
    if path in SHIPPED:
        return str(SHIPPED[path])
    return checkpoint_place(path, CURE)
