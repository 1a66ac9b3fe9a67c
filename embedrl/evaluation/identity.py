"""The identity of a model: the key under which its vectors and T-CoTs are cached."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embedrl.data.render import RenderOptions
from embedrl.models.backbone import Backbone
from embedrl.models.weights_hash import weights_hash
from embedrl.training.checkpoints import config_form
from embedrl.utils.input_files import visible
from embedrl.utils.public_names import public_path
from embedrl.utils.versions import package_versions, source_hash

CODE = ("types.py", "tcot", "data", "distributed", "models", "inference")
"""The packages whose code determines the vector of a side."""

_NOISE = ("jitter", "drop_evidence", "replace_evidence", "drop_tcot")  # used in training only
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # hashed as they are in memory


def model_identity(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """What a model's outputs depend on besides its input: weights, options, files, code, packages.

    Files and model folders named in its options are identified by their content, not by their location.

    Args:
        model: A `Backbone` or `Generator`, built.
        device: Where it computes.
    """
    packages = package_versions()
    source = inspect.getsourcefile(type(model))
    return {
        "weights": weights_hash(model),
        "options": _by_content(config_form(model)),
        "device": device.type,
        "code": source_hash(CODE),
        "class": hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else "",
        "packages": {name: packages.get(name) for name in ("torch", "torchvision", "transformers", "open_clip_torch")},
    }


def render_identity(options: RenderOptions) -> dict[str, Any]:
    """The options that determine how a side is rendered in an evaluation."""
    return {name: value for name, value in asdict(options).items() if name not in _NOISE}


def fingerprint(backbone: Backbone, options: RenderOptions) -> str:
    """What tells the vectors of a model from those of another, on any device: 32 hexadecimal digits.

    Unlike `model_identity` it leaves out the device, the packages and the type of the weights, whose vectors differ by
    rounding alone, and the place that the weights came from.

    Args:
        backbone: The Embedder, built.
        options: What it reads of a side.
    """
    return key_of(
        {
            "class": public_path(type(backbone)),
            "weights": weights_hash(backbone, by_value=True),
            "reading": backbone.reading_options(),
            "render": render_identity(options),
        }
    )


def key_of(identity: Mapping[str, Any]) -> str:
    """An identity as 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _by_content(value: Any) -> Any:
    """The options, the paths in them replaced by hashes of the files."""
    if isinstance(value, Mapping):
        return {key: _by_content(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_by_content(item) for item in value]
    if not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    if path.is_file():
        return f"file:{_file_hash(path)}"
    if path.is_dir() and any(path.glob("*config*.json")):  # a model's; `.` and `~` are folders too
        files = sorted(file for file in visible(path) if file.is_file() and file.suffix not in _WEIGHTS)
        return {file.name: _file_hash(file) for file in files}
    return value


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
