"""Frames of video files through PyAV (`pip install 'embedrl[video]'`), within bounds that a file cannot lift."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedrl.data.images import ImageFile, check_size
from embedrl.data.video import NUM_FRAMES, list_frames, sample_frames
from embedrl.errors import ConfigError, EmbedRLError, MissingFileError, PictureError, overload_error, said
from embedrl.types import ImageSource
from embedrl.utils.input_files import not_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SECONDS = 6 * 3600
"""Longest video, in seconds."""

MAX_FRAMES = 2_000_000
"""The most frames of a file: 6 hours at 90 a second."""

MAX_FRAME_PIXELS = 8192 * 4608
"""Largest frame, in pixels."""

MAX_BYTES = 1 << 36
"""Largest file: 64 GiB."""

_INDEXED = {"mp4", "matroska"}  # others, such as AVI, mark frames that cannot be jumped to, or none
# A playlist may name other files and servers: containers alone are opened, and files alone are read.
_OPEN = {"format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf", "protocol_whitelist": "file"}


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One of the frames sampled from a video file; implements `ImageSource`.

    All frames of a file are decoded together when the first is asked for.

    Attributes:
        file: The file.
        index: Which of the sampled frames, counted from 0.
        count: How many are sampled.
    """

    file: str
    index: int
    count: int

    @property
    def name(self) -> str:
        """The file and the frame's number."""
        return f"{self.file} frame {self.index + 1} of {self.count}"

    def check(self) -> None:
        """See whether the file is there, without reading it.

        Raises:
            DataError: If it is missing, no regular file, or too large.
            StorageError: If the machine cannot read files now.
        """
        _state(Path(self.file))

    def content(self) -> str:
        """A hash of what it shows: of the file's bytes, and which frame of them.

        Raises:
            DataError: If the file is missing, no regular file, or too large.
            StorageError: If the machine cannot read files now.
        """
        return f"video:{_digest(self.file, *_state(Path(self.file)))}/{self.index + 1}of{self.count}"

    def load(self) -> Image:
        """The frame as RGB, upright.

        Raises:
            ConfigError: If PyAV is missing.
            DataError: If the file is missing, no video, broken, or beyond the bounds of this module.
            StorageError: If the machine cannot read files now.
        """
        return _decoded(self.file, self.count, *_state(Path(self.file)))[self.index]


def video_frames(path: Path, k: int = NUM_FRAMES) -> tuple[ImageSource, ...]:
    """The frames sampled from a video, evenly, first and last included; nothing is decoded yet.

    Args:
        path: A folder of frames, or a video's file.
        k: Number of frames to sample, at least 1.

    Raises:
        DataError: If there is no such folder or file, or the folder holds no picture.
    """
    if path.is_dir():
        names = list_frames(path)
        return tuple(ImageFile(str(path / names[i])) for i in sample_frames(len(names), k))
    frames = file_frames(path, k)
    frames[0].check()
    return frames


def file_frames(path: Path | str, k: int = NUM_FRAMES) -> tuple[VideoFrame, ...]:
    """The frames that are sampled from a video file, evenly, the first and the last included; nothing is read yet.

    Args:
        path: The file.
        k: Number of frames, at least 1; a video with fewer repeats some, as `sample_frames` does.
    """
    return tuple(VideoFrame(str(path), i, k) for i in range(k))


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file does.

    Raises:
        DataError: If it is missing, no regular file, or too large.
        StorageError: If the machine cannot read files now.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        if (overloaded := overload_error(error, f"video {path}")) is not None:
            raise overloaded from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise MissingFileError(f"video {path} does not exist: check the root folder and the path") from error
        what = getattr(error, "strerror", None) or error
        raise MissingFileError(f"video {path} cannot be read ({what}): check the root folder and the path") from error
    if kind := not_regular(stat.st_mode):
        raise PictureError(f"cannot open video {path} ({kind}): give a video's file")
    if stat.st_size > MAX_BYTES:
        raise PictureError(f"video {path} has {stat.st_size} bytes, more than {MAX_BYTES}: cut it")
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


