"""Folders of runs: a new one belongs to one run alone, and one process at a time writes to a run or an evaluation."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from embedrl.errors import ConfigError

LOCK = ".lock"
_held: dict[Path, int] = {}


def version_of(checkpoint: str, root: Path) -> str | None:
    """The `version_N` folder under `root` that a checkpoint lies in; None if it lies elsewhere."""
    folder = Path(checkpoint).resolve().parent.parent
    return folder.name if folder.parent == root.resolve() and _number(folder.name, "version") is not None else None


def next_version(prefix: str, root: Path) -> str:
    """`prefix_N` with the lowest N above all those under `root`; other names (`version_0_bak2`) do not count."""
    numbers = [_number(path.name, prefix) for path in root.glob(f"{prefix}_*")]
    return f"{prefix}_{max((number for number in numbers if number is not None), default=-1) + 1}"


def claim_version(prefix: str, root: Path) -> str:
    """Make the folder of a new run: no other that starts at the same time gets the same.

    Raises:
        ConfigError: If it cannot be made.
    """
    while True:
        name = next_version(prefix, root)
        try:
            (root / name).mkdir(parents=True)
        except FileExistsError:
            if not root.is_dir():
                raise ConfigError(f"--trainer.default_root_dir {root}: a file; give a folder") from None
            continue
        except OSError as error:
            raise ConfigError(f"--trainer.default_root_dir {root}: cannot be written ({error.strerror})") from error
        return name


def is_backup(path: Path, root: Path) -> bool:
    """Whether a file below `root` lies in a copy of a run (`version_0_bak`) or in a hidden folder: none of a run's."""
    parts = path.relative_to(root).parts[:-1]
    return any(part.startswith(".") or re.match(r"version_(?!\d+$)", part) for part in parts)


def lock_run(folder: Path) -> None:
    """Keep other processes from writing there, until this one ends or calls `unlock_run`.

    A process that is killed leaves no lock behind; its workers, who may live a little longer, hold none.

    Raises:
        ConfigError: If another process has locked it.
    """
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: `flock` would pass it on to forked workers
    except OSError as error:
        os.close(file)
        raise ConfigError(
            f"{folder}: another process writes there: wait for it or stop it; a training without --ckpt_path, and an "
            "evaluation with another --out, get folders of their own"
        ) from error
    _held[folder.resolve()] = file


def unlock_run(folder: Path) -> None:
    """Let other processes write there."""
    if (file := _held.pop(folder.resolve(), None)) is not None:
        os.close(file)


def discard_version(folder: Path) -> None:
    """Remove the folder of a run that has written nothing, and its lock."""
    unlock_run(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with suppress(OSError):  # something is there after all
        folder.rmdir()


def _number(name: str, prefix: str) -> int | None:
    match = re.fullmatch(rf"{re.escape(prefix)}_(\d+)", name, re.ASCII)
    return int(match[1]) if match else None
