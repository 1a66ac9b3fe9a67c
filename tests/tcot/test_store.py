"""The store of T-CoTs: what a key depends on, and what kills, second writers and broken lines do to the file."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest

from embedrl.errors import DataError
from embedrl.tcot.prompts import Situation
from embedrl.tcot.store import Record, TCoTJournal, content_hash, prompt_version, tcot_key
from embedrl.types import Side


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True)
class OnDisk:
    path: str
    name: str = "same"


RECORDS = [Record(f"{i:032x}", f"<thinking>é\n{i}</thinking>", i % 2 == 0, ("no_cue",) * (i % 2), i) for i in range(5)]


def test_what_is_put_is_got(tmp_path):
    with TCoTJournal(tmp_path / "new" / "j.jsonl") as journal:
        for record in RECORDS:
            journal.put(record)
        assert [journal.get(r.key) for r in RECORDS] == RECORDS
        assert journal.get("f" * 32) is None
        assert RECORDS[3].key in journal
        assert "f" * 32 not in journal
    with TCoTJournal(tmp_path / "new" / "j.jsonl", read_only=True) as journal:
        assert list(journal.records()) == RECORDS
        assert len(journal) == 5
        with pytest.raises(DataError, match="not open for writing"):
            journal.put(RECORDS[0])


def test_the_last_of_a_key_counts(tmp_path):
    with TCoTJournal(tmp_path / "j.jsonl") as journal:
        for record in RECORDS[:2]:
            journal.put(record)
        journal.put(replace(RECORDS[0], tcot="again"))
    with TCoTJournal(tmp_path / "j.jsonl") as journal:
        assert [r.tcot for r in journal.records()] == [RECORDS[1].tcot, "again"]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_is_dropped_and_cut_off_on_writing(tmp_path, cut):
    path = tmp_path / "j.jsonl"
    with TCoTJournal(path) as journal:
        for record in RECORDS:
            journal.put(record)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with TCoTJournal(path, read_only=True) as journal:
        assert list(journal.records()) == RECORDS[:-1]
    assert path.read_bytes() == whole[:-cut]
    with TCoTJournal(path) as journal:
        journal.put(RECORDS[-1])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        "", "{", "[]", "null", '{"key": 1}', '{"tcot": ""}', "\xff\x00",
        '{"key": "a", "tcot": "t", "ok": 1, "problems": [], "attempts": 1}',
        '{"key": "a", "tcot": "t", "ok": true, "problems": [], "attempts": 1, "more": 2}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("read_only", [True, False])
def test_any_other_broken_line_is_named(tmp_path, line, read_only):
    path = tmp_path / "j.jsonl"
    with TCoTJournal(path) as journal:
        journal.put(RECORDS[0])
    good = path.read_bytes()
    path.write_bytes(good + line.encode("latin-1") + b"\n" + good)
    with pytest.raises(DataError, match=r"j\.jsonl: line 2: "):
        TCoTJournal(path, read_only=read_only)
    path.write_bytes(good)
    TCoTJournal(path).close()  # the failed open left no lock behind


def test_one_writer_several_readers(tmp_path):
    path = tmp_path / "j.jsonl"
    with TCoTJournal(path) as journal:
        journal.put(RECORDS[0])
        with pytest.raises(DataError, match=r"j\.jsonl: another process writes to it"):
            TCoTJournal(path)
        with TCoTJournal(path, read_only=True) as one, TCoTJournal(path, read_only=True) as two:
            assert one.get(RECORDS[0].key) == two.get(RECORDS[0].key) == RECORDS[0]
    TCoTJournal(path).close()


def test_missing_or_impossible_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: no such journal"):
        TCoTJournal(tmp_path / "no.jsonl", read_only=True)
    with pytest.raises(DataError, match="cannot be opened"):
        TCoTJournal(tmp_path)


WRITER = """
import sys
from embedrl.tcot.store import Record, TCoTJournal
with TCoTJournal(sys.argv[1]) as journal:
    for i in range(10**9):
        journal.put(Record(f"{len(journal):032x}", "x" * 5000, True))
        print(len(journal), flush=True)
"""


def test_a_kill_loses_nothing_that_was_put(tmp_path):
    rng, said = random.Random(0), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "j.jsonl"], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.random() * 0.2)
        os.kill(process.pid, signal.SIGKILL)
        said = int(process.communicate()[0].split()[-1] or said)
        with TCoTJournal(tmp_path / "j.jsonl", read_only=True) as journal:
            assert said <= len(journal) <= said + 1
            assert [int(r.key, 16) for r in journal.records()] == list(range(len(journal)))


KEYS = {
    "base": Side("a cat", (Named("one"),)),
    "text": Side("a dog", (Named("one"),)),
    "picture": Side("a cat", (Named("two"),)),
    "frame": Side("a cat", frames=(Named("one"),)),
    "rate": Side("a cat", frames=(Named("one"),), fps=1.0),
    "two pictures": Side("a cat", (Named("one"), Named("one"))),
    "text in the name": Side("", (Named("a cat"), Named("one"))),
    "none": Side("a cat"),
}


def test_a_key_depends_on_content_prompt_and_model():
    keys = {tcot_key(side, Situation.QUERY_IMAGE, "full", "m") for side in KEYS.values()}
    keys |= {tcot_key(KEYS["base"], *rest) for rest in [
        (Situation.TARGET_IMAGE, "full", "m"),
        (Situation.QUERY_IMAGE, "brief", "m"),
        (Situation.QUERY_IMAGE, "full", "n"),
    ]}  # fmt: skip
    assert len(keys) == len(KEYS) + 3
    base = KEYS["base"]
    assert content_hash(base) == content_hash(base.with_tcot("t")) == content_hash(replace(base, fps=9.0))


def test_a_key_is_the_same_in_every_process_and_version():
    assert tcot_key(KEYS["base"], Situation.QUERY_IMAGE, "brief", "m") == "c2730d2651856d8f075d0d3a8ed9eb49"
    assert len({prompt_version(style, s) for style in ("full", "brief") for s in Situation}) == 14


def test_a_file_counts_by_its_bytes(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path, content in zip(paths, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(content)
    hashes = [content_hash(Side("", (OnDisk(str(path)),))) for path in paths]
    assert hashes[0] == hashes[1] != hashes[2]
    time.sleep(0.01)
    paths[0].write_bytes(b"2")
    assert content_hash(Side("", (OnDisk(str(paths[0])),))) == hashes[2]
    paths[0].unlink()
    with pytest.raises(DataError, match=str(paths[0])):
        content_hash(Side("", (OnDisk(str(paths[0])),)))


def test_odd_texts_survive(tmp_path):
    with TCoTJournal(tmp_path / "j.jsonl") as journal:
        journal.put(Record("k", "a\u2028b\x85\0\ud800", False))
        assert journal.get("k").tcot == "a\u2028b\x85\0?"
    with TCoTJournal(tmp_path / "j.jsonl") as journal:
        assert len(journal) == 1
    assert json.loads((tmp_path / "j.jsonl").read_bytes())["key"] == "k"
    assert content_hash(Side("\ud800")) == content_hash(Side("?"))
