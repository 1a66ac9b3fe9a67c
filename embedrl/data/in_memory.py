"""Pictures that a program holds in memory, names by their files, or reads from inside another file, as sources."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedrl.data.images import ImageFile, as_loaded, check_size, decode_picture
from embedrl.data.opened import OpenedImage
from embedrl.errors import DataError, PictureError, unreadable
from embedrl.types import ImageSource


def picture_source(picture: Any) -> ImageSource:
    """A picture as a source. Of one in memory, the name is a hash of its pixels, so that equal pictures are one.

    Args:
        picture: The name of a file, Pillow's picture, an array or tensor of uint8 (`[height, width, 3]` or
            `[3, height, width]`), or a source, which is returned as it is.

    Raises:
        DataError: If it is none of these, cannot be decoded, or is too large or too narrow.
    """
    if isinstance(picture, str | Path):
        return ImageFile(str(Path(picture).expanduser()))
    if isinstance(picture, ImageSource):  # before arrays: Pillow's pictures have no `name`
        return picture
    if hasattr(picture, "__array__") and not isinstance(picture, Image.Image):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise DataError(f"a picture of type {type(picture).__name__}: give a file's name, Pillow's or an array")
    check_size(*picture.size, "a picture", cure="shrink it")
    with unreadable("a picture that cannot be decoded", "give another one"):  # Pillow decodes late
        image = as_loaded(picture)
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return OpenedImage(f"pixels/{digest[:32]}", image)


def picture_of_bytes(content: bytes, what: str, max_pixels: int) -> ImageSource:
    """A picture whose file is in memory, as `picture_source` names it.

    Args:
        content: The file, in one of the formats of `embedrl.data.images`.
        what: Its name for errors.
        max_pixels: Largest product of width and height.

    Raises:
        DataError: If it is no picture, broken, too large or too narrow.
    """
    return picture_source(decode_picture(content, what, "send another one", max_pixels))


@dataclass(frozen=True, slots=True)
class EmbeddedPicture:
    """A picture whose bytes stand inside another file; implements `ImageSource`.

    Attributes:
        name: Its name in errors, which holds a hash of its bytes.
        read: Returns its bytes.
    """

    name: str
    read: Callable[[], bytes] = field(compare=False)

    def load(self) -> Image.Image:
        """The picture as RGB, as `ImageFile.load` gives one.

        Raises:
            DataError: If it cannot be read or decoded, is too large or too thin.
        """
        with unreadable(f"cannot read picture {self.name}", "replace it", PictureError):
            content = self.read()
        return decode_picture(content, f"picture {self.name}", "replace it")


def _from_array(pixels: Any) -> Image.Image:
    """`[height, width, 3]` or `[3, height, width]`, uint8."""
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]):
        raise DataError(
            f"pixels of {array.dtype} {list(array.shape)}: give uint8 of [height, width, 3] or its transpose"
        )
    return Image.fromarray(array if array.shape[2] == 3 else array.transpose(1, 2, 0))
