"""Reading Qwen3-VL checkpoints: processor, configuration, weights.

A folder with a LoRA adapter in peft's layout counts as its base with the adapter merged.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import AutoProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

import embedrl
from embedrl.errors import CheckpointError, unreadable
from embedrl.models.adapters import adapter_base
from embedrl.models.checkpoint_files import (
    check_adapter_token,
    checkpoint_place,
    config_identity,
    may_be_on_the_hub,
    unread,
)
from embedrl.models.export_options import read_options
from embedrl.models.networks import NetworkReader

ASSETS = Path(embedrl.__file__).parent / "assets"
TINY = "embedrl:tiny"
SHIPPED = {f"embedrl:{name}": ASSETS / name for name in ("world_base", "world_embedder", "world_reasoner")}
"""The models that come with the package: the base, and what the quickstarts make of it."""
CURE = f"give a folder with a Qwen3-VL checkpoint or a LoRA adapter, a Hub name, {TINY} or one of {', '.join(SHIPPED)}"


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
    with unreadable(unread(path, "the processor"), CURE, CheckpointError):
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


def load_config(path: str) -> Qwen3VLConfig:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: If it cannot be read or is not a Qwen3-VL's.
    """
    if base := adapter_base(path):
        return load_config(base)
    return _load_config(path, *config_identity(path))


@lru_cache(maxsize=8)
def _load_config(path: str, file: str, written: int) -> Qwen3VLConfig:
    if path == TINY:
        return _tiny().build_config(_tiny().build_tokenizer(_tiny().world_words()))
    with unreadable(unread(path, "config.json"), CURE, CheckpointError):
        raw, _ = Qwen3VLConfig.get_config_dict(_place(path))
        if raw.get("model_type") != "qwen3_vl":
            raise CheckpointError(f"{path}: model_type is {raw.get('model_type')!r}, not 'qwen3_vl'; {CURE}")
        return Qwen3VLConfig.from_dict(raw)


def _tiny() -> ModuleType:
    """The built-in model's file: it knows the built-in world, which no other checkpoint needs."""
    from embedrl.models.qwen_vl import tiny

    return tiny


def is_local(path: str) -> bool:
    """Whether a path is a folder or ships with the package; otherwise it is a Hub name."""
    return Path(path).is_dir() or not may_be_on_the_hub(path)


def _place(path: str) -> str:
    if path in SHIPPED:
        return str(SHIPPED[path])
    return checkpoint_place(path, CURE)


def _tiny_network(path: str, config: Qwen3VLConfig, attn_implementation: str) -> Qwen3VLForConditionalGeneration | None:
    return _tiny().build_model(config) if path == TINY else None


NETWORKS = NetworkReader(Qwen3VLForConditionalGeneration, load_config, _place, _tiny_network, CURE)
