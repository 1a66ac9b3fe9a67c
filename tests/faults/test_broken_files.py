"""Broken files of embedrl's own, of models and of YAML: each is one error that names it, whatever is broken."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from embedrl.cli import main
from embedrl.construction.judgement import JudgementStore
from embedrl.data.formats import JsonlSource
from embedrl.distributed.sharded_checkpoint import ShardReader
from embedrl.errors import CheckpointError, DataError, EmbedRLError, said, unreadable
from embedrl.evaluation.compare import load
from embedrl.evaluation.output_dir import check_same_model, prepare_output_dir
from embedrl.evaluation.vectors import read_shard
from embedrl.models.adapters import adapter_base
from embedrl.models.open_clip.config import read_config
from embedrl.models.qwen_vl.loading import load_config, load_processor
from embedrl.tcot.store import TCoTJournal
from embedrl.training.checkpoints import peek
from embedrl.utils.versions import read_starts

ODD = {
    "empty": b"",
    "null": b"null",
    "list": b"[1]",
    "text": b'"starts"',
    "number": b"1e999",
    "not UTF-8": b"\xff\xfe",
    "cut": b'{"starts": [',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "long number": b'{"starts": ' + b"9" * 5000 + b"}",
    "nothing in it": b"{}",
    "null in it": b'{"starts": null, "sets": null, "model": null, "model_type": null}',
}
READERS = {
    "provenance.json": lambda folder: read_starts(folder / "provenance.json"),
    "report.json": load,
    "report.json again": lambda folder: check_same_model(folder, {"model": {"weights": "x"}}),
    "config.json": lambda folder: load_config(str(folder)),
    "adapter_config.json": lambda folder: adapter_base(str(folder)),
    "open_clip.json": lambda folder: read_config(str(folder / "open_clip.json"), None),
    "last.ckpt": lambda folder: peek(folder / "last.ckpt"),
    ".metadata": lambda folder: ShardReader(folder).read_metadata(),
    "a.safetensors": lambda folder: read_shard(folder / "a.safetensors", 3),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", ODD)
def test_whatever_a_file_holds_it_is_named(tmp_path, name, content):
    path = tmp_path / name.split()[0]
    path.write_bytes(ODD[content])
    with pytest.raises(EmbedRLError, match=path.name if path.name != "config.json" else str(tmp_path)):
        READERS[name](tmp_path)


@pytest.mark.parametrize(
    "content", ["null", "[]", '{"image_token_id": [904], "model_type": "qwen3_vl"}', '{"model_type": 5}']
)
def test_a_configuration_of_another_shape_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_config(str(tmp_path))
    with pytest.raises(CheckpointError, match=f"{tmp_path}: cannot read the processor"):
        load_processor(str(tmp_path))


TABLES = {
    "protocol": b"\x80\x80",
    "memory": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f",
    "extension": b"\x80\x04\x82\x04.",
    "name": b"\x80\x04\x8c\x01\xff.",
    "stack": b"\x80\x04R.",
    "another object": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_shards_that_is_none(tmp_path, name):
    (tmp_path / ".metadata").write_bytes(TABLES[name])
    with pytest.raises(CheckpointError, match=r"\.metadata: not a sharded checkpoint's"):
        ShardReader(tmp_path).read_metadata()


VERDICT = {"key": "k", "answer": "Yes", "p_yes": 0.5}
TCOT = {"key": "k", "tcot": "x", "ok": True, "problems": [], "attempts": 1}
LINES = [
    *((JudgementStore, {**VERDICT, "p_yes": value}) for value in ("0.5", float("nan"), 2, -1.0, True, [])),
    (JudgementStore, {"key": "k", "answer": "Yes"}),
    (JudgementStore, {**VERDICT, "more": 1}),
    (TCoTJournal, {**TCOT, "problems": [1]}),
    (TCoTJournal, {**TCOT, "problems": None}),
    (TCoTJournal, {**TCOT, "x" * 999: 1}),
]


@pytest.mark.parametrize("kind, line", LINES)  # noqa: PT006
def test_a_journal_line_of_another_shape_names_its_number(tmp_path, kind, line):
    good = VERDICT if kind is JudgementStore else TCOT
    path = tmp_path / "lines.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(line)}\n")
    with pytest.raises(DataError, match=rf"^{path}: line 2: .*: mend or delete the line$") as error:
        kind(path, read_only=True)
    assert len(str(error.value)) < len(str(path)) + 200
    path.write_text(f"{json.dumps(good)}\n")
    with kind(path, read_only=True) as journal:
        assert journal.get("k") is not None


@pytest.mark.parametrize("place", [88, 132, 539])
def test_a_table_of_rows_whose_description_is_broken_is_made_again(tmp_path, capsys, place):
    rows = tmp_path / "own.jsonl"
    rows.write_text('{"id": "p", "query": {"text": "page"}, "target": {"text": "words"}}\n')
    first = JsonlSource(str(rows), cache_dir=str(tmp_path / "cache"))[0]
    [table] = (tmp_path / "cache").glob("*.arrow")
    content = bytearray(table.read_bytes())
    content[place] ^= 1
    table.write_bytes(content)
    again = JsonlSource(str(rows), cache_dir=str(tmp_path / "cache"))
    assert again[0] == first
    assert f"{table}: broken (" in capsys.readouterr().err
    with pytest.raises(IndexError):
        again[1]


@pytest.mark.parametrize("command", ["fit", "plan", "filter", "eval", "data stats"])
def test_a_yaml_in_another_encoding_is_named(tmp_path, capsys, command):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("model: {}  # Größe".encode("latin-1"))
    assert main([*command.split(), "--config", str(path)]) == 2
    assert f"{path}: not valid YAML: 'utf-8' codec can't decode byte" in capsys.readouterr().err


def test_what_is_broken_passes_what_is_ours_and_signals(tmp_path):
    with pytest.raises(CheckpointError, match=r"^ours$"), unreadable("x"):
        raise CheckpointError("ours")
    with pytest.raises(KeyboardInterrupt), unreadable("x"):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match=r"^x \(MemoryError\)$"), unreadable("x"):
        raise MemoryError
    assert said(ValueError("two\nlines")) == "two lines"


def test_a_config_of_an_evaluation_may_be_anything_but_broken(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"a: &a [*a]\n\xff")
    with pytest.raises(DataError, match=r"config\.yaml: broken \(.*\): give a new folder"):
        prepare_output_dir(tmp_path, {"benchmark": "world"})


def test_vectors_without_the_right_name(tmp_path):
    save_file({"other": torch.zeros(3, 4)}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"a\.safetensors: broken vectors"):
        read_shard(tmp_path / "a.safetensors", 3)
