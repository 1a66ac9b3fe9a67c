"""The pixels of a pair: a file that stays where it is, or bytes inside another file (a shard, a table, a PDF)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from embedrl.data.images import ImageFile, is_picture, picture_format
from embedrl.data.in_memory import EmbeddedPicture
from embedrl.data.video import is_video
from embedrl.errors import DataError, MissingFileError, PictureError, overload_error, said
from embedrl.types import ImageSource
from embedrl.utils.input_files import not_regular

MAX_BYTES = 1 << 28
"""Largest picture inside another file."""


_SUFFIX_OF = {"JPEG": ".jpg", "TIFF": ".tif"}  # of the others, the format's name


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A picture or a video in a file of its own.

    Attributes:
        path: Where it is.
        name: Its path below the data's root.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether its name is a video's."""
        return is_video(self.name)

    def digest(self) -> str:
        """The SHA-256 of its bytes.

        Raises:
            DataError: If it is missing or no regular file.
            StorageError: If the machine cannot read files now.
        """
        try:
            if kind := not_regular(self.path.stat().st_mode):
                raise PictureError(f"{self.path} cannot be read ({kind}): give a file")
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            if (overloaded := overload_error(error, str(self.path))) is not None:
                raise overloaded from error
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise MissingFileError(f"{self.path} does not exist: check the path and the root folder") from error
            raise MissingFileError(f"{self.path} cannot be read ({said(error)}): check the path") from error

    def source(self, content: str) -> ImageSource:
        """The picture, opened when its pixels are needed.

        Args:
            content: Its digest.
        """
        return ImageFile(str(self.path), self.name)

    def save(self, folder: Path, content: str) -> str:
        """Copy it into a folder, named by its content.

        Args:
            folder: The folder.
            content: Its digest.

        Returns:
            The name of the copy.
        """
        name = f"{content[:32]}{PurePosixPath(self.name).suffix.lower()}"
        if not (folder / name).exists():
            if not self.path.is_file():
                raise MissingFileError(f"{self.path} is gone since it was read: start again")
            shutil.copyfile(self.path, folder / name)
        return name


@dataclass(frozen=True, slots=True)
class MediaBytes:
    """A picture inside another file.

    Attributes:
        name: Where it is, for errors: the file and the place in it.
        read: Returns its bytes.
    """

    name: str
    read: Callable[[], bytes] = field(compare=False)
    is_video: bool = False

    def digest(self) -> str:
        """The SHA-256 of its bytes.

        Raises:
            DataError: If it cannot be read, or is no picture.
        """
        content = self.read()
        suffix_of(content, self.name)
        return hashlib.sha256(content).hexdigest()

    def source(self, content: str) -> ImageSource:
        """The picture, read when its pixels are needed; see `MediaFile.source`."""
        return EmbeddedPicture(f"{self.name}#{content[:16]}", self.read)

    def save(self, folder: Path, content: str) -> str:
        """Write it into a folder, named by its content; see `MediaFile.save`."""
        data = self.read()
        name = f"{content[:32]}{suffix_of(data, self.name)}"
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
        return name


def suffix_of(content: bytes, name: str) -> str:
    """The suffix of a file with these bytes, from the picture's header.

    Args:
        content: The bytes.
        name: The picture's name, for errors.

    Raises:
        DataError: If it is no picture.
    """
    kind = picture_format(content, name, "replace it")
    return _SUFFIX_OF.get(kind, f".{kind.lower()}")


def check_kind(name: str) -> None:
    """See that a file name is that of a picture or a video.

    Raises:
        DataError: If it is neither.
    """
    if not is_picture(name) and not is_video(name):
        raise DataError(f"{name!r:.120} ends like neither a picture nor a video: name a .jpg, .png, .mp4 ... file")
