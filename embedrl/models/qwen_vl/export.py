"""What an exported Qwen3-VL holds besides weights and processor: its pixel budgets, and an adapter's row of `<emb>`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save_file

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.adapters import CONFIG_FILE, WEIGHTS_FILE
from embedrl.models.export_options import OPTIONS_FILE
from embedrl.models.qwen_vl.loading import load_options
from embedrl.models.qwen_vl.preprocess import PixelBudget

BUDGETS = ("image_pixels", "evidence_pixels", "frame_pixels")


def load_budgets(path: str) -> dict[str, PixelBudget]:
    """The pixel budgets that an exported folder names, by the name of their option.

    Args:
        path: Any checkpoint; an adapter that names none has its base's.

    Raises:
        CheckpointError: If `embedrl_config.json` is broken.
    """
    options = load_options(path)
    try:
        return {name: PixelBudget(**options[name]) for name in BUDGETS if options.get(name) is not None}
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}/{OPTIONS_FILE}: broken pixel budget ({error}): export it again") from error


def budget_options(budgets: Mapping[str, PixelBudget]) -> dict[str, Any]:
    """The budgets in the form that `load_budgets` reads; those that follow from the processor are null."""
    return {
        name: {"min_pixels": budgets[name].min_pixels, "max_pixels": budgets[name].max_pixels}
        if name in budgets
        else None
        for name in BUDGETS
    }


def add_token_row(out: Path, network: PeftModel, token: int) -> None:
    """Put a token's rows of the embedding, and of an LM head of its own, into an adapter that peft has written.

    peft calls them trainable tokens: whoever loads the adapter on its base has them, in training or not.

    Args:
        out: The adapter's folder.
        network: The model that the adapter belongs to.
        token: Id of the token.
    """
    base: Any = network.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    layers = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = {id(module): name for name, module in base.named_modules()}
    tensors, indices = load_file(out / WEIGHTS_FILE), {}
    for layer in layers:
        name = names[id(layer)]
        row = layer.weight[token : token + 1].detach().cpu().clone()
        tensors[f"base_model.model.{name}.token_adapter.trainable_tokens_delta"] = row
        indices[name.rpartition(".")[2]] = [token]
    save_file(tensors, out / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
    config["trainable_token_indices"] = indices
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
