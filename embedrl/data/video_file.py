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
        name: Its name in errors and content keys. It must change with the content: see `file_frames`.
    """

    file: str
    index: int
    count: int
    name: str

    def load(self) -> Image:
        """The frame as RGB, upright.

        Raises:
            ConfigError: If PyAV is missing.
            DataError: If the file is missing, no video, broken, or beyond the bounds of this module.
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
    return file_frames(path, k)


def file_frames(path: Path, count: int) -> tuple[VideoFrame, ...]:
    """The frames that are sampled from a video file, evenly, the first and the last included.

    They are named by the file's name and a hash of its bytes, so that another version of the file has other frames.

    Args:
        path: The file.
        count: How many frames, at least 1; a video with fewer repeats some, as `sample_frames` does.

    Raises:
        DataError: If the file is missing or cannot be read.
    """
    digest = _digest(str(path), *_state(path))
    return tuple(VideoFrame(str(path), i, count, f"{path.name}/{digest}/{i + 1}of{count}") for i in range(count))


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
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@lru_cache(maxsize=2)  # the frames of one side are asked for one after the other
def _decoded(path: str, count: int, *state: int) -> tuple[Image, ...]:
    """The sampled frames of a file."""
    av = _av(path)
    with _naming(path):
        with av.open(path, options=_OPEN) as container:
            stamps, keys = _frame_times(container, path)
        picks = [stamps[i] for i in sample_frames(len(stamps), count)]
        with av.open(path, options=_OPEN) as container:
            stream = _stream(container, path)
            images = dict(_pictures(container, stream, sorted(set(picks)), keys, path))
    return tuple(images[pick] for pick in picks)


def _frame_times(container: Any, path: str) -> tuple[list[int], list[int]]:
    """When each frame is shown, and those of them that can be jumped to; nothing is decoded for it."""
    stream = _stream(container, path)
    times, keys = [], []
    for packet in container.demux(stream):
        stamp = packet.pts if packet.pts is not None else packet.dts
        if packet.size and stamp is not None and not packet.is_discard:
            times.append(stamp)
            if packet.is_keyframe:
                keys.append(stamp)
        if len(times) > MAX_FRAMES:
            raise PictureError(f"video {path} has more than {MAX_FRAMES} frames: cut it")
    if not times:
        raise PictureError(f"video {path} holds no frames: replace the file")
    times.sort()
    seconds = float((times[-1] - times[0]) * stream.time_base)
    if seconds > MAX_SECONDS:
        raise PictureError(f"video {path} takes {seconds:.0f} s, more than {MAX_SECONDS}: cut it")
    return times, sorted(keys)


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


def _pictures(container: Any, stream: Any, picks: list[int], keys: list[int], path: str) -> Iterator[tuple[int, Image]]:
    """The frames that are shown at some times, in order; what lies between far ones is jumped over."""
    frames, at, last = iter(()), None, None
    for pick in picks:
        start = keys[bisect_right(keys, pick) - 1] if keys and keys[0] <= pick else None
        if at is None or (start is not None and start > at):
            container.seek(picks[0] if start is None else start, stream=stream, backward=True)
            frames = container.decode(stream)
        while at is None or at < pick:
            frame = next(frames, None)
            if frame is None:
                break
            at, last = (pick if frame.pts is None else frame.pts), frame
        if last is None:
            raise PictureError(f"video {path}: no frame could be decoded: replace the file")
        yield pick, _upright(last, path)


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
