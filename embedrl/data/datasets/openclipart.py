"""Debian's Open Clip Art: drawings that their authors tagged, retrieved from a tag.

`openclipart-png` and `openclipart-svg` (public domain) hold the same 8,121 drawings. We read the pixels of the first
and the tags (`dc:subject`) of the second. Copies of a drawing that are filed in several folders are links in the first:
they are one candidate, with the tags of all copies.
"""

from __future__ import annotations

import html
import re
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedrl.data.images import ImageFile
from embedrl.data.local_copy import LocalCopy
from embedrl.errors import ConfigError, DataError
from embedrl.types import RetrievalTask, Side
from embedrl.utils.input_files import read_bounded, visible_below

PICTURES = LocalCopy("openclipart-png", "1:0.18+dfsg-19", "usr/share/openclipart/png")
TAGS = LocalCopy("openclipart-svg", "1:0.18+dfsg-19", "usr/share/openclipart/svg")
FOLDERS = (
    "animals",
    "buildings",
    "education",
    "electronics",
    "food",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "tools",
    "transportation",
)  # things; not shapes, signs, flags, maps and icons of computers, which are hundreds of variants of a few
MAX_PIXELS = 10_000_000  # thirteen drawings have up to 623 million: minutes and gigabytes to decode, for a small model
EXCLUDED = ("cards",)  # the same 54 playing cards in four styles

_ITEM = re.compile(r"<rdf:li[^<>]*>([^<]*)</rdf:li>")  # linear in the text, as is `read_tags`
_MAX_SVG = 1 << 26  # bytes
_WORDS = re.compile(r"[a-z]{2,}( [a-z]{2,})*")


@dataclass(frozen=True, slots=True)
class Drawing:
    """One tagged picture.

    Attributes:
        picture: The picture.
        id: Its path below the package's folder, without suffix.
        tags: The tags of all its copies, without case, `_` and `-` as spaces.
    """

    picture: ImageFile
    id: str
    tags: frozenset[str]


def read_drawings(
    pictures: Path,
    tags: Path,
    folders: Sequence[str] = FOLDERS,
    exclude: Sequence[str] = EXCLUDED,
    max_pixels: int = MAX_PIXELS,
) -> list[Drawing]:
    """The drawings in some folders, in a fixed order, each once.

    Args:
        pictures: The folder of the PNG files.
        tags: The folder of the SVG files, in the same order of folders.
        folders: Take drawings below these folders; a copy counts where its original lies.
        exclude: Leave out drawings in folders of these names.
        max_pixels: Leave out larger drawings.

    Raises:
        DataError: If a folder holds no pictures, a picture is no PNG, or has no SVG file.
    """
    tagged: dict[str, set[str]] = defaultdict(set)
    originals: dict[str, Path] = {}
    base = pictures.resolve()
    elsewhere: dict[Path, Path] = {}  # files outside, to the first link that leads there
    for folder in folders:
        files = list(visible_below(pictures / folder, "*.png"))
        if not files:
            raise DataError(f"no PNG pictures below {pictures / folder}: fetch the package again")
        for path in files:
            if not path.exists():
                continue  # a link to what was not unpacked
            target = path.resolve()
            inside = target.is_relative_to(base)
            original = pictures / target.relative_to(base) if inside else elsewhere.setdefault(target, path)
            name = original.relative_to(pictures).with_suffix("").as_posix()
            parts = name.split("/")
            if parts[0] not in folders or set(parts) & set(exclude) or _pixels(original) > max_pixels:
                continue
            originals[name] = original
            tagged[name] |= read_tags((tags / path.relative_to(pictures)).with_suffix(".svg"))
    return [
        Drawing(ImageFile(str(originals[name]), name=f"openclipart/{name}"), name, frozenset(tagged[name]))
        for name in sorted(originals)
    ]


def _pixels(path: Path) -> int:
    """Width times height, from the header of a PNG file."""
    ImageFile(str(path)).check()
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or not header.startswith(b"\x89PNG"):
        raise DataError(f"{path} is no PNG picture: fetch the package again")
    width, height = struct.unpack(">II", header[16:])
    return int(width * height)


def read_tags(path: Path) -> set[str]:
    """The tags in the metadata of an SVG file.

    Raises:
        DataError: If the file is missing or broken.
    """
    try:
        text = read_bounded(path, _MAX_SVG).decode("utf-8", "replace")  # some files are Latin-1; their tags are ASCII
        _, _, rest = text.partition("<dc:subject>")
        subject, closed, _ = rest.partition("</dc:subject>")
        tags = [html.unescape(tag) for tag in _ITEM.findall(subject)] if closed else []
    except (OSError, ValueError) as error:  # a character reference of thousands of digits is a ValueError
        raise DataError(f"cannot read the tags in {path} ({error}): fetch both packages again") from error
    return {re.sub(r"[\s_-]+", " ", tag).casefold().strip() for tag in tags} - {""}


class OpenClipartTasks:
    """`openclipart_tags`: from a tag to the drawings that have it; all of them are relevant.

    Queries are the tags that are words and that neither few nor many drawings have. Candidates are all drawings of the
    folders. Tags are incomplete: a drawing without the tag may show the thing all the same, so that the figures are too
    low rather than too high.

    Args:
        pictures: Where `openclipart-png` was unpacked; null means where `scripts/fetch_real_small.py` puts it.
        tags: Where `openclipart-svg` was unpacked, likewise.
        folders: See `read_drawings`.
        exclude: See `read_drawings`.
        max_pixels: See `read_drawings`.
        at_least: Drawings that a tag must have: fewer are often typing errors or names.
        at_most: Drawings that a tag may have: more are mostly names of folders.
        main_metric: The figure to report.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        pictures: str | None = None,
        tags: str | None = None,
        folders: Sequence[str] = FOLDERS,
        exclude: Sequence[str] = EXCLUDED,
        max_pixels: int = MAX_PIXELS,
        at_least: int = 3,
        at_most: int = 20,
        main_metric: str = "hit@1",
    ) -> None:
        if not 1 <= at_least <= at_most:
            raise ConfigError(f"at_least is {at_least}, at_most is {at_most}: give 1 <= at_least <= at_most")
        self.pictures, self.tags, self.folders, self.exclude = pictures, tags, folders, exclude
        self.max_pixels = max_pixels
        self.at_least, self.at_most, self.main_metric = at_least, at_most, main_metric

    def tasks(self) -> list[RetrievalTask]:
        """The task.

        Raises:
            DataError: If the packages are not there or broken, or no tag is left.
        """
        pictures, tags = PICTURES.find(self.pictures), TAGS.find(self.tags)
        drawings = read_drawings(pictures, tags, self.folders, self.exclude, self.max_pixels)
        having: dict[str, dict[int, float]] = defaultdict(dict)
        for i, drawing in enumerate(drawings):
            for tag in drawing.tags:
                if _WORDS.fullmatch(tag):
                    having[tag][i] = 1.0
        queries = sorted(tag for tag, holders in having.items() if self.at_least <= len(holders) <= self.at_most)
        if not queries:
            raise DataError(
                f"{tags}: no tag has {self.at_least} to {self.at_most} of the {len(drawings)} drawings: "
                "widen at_least and at_most, or fetch the package again"
            )
        return [
            RetrievalTask(
                "openclipart_tags",
                [Side(text=tag) for tag in queries],
                [Side(images=(drawing.picture,)) for drawing in drawings],
                [having[tag] for tag in queries],
                main_metric=self.main_metric,
                version=PICTURES.version,
                candidate_ids=[drawing.id for drawing in drawings],
            )
        ]
