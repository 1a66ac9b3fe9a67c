"""Pictures and frames on disk: opened on demand, checked, always RGB. Source: Embed-RL B.3."""

from __future__ import annotations

import ctypes
import functools
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging
from PIL.JpegImagePlugin import JpegImageFile

from embedrl.errors import (
    DataError,
    MissingFileError,
    PictureError,
    StorageError,
    ThinPictureError,
    overload_error,
    unreadable,
)
from embedrl.utils.input_files import not_regular

MAX_PIXELS = 178_956_970
"""Pillow's own limit: a picture this large takes half a GiB as RGB."""

MAX_RATIO = 200
"""A picture's long side is at most this many times its short one: Qwen-VL's limit, and a bound for all that resize."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""The formats that are decoded, whatever a file's name. Pillow knows many more, and starts Ghostscript on some."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
"""How the names of pictures end, in small letters."""

MAX_SCANS = 200
"""A JPEG is decoded over its whole size once a scan; real ones have at most a few dozen, and a scan takes 100 bytes."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture on disk.

    Attributes:
        path: Where it is.
        name: Its name in errors; give the path relative to the data's root. Empty means `path`.
        max_pixels: Refuse a larger picture (a decompression bomb fills the memory).
    """

    path: str
    name: str = ""
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Name the picture by its path unless a name is given."""
        object.__setattr__(self, "name", self.name or str(self.path))

    def check(self) -> None:
        """See whether the file is there, without reading it.

        Raises:
            DataError: If it is missing or no regular file (a FIFO, a device, a folder).
            StorageError: If the machine cannot read files now, such as with too many open.
        """
        try:
            kind = not_regular(os.stat(self.path).st_mode)  # noqa: PTH116  # called for every picture of a data set
        except Exception as error:
            raise self._refused("open", error) from error
        if kind:
            raise PictureError(f"cannot open picture {self.path} ({kind}): give a picture's file")

    def load(self) -> Image.Image:
        """The picture as RGB at its original size, upright, transparency on white; of several, the first.

        Raises:
            DataError: If it is missing, no picture, truncated, larger than `max_pixels` or narrower than `MAX_RATIO`.
            StorageError: If the machine cannot read files now, such as with too many open.
        """
        self.check()
        _silence_libtiff()
        try:
            with _without_pillow_limit():
                image = Image.open(self.path, formats=FORMATS)
        except Exception as error:  # decoders raise nearly anything on broken files
            raise self._refused("open", error) from error
        with image:
            check_size(*image.size, f"picture {self.path}", self.max_pixels)
            try:
                if isinstance(image, JpegImageFile) and scans(Path(self.path).read_bytes()) > MAX_SCANS:
                    raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
                return as_loaded(image)
            except Exception as error:
                raise self._refused("decode", error) from error

    def _refused(self, step: str, error: Exception) -> DataError | StorageError:
        """What to raise for an exception of the system or of a decoder."""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return MissingFileError(f"picture {self.path} does not exist: check the root folder and the row's path")
        if (overloaded := overload_error(error, f"picture {self.path}")) is not None:
            return overloaded
        what, cure = str(error) or type(error).__name__, "replace the file"
        if isinstance(error, UnidentifiedImageError):
            what, cure = f"none of {', '.join(FORMATS)}, or broken", "replace the file, or save it as PNG"
        if "too large for PngImagePlugin" in what or "MAX_TEXT_MEMORY" in what:
            what, cure = f"its metadata: {what}", "replace the file, or save it without its metadata"
        return PictureError(f"cannot {step} picture {self.path} ({what}): {cure}")


def decode_picture(content: bytes, what: str, cure: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture whose file is in memory, as `ImageFile.load` gives one.

    Args:
        content: The file.
        what: The picture's name for errors.
        cure: What to do about a broken one.
        max_pixels: Largest product of width and height.

    Raises:
        DataError: If it is no picture, broken, too large or too narrow.
    """
    _silence_libtiff()
    with unreadable(f"cannot decode {what}", cure, PictureError):
        try:
            with _without_pillow_limit():
                image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError:  # it names an object of Python
            raise PictureError(f"cannot decode {what} (none of {', '.join(FORMATS)}, or broken): {cure}") from None
        with image:
            check_size(*image.size, what, max_pixels, "shrink it")
            if isinstance(image, JpegImageFile) and scans(content) > MAX_SCANS:
                raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
            return as_loaded(image)


def picture_format(content: bytes, what: str, cure: str) -> str:
    """The format of a picture whose file is in memory, one of `FORMATS`, by its header.

    Args:
        content: The file.
        what: The picture's name for errors.
        cure: What to do if it is none.

    Raises:
        DataError: If it is no picture.
    """
    with (
        unreadable(f"{what} is no picture of {', '.join(FORMATS)}", cure, PictureError),
        _without_pillow_limit(),
        Image.open(io.BytesIO(content), formats=FORMATS) as image,
    ):
        return str(image.format)


def scans(content: bytes) -> int:
    """How often a JPEG is decoded over its whole size; counting ends above `MAX_SCANS`.

    Args:
        content: The file.
    """
    count, at = 0, 0
    while count <= MAX_SCANS and (marker := _MARKER.search(content, at)):
        at, kind = marker.end(), marker[1][0]
        if kind == 0xD9:  # the end; cameras put films and other pictures behind it
            break
        if kind not in (0x01, 0xD8):
            count += kind == 0xDA
            at += int.from_bytes(content[at : at + 2])
    return count


def check_size(
    width: int,
    height: int,
    what: str,
    max_pixels: int = MAX_PIXELS,
    cure: str = "shrink it, or raise max_pixels if you trust the file",
) -> None:
    """See that a picture may be decoded and resized; bounds the memory and the time that it can take.

    Args:
        width: Its width in pixels.
        height: Its height in pixels.
        what: Its name for the error.
        max_pixels: Largest product of both.
        cure: What to do about a picture that is too large.

    Raises:
        DataError: If it is too large, or more than `MAX_RATIO` times as long as wide.
    """
    if width * height > max_pixels:
        raise PictureError(
            f"{what} has {width} x {height} = {width * height} pixels, more than max_pixels={max_pixels}: {cure}"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ThinPictureError(
            f"{what} has {width} x {height} pixels, one side more than {MAX_RATIO} times the other: "
            "cut or pad it, or leave the row out"
        )


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Open a picture's header without Pillow's global pixel limit: `ImageFile.max_pixels` is checked instead."""
    with _pillow_limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def as_loaded(image: Image.Image) -> Image.Image:
    """A picture in memory as `ImageFile.load` gives one from a file: RGB, upright, transparency on white.

    Args:
        image: A picture of any of Pillow's modes; of several, the one that it stands at.
    """
    return _to_rgb(ImageOps.exif_transpose(image))


@functools.cache
def _silence_libtiff() -> None:
    """Have libtiff write nothing to stderr: what it says of a broken file comes as an exception, too."""
    with suppress(OSError, AttributeError):  # a Pillow without it, or with one that is built in
        library = ctypes.CDLL(_imaging.__file__)  # finds what the extension is linked with
        for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


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


def is_picture(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES
