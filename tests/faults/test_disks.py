"""Disks that are full or flip bits, files that are broken, exports that are killed: what was whole stays whole."""

import json
import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from full_disk import files_up_to
from safetensors.torch import load_file, save_file
from toy_embedder import ToyBackbone

from embedrl.cli import main
from embedrl.data.formats import JsonlSource
from embedrl.data.render import RenderOptions
from embedrl.errors import CheckpointError, ConfigError, DataError, StorageError
from embedrl.evaluation.compare import load
from embedrl.evaluation.output_dir import check_same_model
from embedrl.evaluation.vectors import EncodeOptions, VectorCache
from embedrl.models.qwen_vl.loading import load_config
from embedrl.training.callbacks.export_model import ExportModel
from embedrl.training.run_dir import AtomicCheckpointIO
from embedrl.types import Side
from embedrl.utils.atomic_files import replacing, replacing_folder
from embedrl.utils.versions import read_starts

SPAWNED = multiprocessing.get_context("fork")


SIDES = [Side(text=f"side number {i}") for i in range(25)]


def embed(folder: Path) -> tuple[torch.Tensor, int]:
    options = EncodeOptions(shard_size=10, batch_size=4, micro_batch_size=3)
    cache = VectorCache(folder, ToyBackbone(), RenderOptions(tcot="none"), torch.device("cpu"), options)
    return torch.cat(list(cache.embed(SIDES, cache.hashes(SIDES), "toy/query").read())), cache.computed


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x40
    path.write_bytes(content)


def flip_a_bit_of_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[10] ^= 0x01
    path.write_bytes(content)


def store_halves(path: Path) -> None:
    save_file({"vectors": load_file(path)["vectors"].half()}, path)


def leave_out_the_checksum(path: Path) -> None:
    save_file(load_file(path), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARM = [flip_a_bit, flip_a_bit_of_the_header, store_halves, leave_out_the_checksum, cut, empty]


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_vectors_that_are_not_what_was_written_are_computed_again(tmp_path, capsys, harm):
    before, _ = embed(tmp_path)
    path = max(tmp_path.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    harm(path)
    after, computed = embed(tmp_path)
    assert computed == 10
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    told = capsys.readouterr().err
    assert f"{path}: broken vectors" in told
    assert "computed again" in told
    assert embed(tmp_path)[1] == 0
    assert capsys.readouterr().err == ""


def in_the_middle(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def text(path: Path) -> None:
    path.write_text("not a checkpoint\n")


@pytest.mark.parametrize("harm", [in_the_middle, empty, foreign, text], ids=lambda harm: harm.__name__)
def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path, harm):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(999)}}, path)
    harm(path)
    with pytest.raises(CheckpointError, match=rf"^--ckpt_path {path}: not a checkpoint.*; give another one$"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(9)}}, path)
    with files_up_to(100_000), pytest.raises(StorageError, match=rf"^{path}: cannot be written .*make room.*is kept"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(99_999)}}, path)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["w"], torch.ones(9))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    from embedrl import cli

    def writes(*_: object) -> None:
        with replacing(tmp_path / "big") as part:
            part.write_bytes(b"0" * 200_000)

    monkeypatch.setattr(cli, "_run", writes)
    with files_up_to(100_000):
        assert cli.main(["eval"]) == 1
    assert capsys.readouterr().err.startswith(f"embedrl: error: {tmp_path / 'big'}: File too large: make room")


