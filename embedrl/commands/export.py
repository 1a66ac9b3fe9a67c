"""`embedrl export`: from a training checkpoint to a folder that other libraries load."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import torch
from lightning.pytorch.cli import instantiate_module

from embedrl.distributed.sharded_checkpoint import is_sharded, read_rest, read_weights, reading
from embedrl.errors import CheckpointError, ConfigError
from embedrl.rl.module import EGRLModule
from embedrl.training.base import TrainingModule
from embedrl.training.checkpoints import check_classes
from embedrl.training.embedder import EmbedderModule
from embedrl.training.reasoner import ReasonerModule
from embedrl.utils.atomic_files import replacing_folder
from embedrl.utils.console import escaped


def load_module(checkpoint: Path) -> TrainingModule:
    """The module of a training checkpoint, on the CPU, in evaluation mode, as it was configured.

    Args:
        checkpoint: The file or the folder that `embedrl fit` wrote.

    Raises:
        CheckpointError: If it is missing, broken, or none of embedrl's.
    """
    if not checkpoint.exists():
        raise CheckpointError(f"--checkpoint {checkpoint}: no such file; give the .ckpt that `embedrl fit` wrote")
    if not is_sharded(checkpoint) and not zipfile.is_zipfile(checkpoint):
        raise CheckpointError(f"--checkpoint {checkpoint}: not a checkpoint, or cut short; give another one")
    with reading(checkpoint, "--checkpoint "):
        if is_sharded(checkpoint):
            saved = read_rest(checkpoint)
        else:
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        arguments = saved["hyper_parameters"]
        check_classes(saved, f"--checkpoint {checkpoint}")
        # The argument that only one of the modules has identifies it.
        kinds: dict[str, type[TrainingModule]] = {
            "rewards": EGRLModule, "generator": ReasonerModule, "backbone": EmbedderModule
        }  # fmt: skip
        kind = next((cls for name, cls in kinds.items() if name in arguments), None)
        if kind is None:
            raise CheckpointError(f"--checkpoint {checkpoint}: neither an Embedder's nor a Reasoner's checkpoint")
        if is_sharded(checkpoint):
            module: TrainingModule = instantiate_module(
                kind, {k: v for k, v in arguments.items() if k != "_instantiator"}
            )
            module.configure_model()
            module.load_state_dict(read_weights(checkpoint))
        else:
            module = kind.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    return module.eval()


def export(checkpoint: Path, out: Path, adapter: bool = False) -> None:
    """Write the Embedder or the Reasoner of a training checkpoint as a folder that other libraries load.

    An Embedder's folder holds weights (safetensors), processor, `config.emb_token_ids`, and a chat template that ends
    every conversation at `<emb>`: transformers and sentence-transformers load it; an OpenCLIP backbone writes
    open_clip's own files. A Reasoner's is a plain checkpoint for `AutoModelForImageTextToText`.

    Args:
        checkpoint: The `.ckpt` that `embedrl fit` wrote: a file, or a folder with shards.
        out: The folder to write; must be new or empty. It is there when it is whole.
        adapter: Write the LoRA adapter alone, in peft's layout, instead of merging it into the weights.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If `out` holds something already, or there is no adapter.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: already there; give a new folder")
    module = load_module(checkpoint)
    with replacing_folder(out) as part:
        module.trained_model.export(part, merge=not adapter)
    sys.stdout.write(escaped(f"Wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}\n"))
