"""Pictures opened once, in memory, for whoever reads the same side several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedrl.errors import DataError
from embedrl.types import ImageSource, Pair, Side, picture_key

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A picture in memory; implements `ImageSource`.

    Attributes:
        name: Name of the content, as that of the source it came from.
        image: The picture; nobody may change it.
        path: The file it came from; None if it was none. With the name it keeps `Side.key` the same.
    """

    name: str
    image: Image
    path: str | None = None

    def load(self) -> Image:
        """The picture."""
        return self.image


def open_side(side: Side, where: str, opened: dict[bytes, OpenedImage] | None = None) -> Side:
    """The side with its pictures and frames in memory.

    Args:
        side: The side.
        where: Its name for errors.
        opened: Pictures that are open already, by `picture_key`; those of the side are added.

    Raises:
        DataError: If a picture is broken; the message begins with `where`.
    """
    known = {} if opened is None else opened

    def open_all(sources: Sequence[ImageSource]) -> tuple[ImageSource, ...]:
        keys = [picture_key(source) for source in sources]
        for key, source in zip(keys, sources, strict=True):
            if key not in known:
                known[key] = OpenedImage(source.name, source.load(), getattr(source, "path", None))
        return tuple(known[key] for key in keys)

    try:
        return replace(side, images=open_all(side.images), frames=open_all(side.frames))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def open_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the pictures of both sides in memory, each opened once; negatives stay as they are.

    Args:
        pairs: Pairs of one data set.

    Raises:
        DataError: If a picture is broken; the message begins with `dataset/id`.
    """
    opened: dict[bytes, OpenedImage] = {}
    return [
        replace(
            pair,
            query=open_side(pair.query, f"{pair.dataset}/{pair.id} (query)", opened),
            target=open_side(pair.target, f"{pair.dataset}/{pair.id} (target)", opened),
        )
        for pair in pairs
    ]
