"""The folder that `embedrl fit` takes: pairs as JSON lines, a mix of both directions, a validation task, a sheet."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from embedrl.errors import ConfigError, DataError
from embedrl.pairs.collection import CaptionedItem, SplitPairs
from embedrl.pairs.media import MediaFile
from embedrl.pairs.sheet import contact_sheet_of
from embedrl.types import Modality
from embedrl.utils.atomic_files import replacing_folder

TRAIN, VALIDATION, MIX, TASKS = "train.jsonl", "validation.jsonl", "mix.yaml", "validation.yaml"
SHEET, SKIPPED, PICTURES = "contact_sheet.png", "skipped.jsonl", "pictures"


class _Equal(Exception):  # noqa: N818  # no error: ends the writing of a folder that is there
    """The folder holds the same already."""


def write_mix_folder(pairs: SplitPairs, out: Path, copy: bool, both_directions: bool) -> Path:
    """Write a mix folder; see `SplitPairs.write` for arguments and errors."""
    if not pairs.train.items:
        raise DataError(f"{pairs.train.name} has no pairs to train on: give more, or a smaller share to validate with")
    exists = check_out(out)
    try:
        with replacing_folder(out) as part:
            _fill(part, pairs, Path(out).absolute(), copy, both_directions)
            if exists and not _same(part, out):
                raise ConfigError(f"--out {out}: holds another import: give a new folder, or delete that one")
            if exists:
                raise _Equal
    except _Equal:
        pass
    return out


def check_out(out: Path) -> bool:
    """See that a mix folder can be written, before anything is read for it.

    Args:
        out: The folder.

    Returns:
        Whether it holds a mix already, which must be equal.

    Raises:
        ConfigError: If it holds something else.
    """
    exists = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if exists and not (out / MIX).is_file():
        raise ConfigError(f"--out {out}: holds something else: give a new folder")
    return exists


def _fill(part: Path, pairs: SplitPairs, out: Path, copy: bool, both_directions: bool) -> None:
    train, validation = pairs
    root = None if copy or train.root is None else train.root.absolute()
    if root is None:
        (part / PICTURES).mkdir()
    for file, half in ((TRAIN, train), (VALIDATION, validation)):
        if half.items:
            rows = (_row(item, None if root else part / PICTURES) for item in half.items)
            _write(part / file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    names = [
        f"{train.name}_{name}" for name in (("t2v", "v2t") if train.modality is Modality.VIDEO else ("t2i", "i2t"))
    ]
    place = {"path": str(out / TRAIN), "root": str(root or out)}
    options: list[dict[str, Any]] = [{**place, "dataset": names[0]}, {**place, "dataset": names[1], "swap": True}]
    mix = [{"source": _source(given), "weight": 1.0} for given in options[: 1 + both_directions]]
    _write(part / MIX, yaml.safe_dump(mix, sort_keys=False, allow_unicode=True))
    if validation.items:
        held_out = _source({"path": str(out / VALIDATION), "root": place["root"], "dataset": train.name})
        task = {"class_path": "embedrl.data.PairTasks"}
        arguments = {"source": held_out, "both_directions": both_directions, "main_metric": "hit@10"}
        _write(part / TASKS, yaml.safe_dump([{**task, "init_args": arguments}], sort_keys=False, allow_unicode=True))
    if train.left_out:
        bad = (json.dumps(sample._asdict(), ensure_ascii=False) + "\n" for sample in train.left_out)
        _write(part / SKIPPED, "".join(bad))
    contact_sheet_of([train, validation]).save(part / SHEET, "png")


def _source(options: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": "embedrl.data.JsonlSource", "init_args": options}


def _row(item: CaptionedItem, folder: Path | None) -> dict[str, Any]:
    """A pair as a line; its picture is saved if a folder is given."""
    if folder is not None:
        place = f"{PICTURES}/{item.media.save(folder, item.content)}"
    else:
        assert isinstance(item.media, MediaFile)  # a collection with a root holds files alone
        place = item.media.name
    kind = "frames" if item.media.is_video else "images"
    return {"id": item.id, "query": {"text": item.text}, "target": {kind: [place]}}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _same(first: Path, second: Path) -> bool:
    """Whether two folders hold the same files."""
    names = _files(first)
    if names != _files(second):
        return False
    _, different, unread = filecmp.cmpfiles(first, second, names, shallow=False)
    return not different and not unread


def _files(folder: Path) -> list[str]:
    every: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in every)


def batch_size(pairs: int, largest: int) -> int:
    """The batch size for a number of pairs: the largest power of two that they fill, up to a recipe's own.

    Args:
        pairs: Number of pairs in the smaller of the data sets.
        largest: The recipe's batch size.

    >>> batch_size(500, 64), batch_size(43, 64), batch_size(2, 64)
    (64, 32, 2)
    """
    return min(largest, 1 << (pairs.bit_length() - 1)) if pairs else 0
