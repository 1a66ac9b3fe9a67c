"""Pages and sections of PDF files, through pypdfium2 (`pip install 'embedrl[documents]'`)."""

from __future__ import annotations

import hashlib
import math
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedrl.data.images import check_size
from embedrl.errors import ConfigError, DataError, EmbedRLError
from embedrl.utils.input_files import read_bounded

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 1 << 29
"""Largest PDF file, after unpacking."""

_pdfium_lock = threading.Lock()  # PDFium is not thread-safe


@dataclass(frozen=True, slots=True)
class Section:
    """An entry of a PDF's outline.

    Attributes:
        title: Its title.
        page: The page where it begins, counted from 0.
    """

    title: str
    page: int


@dataclass(frozen=True, slots=True)
class PdfPage:
    """A page that is drawn when its pixels are needed; implements `ImageSource`.

    Attributes:
        file: The PDF file, or the same compressed by gzip.
        index: The page, counted from 0.
        name: Its name in errors and content keys. It must change with the content: see `read_pdf`.
        dpi: Pixels per inch.
    """

    file: str
    index: int
    name: str
    dpi: int = 100

    def load(self) -> Image:
        """Draw the page as RGB.

        Raises:
            ConfigError: If pypdfium2 is missing.
            DataError: If the file or the page cannot be read, or the page would have too many pixels.
        """
        with _page(Path(self.file), self.index) as page:
            scale = self.dpi / 72
            width, height = (math.ceil(side * scale) for side in page.get_size())
            what = f"{self.file}: page {self.index + 1} at {self.dpi} dpi"
            check_size(width, height, what, cure="lower dpi, or leave the page out")
            image: Image = page.render(scale=scale).to_pil().convert("RGB")
            return image

    def text(self) -> str:
        """The page's text layer; words that were split at a line break are joined again.

        Raises:
            ConfigError: If pypdfium2 is missing.
            DataError: If the file or the page cannot be read.
        """
        with _page(Path(self.file), self.index) as page:
            layer: str = page.get_textpage().get_text_bounded()
            return layer.replace("\x02", "")  # how PDFium writes the hyphen of a parted word


def read_pdf(path: Path, dpi: int = 100) -> tuple[list[PdfPage], list[Section]]:
    """The pages of a PDF and the entries of its outline, in order.

    Pages are named by the file's name and a hash of its bytes, so that another version of the file has other pages.

    Args:
        path: The PDF file, or the same compressed by gzip.
        dpi: Pixels per inch of the pages.

    Raises:
        ConfigError: If pypdfium2 is missing.
        DataError: If the file is missing, no PDF, encrypted, or has no outline.
    """
    content = _read(path)
    stem = _stem(path, content)
    with _open(path, content) as document:
        pages = [PdfPage(str(path), i, f"{stem}/{i + 1}@{dpi}dpi", dpi) for i in range(len(document))]
        entries = [(" ".join(entry.get_title().split()), entry.get_dest()) for entry in document.get_toc()]
        places = [(title, None if place is None else place.get_index()) for title, place in entries]
    sections = [Section(title, page) for title, page in places if title and page is not None and page < len(pages)]
    if not sections:
        raise DataError(f"{path} has no outline: give a PDF with bookmarks")
    return pages, sections


def page_source(path: Path, number: int, dpi: int = 100) -> PdfPage:
    """One page of a PDF, named as `read_pdf` names it.

    Args:
        path: The PDF file, or the same compressed by gzip.
        number: The page, counted from 1.
        dpi: Pixels per inch.

    Raises:
        DataError: If the file cannot be read.
    """
    return PdfPage(str(path), number - 1, f"{_stem(path, _read(path))}/{number}@{dpi}dpi", dpi)


def _stem(path: Path, content: bytes) -> str:
    """How the names of a file's pages begin."""
    return f"{path.name}/{hashlib.sha256(content).hexdigest()[:16]}"


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"cannot read {path} ({error}): check the path, or fetch the file again") from error


@contextmanager
def _open(path: Path, content: bytes) -> Iterator[Any]:
    try:
        import pypdfium2
    except ImportError as error:
        raise ConfigError(
            f"{path.name}: PDF files need pypdfium2: run pip install 'embedrl[documents]', or pip install pypdfium2"
        ) from error
    with _pdfium_lock:
        try:
            with pypdfium2.PdfDocument(content) as document:
                yield document
        except EmbedRLError:
            raise
        except Exception as error:  # a broken file makes more than PDFium's own errors, such as UnicodeDecodeError
            raise DataError(f"cannot read {path} as a PDF ({error}): replace the file") from error


@contextmanager
def _page(path: Path, index: int) -> Iterator[Any]:
    with _open(path, _read(path)) as document:
        if not 0 <= index < len(document):
            raise DataError(f"{path} has {len(document)} pages, not a page {index + 1}: read its pages again")
        yield document[index]
