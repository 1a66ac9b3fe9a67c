"""Pages of PDF files by their titles or words."""

import pytest
from tiny_pdf import pdf

from embedrl.errors import DataError
from embedrl.pairs import from_pages

pytest.importorskip("pypdfium2")


def test_titles_and_words(tmp_path):
    outline = [("First part", 0), ("Aim", 0), ("Second part", 1), ("Aim", 1)]
    (tmp_path / "a.pdf").write_bytes(pdf(["one fox", "two birds"], outline))
    (tmp_path / "b.PDF").write_bytes(pdf(["three trees", ""], []))
    pairs = from_pages(tmp_path)
    assert [item.text for item in pairs.items] == ["First part", "Second part", "three trees"]
    assert [item.text for item in from_pages(tmp_path / "a.pdf", captions="text").items] == ["one fox", "two birds"]
    assert pairs[1].target.images[0].load().getpixel((10, 10)) == (0, 0, 255)
    with pytest.raises(DataError, match=r"b.PDF has no outline"):
        from_pages(tmp_path, captions="titles")
    (tmp_path / "c.pdf").write_bytes(b"no PDF")
    pairs = from_pages(tmp_path, on_bad="skip")
    assert (len(pairs), len(pairs.left_out)) == (3, 1)
    out = pairs.split(validation=0.4).write(tmp_path / "mix")
    assert len(list((out / "pictures").iterdir())) == 3
