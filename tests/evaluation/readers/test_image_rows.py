"""The image sets of MMEB: local text, local picture, and grounding names."""

import pytest
from local_copies import judged, pool_of, set_row, write_lines, write_parquet, write_picture

from embedrl.errors import DataError
from embedrl.evaluation.readers.read_task import read_task


def image_row(text, images, query_image="", query="what ?", **more):
    return {
        "qry_inst": "<|image_1|>\nAnswer:",
        "qry_text": query,
        "qry_img_path": query_image,
        "tgt_inst": "<|image_1|>\nRepresent the picture",
        "tgt_text": text,
        "tgt_img_path": images,
        **more,
    }


def test_local_text(tmp_path):
    write_picture(tmp_path / "image-tasks/OK-VQA/q.jpg")
    rows = [
        image_row(["pony", "dog", "cat"], ["", "", ""], "OK-VQA/q.jpg"),
        image_row(["cat", "cow"], ["", ""], "OK-VQA/q.jpg", "who ?"),
    ]
    write_parquet(tmp_path / "image-query/OK-VQA/test-00000-of-00001.parquet", rows)
    task, skipped = read_task(set_row("mmeb_v2", "OK-VQA"), tmp_path)
    assert skipped == {}
    assert task.candidate_ids == ["pony", "dog", "cat", "cow"]  # a union without duplicates
    assert [pool_of(task, 0), pool_of(task, 1)] == [["pony", "dog", "cat"], ["cat", "cow"]]
    assert [judged(task, 0), judged(task, 1)] == [{"pony": 1}, {"cat": 1}]  # the first is right
    assert task.queries[1].text == "Answer: who ?"
    assert [image.name for image in task.queries[0].images] == ["image-tasks/MMEB/OK-VQA/q.jpg"]
    assert [side.text for side in task.candidates[:2]] == ["pony", "dog"]  # as it is: no instruction
    assert (task.main_metric, task.version) == ("hit@1", "ziyjiang/MMEB_Test_Instruct")


def test_local_picture(tmp_path):
    for name in "abc":
        write_picture(tmp_path / f"image-tasks/VisDial/{name}.jpg")
    paths = [f"VisDial/{name}.jpg" for name in "abc"]
    row = image_row(["", "", ""], paths)
    write_parquet(tmp_path / "image-query/VisDial/test-00000-of-00001.parquet", [row])
    task, _ = read_task(set_row("mmeb_v2", "VisDial"), tmp_path)
    assert pool_of(task, 0) == paths
    assert judged(task, 0) == {paths[0]: 1}
    assert task.candidates[0].text == "Represent the picture"
    assert task.candidates[2].images[0].name == "image-tasks/MMEB/VisDial/c.jpg"
    assert not task.queries[0].images


def test_grounding_names_tell_targets_in_one_picture_apart(tmp_path):
    write_picture(tmp_path / "image-tasks/R/one.jpg")
    captions = ['"left man"', '"right man"', "left man"]
    row = image_row(captions, ["R/one.jpg"] * 3, "R/one.jpg")
    write_parquet(tmp_path / "image-query/RefCOCO-Matching/test-00000-of-00001.parquet", [row])
    task, _ = read_task(set_row("mmeb_v2", "RefCOCO-Matching"), tmp_path)
    assert task.candidate_ids == ["R/one.jpg:left man", "R/one.jpg:right man"]  # the first occurrence wins
    assert task.candidates[0].text == 'Represent the picture "left man"'
    assert judged(task, 0) == {"R/one.jpg:left man": 1}


def test_json_lines_instead_of_parquet(tmp_path):
    write_lines(tmp_path / "image-query/GQA/test.jsonl", [image_row(["yes", "no"], ["", ""])])
    assert len(read_task(set_row("mmeb_v2", "GQA"), tmp_path)[0].queries) == 1


BAD = [
    ("{not json", "unreadable row", "not JSON"),
    (image_row(["a"], [""], "gone.jpg"), "missing picture", "gone.jpg does not exist"),
    (image_row([], []), "unreadable row", "'tgt_text' is an empty list"),
    (image_row(["a"], [""], "../../secret.jpg"), "unreadable row", "leaves the root"),
    ({"qry_text": "what ?"}, "unreadable row", "'tgt_text' is missing"),
    ({**image_row(["a"], [""]), "tgt_text": 7}, "unreadable row", "'tgt_text' is 7"),
    ({**image_row(["a"], [""]), "qry_text": "", "qry_inst": ""}, "unreadable row", "neither text nor pixels"),
]


@pytest.mark.parametrize(("bad", "cause", "message"), BAD, ids=[message for *_, message in BAD])
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path, bad, cause, message):
    write_lines(tmp_path / "image-query/GQA/test.jsonl", [bad, image_row(["yes", "no"], ["", ""])])
    row = set_row("mmeb_v2", "GQA")
    with pytest.raises(DataError, match=rf"^GQA: test\.jsonl, row 0: .*{message}.*--on_bad skip"):
        read_task(row, tmp_path)
    task, skipped = read_task(row, tmp_path, on_bad="skip")
    assert skipped == {cause: 1}
    assert task.query_ids == ["1"]  # the others keep their names


def test_a_missing_candidate_leaves_the_pool_and_a_missing_target_its_query(tmp_path):
    for name in "abc":
        write_picture(tmp_path / f"image-tasks/{name}.jpg")
    rows = [
        image_row(["", "", ""], ["a.jpg", "gone.jpg", "b.jpg"]),
        image_row(["", ""], ["gone.jpg", "c.jpg"]),
    ]
    write_lines(tmp_path / "image-query/EDIS/test.jsonl", rows)
    with pytest.raises(DataError, match=r"EDIS: candidate gone\.jpg: picture .* does not exist"):
        read_task(set_row("mmeb_v2", "EDIS"), tmp_path)
    task, skipped = read_task(set_row("mmeb_v2", "EDIS"), tmp_path, on_bad="skip")
    assert skipped == {"missing picture": 1, "query without a relevant candidate": 1}
    assert [pool_of(task, 0), task.query_ids] == [["a.jpg", "b.jpg"], ["0"]]


def test_missing_files_are_no_rows_to_skip(tmp_path):
    row = set_row("mmeb_v2", "GQA")
    with pytest.raises(DataError, match=r"GQA: .*nowhere does not exist: give the folder"):
        read_task(row, tmp_path / "nowhere", on_bad="skip")
    with pytest.raises(DataError, match="image-query/GQA holds no rows"):
        read_task(row, tmp_path, on_bad="skip")
    write_lines(tmp_path / "image-query/GQA/test.jsonl", ["{", "{"])
    with pytest.raises(DataError, match=r"no query could be used \(unreadable row: 2\)"):
        read_task(row, tmp_path, on_bad="skip")
    (tmp_path / "image-query/GQA/test.jsonl").unlink()
    (tmp_path / "image-query/GQA/test-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"cannot read .*test-0\.parquet"):
        read_task(row, tmp_path, on_bad="skip")
