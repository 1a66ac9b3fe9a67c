"""The shape of a checkpoint without its weights: its own config.json, or the package's table of Qwen3-VL shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import Qwen3VLConfig

from embedrl.errors import CheckpointError
from embedrl.models.qwen_vl.loading import is_local, load_config

TABLE = Path(__file__).parent / "qwen3_vl.json"


def find_shape(path: str) -> tuple[Qwen3VLConfig, str]:
    """The configuration of a checkpoint; nothing is downloaded.

    Args:
        path: As `QwenVL` takes it: a folder, a Hub name, `embedrl:...`.

    Returns:
        The configuration, and a note to show if it is not the checkpoint's own; empty otherwise.

    Raises:
        CheckpointError: If a Hub name's config.json is not on this machine and its shape is not in the table.
    """
    if is_local(path):
        return load_config(path), ""
    cached = try_to_load_from_cache(path, "config.json")
    if isinstance(cached, str):
        return load_config(str(Path(cached).parent)), ""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    name = table["same_shape"].get(path, path)
    if name not in table["checkpoints"]:
        raise CheckpointError(
            f"{path}: its config.json is not on this machine, and the shipped table has no shape of that name "
            f"({', '.join((*table['checkpoints'], *table['same_shape']))}): run `hf download {path} config.json`"
        )
    return table_config(table, name), f"{path}: config.json is not at hand; shape taken from the shipped table ({name})"


def table_config(table: dict[str, Any], name: str) -> Qwen3VLConfig:
    """The configuration of a checkpoint in the table.

    Args:
        table: What `TABLE` holds.
        name: A key of its `checkpoints`.
    """
    row = table["checkpoints"][name]
    return Qwen3VLConfig(
        text_config={**table["text_config"], **row["text_config"]},
        vision_config={**table["vision_config"], **row["vision_config"]},
        tie_word_embeddings=row["tie_word_embeddings"],
    )
