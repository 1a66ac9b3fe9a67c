"""What embedrl has written itself: journals, reports, provenance, vectors, tables, checkpoints, exported folders."""

from __future__ import annotations

import atexit
import io
import json
import shutil
from functools import cache
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from embedrl.commands.export import load_module
from embedrl.construction.judgement import Judgement, JudgementStore
from embedrl.construction.rows import earlier_report
from embedrl.construction.split import read_scores
from embedrl.data.formats import JsonlSource
from embedrl.data.mix import MixRow
from embedrl.distributed.sharded_checkpoint import ShardReader
from embedrl.evaluation.compare import compare
from embedrl.evaluation.output_dir import check_same_model, prepare_output_dir
from embedrl.evaluation.report import Submission, make_report, print_report, write_report
from embedrl.evaluation.results import SetResult
from embedrl.evaluation.shards import CHECKSUM, checksum, read_shard
from embedrl.models.adapters import adapter_base
from embedrl.models.qwen_vl.loading import load_config, load_processor
from embedrl.tcot.store import Record, TCoTJournal
from embedrl.training.checkpoints import check_classes
from embedrl.training.run_dir import AtomicCheckpointIO, find_checkpoint
from embedrl.utils.versions import read_starts
from fuzzing.mutate import Draw, broken, json_bytes, mutated
from fuzzing.rows import TEXT_TCOT, passing

_RESULT = {
    "name": "a/b", "group": "image/cls", "main_metric": "hit@1", "version": "1", "data_hash": "x",
    "queries": 2, "candidates": 2,
    "expected_queries": 2, "metrics": {"hit@1": 0.5, "hit@5": 1.0, "hit@10": 1.0}, "optimistic": {"hit@1": 0.5},
    "delta_s": 0.1,
    "evidence": {"text": 1.0}, "raw_sides": 1, "tcots": {"cached": 1}, "skipped": {"missing picture": 1},
}  # fmt: skip
_IDENTITY = {"model": {"weights": "x"}, "render": {}}
_SETTINGS = {"benchmark": "world", "seed": 0, "sets": None}


def files(data: Draw, folder: Path) -> None:
    """One of the files that a later command reads."""
    use = data.draw(st.sampled_from(
        [journals, journals, step_reports, evaluations, evaluations, provenance, shards, tables, checkpoints,
        shard_tables, models]
    ), label="file")  # fmt: skip
    use(data, folder)


def journals(data: Draw, folder: Path) -> None:
    """A journal of T-CoTs or of verdicts; scores for `split`."""
    path = folder / "lines.jsonl"
    if data.draw(st.integers(0, 2), label="kind") == 2:
        path.write_bytes(json_bytes(data, mutated(data, [{"dataset": "a", "id": "b", "success": 0.5}] * 2), True))
        read_scores(path)
        return
    verdicts = data.draw(st.booleans(), label="verdicts")
    line = {"key": "k", "answer": "Yes", "p_yes": 0.5} if verdicts else {
        "key": "k", "tcot": TEXT_TCOT, "ok": True, "problems": [], "attempts": 1,
    }  # fmt: skip
    path.write_bytes(json_bytes(data, mutated(data, [line, {**line, "key": "l"}]), True))
    kind = JudgementStore if verdicts else TCoTJournal
    with passing(), kind(path, read_only=True) as journal:
        for record in journal.records():
            assert (
                record.verdict(0.5, 0.5) in ("yes", "no", "unclear")
                if isinstance(record, Judgement)
                else record.attempts >= 0
            )
    with kind(path) as journal:
        journal.put(Judgement("z", "No") if verdicts else Record("z", "x", False))
    with kind(path, read_only=True) as journal:
        assert "z" in journal


def step_reports(data: Draw, folder: Path) -> None:
    """The report of a step of construction, which the next step and `data stats` read."""
    from embedrl.construction.filter import filter_pairs
    from embedrl.construction.stats import stats

    (folder / "own.jsonl").write_text('{"id": "p", "query": {"text": "page"}, "target": {"text": "words"}}\n')
    report = {"own": {"rows": 3, "sampled": 2, "annotated": 1, "left_out": {"no_answer": 1}}}
    (folder / "report.json").write_bytes(json_bytes(data, mutated(data, report)))
    mix = [MixRow(JsonlSource(str(folder / "own.jsonl"), cache_dir=str(folder / "cache")))]
    with passing():
        earlier_report(mix[0])
        stats(mix)
    filter_pairs(mix, folder / "out", checks=["duplicate"])


def evaluations(data: Draw, folder: Path) -> None:
    """The folder of an evaluation: compared, printed, written to again."""
    for name in ("one", "two"):
        shutil.copytree(_evaluation(), folder / name)
    names = ["report.json", "config.yaml", "provenance.json", "queries/a_b.parquet"]
    name = data.draw(st.sampled_from(names), label="name")
    path = folder / "one" / name
    if path.suffix == ".json":
        path.write_bytes(json_bytes(data, mutated(data, json.loads(path.read_text()))))
    else:
        path.write_bytes(broken(data, path.read_bytes()))
    with passing():
        prepare_output_dir(folder / "one", _SETTINGS)
    with passing():
        check_same_model(folder / "one", _IDENTITY)
    compare(folder / "one", folder / "two", folder / "plots", resamples=10)


