"""Merging the weights of exported models of one architecture, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft.utils.merge_utils import ties
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.adapter_merging import check_adapter_method, is_adapter, merge_adapters
from embedrl.models.checkpoint_files import missing_folder
from embedrl.models.late_interaction_files import is_late

Method = Literal["linear", "slerp", "ties", "svd"]

_NOT_COMPARED = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "is_matryoshka",
    "matryoshka_dimensions",
)
_NOT_COPIED = ("recipe.yaml", "scores.json")  # those of one of the models are not those of the merged one


def slerp(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of two tensors as vectors; linear if they are nearly parallel, or one is zero.

    Source: Shoemake 1985; used for model weights by mergekit (arXiv 2403.13257).

    Args:
        first: Any shape.
        second: The same shape.
        weight: Share of `second`, 0..1.
    """
    a, b = first.flatten().double(), second.flatten().double()
    norms = a.norm() * b.norm()
    if norms == 0 or abs(cosine := torch.dot(a, b) / norms) > 0.9995:
        return (1 - weight) * first + weight * second
    angle = torch.arccos(cosine)
    mixed = torch.sin((1 - weight) * angle) / torch.sin(angle) * a + torch.sin(weight * angle) / torch.sin(angle) * b
    return mixed.view_as(first).to(first.dtype)


def merge_folders(
    models: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    method: Method = "linear",
    base: Path | None = None,
    density: float = 0.2,
) -> None:
    """Write a model whose weights are those of several models, merged; everything else is the first one's.

    Adapters make an adapter, see `merge_adapters`. Of whole models, one file of weights is in memory at a time; tensors
    are computed in float32 and stored in the first model's type.

    Args:
        models: Exported folders of one architecture, or adapters of one base.
        weights: Weight of each.
        out: The folder to write; exists already and is empty.
        method: `linear`, the weighted sum; `slerp` between two models, on the sphere, by their weights' ratio; `ties`,
            the models' differences from `base`, trimmed and without conflicting signs (arXiv 2306.01708, by peft); of
            adapters `linear`, `ties`, or `svd`.
        base: The model that all of them were trained from; `ties` of whole models needs it.
        density: `ties`: share of each difference's largest values that are kept.

    Raises:
        CheckpointError: If a folder is no model, or two do not fit together.
        ConfigError: If method, weights and models do not fit.
    """
    check_method(models, weights, method, base, density)
    for folder in models:
        if is_late(str(folder)):
            raise CheckpointError(f"{folder}: gives one vector a token (late interaction): such models are not merged")
    everyone = [*models, *([base] if base is not None and method == "ties" else [])]
    for folder in everyone:
        if not folder.is_dir():
            raise CheckpointError(missing_folder(str(folder)))
    if all(map(is_adapter, models)):
        merge_adapters(models, weights, out, method, density)
        return
    for folder in everyone:
        if is_adapter(folder):
            raise CheckpointError(f"{folder}: a LoRA adapter; export it merged (`embedrl export` without --adapter)")
    for other in everyone[1:]:
        _check_alike(models[0], other)
    files = [_index(folder) for folder in everyone]
    for folder, index in zip(everyone[1:], files[1:], strict=True):
        _check_names(models[0], files[0], folder, index)
    merge = _merge(method, weights, density)
    for name in sorted({path.name for path in files[0].values()}):
        tensors = {
            key: _one(key, [(folder, index[key]) for folder, index in zip(everyone, files, strict=True)], merge)
            for key, path in files[0].items()
            if path.name == name
        }
        save_file(tensors, out / name, metadata={"format": "pt"})
    for path in models[0].iterdir():
        if path.suffix != ".safetensors" and path.name not in _NOT_COPIED:
            copy: Callable[..., object] = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, out / path.name)


def check_method(
    models: Sequence[Path], weights: Sequence[float], method: Method, base: Path | None, density: float
) -> None:
    """Check that method, weights, number and kind of models fit.

    Raises:
        ConfigError: If they do not.
    """
    count = len(models)
    if count < 2:
        raise ConfigError(f"{count} models: give two or more exported folders")
    if len(weights) != count:
        raise ConfigError(f"--weights has {len(weights)} numbers for {count} models: give one for each")
    if not sum(weights) > 0 or any(not weight >= 0 for weight in weights):
        raise ConfigError(f"--weights {list(weights)}: give 0 or more, not all 0")
    if not 0 < density <= 1:
        raise ConfigError(f"--density is {density}: give a share above 0, at most 1")
    if models and all(map(is_adapter, models)):
        check_adapter_method(method, base)
        return
    if method == "svd":
        raise ConfigError("--method svd merges adapters (`embedrl export --adapter true`): give linear, slerp or ties")
    if method == "slerp" and count != 2:
        raise ConfigError(f"--method slerp takes two models, not {count}: use linear, or merge them one after another")
    if method == "ties" and base is None:
        raise ConfigError("--method ties compares with the model that all were trained from: give it as --base")


def _merge(method: Method, weights: Sequence[float], density: float) -> Callable[[Sequence[Tensor]], Tensor]:
    """A function of the models' tensors of one name (and, for `ties`, the base's at the end)."""
    if method == "slerp":
        share = weights[1] / sum(weights)
        return lambda tensors: slerp(tensors[0], tensors[1], share)
    if method == "ties":
        return partial(_ties, weights=torch.tensor(weights), density=density)
    return lambda tensors: sum((w * tensor for w, tensor in zip(weights, tensors, strict=True)), torch.zeros(()))


def _ties(tensors: Sequence[Tensor], weights: Tensor, density: float) -> Tensor:
    *models, base = tensors
    merged: Tensor = ties([tensor - base for tensor in models], weights, density)
    return base + merged


def _one(key: str, places: Sequence[tuple[Path, Path]], merge: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """The merged tensor of one name."""
    tensors = [_read(path, key) for _, path in places]
    for (folder, _), tensor in zip(places, tensors, strict=True):
        if tensor.shape != tensors[0].shape:
            raise CheckpointError(
                f"{folder}: {key} is {list(tensor.shape)}, in {places[0][0]} {list(tensors[0].shape)}: only "
                "models of one architecture can be merged"
            )
    if not tensors[0].is_floating_point():
        return tensors[0]
    return merge([tensor.float() for tensor in tensors]).to(tensors[0].dtype).contiguous()


def _read(path: Path, key: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(key)
            return tensor
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot read {key} ({error}): export the model again") from error


def _index(folder: Path) -> dict[str, Path]:
    """Where each tensor of a model lies."""
    index: dict[str, Path] = {}
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files or not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no model with config.json and safetensors: give a folder of `embedrl export`")
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                index |= dict.fromkeys(file.keys(), path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: broken ({error}): export the model again") from error
    return index


def _check_names(first: Path, names: dict[str, Path], folder: Path, others: dict[str, Path]) -> None:
    odd = sorted(names.keys() ^ others.keys())
    if odd:
        owner = first if odd[0] in names else folder
        raise CheckpointError(
            f"{folder}: other weights than {first}, such as {odd[0]}, which only {owner} has: only models of one "
            "architecture can be merged"
        )


def _check_alike(first: Path, second: Path) -> None:
    """Compare two configurations, `<emb>` included."""
    one, other = ({k: v for k, v in _config(folder).items() if k not in _NOT_COMPARED} for folder in (first, second))
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            raise CheckpointError(
                f"{second}: config.json has another {name} than {first} ({_short(other.get(name))}, not "
                f"{_short(one.get(name))}): only models of one architecture can be merged"
            )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no config.json: give a folder of `embedrl export`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: broken ({error}): export the model again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a configuration: export the model again")
    return content


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
