"""Pictures and frames on disk: opened on demand, checked, always RGB. Source: Embed-RL B.3."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from embedrl.errors import DataError

MAX_PIXELS = 178_956_970
"""Pillow's own limit: a picture this large takes half a GiB as RGB."""

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture on disk.

    Attributes:
        path: Where it is.
        name: Its name in errors and content keys; give the path relative to the data's root, so that keys are the
            same on every machine. Empty means `path`.
        max_pixels: Refuse a larger picture (a decompression bomb fills the memory).
    """

    path: str
    name: str = ""
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Name the picture by its path unless a name is given."""
        object.__setattr__(self, "name", self.name or str(self.path))

    def load(self) -> Image.Image:
        """The picture as RGB at its original size, upright, transparency on white.

        Raises:
            DataError: If it is missing, no picture, truncated, or larger than `max_pixels`.
        """
        try:
            with _without_pillow_limit():
                image = Image.open(self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"picture {self.path} does not exist: check the root folder and the row's path") from error
        except OSError as error:
            raise DataError(f"cannot open picture {self.path} ({error}): replace the file") from error
        with image:
            width, height = image.size
            if width * height > self.max_pixels:
                raise DataError(
                    f"picture {self.path} has {width} x {height} = {width * height} pixels, more than "
                    f"max_pixels={self.max_pixels}: shrink it, or raise max_pixels if you trust the file"
                )
            try:
                return _to_rgb(ImageOps.exif_transpose(image))
            except Exception as error:  # decoders raise nearly anything on broken files
                raise DataError(f"cannot decode picture {self.path} ({error}): replace the file") from error


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Open a picture's header without Pillow's global pixel limit: `ImageFile.max_pixels` is checked instead."""
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    # convert() copies: the result no longer needs the file.
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float pixels to 8 bits; Pillow's own conversion clips them to white."""
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float64))
    largest = pixels.max(initial=0)
    if image.mode.startswith("I;16"):
        full = 65535.0
    elif image.mode == "F":
        full = next((f for f in (1.0, 255.0, 65535.0) if largest <= f), largest)
    else:
        full = next((f for f in (255.0, 65535.0) if largest <= f), largest)
    return Image.fromarray((pixels.clip(0) * (255 / full)).round().astype(np.uint8), "L")


def resolve(root: str | Path, name: str) -> tuple[str, str]:
    """Where a file named in a row is.

    Args:
        root: The folder that rows are relative to.
        name: The path in the row.

    Returns:
        The path to open, and the normalised path relative to the root.

    Raises:
        DataError: If the path is absolute or leaves the root.
    """
    relative = os.path.normpath(name.replace("\\", "/"))
    parts = PurePosixPath(relative).parts
    if not name.strip() or "\0" in name or relative.startswith("/") or ".." in parts:
        raise DataError(f"path {name!r} leaves the root folder {root}: give a path inside it")
    return str(Path(root) / relative), relative


def is_picture(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES
