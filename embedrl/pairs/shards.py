"""`from_webdataset`: pairs from tar shards. Nothing is unpacked: a member's name never becomes a path."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embedrl.data.images import is_picture
from embedrl.data.on_bad import MAX_BAD, OnBad, OnBadMode
from embedrl.errors import DataError, MissingFileError, said, unreadable
from embedrl.pairs.collection import CaptionRow, PairSet, collect
from embedrl.pairs.folders import files_below
from embedrl.pairs.media import MAX_BYTES, MediaBytes
from embedrl.pairs.table_rows import text_of, texts_of
from embedrl.pairs.tables import TEXT_NAMES
from embedrl.utils.input_files import is_hidden

_MAX_TEXT = 1 << 20
_TEXTS = ("txt", "text", "caption")


@dataclass
class _Sample:
    """The members of one key."""

    picture: tuple[str, int, int] | None = None
    text: str | None = None
    fields: dict[str, Any] | None = None
    error: DataError | None = None


def from_webdataset(
    path: str | Path,
    text: str | None = None,
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> PairSet:
    """Read pairs from webdataset shards: tar files whose members of one name and several suffixes are one sample.

    A sample has a picture (`0001.jpg`) and a caption in `0001.txt` or in a field of `0001.json`. Members are read where
    they stand in the shard, up to a bounded size.

    Args:
        path: A folder of `.tar` files, or one of them. They must not be compressed.
        text: The field of the `.json` members with the caption; None means `.txt` if there is one, else a field with a
            usual name.
        name: Name of the data set; None means the name of the folder or file.
        on_bad: A bad sample: stop, or leave it out and count it.
        max_bad: The most samples that `skip` leaves out.

    Raises:
        DataError: If there are no shards, one is no tar file, a sample is bad and `on_bad` is `raise`, or no pair is
            left.
        TooManyBadError: If more than `max_bad` samples are bad.
    """
    path = Path(path)
    shards = list(files_below(path, ".tar")) if path.is_dir() else [path]
    if not shards or not shards[0].is_file():
        raise DataError(f"{path} holds no .tar files: check the path")
    rows = (row for shard in shards for row in _rows(shard, text))
    origin = f"{len(shards)} shards" if len(shards) > 1 else shards[0].name
    return collect(name or path.absolute().stem, None, rows, OnBad(on_bad, max_bad, "--"), origin)


def _rows(shard: Path, text: str | None) -> Iterator[CaptionRow]:
    for key, sample in _samples(shard).items():
        where = f"{shard}: sample {key!r:.120}"
        try:
            if sample.error is not None:
                raise sample.error
            if sample.picture is None:
                raise MissingFileError("it has no picture: add one, or leave the sample out")
            captions = _captions(sample, text)
        except DataError as error:
            yield CaptionRow(where, error=DataError(f"{where}: {error}", error.cause))
            continue
        member, offset, size = sample.picture
        media = MediaBytes(f"{shard}: {member}", partial(read_slice, str(shard), offset, size))
        for caption in captions or [""]:
            yield CaptionRow(where, caption, media)


def _captions(sample: _Sample, text: str | None) -> list[str]:
    if text is None and sample.text is not None:
        return [sample.text]
    fields = sample.fields or {}
    names = [text] if text is not None else [name for name in TEXT_NAMES if name in fields]
    if not names or names[0] not in fields:
        has = f"its .json has {', '.join(map(repr, fields))[:200]}" if sample.fields else "it has no .json"
        raise DataError(f"no caption {text!r}: {has}" if text else f"no caption: no .txt, and {has}", "empty_caption")
    return texts_of(fields[names[0]])


def _samples(shard: Path) -> dict[str, _Sample]:
    """The samples of a shard by key: the path of a member up to the first dot of its name."""
    samples: dict[str, _Sample] = {}
    cure = "unpack a compressed one, or fetch it again"
    with unreadable(f"{shard}: no tar file that can be read", cure), tarfile.open(shard, "r:") as archive:
        for member in archive:
            folder, _, base = member.name.rpartition("/")
            if member.isdir() or is_hidden(base):
                continue
            stem, _, suffix = base.partition(".")
            sample = samples.setdefault(f"{folder}/{stem}".lstrip("/"), _Sample())
            if sample.error is None:
                try:
                    _add(sample, archive, member, suffix.lower())
                except DataError as error:
                    sample.error = error
    return samples


def _add(sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> None:
    is_text = suffix in (*_TEXTS, "json")
    if not is_text and not is_picture(f"x.{suffix}"):
        return  # a class, a mask ...
    if not member.isreg() or member.issparse():
        raise DataError(f"{member.name!r:.120} is a link or a device: pack plain files")
    limit = _MAX_TEXT if is_text else MAX_BYTES
    if member.size > limit:
        raise DataError(f"{member.name!r:.120} has {member.size} bytes, more than {limit}: leave it out")
    if not is_text:
        if sample.picture is not None:
            raise DataError(f"two pictures, {sample.picture[0]!r:.80} and {member.name!r:.80}: keep one")
        sample.picture = (member.name, member.offset_data, member.size)
        return
    file = archive.extractfile(member)
    content = file.read(limit) if file is not None else b""
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{member.name!r:.120} is not UTF-8 ({said(error)}): save it as UTF-8", "encoding") from error
    if suffix in _TEXTS:
        sample.text = text_of(decoded)
        return
    try:
        fields = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{member.name!r:.120} is no JSON ({said(error)}): write it again") from error
    if not isinstance(fields, dict):
        raise DataError(f"{member.name!r:.120} holds no JSON object: write {{...}}")
    sample.fields = fields


def read_slice(path: str, offset: int, size: int) -> bytes:
    """Bytes of a file from a place on.

    Args:
        path: The file.
        offset: Where they begin.
        size: How many.

    Raises:
        DataError: If they are not there.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if len(content) < size:
        raise DataError(f"{path} is cut off: fetch it again")
    return content
