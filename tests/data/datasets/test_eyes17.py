import gzip
import re

import pytest
from tiny_pdf import pdf

from embedrl.data.datasets.eyes17 import MANUAL, Eyes17Tasks
from embedrl.errors import DataError


def manual(root, pages, outline):
    folder = root / MANUAL.folder
    folder.mkdir(parents=True)
    (folder / "eyes17.pdf.gz").write_bytes(gzip.compress(pdf(pages, outline)))
    return str(root)


def test_titles_that_name_one_page_retrieve_it(tmp_path):
    outline = [
        ("Sound", 2),
        ("Objective", 2),
        ("Beats", 3),
        ("Objective.", 3),
        ("Pin A", 3),
        ("PIN A", 3),
        ("Light", 4),
    ]
    root = manual(tmp_path, ["Cover", "Contents: Sound Beats Light", "Sound", "Beats", "Light"], outline)
    (task,) = Eyes17Tasks(root).tasks()
    assert task.name == "eyes17_pages"
    assert [page.images[0].text().strip() for page in task.candidates] == ["Sound", "Beats", "Light"]
    assert task.candidate_ids == ["p. 3", "p. 4", "p. 5"]
    found = {side.text: judged for side, judged in zip(task.queries, task.qrels, strict=True)}
    assert found == {"Sound": {0: 1.0}, "Beats": {1: 1.0}, "Pin A": {1: 1.0}, "Light": {2: 1.0}}


def test_no_manual_and_no_title(tmp_path):
    with pytest.raises(DataError, match=r"does not exist: run python scripts/fetch_real_small\.py, or set root"):
        Eyes17Tasks(str(tmp_path)).tasks()
    root = manual(tmp_path / "same", ["a", "b"], [("Objective", 0), ("Objective", 1)])
    with pytest.raises(DataError, match="every title of its outline is on several pages"):
        Eyes17Tasks(root).tasks()


@pytest.mark.slow
def test_the_real_manual():
    if not MANUAL.root.is_dir():
        pytest.skip(f"no manual at {MANUAL.root}: python scripts/fetch_real_small.py")
    (task,) = Eyes17Tasks().tasks()
    assert (len(task.queries), len(task.candidates)) == (134, 101)
    for side, judged in zip(task.queries, task.qrels, strict=True):
        text = task.candidates[next(iter(judged))].images[0].text()
        title, printed = ("".join(re.findall(r"\w", words)).casefold() for words in (side.text, text))
        assert title in printed  # the outline writes quotes and spaces in another way
