"""Training checkpoints that are folders: every process writes its share of them (torch.distributed.checkpoint)."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from embedrl.errors import CheckpointError, EmbedRLError, StorageError, said, unreadable

REST = "meta.pt"
"""The file of everything but the tensors of model and optimizer, as Lightning writes it."""
MODEL = "state_dict"
ASIDE = ".old"
"""Suffix of the previous checkpoint while another one replaces it."""


def is_sharded(path: Path) -> bool:
    """Whether a path is a whole sharded checkpoint: both files are written after the shards."""
    return (path / ".metadata").is_file() and (path / REST).is_file()


def replace_checkpoint(part: Path, path: Path) -> None:
    """Replace a checkpoint by a finished one; either may be a folder or a file.

    If the run is killed in between and no checkpoint has the name, the previous one is there with the suffix `.old`.
    """
    if (rest := part / REST).is_file():  # torch has written the shards to disk
        with rest.open("rb+") as file:
            os.fsync(file.fileno())
    aside = path.with_name(path.name + ASIDE)
    if path.exists():
        remove(aside)
        path.rename(aside)
    part.rename(path)
    remove(aside)


@contextmanager
def reading(path: Path, flag: str = "") -> Iterator[None]:
    """Say in one line that a checkpoint cannot be read.

    Args:
        path: The checkpoint.
        flag: What names it on the command line, with a space behind.

    Raises:
        CheckpointError: If what is inside raises.
    """
    try:
        yield
    except EmbedRLError:
        raise
    except Exception as error:  # readers raise nearly anything on broken files
        whole = zipfile.is_zipfile(path) if path.is_file() else path.is_dir()
        what = "not a checkpoint of embedrl" if whole else "not a checkpoint, or cut short"
        raise CheckpointError(f"{flag}{path}: {what} ({said(error)}); give another one") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line that a checkpoint cannot be written, and what is left.

    Args:
        path: The checkpoint.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:  # torch's writers tell of a full disk in their ways
        left = "; the checkpoint before is kept, --ckpt_path last goes on from there" if path.exists() else ""
        raise StorageError(f"{path}: cannot be written ({said(error)}): make room on that disk{left}") from error


def read_rest(path: Path) -> dict[str, Any]:
    """Steps, schedules, hyperparameters, callbacks: everything but tensors.

    Raises:
        CheckpointError: If it cannot be read.
    """
    with reading(path / REST):
        rest: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=True)
    return rest


def saved_keys(path: Path) -> set[str]:
    """Names of the model's tensors in a sharded checkpoint."""
    names = _metadata(path).state_dict_metadata
    return {name.removeprefix(f"{MODEL}.") for name in names if name.startswith(f"{MODEL}.")}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The model's tensors of a sharded checkpoint, put together in this process."""
    prefix, entries = f"{MODEL}.", _metadata(path).state_dict_metadata
    weights = {
        name.removeprefix(prefix): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as asked
        load({MODEL: weights}, storage_reader=ShardReader(path), planner=ShardPlanner(), no_dist=True)
    return weights


def load_shards(path: Path, module: nn.Module, optimizers: list[Optimizer]) -> None:
    """Read each process's share into a sharded model and its optimizers. All processes call together.

    Args:
        path: A checkpoint, written by any number of processes.
        module: The LightningModule, sharded; its frozen parameters stay as they are.
        optimizers: Its optimizers.
    """
    keys = saved_keys(path)
    # Not copies: the shards themselves, which `load` writes to.
    shards = {name: value for name, value in get_model_state_dict(module).items() if name in keys}
    load({MODEL: shards}, storage_reader=ShardReader(path), planner=ShardPlanner())
    for index, optimizer in enumerate(optimizers):
        state = {f"optimizer_{index}": get_optimizer_state_dict(module, optimizer)}
        load(state, storage_reader=ShardReader(path), planner=ShardPlanner())
        options = StateDictOptions(cpu_offload=True)
        set_optimizer_state_dict(module, optimizer, state[f"optimizer_{index}"], options=options)


class ShardReader(FileSystemReader):
    """Torch's reader of shards, restricted to the classes that a table of contents consists of.

    The table is a pickle, which could run any code otherwise.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents.

        Raises:
            CheckpointError: If it is broken, or none.
        """
        file = Path(self.path) / ".metadata"
        with unreadable(f"{file}: not a sharded checkpoint's", "give another one", CheckpointError):
            metadata = _TableUnpickler(io.BytesIO(file.read_bytes())).load()
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{file}: not a sharded checkpoint's; give another one")
        return metadata


class ShardPlanner(DefaultLoadPlanner):
    """Torch's planner, but with `weights_only` for values that are no tensors (an optimizer's options)."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value into its place."""
        name = read_item.dest_index.fqn
        self.state_dict[name] = torch.load(value, weights_only=True)
        set_element(self.original_state_dict, self.mappings[name], self.state_dict[name])


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not dtype and name not in _TABLE.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


_TABLE = {
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "pathlib": ("PosixPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath"),  # their name in Python 3.13
}


def _metadata(path: Path) -> Metadata:
    return ShardReader(path).read_metadata()


def remove(path: Path) -> None:
    """Delete a folder, a file, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
