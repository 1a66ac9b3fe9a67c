"""What a record store does to other files, and when the disk refuses; kills stand in tests/tcot/test_store.py."""

from dataclasses import dataclass

import pytest
from full_disk import files_up_to

from embedrl.errors import DataError, StorageError
from embedrl.utils.record_store import RecordStore


@dataclass
class Note:
    key: str
    text: str


class Notes(RecordStore[Note]):
    def record(self, row):
        return Note(**row)

    def problem(self, row):
        return "" if isinstance(row.get("text"), str) else "no text"


@pytest.mark.parametrize("room", [0, 1, 500])
def test_a_full_disk_is_named_and_costs_no_record(tmp_path, room):
    path = tmp_path / "notes.jsonl"
    with Notes(path) as notes:
        notes.put(Note("a", "x" * 300))
        before = path.read_bytes()
        with files_up_to(len(before) + room), pytest.raises(StorageError, match=r"notes\.jsonl: .*make room"):
            notes.put(Note("b", "y" * 1000))
        assert path.read_bytes() == before
        assert "b" not in notes
        notes.put(Note("c", "z"))
        assert [notes.get(key) for key in "abc"] == [Note("a", "x" * 300), None, Note("c", "z")]
    with Notes(path, read_only=True) as notes:
        assert [note.key for note in notes.records()] == ["a", "c"]


@pytest.mark.parametrize(
    "content", ['[{"key": "a", "text": "t"}]', '{"data": 1}', "a,b", "\0", '{"key":"a","text":"t"}', ' {"key": "a"']
)
@pytest.mark.parametrize("before", ["", '{"key": "a", "text": "t"}\n'])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path, content, before, read_only):
    path = tmp_path / "set.json"
    path.write_text(before + content)
    with pytest.raises(DataError, match=r"set\.json: the last line has no newline"):
        Notes(path, read_only=read_only)
    assert path.read_text() == before + content


@pytest.mark.parametrize("cut", range(1, 26))
def test_an_unfinished_line_of_its_own_is_cut_off_wherever_it_ends(tmp_path, cut):
    path = tmp_path / "notes.jsonl"
    with Notes(path) as notes:
        notes.put(Note("a", "t"))
    whole = path.read_bytes()
    assert len(whole) == 26
    path.write_bytes(whole + whole[:cut])
    with Notes(path) as notes:
        assert len(notes) == 1
    assert path.read_bytes() == whole


def test_a_line_too_deep_to_read_is_named_and_leaves_no_lock(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"key": "a", "text": ' + "[" * 200_000 + "\n")
    with pytest.raises(DataError, match=r"notes\.jsonl: line 1: not a JSON object"):
        Notes(path)
    path.write_text("")
    Notes(path).close()
