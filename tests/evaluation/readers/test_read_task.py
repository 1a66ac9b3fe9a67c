"""What of a local copy is not there, found without reading anything."""

import json

import pytest
from local_copies import set_row, write_frames, write_lines, write_parquet, write_picture

from embedrl.errors import DataError
from embedrl.evaluation.jobs import Job, split_by_presence
from embedrl.evaluation.readers.read_task import READERS, missing_files, read_task
from embedrl.evaluation.table import load_table


@pytest.mark.parametrize("row", [*load_table("mmeb_v2"), *load_table("uvrb")], ids=lambda row: row.name)
def test_of_nothing_everything_is_missing(row, tmp_path):
    (tmp_path / "copy").mkdir()
    needed = READERS[row.reader].required_paths(row, tmp_path / "copy")
    assert missing_files(row, tmp_path / "copy") == [str(path.relative_to(tmp_path / "copy")) for path in needed]
    assert len(needed) >= 2  # rows, and pictures or frames
    with pytest.raises(DataError):
        read_task(row, tmp_path / "copy", on_bad="skip")


def test_rows_and_pictures(tmp_path):
    row = set_row("mmeb_v2", "OK-VQA")
    assert missing_files(row, tmp_path) == ["image-query/OK-VQA", "image-tasks/MMEB"]
    write_parquet(tmp_path / "image-query/OK-VQA/test-0.parquet", [{"qry_inst": ""}])
    (tmp_path / "image-tasks/MMEB").mkdir(parents=True)
    assert missing_files(row, tmp_path) == ["image-tasks/MMEB"]  # an empty folder is nothing
    (tmp_path / "image-tasks/MMEB").rmdir()
    write_picture(tmp_path / "image-tasks/OK-VQA/a.jpg")  # unpacked one folder higher: the table's second alternative
    assert missing_files(row, tmp_path) == []


def test_uvrb(tmp_path):
    row = set_row("uvrb", "CRB-S")
    for name in ("queries", "instances"):
        write_lines(tmp_path / f"CRB-S/jsonl/{name}.jsonl", [{"id": "a"}])
    write_frames(tmp_path / "CRB-S/videos_frames/1", 1)
    assert missing_files(row, tmp_path) == ["CRB-S/jsonl/corpus.jsonl"]


@pytest.mark.parametrize("suffix", ["/test-0.parquet", ".parquet", ".jsonl"])
def test_beir(suffix, tmp_path):
    row = set_row("mmeb_v2", "ViDoSeek-page-fixed")
    folder = f"visdoc-tasks/data/{row.name}"
    write_picture(tmp_path / f"visdoc-tasks/images/{row.name}/1.png")
    for table in ("corpus", "queries"):
        path = tmp_path / folder / f"{table}{suffix}"
        write_lines(path, [{"a": 1}]) if suffix == ".jsonl" else write_parquet(path, [{"a": 1}])
    assert missing_files(row, tmp_path) == [f"{folder}/qrels"]


def job(name, missing=()):
    return Job(name, "group", lambda: json.loads("[]"), missing=lambda: list(missing))


def test_all_of_them_are_told_before_anything_is_read(capsys):
    jobs = [job("here"), job("half", ["a/frames"]), job("gone", ["b/rows", "b/frames"])]
    here, why = split_by_presence(jobs, "skip", list_absent=True)
    assert ([j.name for j in here], why) == (["here"], {"half": "no a/frames", "gone": "no b/rows, no b/frames"})
    assert capsys.readouterr().err.splitlines() == [
        "1 of 3 data sets are below --root; these are not:", "  half: no a/frames", "  gone: no b/rows, no b/frames",
    ]  # fmt: skip
    with pytest.raises(
        DataError, match=r"^2 of 3 data sets are not below --root, the first is half .*--sets.*--on_bad skip"
    ):
        split_by_presence(jobs, "raise", list_absent=False)
    with pytest.raises(DataError, match=r"^2 of 2 data sets are not below --root"):  # nothing left to score
        split_by_presence(jobs[1:], "skip", list_absent=False)
    assert capsys.readouterr().err == ""
    assert split_by_presence(jobs[:1], "raise", list_absent=True) == (jobs[:1], {})
    assert capsys.readouterr().err == ""
