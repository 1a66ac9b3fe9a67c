"""The files of a cache of vectors: vectors in order, with a checksum and what was left out as bad."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from embedrl.data.on_bad import BadSample
from embedrl.errors import DataError, unreadable
from embedrl.losses.maxsim import token_mask
from embedrl.utils.atomic_files import replacing

CHECKSUM = "crc32"
OFFSETS = "offsets"
LEFT_OUT = "left_out"


def metadata_of(content: Mapping[str, Tensor], left_out: Mapping[int, BadSample]) -> dict[str, str]:
    """What stands beside the tensors of a file (see `packed`).

    The message of a bad side comes without its name, which another task gives it.
    """
    bad = {row: [one.cause, one.message.removeprefix(f"{one.dataset}/{one.id}: ")] for row, one in left_out.items()}
    return {CHECKSUM: checksum(content["vectors"], content.get(OFFSETS))} | ({LEFT_OUT: json.dumps(bad)} if bad else {})


def left_out_of(path: Path) -> dict[int, tuple[str, str]]:
    """The bad sides of a file by row: cause and message."""
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get(LEFT_OUT, "{}")
    return {int(row): (cause, what) for row, (cause, what) in json.loads(told).items()}


def read_shard(path: Path, rows: int) -> Tensor:
    """The vectors of one file, `[rows, dim]` or `[rows, tokens, dim]`, without those of bad sides.

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
        offsets = file.get_tensor(OFFSETS) if OFFSETS in file.keys() else None  # noqa: SIM118 (no mapping)
    count = len(vectors) if offsets is None else len(offsets) - 1
    if vectors.dtype != torch.float32 or vectors.ndim != 2 or count != rows - left_out:
        kind = f"{str(vectors.dtype).removeprefix('torch.')} {list(vectors.shape)}"
        raise DataError(f"{path}: broken vectors ({kind}, not float32 [{rows - left_out}, ...])")
    if written != checksum(vectors, offsets):
        raise DataError(f"{path}: broken vectors ({'without a' if written is None else 'another'} checksum)")
    if offsets is None:
        return vectors
    if not count:  # all of them are bad
        return vectors[:, None]
    return pad_sequence(list(torch.split(vectors, offsets.diff().tolist())), batch_first=True)


def packed(vectors: Tensor) -> dict[str, Tensor]:
    """What a file holds: vectors `[rows, dim]` as they are; of token vectors those of all rows behind one another.

    Args:
        vectors: `[rows, dim]`, or `[rows, tokens, dim]` padded with zeros.

    Returns:
        `vectors`, `[rows or tokens, dim]`, and for tokens `offsets`, `[rows + 1]`: where each row begins, and the end.
    """
    if vectors.ndim != 3:
        return {"vectors": vectors}
    mask = token_mask(vectors)
    return {"vectors": vectors[mask], OFFSETS: functional.pad(mask.sum(1).cumsum(0), (1, 0))}


def checksum(vectors: Tensor, offsets: Tensor | None = None) -> str:
    """The CRC-32 of the bytes of what a file holds; it finds every change of a few bits."""
    value = zlib.crc32(vectors.contiguous().numpy().data)
    return f"{value if offsets is None else zlib.crc32(offsets.contiguous().numpy().data, value):08x}"


def write_shard(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; several processes may."""
    with replacing(path, sync=True, shared=True) as part:
        part.write_bytes(content)
