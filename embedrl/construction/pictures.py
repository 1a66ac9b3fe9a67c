"""Whether the pictures of a pair are there, or can be read."""

from __future__ import annotations

from embedrl.errors import DataError
from embedrl.types import ImageSource, Pair, Side


class PictureCheck:
    """Looks at every picture and frame of a pair; each is looked at once, whoever shows it.

    Args:
        decode: Whether to read the pixels; else a file that is there passes.
    """

    def __init__(self, decode: bool = False) -> None:
        self.decode = decode
        self._known: dict[str, tuple[str, str]] = {}

    def __call__(self, pair: Pair) -> tuple[str, str]:
        """Look at a pair, hard negatives included.

        Returns:
            The cause, such as `missing_file`, and what the first bad one is about; both empty if nothing is wrong.
        """
        for side in (pair.query, pair.target, *pair.negatives):
            for source in (*side.images, *side.frames):
                cause, problem = self._look(source)
                if cause:
                    return cause, problem
        return "", ""

    def _look(self, source: ImageSource) -> tuple[str, str]:
        name = str(getattr(source, "path", source.name))
        if name not in self._known:
            self._known[name] = "", ""
            try:
                check_file(source)
                if self.decode:
                    source.load()
            except DataError as error:
                self._known[name] = error.cause, str(error)
        return self._known[name]


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
