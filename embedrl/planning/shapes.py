"""The shape of a checkpoint without its weights: its own config.json, or one of the package's tables of shapes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, Qwen3VLConfig

from embedrl.errors import CheckpointError
from embedrl.models.qwen_vl.loading import is_local
from embedrl.models.vlm.loading import load_config

TABLE = Path(__file__).parent / "qwen3_vl.json"
FAMILIES = Path(__file__).parent / "families.json"


def find_shape(path: str, shapes: str | None = None) -> tuple[Any, str]:
    """The configuration of a checkpoint; nothing is downloaded.

    Args:
        path: A folder, a Hub name, `embedrl:...`.
        shapes: A folder with the config.json of Hub names that are not on this machine.

    Returns:
        The configuration, and a note to show if it is not the checkpoint's own; empty otherwise.

    Raises:
        CheckpointError: If a Hub name's config.json is not on this machine and its shape is not in a table.
    """
    if is_local(path):
        return load_config(path), ""
    cached = try_to_load_from_cache(path, "config.json")
    if isinstance(cached, str):
        return load_config(str(Path(cached).parent)), ""
    row = table_row(path)
    if row is not None:
        return row["config"], f"{path}: config.json is not at hand; shape taken from the shipped table ({row['name']})"
    if shapes is not None:
        return load_config(shapes), f"{path}: shape taken from {shapes} (--shapes)"
    raise CheckpointError(
        f"{path}: its config.json is not on this machine, and the shipped tables have no shape of that name "
        f"({', '.join(known_names())}): run `hf download {path} config.json preprocessor_config.json`, or give "
        "a folder with these files as --shapes"
    )


def known_names() -> list[str]:
    """The checkpoints whose shapes the package knows."""
    qwen = _read(TABLE)
    return [*qwen["checkpoints"], *qwen["same_shape"], *_read(FAMILIES)["checkpoints"]]


def table_row(path: str) -> dict[str, Any] | None:
    """What the tables say of a Hub name; None if nothing.

    Returns:
        `name` of the row, its `config`, its count of `parameters`, and settings of its processors.
    """
    qwen = _read(TABLE)
    name = qwen["same_shape"].get(path, path)
    if name in qwen["checkpoints"]:
        settings = {"image_processor": {"patch_size": qwen["vision_config"]["patch_size"]}}
        return {"name": name, **qwen["checkpoints"][name], **settings, "config": table_config(qwen, name)}
    row = _read(FAMILIES)["checkpoints"].get(path)
    return None if row is None else {"name": path, **row, "config": AutoConfig.for_model(**row["config"])}


def table_config(table: dict[str, Any], name: str) -> Qwen3VLConfig:
    """The configuration of a Qwen3-VL in the table.

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


@cache
def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