BROKEN = ["", "{", "[]", '{"starts": 3}', '{"start": []}', "\x00", "[" * 100_000]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_of_starts_is_named(tmp_path, content):
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(DataError, match=rf"{tmp_path}/provenance.json: broken .*move it away"):
        read_starts(tmp_path / "provenance.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}', "[" * 100_000])
def test_a_broken_report_is_named(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(DataError, match=rf"{tmp_path}/report.json: broken .*delete it"):
        check_same_model(tmp_path, {"model": {"weights": "x"}})
    with pytest.raises(DataError, match=rf"{tmp_path}/report.json: broken"):
        load(tmp_path)


MIXES = [
    ("- source:\n\t  class_path: X\n", "not valid YAML"),
    ("- source: [\n", "not valid YAML"),
    ("- source: *unknown\n", "not valid YAML"),
    ("- source: \x07\n", "not valid YAML"),
]


@pytest.mark.parametrize(("content", "told"), MIXES)
@pytest.mark.parametrize("inside", [False, True])
def test_a_mix_that_is_no_yaml_is_named_with_the_place(tmp_path, capsys, content, told, inside):
    (tmp_path / "mix.yaml").write_text(content)
    (tmp_path / "config.yaml").write_text("mix: mix.yaml\n")
    flag = ("--config", tmp_path / "config.yaml") if inside else ("--mix", tmp_path / "mix.yaml")
    assert main(["data", "stats", *map(str, flag)]) == 2
    assert capsys.readouterr().err.startswith(f"embedrl: error: {tmp_path / 'mix.yaml'}: {told}")


@pytest.mark.parametrize("name", ["a${b}", "a${oc.env:NO_SUCH_VARIABLE}", "a${"])
def test_a_dollar_in_a_name_is_told_apart(capsys, name):
    assert main(["data", "stats", "--mix", name]) == 2
    told = capsys.readouterr().err
    assert told.startswith("embedrl: error: --mix")
    assert told.count("\n") == 1


def test_an_export_that_is_killed_leaves_no_half_folder(tmp_path):
    out = tmp_path / "out"
    process = SPAWNED.Process(target=_killed_in_the_middle, args=(out,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    half = tmp_path / "out.part"
    assert (half / "config.json").is_file()
    with pytest.raises(CheckpointError, match=rf"{half}: half a folder, left by an export that was stopped"):
        load_config(str(half))
    with replacing_folder(out) as part:
        (part / "model.safetensors").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "model.safetensors"]


def _killed_in_the_middle(out: Path) -> None:
    with replacing_folder(out) as part:
        (part / "config.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_is_replaced_when_the_new_one_is_whole(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    with suppress(KeyError), replacing_folder(out) as part:
        (part / "config.json").write_text("half")
        raise KeyError
    assert (out / "config.json").read_text() == "old"
    with replacing_folder(out) as part:
        (part / "new.json").write_text("new")
        assert (out / "config.json").read_text() == "old"
        answers = SPAWNED.Queue()
        process = SPAWNED.Process(target=_replaces, args=(out, answers))
        process.start()
        assert "another process writes it" in answers.get(timeout=60)
        process.join()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new.json"]


def _replaces(out: Path, answers) -> None:
    try:
        with replacing_folder(out):
            answers.put("both")
    except ConfigError as error:
        answers.put(str(error))


def test_a_full_disk_in_an_export_is_told(tmp_path):
    def fill() -> None:
        with replacing_folder(tmp_path / "out") as part:
            save_file({"w": torch.zeros(99_999)}, part / "model.safetensors")

    with files_up_to(100_000), pytest.raises((StorageError, OSError), match="out"):
        fill()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        ([], True),
        (["config.json", "model.safetensors"], True),
        (["open_clip_config.json"], True),
        (["config.json", "1_Pooling/config.json", "2_Normalize/config.json", "recipe.yaml"], True),
        (["thesis.tex"], False),
        (["config.json", "version_0/config.yaml"], False),
        (["version_0/config.yaml"], False),
    ],
)
def test_only_a_model_is_replaced_by_a_model(tmp_path, files, ours):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if ours:
        ExportModel(str(tmp_path)).on_fit_start(None, None)
    else:
        with pytest.raises(ConfigError, match=f"ExportModel.out {tmp_path}: holds something else"):
            ExportModel(str(tmp_path)).on_fit_start(None, None)


@pytest.mark.parametrize("harm", [cut, empty, in_the_middle, text], ids=lambda harm: harm.__name__)
def test_rows_that_are_not_what_was_converted_are_converted_again(tmp_path, capsys, harm):
    rows = [{"id": str(i), "query": {"text": f"q{i}"}, "target": {"text": f"t{i}"}} for i in range(50)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def texts() -> list[str]:
        source = JsonlSource(path=str(tmp_path / "pairs.jsonl"), root=str(tmp_path), cache_dir=str(tmp_path / "cache"))
        return [source[i].query.text for i in range(len(source))]

    before = texts()
    [path] = (tmp_path / "cache").glob("*.arrow")
    assert capsys.readouterr().err == ""
    harm(path)
    assert texts() == before
    assert f"{path}: broken" in capsys.readouterr().err
