"""What every step writes: pairs in the project's own format, a mix of them, and a report."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import yaml

from embedrl.data.gold import gold_json
from embedrl.data.images import MAX_PIXELS
from embedrl.data.mix import MixRow
from embedrl.data.sources import PairSource
from embedrl.errors import ConfigError, DataError, unreadable
from embedrl.tcot.store import picture_content
from embedrl.types import ImageSource, Pair, Side
from embedrl.utils.atomic_files import replacing
from embedrl.utils.file_names import file_name

JOURNALS = ("tcots", "verdicts", "left_out", "skipped")
"""Files of construction beside those of the data sets, without suffix."""

StepReport = dict[str, dict[str, Any]]
"""What happened to each data set: `rows`, `sampled`, `annotated`, `kept`, and `left_out` by cause."""


class PairWriter:
    """Writes the pairs of a data set as JSON lines; the file appears only when all of them are written.

    Pictures of files that the source reads from its `root` stay where they are. Any other picture (drawn, or made
    elsewhere) is saved under `pictures/` beside the JSON lines.

    Args:
        folder: Where the file goes.
        name: Name of the data set.
        source: Where the pairs come from.
        weight: Its weight in the mix.
    """

    def __init__(self, folder: Path, name: str, source: PairSource, weight: float) -> None:
        self.folder, self.name, self.weight = folder, name, weight
        self.slug = file_name(name)
        self.path = folder / f"{self.slug}.jsonl"
        root = getattr(source, "root", None)
        self.root = None if root is None else Path(root).absolute()  # links are kept: they may be all that stays
        self.max_pixels: int = getattr(source, "max_pixels", MAX_PIXELS)
        self.count = 0
        self._part = self.path.with_suffix(".part")
        self._stack = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self._stack.enter_context(self._part.open("w", encoding="utf-8"))

    def write(self, pair: Pair, more: Mapping[str, Any] | None = None) -> None:
        """Add a pair.

        Args:
            pair: The pair.
            more: Further keys of its row.

        Raises:
            DataError: If a picture that must be saved is broken, or lies outside the root; nothing is added.
        """
        try:
            row: dict[str, Any] = {"id": pair.id, "query": self._side(pair.query), "target": self._side(pair.target)}
            if pair.negatives:
                row["negatives"] = [self._side(side) for side in pair.negatives]
            if pair.score is not None:
                row["score"] = pair.score
            if pair.negative_scores:
                row["negative_scores"] = list(pair.negative_scores)
        except DataError as error:
            raise DataError(f"{self.name}/{pair.id}: {error}") from error
        self._file.write(json.dumps(row | dict(more or {}), ensure_ascii=False) + "\n")
        self.count += 1

    def close(self) -> dict[str, Any] | None:
        """Move the finished file to its place.

        Returns:
            The mix row that reads it; None if there is no pair.
        """
        self._stack.close()
        self._part.replace(self.path)
        if not self.count:
            return None
        options: dict[str, Any] = {"path": str(self.path.absolute()), "root": str(self.root or self.folder.absolute())}
        if self.max_pixels != MAX_PIXELS:
            options["max_pixels"] = self.max_pixels
        source = {"class_path": "embedrl.data.JsonlSource", "init_args": {**options, "dataset": self.name}}
        return {"source": source, "weight": self.weight}

    def _side(self, side: Side) -> dict[str, Any]:
        row: dict[str, Any] = {
            "text": side.text,
            "images": [self._picture(source) for source in side.images],
            "frames": [self._picture(source) for source in side.frames],
            "tcot": side.tcot,
        }
        row = {key: value for key, value in row.items() if value}
        gold = {"gold": gold_json(side.gold)} if side.gold else {}
        return row | ({"fps": side.fps} if side.frames else {}) | gold

    def _picture(self, source: ImageSource) -> str:
        path = getattr(source, "path", None)
        if path is not None and self.root is not None:
            return _below(self.root, Path(path))
        content = source.name if path is None else picture_content(source)
        name = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:24]
        out = self.folder / "pictures" / self.slug / f"{name}.png"
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            with replacing(out) as part:
                source.load().save(part, "png")
        return out.relative_to(self.folder).as_posix()


def _below(root: Path, path: Path) -> str:
    """A picture's path relative to the root, as the row names it: a link stays a link.

    Raises:
        DataError: If it lies elsewhere.
    """
    for folder, file in ((root, path.absolute()), (root.resolve(), path.parent.resolve() / path.name)):
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
    raise DataError(f"picture {path} does not lie below the data set's root {root}: give the folder above it as root")


def check_place(mix: Sequence[MixRow], out: Path) -> None:
    """Check that a step does not write where its input lies: files would replace it, and reports describe other pairs.

    Raises:
        ConfigError: If a data set's file, or what it links to, lies in the folder.
        DataError: If the report of an earlier step cannot be read.
    """
    for row in mix:
        path = Path(getattr(row.source, "path", None) or "/")
        if out.resolve() in (path.absolute().parent.resolve(), path.resolve().parent):
            raise ConfigError(f"--out {out}: {path} of --mix lies there: give another folder")
        earlier_report(row)


def write_mix(path: Path, rows: Iterable[Mapping[str, Any] | None]) -> None:
    """Write a mix that training, and every step of construction, reads.

    Args:
        path: The YAML file.
        rows: What `PairWriter.close` returned.

    Raises:
        DataError: If no data set has a pair left.
    """
    kept = [dict(row) for row in rows if row is not None]
    if not kept:
        raise DataError(f"{path.parent}: no pair is left of any data set: {path.parent / 'report.json'} says why")
    _replace(path, yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def write_step_report(path: Path, report: StepReport) -> None:
    """Write what happened to each data set."""
    _replace(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def earlier_report(row: MixRow) -> dict[str, Any]:
    """The report on a data set from the step that wrote it; empty if no step wrote it.

    Raises:
        DataError: If there is a report that cannot be read.
    """
    path = getattr(row.source, "path", None)
    report = Path(path).parent / "report.json" if path is not None else None
    if report is None or not report.is_file():
        return {}
    with unreadable(f"{report}: not a report of construction", "delete it, or run the step again"):
        earlier = dict(json.loads(report.read_text(encoding="utf-8")).get(row.label, {}))
        causes = Counter[str](earlier.get("left_out"))
        numbers = [earlier.get(name, 0) for name in ("rows", "sampled", "annotated")] + [*causes.values()]
        if any(type(number) is not int for number in numbers) or not all(isinstance(name, str) for name in causes):
            raise ValueError(f"{earlier!r:.100}")
    return earlier


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


class LeftOut:
    """Pairs that a step leaves out: one JSON line each, in `left_out.jsonl`, and counts by cause.

    Args:
        path: The file; an earlier one is overwritten.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def add(self, dataset: str, pair: str, side: str, cause: str, detail: str = "") -> None:
        """Add a pair.

        Args:
            dataset: Name of its data set.
            pair: Its id, or its row if it cannot be read.
            side: `query`, `target`, or empty if it is about both.
            cause: The kind of failure, for counting.
            detail: One more line of detail.
        """
        row = {"dataset": dataset, "id": pair, "side": side, "cause": cause, "detail": detail}
        self._file.write(json.dumps({k: v for k, v in row.items() if v}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
