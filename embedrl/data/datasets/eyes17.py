"""The manual of expEYES-17, a kit for experiments in physics: its sections' titles retrieve its pages.

The Debian package `eyes17-manuals-en` holds the manual as a PDF (GPL-3 or later) of 107 pages with an outline of 284
entries.
"""

from __future__ import annotations

from collections import defaultdict

from embedrl.data.local_copy import LocalCopy
from embedrl.data.pdf import Section, read_pdf
from embedrl.errors import DataError
from embedrl.types import RetrievalTask, Side

MANUAL = LocalCopy("eyes17-manuals-en", "5.1.2+repack-1", "usr/share/doc/eyes17/en")


class Eyes17Tasks:
    """`eyes17_pages`: from the title of a section to the page where it begins.

    Queries are the titles that name one page: titles that sections on several pages share (`Objective`, `Procedure`)
    are left out. Candidates are the pages from the first section on: the table of contents before it names every
    section. The title is printed on its page, so that a model that can read finds it.

    Args:
        root: Where the package was unpacked; null means where `scripts/fetch_real_small.py` puts it.
        dpi: Pixels per inch of the pages.
        main_metric: The figure to report.

    Raises:
        DataError: If the manual is not there.
    """

    def __init__(self, root: str | None = None, dpi: int = 100, main_metric: str = "hit@1") -> None:
        self.root, self.dpi, self.main_metric = root, dpi, main_metric

    def tasks(self) -> list[RetrievalTask]:
        """The task.

        Raises:
            ConfigError: If pypdfium2 is missing.
            DataError: If the manual is not there, or cannot be read.
        """
        pages, sections = read_pdf(MANUAL.find(self.root) / "eyes17.pdf.gz", self.dpi)
        first = min(section.page for section in sections)
        titles = unambiguous(sections)
        if not titles:
            raise DataError(f"{pages[0].file}: every title of its outline is on several pages: fetch it again")
        return [
            RetrievalTask(
                "eyes17_pages",
                [Side(text=title) for title in titles],
                [Side(images=(page,)) for page in pages[first:]],
                [{page - first: 1.0} for page in titles.values()],
                main_metric=self.main_metric,
                version=f"{MANUAL.version}-{self.dpi}dpi",
                candidate_ids=[f"p. {page.index + 1}" for page in pages[first:]],
            )
        ]


def unambiguous(sections: list[Section]) -> dict[str, int]:
    """The titles that name one page, as first written, and their pages; case and outer punctuation do not count."""
    spelled: dict[str, str] = {}
    pages: dict[str, set[int]] = defaultdict(set)
    for section in sections:
        key = section.title.casefold().strip(" .:")
        spelled.setdefault(key, section.title)
        pages[key].add(section.page)
    return {spelled[key]: next(iter(numbers)) for key, numbers in pages.items() if len(numbers) == 1}
