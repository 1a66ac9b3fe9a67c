"""A plain collection of captioned pictures, videos or pages, and how every reader fills it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from embedrl.data.on_bad import BadSample, OnBad
from embedrl.data.video_file import file_frames
from embedrl.errors import DataError
from embedrl.pairs.grouping import take_validation
from embedrl.pairs.media import MediaBytes, MediaFile
from embedrl.tcot.schema import clean_text
from embedrl.types import Modality, Pair, Side

Media = MediaFile | MediaBytes
SplitBy = Literal["caption", "picture"]


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """What a reader gives for each row of its source.

    Attributes:
        where: The file and the row, for errors.
        text: The caption.
        media: The picture, the video or the page.
        id: Its id; empty if the source names none.
        group: Rows of one group stay on one side of a split; empty if it has none.
        error: What is wrong with the row, in place of the rest.
    """

    where: str
    text: str = ""
    media: Media | None = None
    id: str = ""
    group: str = ""
    error: DataError | None = None


@dataclass(frozen=True, slots=True)
class CaptionedItem:
    """A caption and what it describes.

    Attributes:
        id: Its id, unique in its collection.
        text: The caption.
        media: The picture, the video or the page.
        content: SHA-256 of the bytes of `media`.
        group: See `CaptionRow`.
    """

    id: str
    text: str
    media: Media
    content: str
    group: str = ""

    def side(self) -> Side:
        """What the caption describes; of a video its sampled frames."""
        if isinstance(self.media, MediaFile) and self.media.is_video:
            return Side(frames=file_frames(self.media.path))
        return Side(images=(self.media.source(self.content),))


@dataclass(frozen=True)
class PairSet:
    """Captions and their pictures, as pairs from text to picture: can be trained on. Implements `PairSource`.

    Attributes:
        name: Name of the data set.
        items: The captioned items, in the order of their source.
        root: The folder that all files lie below; None if a picture stands inside another file.
        origin: Where the captions come from, for people.
        left_out: The rows that were left out because they are bad.
        repeated: The number of rows that were left out because they repeat the caption and the picture of another.
    """

    name: str
    items: tuple[CaptionedItem, ...]
    root: Path | None = None
    origin: str = ""
    left_out: tuple[BadSample, ...] = ()
    repeated: int = 0

    @property
    def modality(self) -> Modality:
        """Video if there is a video, else image."""
        return Modality.VIDEO if any(item.media.is_video for item in self.items) else Modality.IMAGE

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.items)

    def __getitem__(self, index: int) -> Pair:
        """The pair at a position, from caption to picture, `0 <= index < len(self)`."""
        item = self.items[index]
        return Pair(Side(text=item.text), item.side(), self.name, item.id)

    def split(self, by: SplitBy = "caption", validation: float = 0.1, seed: int = 0) -> SplitPairs:
        """Part the pairs for training from those for validation.

        No picture (by its bytes) and no group stands on both sides; by default no caption does either, whatever its
        case and spaces. What hangs together by one of these stays together. The choice depends on the captions, the
        pictures and the seed, not on the order of the rows.

        Args:
            by: `caption`: neither captions nor pictures stand on both sides; `picture`: captions may.
            validation: Share of the pairs to validate with, from 0 to below 1.
            seed: Seed of the choice.

        Raises:
            ConfigError: If the share is out of range.
            DataError: If all pairs hang together, so that none can be set apart.
        """
        chosen = take_validation(self.name, self.items, by, validation, seed)
        parts = [
            tuple(item for item, held in zip(self.items, chosen, strict=True) if held is side) for side in (False, True)
        ]
        return SplitPairs(replace(self, items=parts[0]), replace(self, items=parts[1], left_out=(), repeated=0))

    def write(self, out: str | Path, copy: bool = False, both_directions: bool = True) -> Path:
        """Write the pairs as a mix folder without validation; see `SplitPairs.write`."""
        return SplitPairs(self, replace(self, items=(), left_out=(), repeated=0)).write(out, copy, both_directions)


class SplitPairs(NamedTuple):
    """The pairs of training and of validation.

    Attributes:
        train: The pairs to train on.
        validation: The pairs to score with; may be empty.
    """

    train: PairSet
    validation: PairSet

    def write(self, out: str | Path, copy: bool = False, both_directions: bool = True) -> Path:
        """Write a mix folder that `embedrl fit` takes: JSON lines, `mix.yaml`, `validation.yaml`, a contact sheet.

        The folder is written whole or not at all. One that holds the same already is left as it is.

        Args:
            out: The folder; new, empty, or equal to what would be written.
            copy: Whether to copy the pictures into it; else they stay where they are. Pictures inside other files
                (shards, tables, PDFs) are always written.
            both_directions: Whether to train and score from picture to caption, too.

        Returns:
            The folder.

        Raises:
            ConfigError: If the folder holds something else.
            DataError: If there is no pair, or a picture cannot be read.
        """
        from embedrl.pairs.mix_folder import write_mix_folder

        return write_mix_folder(self, Path(out), copy, both_directions)


def collect(name: str, root: Path | None, rows: Iterable[CaptionRow], bad: OnBad, origin: str = "") -> PairSet:
    """Fill a collection from the rows of a source.

    Args:
        name: Name of the data set.
        root: The folder that all files lie below.
        rows: The rows.
        bad: What is done about a bad one.
        origin: Where the captions come from, for people.

    Raises:
        DataError: If a row is bad and `bad` says `raise`, or none is left.
        TooManyBadError: If too many are bad.
    """
    items: list[CaptionedItem] = []
    left_out: list[BadSample] = []
    seen: dict[str, str] = {}
    digests: dict[Media, str] = {}
    repeated = 0
    for row in rows:
        try:
            item = _item(row, digests)
            if item.id not in seen:
                seen[item.id] = row.where
                items.append(item)
            elif row.id:
                raise DataError(
                    f"{row.where}: id {row.id!r:.80} is that of {seen[row.id]} too: name each once", "duplicate_id"
                )
            else:
                repeated += 1
        except DataError as error:
            left_out.append(bad.skip(error, name, row.where))
    if not items:
        causes = Counter(sample.cause for sample in left_out)
        first = f", the first: {left_out[0].message}" if left_out else ""
        listed = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
        raise DataError(f"{name}: no pair is left ({listed or 'the source is empty'}){first}")
    if any(isinstance(item.media, MediaBytes) for item in items):
        root = None
    return PairSet(name, tuple(items), root, origin, tuple(left_out), repeated)


def _item(row: CaptionRow, digests: dict[Media, str]) -> CaptionedItem:
    if row.error is not None:
        raise row.error
    text = clean_text(row.text).strip()
    if not text:
        raise DataError(f"{row.where}: the caption is empty: write one, or leave the row out", "empty_caption")
    if row.media is None:
        raise DataError(f"{row.where}: no picture: name its file, or leave the row out", "missing_file")
    try:
        if row.media not in digests:
            digests[row.media] = row.media.digest()
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    content = digests[row.media]
    made = hashlib.sha256(f"{content}\n{text}".encode()).hexdigest()[:16]
    return CaptionedItem(row.id or made, text, row.media, content, row.group)