@cache
def _evaluation() -> Path:
    import tempfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, True)
    report = make_report("world", [SetResult(**_RESULT)], {}, _IDENTITY)
    write_report(folder, report, Submission(), 4, None)
    print_report(report)
    (folder / "queries").mkdir()
    columns = {"query": ["a", "b"], "score": [1.0, 0.0], "delta_s": [0.1, None], "first_relevant": [1, None]}
    pq.write_table(pa.table(columns), folder / "queries/a_b.parquet")
    (folder / "config.yaml").write_text("benchmark: world\nseed: 0\nsets: null\n")
    (folder / "provenance.json").write_text('{"starts": [{"seed": 0}]}')
    return folder


def provenance(data: Draw, folder: Path) -> None:
    """What a resumed run adds to."""
    (folder / "provenance.json").write_bytes(json_bytes(data, mutated(data, {"starts": [{"seed": 0}]})))
    read_starts(folder / "provenance.json")


def shards(data: Draw, folder: Path) -> None:
    """A file of cached vectors: whatever was changed, its vectors are those that were written, or it is refused."""
    vectors = torch.arange(12.0).reshape(3, 4)
    content = save({"vectors": vectors}, {CHECKSUM: checksum(vectors)})
    (folder / "a.safetensors").write_bytes(broken(data, content, most=2))
    assert torch.equal(read_shard(folder / "a.safetensors", 3), vectors)


def tables(data: Draw, folder: Path) -> None:
    """The Arrow file that rows were converted to."""
    (folder / "own.jsonl").write_text('{"id": "p", "query": {"text": "page"}, "target": {"text": "words"}}\n')
    JsonlSource(str(folder / "own.jsonl"), cache_dir=str(folder / "cache"))
    [table] = (folder / "cache").glob("*.arrow")
    table.write_bytes(broken(data, table.read_bytes(), most=2))
    source = JsonlSource(str(folder / "own.jsonl"), cache_dir=str(folder / "cache"))
    for index in range(len(source)):
        source[index]


def checkpoints(data: Draw, folder: Path) -> None:
    """A training checkpoint, by its bytes or its hyperparameters."""
    path = folder / "version_0/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    saved = torch.load(io.BytesIO(_checkpoint()), weights_only=True)
    if data.draw(st.booleans(), label="bytes"):
        path.write_bytes(broken(data, _checkpoint()))
    else:
        place = data.draw(
            st.sampled_from(["hyper_parameters", "callbacks", "state_dict", "global_step", ""]), label="place"
        )
        changed = mutated(data, saved[place] if place != "state_dict" and place else {})
        torch.save({**saved, place: changed} if place else changed, path)
    find_checkpoint("last", folder)
    with passing():
        AtomicCheckpointIO().load_checkpoint(path)
    with passing():
        check_classes(saved["hyper_parameters"], "x")
    load_module(path)


@cache
def _checkpoint() -> bytes:
    from functools import partial

    from embedrl.losses import InfoNCE
    from embedrl.models.lora import LoRAOptions
    from embedrl.models.qwen_vl.backbone import QwenVLBackbone
    from embedrl.training.embedder import EmbedderModule

    backbone = QwenVLBackbone("embedrl:tiny", lora=LoRAOptions(r=1, alpha=1))
    module = EmbedderModule(backbone, InfoNCE(temperature=0.05), partial(torch.optim.AdamW, lr=1e-3))
    module.configure_model()
    buffer = io.BytesIO()
    saved = {
        "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "global_step": 3, "callbacks": {},
        "pytorch-lightning_version": "2.6.0", "epoch": 0, "loops": {}, "optimizer_states": [], "lr_schedulers": [],
    }  # fmt: skip
    module.on_save_checkpoint(saved)
    torch.save(saved, buffer)
    return buffer.getvalue()


def shard_tables(data: Draw, folder: Path) -> None:
    """The table of contents of a checkpoint that is a folder."""
    (folder / ".metadata").write_bytes(broken(data, _shard_table()))
    ShardReader(folder).read_metadata()


@cache
def _shard_table() -> bytes:
    import tempfile

    from torch.distributed.checkpoint import save as save_shards

    with tempfile.TemporaryDirectory() as folder:
        save_shards({"state_dict": {"a": torch.zeros(3)}}, checkpoint_id=folder, no_dist=True)
        return (Path(folder) / ".metadata").read_bytes()


def models(data: Draw, folder: Path) -> None:
    """An exported model or adapter, as far as it is read before its weights."""
    shutil.copytree(_model(), folder / "model")
    names = sorted(path.name for path in (folder / "model").iterdir() if path.suffix == ".json")
    path = folder / "model" / data.draw(st.sampled_from([*names, "adapter_config.json"]), label="name")
    document = (
        json.loads(path.read_text())
        if path.exists()
        else {"base_model_name_or_path": "embedrl:tiny", "peft_type": "LORA"}
    )
    path.write_bytes(json_bytes(data, mutated(data, document)))
    with passing():
        adapter_base(str(folder / "model"))
    with passing():
        load_config(str(folder / "model"))
    processor = load_processor(str(folder / "model"))
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert processor.apply_chat_template(chat) is not None


@cache
def _model() -> Path:
    import tempfile

    from embedrl.models.qwen_vl import tiny

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, folder, True)
    tokenizer = tiny.build_tokenizer(tiny.world_words())
    tiny.build_config(tokenizer).save_pretrained(folder)
    tiny.build_processor(tokenizer).save_pretrained(folder)
    return folder
