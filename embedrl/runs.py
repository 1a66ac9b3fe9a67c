"""Where a run keeps its files, how a checkpoint gets there whole, and how `--ckpt_path last` finds it.

```
<trainer.default_root_dir>/          runs/<recipe>
  version_0/                         one `fit`; a resumed one goes on in the same folder
    config.yaml                      the whole configuration, as run
    provenance.json                  versions, seed, device, wall time of every start
    events.out.tfevents.*            curves, grids, projector
    retrieval_grid/*.png             the grids of the last validation
    checkpoints/{last,best}.ckpt
  validate_0/ test_0/ predict_0/     the other commands
```
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from embedrl.errors import CheckpointError

_NAMES = ("last", "best")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a killed run leaves the checkpoint before, not half of one.

    Lightning's own writes to the system's temporary folder, from where a file is copied, not renamed, when that is on
    another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one checkpoint; an object store's paths (`s3://...`) are left to Lightning, they are atomic."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)


def find_checkpoint(name: str, root: Path) -> str:
    """The file or folder that `--ckpt_path` means.

    Args:
        name: A path or URL, or `last` / `best`: the newest checkpoint of that name under `root`.
        root: `trainer.default_root_dir`.

    Returns:
        The path, or `name` unchanged if it is a URL.

    Raises:
        CheckpointError: If there is none.
    """
    if name in _NAMES:
        found = [path for path in root.rglob(f"{name}.ckpt") if _is_complete(path)]
        if not found:
            raise CheckpointError(
                f"--ckpt_path {name}: no {name}.ckpt under {root} (trainer.default_root_dir); "
                "leave --ckpt_path out to start anew, or give a path"
            )
        return str(max(found, key=lambda path: path.stat().st_mtime_ns))
    if "://" not in name and not Path(name).exists():
        raise CheckpointError(f"--ckpt_path: no such file: {name}; give a path, `last` or `best`")
    return name


def version_of(checkpoint: str, root: Path) -> str | None:
    """The `version_N` folder under `root` that a checkpoint lies in; None if it lies elsewhere."""
    folder = Path(checkpoint).resolve().parent.parent
    return folder.name if folder.parent == root.resolve() and folder.name.startswith("version_") else None


def next_version(prefix: str, root: Path) -> str:
    """`prefix_N` with the lowest N above all those under `root`."""
    numbers = [int(path.name.rpartition("_")[2]) for path in root.glob(f"{prefix}_*") if path.name[-1].isdigit()]
    return f"{prefix}_{max(numbers, default=-1) + 1}"


def _is_complete(path: Path) -> bool:
    """A sharded checkpoint is a folder whose `.metadata` is written last."""
    return path.is_file() or (path / ".metadata").is_file()
