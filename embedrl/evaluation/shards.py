"""The files of a cache of vectors: vectors in order, with a checksum and what was left out as bad."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from embedrl.data.on_bad import BadSample
from embedrl.errors import DataError, unreadable
from embedrl.utils.atomic_files import replacing

CHECKSUM = "crc32"
LEFT_OUT = "left_out"


def metadata_of(vectors: Tensor, left_out: Mapping[int, BadSample]) -> dict[str, str]:
    """What stands beside the vectors of a file; a bad side's message without its name, which another task gives it."""
    bad = {row: [one.cause, one.message.removeprefix(f"{one.dataset}/{one.id}: ")] for row, one in left_out.items()}
    return {CHECKSUM: checksum(vectors)} | ({LEFT_OUT: json.dumps(bad)} if bad else {})


def left_out_of(path: Path) -> dict[int, tuple[str, str]]:
    """The bad sides of a file by row: cause and message."""
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get(LEFT_OUT, "{}")
    return {int(row): (cause, what) for row, (cause, what) in json.loads(told).items()}


def read_shard(path: Path, rows: int) -> Tensor:
    """The vectors of one file, `[rows, dim]`, without those of bad sides.

    Args:
        path: The file.
        rows: Number of its sides, bad ones included.

    Raises:
        DataError: If the file is broken, or holds other vectors than were written to it.
    """
    with unreadable(f"{path}: broken vectors"), safe_open(path, framework="pt") as file:
        vectors: Tensor = file.get_tensor("vectors")
        metadata = file.metadata() or {}
        written, left_out = metadata.get(CHECKSUM), len(json.loads(metadata.get(LEFT_OUT, "{}")))
    if vectors.dtype != torch.float32 or vectors.ndim != 2 or len(vectors) != rows - left_out:
        kind = f"{str(vectors.dtype).removeprefix('torch.')} {list(vectors.shape)}"
        raise DataError(f"{path}: broken vectors ({kind}, not float32 [{rows - left_out}, ...])")
    if written != checksum(vectors):
        raise DataError(f"{path}: broken vectors ({'without a' if written is None else 'another'} checksum)")
    return vectors


def checksum(vectors: Tensor) -> str:
    """The CRC-32 of a tensor's bytes; it finds every change of a few bits."""
    return f"{zlib.crc32(vectors.contiguous().numpy().data):08x}"


def write_shard(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; several processes may."""
    with replacing(path, sync=True, shared=True) as part:
        part.write_bytes(content)
