import gzip
import sys

import pytest
from tiny_pdf import pdf

from embedrl.data.pdf import PdfPage, Section, read_pdf
from embedrl.errors import ConfigError, DataError
from embedrl.tcot.store import content_hash
from embedrl.types import ImageSource, Side

TWO = pdf(["One text", "Another text"], [("One  title", 0), ("Another", 1)])


@pytest.mark.parametrize("packed", [False, True])
def test_reads_pages_and_outline(tmp_path, packed):
    path = tmp_path / ("two.pdf.gz" if packed else "two.pdf")
    path.write_bytes(gzip.compress(TWO) if packed else TWO)
    pages, sections = read_pdf(path, dpi=144)
    assert sections == [Section("One title", 0), Section("Another", 1)]
    assert [page.text().strip() for page in pages] == ["One text", "Another text"]
    assert all(isinstance(page, ImageSource) for page in pages)
    first, second = (page.load() for page in pages)
    assert first.mode == "RGB"
    assert first.size == (288, 144)  # 2 x 1 inches
    assert (first.getpixel((40, 70)), second.getpixel((40, 70))) == ((255, 0, 0), (0, 0, 255))
    assert first.getpixel((280, 10)) == (255, 255, 255)


def test_pages_are_named_by_content(tmp_path):
    path = tmp_path / "two.pdf"
    path.write_bytes(TWO)
    names = [page.name for page in read_pdf(path)[0]]
    coarse = [page.name for page in read_pdf(path, dpi=50)[0]]
    path.write_bytes(TWO.replace(b"Another text", b"Changed text"))
    changed = [page.name for page in read_pdf(path)[0]]
    assert len({*names, *coarse, *changed}) == 6
    # Vectors and T-CoTs are kept under this hash: two pages of a file are two contents.
    assert len({content_hash(Side(images=(page,))) for page in read_pdf(path)[0]}) == 2


def test_errors_name_the_file(tmp_path):
    gone, broken = tmp_path / "gone.pdf", tmp_path / "broken.pdf"
    with pytest.raises(DataError, match=r"cannot read .*gone\.pdf"):
        read_pdf(gone)
    broken.write_bytes(b"no PDF")
    with pytest.raises(DataError, match=r"cannot read .*broken\.pdf as a PDF .*replace the file"):
        read_pdf(broken)
    for content in (b"no gzip", gzip.compress(TWO)[:-20]):
        packed = tmp_path / "packed.pdf.gz"
        packed.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot read .*packed\.pdf\.gz"):
            read_pdf(packed)
    flat = tmp_path / "flat.pdf"
    flat.write_bytes(pdf(["text"], []))
    with pytest.raises(DataError, match=r"flat\.pdf has no outline"):
        read_pdf(flat)
    with pytest.raises(DataError, match=r"flat\.pdf has 1 pages, not a page 3"):
        PdfPage(str(flat), 2, "page").load()


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "two.pdf"
    path.write_bytes(TWO)
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(ConfigError, match=r"two\.pdf: .* pip install 'embedrl\[documents\]'"):
        read_pdf(path)
