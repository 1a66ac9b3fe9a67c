"""`from_dataset`: pairs from a folder that `datasets.Dataset.save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from embedrl.data.on_bad import MAX_BAD, OnBad, OnBadMode
from embedrl.errors import DataError, MissingFileError, unreadable
from embedrl.pairs.collection import CaptionRow, Media, PairSet, collect
from embedrl.pairs.folders import check_folder
from embedrl.pairs.media import MediaBytes
from embedrl.pairs.table_rows import Table, column, text_of, texts_of
from embedrl.pairs.tables import MEDIA_NAMES, TEXT_NAMES, media_file


def from_dataset(
    folder: str | Path,
    image: str | None = None,
    text: str | None = None,
    split: str | None = None,
    id: str | None = None,
    group: str | None = None,
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> PairSet:
    """Read pairs from a Hugging Face data set on disk.

    Args:
        folder: What `save_to_disk` wrote.
        image: The column of pictures, of type `Image`, or of paths below the folder; None means the one `Image` column,
            or one with a usual name.
        text: The column of captions, texts or lists of texts; None means one with a usual name.
        split: The split to read, if the folder holds several; None means `train`, or the only one.
        id: The column with ids; None makes them from caption and picture.
        group: A column whose equal values stay on one side of a split.
        name: Name of the data set; None means the folder's name.
        on_bad: A bad row: stop, or leave it out and count it.
        max_bad: The most rows that `skip` leaves out.

    Raises:
        DataError: If the folder, a split or a column is missing, a row is bad and `on_bad` is `raise`, or no pair is
            left.
        TooManyBadError: If more than `max_bad` rows are bad.
    """
    import datasets

    folder = Path(folder)
    check_folder(folder)
    with unreadable(f"{folder}: no data set of `save_to_disk`", "write it again"):
        held = datasets.load_from_disk(str(folder))
    if isinstance(held, datasets.DatasetDict):
        chosen = split or ("train" if "train" in held else next(iter(held)) if len(held) == 1 else "")
        if chosen not in held:
            raise DataError(f"{folder} has no split {chosen!r}, but {', '.join(held)}: give one as --split")
        held = held[chosen]
    elif split is not None:
        raise DataError(f"{folder} has no splits: leave --split out")
    pictures = [key for key, feature in held.features.items() if isinstance(feature, datasets.Image)]
    table = Table(folder, list(held.column_names), iter(()))
    image = pictures[0] if image is None and len(pictures) == 1 else image
    image = column(table, image, MEDIA_NAMES, "--image", "pictures")
    text = column(table, text, TEXT_NAMES, "--text", "captions")
    others = [column(table, key, (), flag, "") for key, flag in ((id, "--id"), (group, "--group")) if key is not None]
    held = held.select_columns(list(dict.fromkeys([image, text, *others])))
    if image in pictures:
        held = held.cast_column(image, datasets.Image(decode=False))
    rows = (row for index in range(len(held)) for row in _rows(held, index, folder, image, text, id, group))
    origin = f"columns {image} and {text}"
    return collect(name or folder.absolute().name, folder, rows, OnBad(on_bad, max_bad, "--"), origin)


def _rows(
    held: Any, index: int, folder: Path, image: str, text: str, id_name: str | None, group: str | None
) -> Iterator[CaptionRow]:
    where = f"{folder}: row {index + 1}"
    try:
        with unreadable("cannot be read", "write the data set again"):
            row = held[index]
        media = _media(row[image], held, index, image, folder)
        captions = texts_of(row[text])
        label = text_of(row[id_name]) if id_name else ""
        kind = text_of(row[group]) if group else ""
    except DataError as error:
        yield CaptionRow(where, error=DataError(f"{where}: {error}", error.cause))
        return
    for number, caption in enumerate(captions or [""]):
        yield CaptionRow(where, caption, media, f"{label}/{number}" if label and len(captions) > 1 else label, kind)


def _media(value: Any, held: Any, index: int, image: str, folder: Path) -> Media:
    if value is None:
        raise MissingFileError("it has no picture: leave the row out")
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return MediaBytes(f"{folder}: row {index + 1}: {image}", partial(_cell, held, index, image))
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str):
        raise DataError(f"{image!r} is {value!r:.60}, neither a picture nor a path: give another column as --image")
    return media_file(folder, path)


def _cell(held: Any, index: int, image: str) -> bytes:
    """The bytes of a picture in a table."""
    return bytes(held[index][image]["bytes"])
