"""`from_folder` and `from_videos`: pairs from a folder of pictures or videos."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from embedrl.data.images import is_picture
from embedrl.data.on_bad import MAX_BAD, OnBad, OnBadMode
from embedrl.data.video import is_video
from embedrl.errors import DataError, listed, said
from embedrl.pairs.collection import CaptionRow, PairSet, collect
from embedrl.pairs.media import MediaFile
from embedrl.pairs.table_rows import SUFFIXES
from embedrl.pairs.tables import from_csv
from embedrl.utils.input_files import read_bounded, visible, visible_below

Captions = Literal["auto", "txt", "names"]

_MAX_CAPTION = 1 << 20  # bytes of a file beside a picture


def from_folder(
    folder: str | Path,
    captions: Captions = "auto",
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> PairSet:
    """Read pairs from a folder of pictures.

    Args:
        folder: The folder; pictures may lie in folders below it.
        captions: Where the captions are: `txt`: the first line of `fox.txt` beside `fox.png`; `names`: the files' names
            (`red_fox-2.png` is `red fox`); `auto`: in the one table that the folder holds (`from_csv`), else in `.txt`
            files if there is one beside a picture, else in the names.
        name: Name of the data set; None means the folder's name.
        on_bad: A bad picture or caption: stop, or leave it out and count it.
        max_bad: The most rows that `skip` leaves out.

    Raises:
        DataError: If the folder is missing or holds no picture, a row is bad and `on_bad` is `raise`, or no pair is
            left.
        TooManyBadError: If more than `max_bad` are bad.
    """
    return _from_files(Path(folder), captions, is_picture, "pictures", name, on_bad, max_bad)


def from_videos(
    folder: str | Path,
    captions: Captions = "auto",
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> PairSet:
    """Read pairs from a folder of videos; see `from_folder` for its arguments and errors."""
    return _from_files(Path(folder), captions, is_video, "videos", name, on_bad, max_bad)


def _from_files(
    folder: Path,
    captions: Captions,
    fits: Callable[[str], bool],
    kind: str,
    name: str | None,
    on_bad: OnBadMode,
    max_bad: int,
) -> PairSet:
    check_folder(folder)
    name = name or folder.absolute().name
    files = [path for path in visible_below(folder, "*") if fits(path.name) and path.is_file()]
    if not files:
        raise DataError(f"{folder} holds no {kind}: check the path")
    if captions == "auto":
        tables = sorted(path for path in visible(folder) if path.suffix.lower() in SUFFIXES)
        if len(tables) > 1:
            raise DataError(f"{folder} holds several tables, {listed([path.name for path in tables])}: give --captions")
        if tables:
            return from_csv(tables[0], root=folder, name=name, on_bad=on_bad, max_bad=max_bad)
        captions = "txt" if any(path.with_suffix(".txt").is_file() for path in files) else "names"
    read = _beside if captions == "txt" else _from_name
    origin = "the first lines of .txt files" if captions == "txt" else "the files' names"
    rows = (read(MediaFile(path, path.relative_to(folder).as_posix())) for path in files)
    return collect(name, folder, rows, OnBad(on_bad, max_bad, "--"), origin)


def check_folder(folder: Path) -> None:
    """See that a folder is there.

    Raises:
        DataError: If it is not.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: check the path")


def _beside(media: MediaFile) -> CaptionRow:
    file = media.path.with_suffix(".txt")
    try:
        content = read_bounded(file, _MAX_CAPTION)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        error = DataError(
            f"{media.path} has no caption: there is no {file.name} beside it: write one, or leave the picture out",
            "empty_caption",
        )
        return CaptionRow(media.name, error=error)
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        error = DataError(f"{file}: line {line} is not UTF-8 ({said(fault)}): save the file as UTF-8", "encoding")
        return CaptionRow(media.name, error=error)
    except (OSError, DataError) as fault:
        return CaptionRow(media.name, error=DataError(f"{file} cannot be read ({said(fault)}): mend it"))
    lines = [line.strip() for line in text.splitlines()]
    return CaptionRow(str(file), next(filter(None, lines), ""), media)


def _from_name(media: MediaFile) -> CaptionRow:
    return CaptionRow(str(media.path), caption_of_name(Path(media.name).stem), media)


def caption_of_name(stem: str) -> str:
    """The caption that a file's name gives: `_` and `-` are spaces, a number at the end counts copies.

    >>> caption_of_name("red_fox-02"), caption_of_name("2024"), caption_of_name("boeing-747")
    ('red fox', '2024', 'boeing')
    """
    words = " ".join(re.split(r"[\s_\-]+", stem)).strip()
    return re.sub(r"[\s(]+\d+\)?\Z", "", words) or words


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """The files below a folder whose names end so, in order, whatever the case of the suffix."""
    return (path for path in visible_below(folder, "*") if path.suffix.lower() == suffix and path.is_file())