@lru_cache(maxsize=1 << 14)
def _digest(path: str, *state: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


@lru_cache(maxsize=2)  # the frames of one side are asked for one after the other
def _decoded(path: str, count: int, *state: int) -> tuple[Image, ...]:
    """The sampled frames of a file."""
    av = _av(path)
    with _naming(path):
        with av.open(path, options=_OPEN) as container:
            times, keys = _frame_times(container, path)
        numbers = sample_frames(len(times), count)
        with av.open(path, options=_OPEN) as container:
            stream = _stream(container, path)
            if keys is None:
                frames = _by_number(container, stream, sorted(set(numbers)))
                picks = numbers
            else:
                picks = [times[number] for number in numbers]
                frames = _by_time(container, stream, sorted(set(picks)), keys)
            images = {pick: _upright(frame, path) for pick, frame in frames}
    if len(images) < len(set(picks)):
        raise PictureError(f"video {path}: no frame could be decoded: replace the file")
    return tuple(images[pick] for pick in picks)


def _frame_times(container: Any, path: str) -> tuple[list[int], list[int] | None]:
    """When each frame is shown, in order, and which of them can be jumped to; nothing is decoded for it.

    The second is None where a file does not say so surely: its frames are then counted, and none is jumped over.
    """
    stream = _stream(container, path)
    times: list[int] = []
    keys: list[int] | None = [] if _INDEXED & set(container.format.name.split(",")) else None
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.pts is None:
            keys = None
        times.append(packet.dts or 0 if packet.pts is None else packet.pts)
        if keys is not None and packet.is_keyframe:
            keys.append(times[-1])
        if len(times) > MAX_FRAMES:
            raise PictureError(f"video {path} has more than {MAX_FRAMES} frames: cut it")
    if not times:
        raise PictureError(f"video {path} holds no frames: replace the file")
    times.sort()
    seconds = float((times[-1] - times[0]) * stream.time_base)
    if seconds > MAX_SECONDS:
        raise PictureError(f"video {path} takes {seconds:.0f} s, more than {MAX_SECONDS}: cut it")
    return times, None if keys is None else sorted(keys)


def _stream(container: Any, path: str) -> Any:
    """The first stream of pictures, whose decoder refuses frames that are too large."""
    if not container.streams.video:
        raise PictureError(f"video {path} holds no pictures: replace the file")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise PictureError(f"video {path} is written by a codec that this FFmpeg lacks: encode it again, as H.264")
    if context.width and context.height:
        check_size(context.width, context.height, f"video {path}", MAX_FRAME_PIXELS, "shrink it")
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def _by_time(container: Any, stream: Any, picks: list[int], keys: list[int]) -> Iterator[tuple[int, Any]]:
    """The frames that are shown at some times, in order; what lies between far ones is jumped over."""
    frames: Iterator[Any] = iter(())
    at: int | None = None
    last = None
    for pick in picks:
        start = keys[bisect_right(keys, pick) - 1] if keys and keys[0] <= pick else picks[0]
        if at is None or start > at:
            container.seek(start, stream=stream, backward=True)
            frames = container.decode(stream)
        while at is None or at < pick:
            frame = next(frames, None)
            if frame is None:
                break
            at, last = (pick if frame.pts is None else frame.pts), frame
        if last is not None:
            yield pick, last


def _by_number(container: Any, stream: Any, picks: list[int]) -> Iterator[tuple[int, Any]]:
    """The frames of some numbers, in order; all before them are decoded."""
    rest, last = list(picks), None
    for number, frame in enumerate(container.decode(stream)):
        last = frame
        if rest and number == rest[0]:
            yield rest.pop(0), frame
        if not rest:
            return
    yield from ((number, last) for number in rest if last is not None)


def _upright(frame: Any, path: str) -> Image:
    """A decoded frame as RGB, turned as its metadata say."""
    check_size(frame.width, frame.height, f"a frame of video {path}", MAX_FRAME_PIXELS, "shrink it")
    image: Image = frame.to_image()
    turned = round(frame.rotation / 90) % 4
    return image.rotate(90 * turned, expand=True) if turned else image


def _av(path: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"{path}: video files need PyAV: run pip install 'embedrl[video]'") from error
    av.logging.set_level(None)  # what FFmpeg says of a broken file comes as an exception, too
    return av


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Whatever a decoder raises over the content of a file becomes one error of ours: they raise nearly anything."""
    try:
        yield
    except EmbedRLError:
        raise
    except Exception as error:
        if (overloaded := overload_error(error, f"video {path}")) is not None:
            raise overloaded from error
        raise PictureError(f"cannot decode video {path} ({said(error)}): replace the file") from error
