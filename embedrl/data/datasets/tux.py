"""Debian's Tux Paint stamps: cut-out pictures with captions, retrieved both ways.

The package `tuxpaint-stamps-default` (GPL-2) holds 796 PNG and 248 SVG pictures. `X.txt` beside `X.png` holds the
English caption in its first line. We use the 785 PNG pictures that have one; SVG pictures are left out, because none of
our requirements renders them. Transparent parts are laid on white. The lines below the first hold the caption in other
languages, `de.utf8=...`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from embedrl.data.images import ImageFile
from embedrl.data.local_copy import LocalCopy
from embedrl.errors import ConfigError, DataError
from embedrl.types import Modality, Pair, RetrievalTask, Side
from embedrl.utils.input_files import visible_below

STAMPS = LocalCopy("tuxpaint-stamps", "2022.06.04-1", "usr/share/tuxpaint/stamps", "scripts/fetch_tux.py")

Split = Literal["train", "val", "test"]
Direction = Literal["t2i", "i2t"]

_SHARES: dict[Split, int] = {"test": 20, "val": 10, "train": 70}  # percent of the captions
_TRANSLATION = re.compile(r"([A-Za-z_@]+)\.utf8=(.*)")


@dataclass(frozen=True, slots=True)
class Stamp:
    """One captioned picture.

    Attributes:
        picture: The picture.
        caption: Its English caption.
        id: Its path below the stamps' folder, without suffix; the first parts are categories.
        translations: The caption in other languages, by the code of the language.
    """

    picture: ImageFile
    caption: str
    id: str
    translations: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the English caption, by which stamps are split."""
        return caption_key(self.caption)

    def caption_in(self, language: str) -> str | None:
        """The caption in a language, `en` or a code of the translations; None if it was not translated."""
        return self.caption if language == "en" else self.translations.get(language)


def caption_key(caption: str) -> str:
    """A caption without case, outer punctuation and repeated spaces: equal for captions that say the same."""
    return re.sub(r"\s+", " ", caption).casefold().strip(" .!?")


def read_stamps(root: Path, exclude: Sequence[str] = ()) -> list[Stamp]:
    """All captioned PNG pictures below a folder, in a fixed order.

    Args:
        root: The folder that `scripts/fetch_tux.py` filled, or any folder above the pictures.
        exclude: Leave out pictures that lie in folders of these names, such as `symbols`.

    Raises:
        DataError: If there are none, or a caption is empty.
    """
    stamps = []
    for path in visible_below(root, "*.png"):
        name = path.relative_to(root).with_suffix("").as_posix().split("stamps/")[-1]
        caption_file = path.with_suffix(".txt")
        if not caption_file.is_file() or set(name.split("/")[:-1]) & set(exclude):
            continue
        try:
            caption, *rest = [line.strip() for line in caption_file.read_text(encoding="utf-8").split("\n")]
        except UnicodeDecodeError as error:
            raise DataError(f"{caption_file} is not UTF-8 ({error}): fetch the stamps again") from error
        if not caption:
            raise DataError(f"{caption_file} has no caption in its first line: fetch the stamps again")
        captions = [match.groups() for match in map(_TRANSLATION.fullmatch, rest) if match]
        translations = {language: text.strip() for language, text in captions if text.strip()}
        stamps.append(Stamp(ImageFile(str(path), name=f"tux/{name}"), caption, name, translations))
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
    folder = Path(root) if root is not None else STAMPS.root
    return [stamp for stamp in read_stamps(folder, exclude) if split_of(stamp, seed) == split]


class TuxSource:
    """Pairs of a caption and its picture.

    Args:
        split: `train` (70 % of the captions), `val` (10 %) or `test` (20 %).
        direction: `t2i` retrieves the picture from the caption, `i2t` the caption from the picture.
        root: The folder of the stamps; null means where `scripts/fetch_tux.py` puts them.
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
    default seed and nothing excluded, the test split holds 130 captions and 164 pictures, `val` 61 and 79. Candidates
    and queries that are pictures are named by their paths.

    Args:
        split: See `TuxSource`.
        directions: Which tasks.
        root: See `TuxSource`.
        seed: See `TuxSource`.
        exclude: See `TuxSource`.
        language: Language of the captions, such as `de`: the pictures are those of the English captions' split, less
            those without a caption in the language. Tasks of another language than English have its code in their
            names, `tux_t2i_de`.
    """

    def __init__(
        self,
        split: Split = "val",
        directions: Sequence[Direction] = ("t2i", "i2t"),
        root: str | None = None,
        seed: int = 0,
        exclude: Sequence[str] = (),
        language: str = "en",
    ) -> None:
        self.split, self.directions, self.root, self.seed, self.exclude = split, directions, root, seed, exclude
        self.language = language

    def tasks(self) -> list[RetrievalTask]:
        """The tasks.

        Raises:
            ConfigError: If no picture has a caption in the language.
            DataError: If the pictures are not there.
        """
        stamps = _stamps_of(self.root, self.split, self.seed, self.exclude)
        captioned = [(stamp, caption) for stamp in stamps if (caption := stamp.caption_in(self.language))]
        if stamps and not captioned:
            known = sorted({language for stamp in stamps for language in stamp.translations})
            raise ConfigError(f"language {self.language!r}: the {self.split} stamps have en, {', '.join(known)}")
        captions: dict[str, Side] = {}
        for _, caption in captioned:
            captions.setdefault(caption_key(caption), Side(text=caption))
        place = {key: i for i, key in enumerate(captions)}
        texts = list(captions.values())
        pictures = [Side(images=(stamp.picture,)) for stamp, _ in captioned]
        names = [stamp.id for stamp, _ in captioned]
        of_picture = [{place[caption_key(caption)]: 1.0} for _, caption in captioned]
        of_caption: list[dict[int, float]] = [{} for _ in texts]
        for i, (_, caption) in enumerate(captioned):
            of_caption[place[caption_key(caption)]][i] = 1.0
        version = f"{STAMPS.version}-png-seed{self.seed}"
        suffix = "" if self.language == "en" else f"_{self.language}"
        made = {
            "t2i": RetrievalTask(f"tux_t2i{suffix}", texts, pictures, of_caption, version=version, candidate_ids=names),
            "i2t": RetrievalTask(f"tux_i2t{suffix}", pictures, texts, of_picture, version=version, query_ids=names),
        }
        return [made[direction] for direction in self.directions]
