"""`embedrl export`: from what was trained to a folder that other libraries load."""

from __future__ import annotations

import sys
from pathlib import Path

from embedrl.training.exporting import check_new, write_export
from embedrl.training.trained_model import load_module, load_trained, locate, training_figures
from embedrl.utils.console import escaped


def export(checkpoint: str, out: Path, adapter: bool = False) -> None:
    """Write an Embedder or a Reasoner as a folder that other libraries load.

    An Embedder's folder holds weights (safetensors), processor, `config.emb_token_ids`, and a chat template that ends
    every conversation at `<emb>`: transformers and sentence-transformers load it; an OpenCLIP backbone writes
    open_clip's own files. A Reasoner's is a plain checkpoint for `AutoModelForImageTextToText`. Each holds a model card
    (README.md) and `embedrl_config.json`, which keeps what other libraries have no place for.

    Args:
        checkpoint: What `embedrl fit` wrote: a `.ckpt` (a file, or a folder with shards) or the folder of a run, whose
            newest `last.ckpt` is taken; or what `embedrl export` wrote, such as an adapter that is to be merged.
        out: The folder to write; must be new or empty. It is there when it is whole.
        adapter: Write the LoRA adapter alone, in peft's layout, instead of merging it into the weights.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If `out` holds something already, or there is no adapter.
    """
    check_new(out, "--out")
    file = locate(checkpoint)  # of a run that goes on, the newest one may soon be another
    module = None if file is None else load_module(file)
    model = load_trained(checkpoint) if module is None else module.trained_model
    write_export(model, out, module, adapter, training_figures(file) if file is not None else None)
    sys.stdout.write(escaped(f"Wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}\n"))
