"""Whether the pictures of a pair are there, or can be read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self

from embedrl.errors import DataError
from embedrl.types import ImageSource, Pair, Side

_CHUNK = 16  # files that a process takes at a time


class PictureCheck:
    """Looks at every picture and frame of a pair; each is looked at once, whoever shows it.

    Of a video in a file, one frame stands for all: they are decoded together.

    Args:
        decode: Whether to read the pixels; else a file that is there passes.
        workers: Processes that read pixels ahead (`look_ahead`); with 1 this one alone does.
    """

    def __init__(self, decode: bool = False, workers: int = 1) -> None:
        self.decode = decode
        self._known: dict[str, tuple[str, str]] = {}
        context = multiprocessing.get_context("spawn")  # this process may have threads, which a fork would break
        self._pool = ProcessPoolExecutor(workers, context) if decode and workers > 1 else None

    def __enter__(self) -> Self:
        """Nothing to do: processes start when they are needed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def look_ahead(self, pairs: Iterable[Pair]) -> None:
        """Read the files of some pairs in several processes; what they hold is known afterwards.

        Args:
            pairs: The pairs.
        """
        if self._pool is None:
            return
        sources = {_name(source): source for pair in pairs for source in _sources(pair) if _file(source)}
        left = {name: source for name, source in sources.items() if name not in self._known}
        self._known |= zip(left, self._pool.map(read_pixels, left.values(), chunksize=_CHUNK), strict=True)

    def __call__(self, pair: Pair) -> tuple[str, str]:
        """Look at a pair, hard negatives included.

        Returns:
            The cause, such as `missing_file`, and what the first bad one is about; both empty if nothing is wrong.
        """
        for source in _sources(pair):
            cause, problem = self._look(source)
            if cause:
                return cause, problem
        return "", ""

    def _look(self, source: ImageSource) -> tuple[str, str]:
        name = _name(source)
        if name not in self._known:
            self._known[name] = read_pixels(source, self.decode)
        return self._known[name]


def read_pixels(source: ImageSource, decode: bool = True) -> tuple[str, str]:
    """See whether a picture can be read.

    Args:
        source: The picture.
        decode: Whether to read its pixels; else a file that is there passes.

    Returns:
        The cause and what is wrong; both empty if nothing is.
    """
    try:
        check_file(source)
        if decode:
            source.load()
    except DataError as error:
        return error.cause, str(error)
    return "", ""


def _sources(pair: Pair) -> list[ImageSource]:
    sources: list[ImageSource] = []
    for side in (pair.query, pair.target, *pair.negatives):
        in_a_file = bool(side.frames) and hasattr(side.frames[0], "file")
        sources += [*side.images, *(side.frames[:1] if in_a_file else side.frames)]
    return sources


def _file(source: ImageSource) -> bool:
    """Whether it is read from a disk: what is drawn or in memory needs no other process."""
    return hasattr(source, "path") or hasattr(source, "file")


def _name(source: ImageSource) -> str:
    return str(getattr(source, "path", source.name))


def check_files(side: Side) -> None:
    """See that the files of a side's pictures and frames are there, without reading them.

    Raises:
        DataError: If one is missing.
    """
    for source in (*side.images, *side.frames):
        check_file(source)


def check_file(source: ImageSource) -> None:
    """See that a picture's file is there, if it comes from one that can tell (`ImageFile.check`).

    Raises:
        DataError: If it is missing.
    """
    check = getattr(source, "check", None)
    if check is not None:
        check()
