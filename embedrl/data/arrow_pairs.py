"""A JSON file of pairs as a memory-mapped table; the formats themselves are in `formats`.

Why not `datasets.Dataset.from_generator`: it takes 1.7 to 2.7 times the processor time (4.3 s for 1.6 s on 60,000 rows
with pictures), hides our errors in its own, draws a progress bar, and locks a file even to read what was converted
before, so that a cache folder without write access fails.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from embedrl.data.gold import unpacked
from embedrl.data.images import MAX_PIXELS, ImageFile, is_picture
from embedrl.data.json_stream import iter_rows
from embedrl.data.video import NUM_FRAMES, is_video, list_frames, sample_frames
from embedrl.data.video_file import file_frames
from embedrl.errors import DataError, said, unreadable
from embedrl.tcot.schema import clean_text
from embedrl.types import ImageSource, Modality, Pair, Side
from embedrl.utils.atomic_files import replacing
from embedrl.utils.console import tell
from embedrl.utils.file_names import resolve

Record = dict[str, Any]

# Part of the cache key: raise it when a conversion changes.
_CONVERSION = "3"
_BATCH = 256  # rows written at a time

SIDE: dict[str, Any] = {
    "text": datasets.Value("string"),
    "images": [datasets.Value("string")],
    "frames": [datasets.Value("string")],
    "tcot": datasets.Value("string"),
    "fps": datasets.Value("float64"),
    "gold": datasets.Value("string"),
}
_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "error": datasets.Value("string"),
        "query": SIDE,
        "target": SIDE,
        "negatives": [SIDE],
        "score": datasets.Value("float64"),
        "negative_scores": [datasets.Value("float64")],
    }
)
_BLANK: Record = {"error": "", "negatives": [], "score": None, "negative_scores": []}


class RecordTable(ABC):
    """Pairs of one JSON file, held in a memory-mapped Arrow file. Implements `PairSource`.

    The file is read once, row by row, into the cache; it is read again when its size or time changes. A row that is
    broken (a key missing, a wrong type, an empty side, a path out of the root) raises when it is asked for, so that
    one bad row does not stop a run that skips and counts.

    Args:
        path: The JSON list, or JSON lines.
        root: The folder that paths in the rows are relative to.
        dataset: Name of the data set; None means the file's name without its suffix.
        num_frames: Frames sampled from each video; None means all that are listed, and 8 of a video file.
        max_pixels: Refuse larger pictures.
        cache_dir: Where the Arrow files go; None means `embedrl/` in the cache folder of `datasets`
            (`HF_DATASETS_CACHE`).

    Raises:
        DataError: If the file or the root is missing, the file is not JSON or empty, or every row is broken.
    """

    def __init__(
        self,
        path: str,
        root: str,
        dataset: str | None = None,
        num_frames: int | None = 8,
        max_pixels: int = MAX_PIXELS,
        cache_dir: str | None = None,
    ) -> None:
        self.path, self.root = Path(path), Path(root)
        self.name = dataset or self.path.stem
        self.num_frames = num_frames
        self.max_pixels = max_pixels
        if not self.root.is_dir():
            raise DataError(
                f"{self.name}: root folder {root} does not exist: give the folder of its pictures or frames"
            )
        folder = Path(cache_dir) if cache_dir else Path(datasets.config.HF_DATASETS_CACHE) / "embedrl"
        self.table = self._read(folder)
        if not len(self):
            raise DataError(f"{self.path} holds no rows: check the path of the data set")
        errors = self.table.data.column("error")
        if pc.all(pc.not_equal(errors, "")).as_py():
            raise DataError(
                f"{self.path}: every row is broken, the first: {errors[0]}: is {type(self).__name__} right?"
            )
        self.modality = self._visual_modality()

    @abstractmethod
    def convert(self, row: Mapping[str, Any]) -> Record:
        """A row of the file as `query`, `target`, `negatives` and, if it has them, `id`, `score` and `negative_scores`.

        Raises:
            DataError: If the row is broken; the message says what is wrong and how to fix it.
        """

    def __len__(self) -> int:
        """Number of rows, broken ones included."""
        return len(self.table)

    def __getitem__(self, index: int) -> Pair:
        """The pair of a row, `0 <= index < len(self)`.

        Raises:
            DataError: If the row is broken, or a video's frame folder is missing.
        """
        if index >= len(self):
            raise IndexError(index)
        with unreadable(f"{self.name}: row {index}: {self._file_of_table}: broken", "delete it, and it is made again"):
            row = self.table[index]
        where = f"{self.name}/{row['id']}"
        if row["error"]:
            raise DataError(f"{where}: {self.path}: {row['error']}")
        try:
            sides = [self._side(side) for side in (row["query"], row["target"], *row["negatives"])]
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        scores = (row["score"], tuple(row["negative_scores"]))
        return Pair(sides[0], sides[1], self.name, row["id"], tuple(sides[2:]), *scores)

    def _side(self, side: Record) -> Side:
        frames = self._frames(side["frames"])
        images = [self._file(name) for name in side["images"]]
        return Side(side["text"], tuple(images), tuple(frames), side["tcot"], side["fps"], unpacked(side["gold"]))

    def _frames(self, names: list[str]) -> Sequence[ImageSource]:
        """The frames of a video: those that are listed, those of a folder, or those sampled from a file."""
        if len(names) == 1 and is_video(names[0]):
            return file_frames(resolve(self.root, names[0])[0], self.num_frames or NUM_FRAMES)
        return [self._file(name) for name in self._frame_names(names)]

    def _file(self, name: str) -> ImageFile:
        path, relative = resolve(self.root, name)
        return ImageFile(path, relative, self.max_pixels)

    def _frame_names(self, names: list[str]) -> list[str]:
        if len(names) == 1 and not is_picture(names[0]):
            folder, relative = resolve(self.root, names[0])
            names = [f"{relative}/{name}" for name in list_frames(folder)]
        if self.num_frames is None or not names:
            return names
        return [names[i] for i in sample_frames(len(names), self.num_frames)]

    def _visual_modality(self) -> Modality:
        for modality, column in ((Modality.VIDEO, "frames"), (Modality.IMAGE, "images")):
            for side in ("query", "target"):
                lists = pc.struct_field(self.table.data.column(side), column)
                if pc.any(pc.greater(pc.list_value_length(lists), 0)).as_py():
                    return modality
        return Modality.TEXT

    def _read(self, folder: Path) -> datasets.Dataset:
        """The rows; an Arrow file that is cut short or spoilt is made again, which is said."""
        self._file_of_table = path = self._convert(folder)
        try:
            table = datasets.Dataset.from_file(str(path))
            if table.features != _FEATURES:
                raise ValueError("its columns are others")
            table.data.validate()
            return table
        except Exception as error:  # noqa: BLE001  # readers raise nearly anything on broken files
            tell(f"{path}: broken ({said(error)}): made again")
            path.unlink(missing_ok=True)
            return datasets.Dataset.from_file(str(self._convert(folder)))

    def _convert(self, folder: Path) -> Path:
        """The Arrow file of this JSON file, made if it is not there yet."""
        try:
            stat = self.path.stat()
        except OSError as error:
            raise DataError(
                f"{self.name}: {self.path} does not exist or cannot be read ({error.strerror}): "
                "check the path of the data set"
            ) from error
        state = (_CONVERSION, type(self).__name__, str(self.path.resolve()), stat.st_size, stat.st_mtime_ns)
        # File systems take names of 255 bytes.
        out = folder / f"{self.path.stem[:40]}-{hashlib.sha256(repr(state).encode()).hexdigest()[:16]}.arrow"
        try:
            if not out.exists():
                self._write(out)
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot write the table of {self.path} below {folder} ({error}): give cache_dir, or set "
                "HF_DATASETS_CACHE to, a folder that can be written and has room"
            ) from error
        return out

    def _write(self, out: Path) -> None:
        schema, rows = _FEATURES.arrow_schema, self._records()
        out.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may convert at once: each writes its own file, the last one moved into place stays.
        with (
            replacing(out, shared=True) as part,
            pa.OSFile(str(part), "wb") as file,
            pa.ipc.new_stream(file, schema) as writer,
        ):
            while batch := list(itertools.islice(rows, _BATCH)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))

    def _records(self) -> Iterator[Record]:
        for index, (line, row) in enumerate(iter_rows(self.path)):
            yield self._record(row, index, line)

    def _record(self, row: Mapping[str, Any], index: int, line: int) -> Record:
        try:
            record = {**_BLANK, "id": str(index), **self.convert(row)}
            for role in ("query", "target"):
                if not (record[role]["text"] or record[role]["images"] or record[role]["frames"]):
                    raise DataError(f"the {role} is empty, with neither text nor pixels: fill it or drop the row")
        except DataError as error:
            broken = f"row {index} (line {line}): {error}"
            record = {**_BLANK, "id": str(index), "error": broken, "query": make_side(), "target": make_side()}
        return record


def make_side(text: str = "", images: Sequence[str] = (), frames: Sequence[str] = (), tcot: str = "") -> Record:
    """A side as it is stored, at the 2 frames per second of the paper."""
    shown = {"images": [*images], "frames": [*frames]}
    return {"text": text.strip(), **shown, "tcot": tcot.strip(), "fps": 2.0, "gold": ""}


def get(row: Any, key: str, kind: type, default: Any = None) -> Any:
    """A value of a row, checked; a default makes the key optional, and null the same as absent."""
    if not isinstance(row, Mapping):
        raise DataError(f"{row!r:.60} is not an object with {key!r}: check the format")
    if row.get(key) is None and (default is not None):
        return default
    if key not in row:
        raise DataError(
            f"key {key!r} is missing (it has {', '.join(map(repr, row))[:120] or 'none'}): check the format"
        )
    value = row[key]
    if not isinstance(value, kind) or (kind is list and not all(isinstance(item, str) for item in row[key])):
        kinds: dict[type, str] = {str: "a text", list: "a list of texts", Mapping: "an object"}
        raise DataError(f"{key!r} is {value!r:.60}, not {kinds[kind]}: check the format")
    if kind is list:
        return [clean_text(item) for item in row[key]]
    return clean_text(row[key]) if kind is str else value
