"""The folder of a run: its files, atomic checkpoints, and how `--ckpt_path last` finds one.

```
<trainer.default_root_dir>/          runs/<recipe>
  version_0/                         one `fit`; a resumed run continues in the same folder
    config.yaml                      the whole configuration, as run
    provenance.json                  versions, seed, device, wall time of every start
    events.out.tfevents.*            curves, grids, projector
    retrieval_grid/*.png             the grids of the last validation
    checkpoints/{last,best}.ckpt     files, or folders with the shards of every process
  validate_0/ test_0/ predict_0/     the other commands
    vectors/rank_*.parquet           what `predict` embedded
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from embedrl.distributed.sharded_checkpoint import ASIDE, is_sharded, reading, writing
from embedrl.errors import CheckpointError
from embedrl.training.run_folder import is_backup
from embedrl.training.stopping import LastCheckpoint
from embedrl.utils.atomic_files import replacing
from embedrl.utils.ranges import check_least

_NAMES = ("last", "best")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a killed run leaves the previous checkpoint, not a partial one.

    Lightning's own class writes to the system's temporary folder; if that is on another disk, the file is copied, not
    renamed.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one checkpoint; an object store's paths (`s3://...`) are left to Lightning, they are atomic.

        Raises:
            StorageError: If the disk refuses; the checkpoint before is kept.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target, sync=True) as part:
                torch.save(checkpoint, part)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read one checkpoint, by default with `weights_only`, so that it cannot run code.

        Raises:
            CheckpointError: If it is a folder, which other strategies than FSDP2's cannot spread over their processes,
                or holds more than tensors and plain values.
        """
        if Path(path).is_dir():
            raise CheckpointError(
                f"--ckpt_path {path}: a sharded checkpoint: resume with trainer.strategy.class_path "
                "embedrl.distributed.FSDP2Strategy (on any number of processes), or `embedrl export` it"
            )
        with reading(Path(path), "--ckpt_path "):
            saved = super().load_checkpoint(path, map_location, weights_only is not False)
            if not isinstance(saved, dict) or "state_dict" not in saved:
                raise ValueError("it holds no state_dict")
        return saved


@dataclass(frozen=True)
class CheckpointOptions:
    """Which checkpoints a run keeps: `last.ckpt`, and `best.ckpt` if `monitor` is set.

    Attributes:
        every_n_steps: Optimizer steps between two `last.ckpt`; a killed run loses at most this many, or one batch where
            a batch makes more steps than that (`inner_epochs` of EG-RL): checkpoints are written between batches.
        monitor: The logged quantity that decides which validation was best, such as `val/hit@1`; None keeps no best.
        mode: Whether more or less of it is better.
    """

    every_n_steps: int = 100
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        check_least(1, {"checkpoint.every_n_steps": self.every_n_steps})

    def callbacks(self) -> list[ModelCheckpoint]:
        """The callbacks that write them: the best one's first, so that `last.ckpt` stores which one is best."""
        last = LastCheckpoint(self.every_n_steps)
        if self.monitor is None:
            return [last]
        best = ModelCheckpoint(filename="best", monitor=self.monitor, mode=self.mode, enable_version_counter=False)
        return [best, last]


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
        checkpoints = [path for path in root.rglob(f"{name}.ckpt") if _is_whole(path) and not is_backup(path, root)]
        # A checkpoint that was put aside by a run killed while replacing it.
        aside = (path for path in root.rglob(f"{name}.ckpt{ASIDE}") if _is_whole(path) and not is_backup(path, root))
        checkpoints += [path for path in aside if not path.with_suffix("").exists()]
        if not checkpoints:
            raise CheckpointError(
                f"--ckpt_path {name}: no {name}.ckpt under {root} (trainer.default_root_dir); "
                "leave --ckpt_path out to start anew, or give a path"
            )
        return str(max(checkpoints, key=lambda path: path.stat().st_mtime_ns))
    if "://" not in name and not Path(name).exists():
        raise CheckpointError(f"--ckpt_path: no such file: {name}; give a path, `last` or `best`")
    return name


def _is_whole(checkpoint: Path) -> bool:
    """Whether it is complete: a file, or a folder whose last file has been written."""
    return checkpoint.is_file() or is_sharded(checkpoint)
