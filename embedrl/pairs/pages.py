"""`from_pages`: pairs of a title, or of a page's words, with the pages of PDF files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from embedrl.data.on_bad import MAX_BAD, OnBad, OnBadMode
from embedrl.data.pdf import PdfPage, read_pdf
from embedrl.errors import ConfigError, DataError
from embedrl.pairs.collection import CaptionRow, PairSet, collect
from embedrl.pairs.folders import files_below
from embedrl.pairs.media import MediaBytes

PageCaptions = Literal["auto", "titles", "text"]

_WORDS = 64  # of a page's text


def from_pages(
    path: str | Path,
    captions: PageCaptions = "auto",
    dpi: int = 100,
    name: str | None = None,
    on_bad: OnBadMode = "raise",
    max_bad: int = MAX_BAD,
) -> PairSet:
    """Read pairs from PDF files: what a page is about, and the page as a picture.

    Args:
        path: A PDF file, or a folder of them.
        captions: `titles`: the titles in a file's outline with the pages where they begin, but for titles that name
            several pages; `text`: the first 64 words of each page that has a text layer; `auto`: for each file its
            titles if it has an outline, else its text.
        dpi: Pixels per inch of the pages.
        name: Name of the data set; None means the name of the folder or file.
        on_bad: A bad file or page: stop, or leave it out and count it.
        max_bad: The most of them that `skip` leaves out.

    Raises:
        ConfigError: If `dpi` is out of range, or pypdfium2 is missing.
        DataError: If there are no PDF files, one is bad and `on_bad` is `raise`, or no pair is left.
        TooManyBadError: If more than `max_bad` are bad.
    """
    path = Path(path)
    if not 10 <= dpi <= 1200:
        raise ConfigError(f"dpi is {dpi}: give 10 to 1200")
    files = list(files_below(path, ".pdf")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path} holds no .pdf files: check the path")
    rows = (row for file in files for row in _rows(file, captions, dpi))
    origin = {"titles": "the files' outlines", "text": "the pages' words"}.get(
        captions, "outlines, or the pages' words"
    )
    return collect(name or path.absolute().stem, None, rows, OnBad(on_bad, max_bad, "--"), origin)


def _rows(file: Path, captions: PageCaptions, dpi: int) -> Iterator[CaptionRow]:
    try:
        pages, sections = read_pdf(file, dpi, outline=captions == "titles")
    except DataError as error:
        yield CaptionRow(str(file), error=error)
        return
    if sections and captions != "text":
        named = {(section.title, section.page) for section in sections}
        places = Counter(title for title, _ in named)
        for title, number in sorted(named, key=lambda pair: (pair[1], pair[0])):
            if places[title] == 1:
                yield CaptionRow(_where(file, number), title, _media(pages[number]))
        return
    for page in pages:
        where = _where(file, page.index)
        try:
            words = page.text().split()[:_WORDS]
        except DataError as error:
            yield CaptionRow(where, error=error)
            continue
        if words:
            yield CaptionRow(where, " ".join(words), _media(page))


def _where(file: Path, number: int) -> str:
    return f"{file}: page {number + 1}"


def _media(page: PdfPage) -> MediaBytes:
    return MediaBytes(_where(Path(page.file), page.index), partial(draw_page, page))


def draw_page(page: PdfPage) -> bytes:
    """A page as a PNG file.

    Args:
        page: The page.

    Raises:
        DataError: If it cannot be drawn.
    """
    buffer = io.BytesIO()
    page.load().save(buffer, "png")
    return buffer.getvalue()
