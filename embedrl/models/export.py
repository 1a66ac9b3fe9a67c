"""`embedrl export`: from a training checkpoint to a folder that other libraries load."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

from embedrl.errors import CheckpointError, ConfigError
from embedrl.models.embedder import EmbedderModule


def load_embedder(checkpoint: Path) -> EmbedderModule:
    """The Embedder of a training checkpoint, on the CPU, in evaluation mode, as it was configured.

    Raises:
        CheckpointError: If the file is missing, broken, or not an Embedder's.
    """
    if not checkpoint.is_file():
        raise CheckpointError(f"--checkpoint {checkpoint}: no such file; give the .ckpt that `embedrl fit` wrote")
    if not zipfile.is_zipfile(checkpoint):
        raise CheckpointError(f"--checkpoint {checkpoint}: not a checkpoint, or cut short; give another one")
    try:
        module = EmbedderModule.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"--checkpoint {checkpoint}: not an Embedder's checkpoint ({error})") from error
    return module.eval()


def export(checkpoint: Path, out: Path, adapter: bool = False) -> None:
    """Write the Embedder of a training checkpoint as a folder that transformers and sentence-transformers load.

    The folder holds weights (safetensors), processor, `config.emb_token_ids`, and a chat template that ends every
    conversation at `<emb>`; an OpenCLIP backbone writes open_clip's own files.

    Args:
        checkpoint: The `.ckpt` file that `embedrl fit` wrote.
        out: The folder to write; must be new or empty.
        adapter: Write the LoRA adapter alone, in peft's layout, instead of merging it into the weights.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If `out` holds something already, or there is no adapter.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: already there; give a new folder")
    module = load_embedder(checkpoint)
    module.configure_model()
    out.mkdir(parents=True, exist_ok=True)
    module.backbone.export(out, merge=not adapter)
    sys.stdout.write(f"Wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}\n")
