"""What a late-interaction Embedder adds to an exported folder: its projection, in sentence-transformers' layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from embedrl.errors import CheckpointError, unreadable

OPTIONS_FILE = "embedrl_late_interaction.json"
HEAD = "1_Dense"
_FORMAT = 1
_WEIGHT = "linear.weight"  # as sentence-transformers' Dense calls it


def is_late(path: str) -> bool:
    """Whether a folder holds a late-interaction Embedder."""
    return (Path(path).expanduser() / OPTIONS_FILE).is_file()


def read_late(path: str) -> dict[str, Any]:
    """The options of a folder's late-interaction Embedder: `dim`, `budget` and `pooling`.

    Raises:
        CheckpointError: If the file is broken, or of a later format.
    """
    file = Path(path).expanduser() / OPTIONS_FILE
    with unreadable(f"{file}: broken", "export the model again", CheckpointError):
        content = json.loads(file.read_text(encoding="utf-8"))
        options = {name: content[name] for name in ("dim", "budget", "pooling")}
        version = content["format"]
    if version != _FORMAT:
        raise CheckpointError(f"{file}: of format {version!r}, this version reads {_FORMAT}: update embedrl")
    return options


def read_head(path: str) -> Tensor:
    """The projection of a folder's late-interaction Embedder, `[dim, hidden size]`.

    Raises:
        CheckpointError: If it cannot be read.
    """
    file = Path(path).expanduser() / HEAD / "model.safetensors"
    with unreadable(f"{file}: cannot read the projection", "export the model again", CheckpointError):
        return load_file(file)[_WEIGHT]


def write_late(out: Path, head: Tensor, options: dict[str, Any], layout: bool) -> None:
    """Add the files to a folder that holds the exported backbone.

    Args:
        out: The folder.
        head: The projection, `[dim, hidden size]`.
        options: `dim`, `budget` and `pooling`.
        layout: Whether the folder has sentence-transformers' layout of one vector a side, to be changed.
    """
    (out / HEAD).mkdir(exist_ok=True)
    save_file({_WEIGHT: head.detach().cpu().contiguous()}, out / HEAD / "model.safetensors", {"format": "pt"})
    files: dict[str, Any] = {
        OPTIONS_FILE: {"format": _FORMAT, **options},
        f"{HEAD}/config.json": {
            "in_features": head.shape[1],
            "out_features": head.shape[0],
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
            "module_input_name": "token_embeddings",
            "module_output_name": "token_embeddings",
        },
    }
    if layout:
        shutil.rmtree(out / "1_Pooling")  # the layout of one vector a side
        package = "sentence_transformers"
        kinds = {
            "": f"{package}.base.modules.transformer.Transformer",
            HEAD: f"{package}.base.modules.dense.Dense",
            "2_Normalize": f"{package}.base.modules.normalize.Normalize",
            "3_MultiVectorMask": f"{package}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        }
        files |= {
            "modules.json": [
                {"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())
            ],
            "config_sentence_transformers.json": {
                "similarity_fn_name": "meanmaxsim",
                "model_type": "MultiVectorEncoder",
                "prompts": {"query": "", "document": ""},
            },
            "2_Normalize/config.json": {"module_input_name": "token_embeddings"},
            "3_MultiVectorMask/config.json": {"skiplist_words": [], "keep_only_token_ids": None},
        }
    for name, content in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
