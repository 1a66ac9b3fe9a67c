"""LoRA adapters in peft's layout: the base model with an adapter merged into it, and what is written of a model."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from embedrl.errors import CheckpointError, ConfigError, listed, unreadable

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
EXPERTS = "EMBEDRL_EXPERTS"
"""The `peft_type` of adapters with experts: what could only load them without their routers refuses it."""
_TOKENS = "trainable_token_indices"


def adapter_base(path: str) -> str | None:
    """The checkpoint that an adapter belongs to.

    Args:
        path: Any checkpoint.

    Returns:
        What the folder's `adapter_config.json` names, or None if it has none.

    Raises:
        CheckpointError: If that file is broken or names no base.
    """
    file = Path(path).expanduser() / CONFIG_FILE
    if not file.is_file():
        return None
    with unreadable(f"{file}: not an adapter's configuration", "save the adapter again", CheckpointError):
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise CheckpointError(f"{file}: base_model_name_or_path is missing: write the path of the base into it")
    return str(base)


def adapter_tokens(path: str) -> set[int]:
    """Ids of the tokens whose rows of the embedding come with an adapter, or with one that it is based on.

    Args:
        path: Any checkpoint; one that is no adapter brings none.

    Raises:
        CheckpointError: If an adapter's configuration is broken.
    """
    base = adapter_base(path)
    if base is None:
        return set()
    indices = json.loads((Path(path).expanduser() / CONFIG_FILE).read_text(encoding="utf-8")).get(_TOKENS)
    try:
        return adapter_tokens(base) | _token_ids(indices)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}/{CONFIG_FILE}: {_TOKENS} is {indices!r}: save the adapter again") from error


def _token_ids(indices: Any) -> set[int]:
    """The ids in peft's `trainable_token_indices`: a list, a list for each layer, or nothing."""
    lists = indices.values() if isinstance(indices, dict) else [indices or []]
    return {int(token) for tokens in lists for token in tokens}


def merge_adapter(network: Any, path: str) -> Any:
    """Merge an adapter into its base, whose embedding grows where the adapter brings rows of new tokens.

    Args:
        network: The base, loaded.
        path: The adapter's folder.

    Returns:
        The network.

    Raises:
        CheckpointError: If the adapter is no LoRA adapter, or its keys or shapes do not all match; the message names
            them.
    """
    folder = Path(path).expanduser()
    with unreadable(f"{path}: cannot read the adapter", f"it needs {WEIGHTS_FILE}", CheckpointError):
        config = PeftConfig.from_pretrained(str(folder))
        saved = load_file(folder / WEIGHTS_FILE)
    if config.peft_type != "LORA":
        raise CheckpointError(f"{path}: a {config.peft_type} adapter; only LoRA can be merged")
    rows = max(_token_ids(config.trainable_token_indices), default=-1) + 1
    if rows and rows > network.get_input_embeddings().weight.shape[0]:  # two towers have no embedding to ask for
        network.resize_token_embeddings(rows, mean_resizing=False)
    with unreadable(f"{path}: the adapter does not fit its base", "give the adapter of this base", CheckpointError):
        model = get_peft_model(network, config)
    check_tensors(path, get_peft_model_state_dict(model), saved)
    set_peft_model_state_dict(model, saved)
    merged: Any = model.merge_and_unload(safe_merge=True)
    if hasattr(merged, "peft_config"):
        del merged.peft_config  # or the next adapter would count as a second one
    return merged


def to_export(network: Any, merge: bool) -> Any:
    """What an exported folder holds of a network.

    Args:
        network: The network, which may be a `PeftModel`.
        merge: True: all weights, in a copy with LoRA folded in; False: the adapter alone.

    Raises:
        ConfigError: If the adapter alone is asked for and there is none.
    """
    if isinstance(network, PeftModel):
        return copy.deepcopy(network).merge_and_unload() if merge else network
    if not merge:
        raise ConfigError("merge=False writes the LoRA adapter alone, but this model has none: use merge=True")
    return network


def check_tensors(path: str, expected: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    """Refuse tensors that are missing, left over, or of another shape.

    Raises:
        CheckpointError: Naming them.
    """
    both = expected.keys() & saved.keys()
    problems = {
        "missing keys": expected.keys() - saved.keys(),
        "unexpected keys": saved.keys() - expected.keys(),
        "mismatched keys": {name for name in both if expected[name].shape != saved[name].shape},
    }
    for kind, names in problems.items():
        if names:
            raise CheckpointError(f"{path}: {kind} in the weights: {listed(sorted(names))}")


def add_token_rows(out: Path, network: PeftModel, tokens: Sequence[int]) -> None:
    """Put tokens' rows of the embedding, and of an LM head of its own, into an adapter that peft has written.

    peft calls them trainable tokens: whoever loads the adapter on its base has them, in training or not.

    Args:
        out: The adapter's folder.
        network: The model that the adapter belongs to.
        tokens: Ids of the tokens.
    """
    base: Any = network.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    layers = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    names = {id(module): name for name, module in base.named_modules()}
    tensors, indices = load_file(out / WEIGHTS_FILE), {}
    for layer in layers:
        name = names[id(layer)]
        rows = layer.weight[list(tokens)].detach().cpu().clone()
        tensors[f"base_model.model.{name}.token_adapter.trainable_tokens_delta"] = rows
        indices[name.rpartition(".")[2]] = list(tokens)
    save_file(tensors, out / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
    config["trainable_token_indices"] = indices
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
