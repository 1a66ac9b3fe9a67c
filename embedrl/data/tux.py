"""Debian's Tux Paint stamps: cut-out pictures with captions, retrieved both ways.

The package `tuxpaint-stamps-default` (GPL-2) holds 796 PNG and 248 SVG pictures. `X.txt` beside `X.png` holds the
English caption in its first line. We use the 785 PNG pictures that have one; SVG pictures are left out, because none of
our requirements renders them. Transparent parts are laid on white.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedrl.data.media import ImageFile
from embedrl.errors import ConfigError, DataError
from embedrl.types import Modality, Pair, RetrievalTask, Side

VERSION = "2022.06.04-1"
"""The pinned version of the Debian package."""

Split = Literal["train", "val", "test"]
Direction = Literal["t2i", "i2t"]

_SHARES: dict[Split, int] = {"test": 20, "val": 10, "train": 70}  # percent of the captions


def default_root() -> Path:
    """Where the fetched pictures lie: `$EMBEDRL_CACHE` or `~/.cache/embedrl`, then package and version."""
    cache = os.environ.get("EMBEDRL_CACHE") or Path.home() / ".cache" / "embedrl"
    return Path(cache) / f"tuxpaint-stamps-{VERSION}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """One captioned picture.

    Attributes:
        picture: The picture.
        caption: Its English caption.
        id: Its path below the stamps' folder, without suffix; the first parts are categories.
    """

    picture: ImageFile
    caption: str
    id: str

    @property
    def key(self) -> str:
        """The caption without case, outer punctuation and repeated spaces: equal for captions that say the same."""
        return re.sub(r"\s+", " ", self.caption).casefold().strip(" .!?")


def read_stamps(root: Path, exclude: Sequence[str] = ()) -> list[Stamp]:
    """All captioned PNG pictures below a folder, in a fixed order.

    Args:
        root: The folder that `fetch_tux` filled, or any folder above the pictures.
        exclude: Leave out pictures that lie in folders of these names, such as `symbols`.

    Raises:
        DataError: If there are none, or a caption is empty.
    """
    stamps = []
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).with_suffix("").as_posix().split("stamps/")[-1]
        caption_file = path.with_suffix(".txt")
        if not caption_file.is_file() or set(name.split("/")[:-1]) & set(exclude):
            continue
        try:
            caption = caption_file.read_text(encoding="utf-8").partition("\n")[0].strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{caption_file} is not UTF-8 ({error}): fetch the stamps again") from error
        if not caption:
            raise DataError(f"{caption_file} has no caption in its first line: fetch the stamps again")
        stamps.append(Stamp(ImageFile(str(path), name=f"tux/{name}"), caption, name))
    if not stamps:
        raise DataError(f"no captioned PNG pictures below {root}: run python scripts/fetch_tux.py, or set root")
    return stamps


def split_of(stamp: Stamp, seed: int) -> Split:
    """The split of a picture: a hash of its caption decides, so that no caption is in two splits."""
    digest = hashlib.blake2b(f"{seed}:{stamp.key}".encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 100
    for split, share in _SHARES.items():
        if bucket < share:
            return split
        bucket -= share
    raise AssertionError("shares do not add up to 100")


def _stamps_of(root: str | None, split: Split, seed: int, exclude: Sequence[str]) -> list[Stamp]:
    if split not in _SHARES:
        raise ConfigError(f"split {split!r}: choose train, val or test")
    folder = Path(root) if root is not None else default_root()
    return [stamp for stamp in read_stamps(folder, exclude) if split_of(stamp, seed) == split]


class TuxSource:
    """Pairs of a caption and its picture.

    Args:
        split: `train` (70 % of the captions), `val` (10 %) or `test` (20 %).
        direction: `t2i` retrieves the picture from the caption, `i2t` the caption from the picture.
        root: The folder of the stamps; null takes where `scripts/fetch_tux.py` puts them.
        seed: Seed of the split.
        exclude: Leave out pictures in folders of these names.

    Raises:
        DataError: If the pictures are not there.
    """

    modality = Modality.IMAGE

    def __init__(
        self,
        split: Split = "train",
        direction: Direction = "t2i",
        root: str | None = None,
        seed: int = 0,
        exclude: Sequence[str] = (),
    ) -> None:
        self.name = f"tux_{direction}"
        self.direction = direction
        self.stamps = _stamps_of(root, split, seed, exclude)

    def __len__(self) -> int:
        """Number of pictures in the split."""
        return len(self.stamps)

    def __getitem__(self, index: int) -> Pair:
        """The pair at a row."""
        stamp = self.stamps[index]
        sides = Side(text=stamp.caption), Side(images=(stamp.picture,))
        query, target = sides if self.direction == "t2i" else sides[::-1]
        return Pair(query, target, dataset=self.name, id=stamp.id)


class TuxTasks:
    """Retrieval over the captions and pictures of one split, `tux_t2i` and `tux_i2t`.

    Every distinct caption is one text, every picture a picture; all pictures of a caption are relevant to it. With the
    default seed and nothing excluded, the test split holds 130 captions and 164 pictures, `val` 61 and 79.

    Args:
        split: See `TuxSource`.
        directions: Which tasks.
        root: See `TuxSource`.
        seed: See `TuxSource`.
        exclude: See `TuxSource`.
    """

    def __init__(
        self,
        split: Split = "val",
        directions: Sequence[Direction] = ("t2i", "i2t"),
        root: str | None = None,
        seed: int = 0,
        exclude: Sequence[str] = (),
    ) -> None:
        self.split, self.directions, self.root, self.seed, self.exclude = split, directions, root, seed, exclude

    def tasks(self) -> list[RetrievalTask]:
        """The tasks.

        Raises:
            DataError: If the pictures are not there.
        """
        stamps = _stamps_of(self.root, self.split, self.seed, self.exclude)
        captions: dict[str, Side] = {}
        for stamp in stamps:
            captions.setdefault(stamp.key, Side(text=stamp.caption))
        place = {key: i for i, key in enumerate(captions)}
        texts = list(captions.values())
        pictures = [Side(images=(stamp.picture,)) for stamp in stamps]
        of_picture = [{place[stamp.key]: 1.0} for stamp in stamps]
        of_caption: list[dict[int, float]] = [{} for _ in texts]
        for i, stamp in enumerate(stamps):
            of_caption[place[stamp.key]][i] = 1.0
        version = f"{VERSION}-png-seed{self.seed}"
        sides = {"t2i": (texts, pictures, of_caption), "i2t": (pictures, texts, of_picture)}
        return [RetrievalTask(f"tux_{name}", *sides[name], version=version) for name in self.directions]
