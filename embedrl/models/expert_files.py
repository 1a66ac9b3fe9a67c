"""Folders of adapters with experts: written beside peft's files, and loaded onto their base, which they stay beside."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from embedrl.distributed.loadable import Loadable
from embedrl.errors import CheckpointError, ConfigError, unreadable
from embedrl.models.adapters import CONFIG_FILE, EXPERTS, WEIGHTS_FILE, check_tensors, merge_adapter, to_export
from embedrl.models.backbone import Backbone
from embedrl.models.experts import ExpertOptions, check_unmerged, routed_config, routed_layers
from embedrl.models.lora import LoRAOptions

_PREFIX, _TOKEN_ROW = "base_model.model.", ".token_adapter.trainable_tokens_delta"


def check_experts(model: Loadable, lora: LoRAOptions, loaded: bool) -> None:
    """Check that a model can have experts.

    Args:
        model: The model.
        lora: Its options.
        loaded: Whether it was loaded with experts.

    Raises:
        ConfigError: If it writes, or would get an adapter beside its experts.
    """
    if loaded:
        raise ConfigError(
            "backbone.path is an adapter with experts, which cannot be merged and so takes no further one: train from "
            "its base, or go on with the run (--ckpt_path)"
        )
    if lora.experts is not None and not isinstance(model, Backbone):
        raise ConfigError("lora.experts: experts are for Embedders; set it to null for a model that writes")


def save_network(out: Path, network: Any, merge: bool, lora: LoRAOptions | None) -> None:
    """Write what an exported folder holds of a network: see `to_export`; an adapter with experts for embedrl alone.

    Args:
        out: The folder.
        network: The network, which may be a `PeftModel`.
        merge: Whether LoRA is folded into the weights.
        lora: The options it was trained with.

    Raises:
        ConfigError: If the adapter alone is asked for and there is none, or the adapter cannot be merged.
    """
    routed = bool(routed_layers(network))
    if routed:
        check_unmerged(merge, isinstance(network, PeftModel))
    to_export(network, merge).save_pretrained(out)
    if routed:
        _mark_experts(out, lora)


def _mark_experts(out: Path, lora: LoRAOptions | None) -> None:
    """Turn the adapter that peft has written into a folder that only embedrl loads.

    Args:
        out: The folder.
        lora: The options it was trained with.
    """
    assert lora is not None
    assert lora.experts is not None
    config = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
    own = {"r": lora.r, "alpha": lora.alpha, **asdict(lora.experts)}
    config |= {"peft_type": EXPERTS, "embedrl_experts": own}
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def has_experts(path: str) -> bool:
    """Whether a checkpoint is an adapter with experts.

    Args:
        path: Any checkpoint.

    Raises:
        CheckpointError: If an adapter's configuration is broken.
    """
    file = Path(path).expanduser() / CONFIG_FILE
    return file.is_file() and _config(file).get("peft_type") == EXPERTS


def take_adapter(network: Any, path: str) -> Any:
    """The base with an adapter: merged into it, or with the experts beside its weights.

    Args:
        network: The base, loaded.
        path: The adapter's folder.

    Raises:
        CheckpointError: If the adapter does not fit its base.
    """
    if not has_experts(path):
        return merge_adapter(network, path)
    folder = Path(path).expanduser()
    with unreadable(f"{path}: cannot read the adapter", f"it needs {WEIGHTS_FILE}", CheckpointError):
        saved = load_file(folder / WEIGHTS_FILE)
    rows = {name: saved.pop(name) for name in list(saved) if name.endswith(_TOKEN_ROW)}
    _take_rows(network, rows, _config(folder / CONFIG_FILE).get("trainable_token_indices"))
    model = _adapted(network, folder, saved)
    check_tensors(path, get_peft_model_state_dict(model), saved)
    set_peft_model_state_dict(model, saved)
    return _bare(model)


def take_shape(network: Any, path: str) -> Any:
    """As `take_adapter`, without weights: the base is on the meta device.

    Args:
        network: The base.
        path: The adapter's folder.

    Raises:
        CheckpointError: If the adapter does not fit its base.
    """
    if not has_experts(path):
        return network
    folder = Path(path).expanduser()
    with unreadable(f"{path}: cannot read the adapter", f"it needs {WEIGHTS_FILE}", CheckpointError):
        saved = load_file(folder / WEIGHTS_FILE)
    return _bare(_adapted(network, folder, saved))


def _config(file: Path) -> dict[str, Any]:
    with unreadable(f"{file}: not an adapter's configuration", "save the adapter again", CheckpointError):
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return dict(config)


def _adapted(network: Any, folder: Path, saved: dict[str, Tensor]) -> Any:
    """The base in which the layers of the file have experts."""
    with unreadable(f"{folder / CONFIG_FILE}: broken options", "export the model again", CheckpointError):
        own = dict(_config(folder / CONFIG_FILE)["embedrl_experts"])
        r, alpha = int(own.pop("r")), float(own.pop("alpha"))
        options = ExpertOptions(**own)
    layers = sorted({name.removeprefix(_PREFIX).partition(".lora_")[0] for name in saved if ".lora_" in name})
    with unreadable(f"{folder}: the adapter does not fit its base", "give the adapter of this base", CheckpointError):
        return get_peft_model(network, routed_config(options, r, alpha, 0.0, layers))


def _bare(model: Any) -> nn.Module:
    """The base out of peft's wrapper, its linear layers with their experts inside."""
    network: nn.Module = model.get_base_model()
    if hasattr(network, "peft_config"):
        del network.peft_config  # or transformers would write an adapter where it is asked for the weights
    return network.requires_grad_(False)


@torch.no_grad()
def _take_rows(network: Any, rows: dict[str, Tensor], indices: Any) -> None:
    """Write the rows of new tokens that came with the adapter into the base."""
    for name, row in rows.items():
        place = name.removeprefix(_PREFIX).removesuffix(_TOKEN_ROW)
        tokens = indices[place.rpartition(".")[2]] if isinstance(indices, dict) else indices
        if max(tokens) >= network.get_input_embeddings().weight.shape[0]:
            network.resize_token_embeddings(max(tokens) + 1, mean_resizing=False)
        network.get_submodule(place).weight[tokens] = row.to(network.get_submodule(place).weight)
