"""Merging LoRA adapters of one base by peft's own `add_weighted_adapter`, without the base's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from embedrl.errors import CheckpointError, ConfigError, listed, unreadable
from embedrl.models.adapters import CONFIG_FILE, EXPERTS, WEIGHTS_FILE, adapter_base

_PREFIX = "base_model.model."
_TOKENS, _TOKEN_ROW = "trainable_token_indices", ".token_adapter.trainable_tokens_delta"
_USUAL: dict[str, object] = {"target_parameters": None, "modules_to_save": None, "rank_pattern": {}, "bias": "none"}
_NOT_COPIED = ("scores.json", "recipe.yaml", WEIGHTS_FILE, CONFIG_FILE)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, not a whole model."""
    return (folder / CONFIG_FILE).is_file()


def merge_adapters(
    adapters: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    method: str = "linear",
    density: float = 0.2,
) -> None:
    """Write an adapter made of several of the same base; everything but its weights is the first one's.

    peft merges (`LoraModel.add_weighted_adapter`), on bare linear layers of the adapters' shapes: a base of any family
    and size is neither read nor needed. Rows of tokens that the adapters bring are averaged by weight.

    Args:
        adapters: Folders in peft's layout, such as those of `embedrl export --adapter true`.
        weights: Weight of each.
        out: The folder to write; exists already and is empty.
        method: peft's `linear`, which merges the two factors of each update; `ties`, the same without small values
            and conflicting signs; `svd`, the updates' weighted sum, cut down to the largest rank among the adapters.
        density: `ties`: share of each factor's largest values that are kept.

    Raises:
        CheckpointError: If a folder is no LoRA adapter, or two do not fit together.
    """
    configs = [_config(folder) for folder in adapters]
    for folder, config in zip(adapters[1:], configs[1:], strict=True):
        _check_alike(adapters[0], configs[0], folder, config, method)
    tensors = [_tensors(folder) for folder in adapters]
    layers = [_layers(folder, one) for folder, one in zip(adapters, tensors, strict=True)]
    for folder, one in zip(adapters[1:], layers[1:], strict=True):
        _check_layers(adapters[0], layers[0], folder, one)
    merged = _merged(configs, tensors, layers[0], weights, method, density)
    rows = [{name: tensor for name, tensor in one.items() if name.endswith(_TOKEN_ROW)} for one in tensors]
    for name, first in rows[0].items():
        shares = torch.tensor(weights) / sum(weights)
        mean = sum((share * one[name].float() for share, one in zip(shares, rows, strict=True)), torch.zeros(()))
        merged[name] = mean.to(first.dtype)
    rank = next(tensor.shape[0] for name, tensor in merged.items() if "lora_A" in name)
    changed = {"r": rank, "lora_alpha": rank, "alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False}
    (out / CONFIG_FILE).write_text(json.dumps(configs[0] | changed, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, out / WEIGHTS_FILE, {"format": "pt"})
    for path in adapters[0].iterdir():
        if path.name not in _NOT_COPIED:
            copy: Callable[..., object] = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, out / path.name)


def check_adapter_method(method: str, base: Path | None) -> None:
    """Check that the flags of a merge fit adapters.

    Raises:
        ConfigError: If they do not.
    """
    if method == "slerp":
        raise ConfigError("--method slerp merges whole models: for adapters give linear, ties or svd")
    if base is not None:
        raise ConfigError(f"--base {base}: adapters name their base themselves; leave it out")


def _config(folder: Path) -> dict[str, Any]:
    """An adapter's configuration.

    Raises:
        CheckpointError: If it is broken, names no base, or is of a kind that peft cannot merge so.
    """
    adapter_base(str(folder))
    path = folder / CONFIG_FILE
    with unreadable(f"{path}: not an adapter's configuration", "save the adapter again", CheckpointError):
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, rank = config["peft_type"], int(config["r"])
    if kind == EXPERTS:
        raise CheckpointError(
            f"{folder}: an adapter with experts, whose routers choose token by token: such adapters are not merged"
        )
    if kind != "LORA" or rank < 1:
        raise CheckpointError(f"{folder}: a {kind} adapter; only LoRA can be merged")
    odd = [name for name, usual in _USUAL.items() if config.get(name) not in (usual, None)]
    odd += [name for name, used in config.items() if name.startswith("use_") and name != "use_rslora" and used]
    if odd:
        raise CheckpointError(
            f"{folder}: an adapter with {odd[0]} {config[odd[0]]}, which cannot be merged with another: export it "
            "merged (`embedrl export` without --adapter) and merge whole models"
        )
    return config


def _check_alike(first: Path, one: dict[str, Any], second: Path, other: dict[str, Any], method: str) -> None:
    """Compare two configurations.

    Raises:
        CheckpointError: If base, rank or tokens differ.
    """
    bases = [Path(str(config["base_model_name_or_path"])).expanduser() for config in (one, other)]
    if bases[0] != bases[1] and not (bases[0].exists() and bases[0].resolve() == bases[1].resolve()):
        raise CheckpointError(
            f"{second}: an adapter of another base than {first} ({bases[1]}, not {bases[0]}): only adapters of one "
            "base can be merged"
        )
    if method != "svd" and one["r"] != other["r"]:
        raise CheckpointError(
            f"{second}: its rank is {other['r']}, that of {first} is {one['r']}: --method svd merges unlike ranks"
        )
    if one.get(_TOKENS) != other.get(_TOKENS):
        raise CheckpointError(
            f"{second}: brings rows of other tokens than {first} ({other.get(_TOKENS)}, not {one.get(_TOKENS)}): only "
            "adapters of one base and kind can be merged"
        )


def _tensors(folder: Path) -> dict[str, Tensor]:
    with unreadable(f"{folder}: cannot read the adapter", f"it needs {WEIGHTS_FILE}", CheckpointError):
        return load_file(folder / WEIGHTS_FILE)


def _layers(folder: Path, tensors: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Name of each adapted layer, with its numbers of inputs and outputs.

    Raises:
        CheckpointError: If a tensor is no part of a linear layer's update.
    """
    layers = {}
    for name in tensors:
        if name.endswith(_TOKEN_ROW):
            continue
        layer, _, part = name.removeprefix(_PREFIX).rpartition(".lora_")
        pair = [tensors.get(f"{_PREFIX}{layer}.lora_{factor}.weight") for factor in "AB"]
        if part not in ("A.weight", "B.weight") or any(factor is None or factor.dim() != 2 for factor in pair):
            raise CheckpointError(f"{folder}: {name} belongs to no linear layer's update: export the adapter merged")
        inputs, outputs = (tensor for tensor in pair if tensor is not None)
        layers[layer] = (inputs.shape[1], outputs.shape[0])
    if not layers:
        raise CheckpointError(f"{folder}: {WEIGHTS_FILE} holds no update: export the adapter again")
    return layers


def _check_layers(
    first: Path, one: dict[str, tuple[int, int]], second: Path, other: dict[str, tuple[int, int]]
) -> None:
    """Compare what two adapters adapt.

    Raises:
        CheckpointError: If layers or their shapes differ.
    """
    if odd := sorted(one.keys() ^ other.keys()):
        raise CheckpointError(
            f"{second}: adapts other layers than {first}, such as {listed(odd[:1])}: only adapters of the same layers "
            "(lora.scope) can be merged"
        )
    for name, shape in one.items():
        if shape != other[name]:
            raise CheckpointError(
                f"{second}: {name} has {other[name][0]} inputs and {other[name][1]} outputs, in {first} {shape[0]} and "
                f"{shape[1]}: only adapters of one base can be merged"
            )


def _merged(
    configs: Sequence[dict[str, Any]],
    tensors: Sequence[dict[str, Tensor]],
    layers: dict[str, tuple[int, int]],
    weights: Sequence[float],
    method: str,
    density: float,
) -> dict[str, Tensor]:
    """The merged updates, by their names in an adapter's file."""
    names = [f"adapter{i}" for i in range(len(configs))]
    model: Any = None
    for name, config, saved in zip(names, configs, tensors, strict=True):
        options = LoraConfig(
            r=config["r"],
            lora_alpha=config["lora_alpha"],
            alpha_pattern=config.get("alpha_pattern") or {},
            use_rslora=bool(config.get("use_rslora")),
            target_modules=list(layers),
        )
        if model is None:
            model = get_peft_model(_skeleton(layers), options, adapter_name=name)
        else:
            model.add_adapter(name, options)
        updates = {key: tensor.float() for key, tensor in saved.items() if not key.endswith(_TOKEN_ROW)}
        set_peft_model_state_dict(model, updates, adapter_name=name)
    model.add_weighted_adapter(names, list(weights), "merged", combination_type=method, density=density)
    dtypes = {name: tensor.dtype for name, tensor in tensors[0].items()}
    state: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name="merged")
    return {name: tensor.detach().to(dtypes[name]) for name, tensor in state.items()}


def _skeleton(layers: dict[str, tuple[int, int]]) -> nn.Module:
    """A module with linear layers of these names and shapes, whose weights take no memory: one zero for all."""
    root = nn.Module()
    for name, (inputs, outputs) in layers.items():
        *parents, last = name.split(".")
        place = root
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        layer = nn.Linear(inputs, outputs, bias=False, device="meta")
        layer.weight = nn.Parameter(torch.zeros(()).expand(outputs, inputs), requires_grad=False)
        place.add_module(last, layer)
    return root
