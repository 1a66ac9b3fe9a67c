"""Samples as people have them, broken in every way: one policy, in the three trainings, in validation and in a file."""

from __future__ import annotations

import json
from functools import cached_property
from types import SimpleNamespace

import pytest
import torch
from bad_rows import BAD, CASES, SIZE, Pictures, write_pictures
from fake_data import TEXT_TCOT

from embedrl.data.collate import Place
from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.datamodules.reasoner import ReasonerDataModule
from embedrl.data.loader import ResumableLoader
from embedrl.data.mix import MixRow
from embedrl.data.on_bad import BadSample, OnBad
from embedrl.data.render import RenderOptions
from embedrl.data.tcot_lessons import TCoTLessons
from embedrl.errors import ConfigError, DataError, StorageError, TooManyBadError
from embedrl.inference.frozen_embedder import LENIENT
from embedrl.metrics.task_scorer import TaskScorer
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.preprocess import PixelBudget
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.step import PairCheck
from embedrl.types import RetrievalTask, Side

SMALL = PixelBudget(1024, 2304)
READ_WITHOUT_TCOT = {"egrl"}
"""Trainings that do not read the T-CoTs of their rows."""


def some_slow(cases):
    """Cases of which two, an error of opening and one of processing, are for every run of the tests."""
    quick = ("missing file", "1 x 300 in memory")
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in cases]


class Models:
    """The preprocessors of a tiny Embedder and a tiny Reasoner, in the places where modules keep them."""

    @cached_property
    def backbone(self):
        read = QwenVLBackbone("embedrl:tiny", image_pixels=SMALL, frame_pixels=SMALL, max_length=600).preprocessor()
        return SimpleNamespace(preprocessor=lambda: read)

    @cached_property
    def generator(self):
        read = QwenVLReasoner("embedrl:tiny", image_pixels=SMALL, frame_pixels=SMALL, max_length=700).preprocessor()
        return SimpleNamespace(preprocessor=lambda: read)

    def pair_check(self):
        return PairCheck(self.generator.preprocessor(), self.backbone.preprocessor(), LENIENT, "brief")


MODELS = Models()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    write_pictures(path)
    return path


def training(kind, source, batch=4, **options):
    if kind == "embedder":
        data = EmbedderDataModule(batch, batch, 3, [MixRow(source)], batches_per_epoch=2, seed=1, **options)
    elif kind == "reasoner":
        lessons = TCoTLessons([source], "brief", ["query"], on_bad_tcot="raise")
        data = ReasonerDataModule(batch, 2, lessons, shuffle=True, seed=1, **options)
    else:
        data = EGRLDataModule(batch, [MixRow(source)], steps_per_epoch=2, seed=1, **options)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, overfit_batches=0.0, lightning_module=MODELS)
    return data


def texts(batch):
    """What a batch holds, row by row."""
    if hasattr(batch, "pairs"):
        return [pair.query.text for pair in batch.pairs]
    if hasattr(batch, "lessons"):
        return sorted(
            row[row >= 0].tolist() + inputs["input_ids"][i].tolist()
            for inputs in batch.micro_batches
            for i, row in enumerate(inputs["labels"])
        )
    return batch.ids


def tensors(batch):
    return [value for inputs in getattr(batch, "micro_batches", []) for _, value in sorted(inputs.items())]


def same(a, b):
    return texts(a) == texts(b) and all(map(torch.equal, tensors(a), tensors(b)))


@pytest.mark.parametrize("kind", ["embedder", "reasoner", "egrl"])
def test_good_rows_make_the_same_batches_under_both_modes(kind, folder):
    stopping, skipping = (
        list(training(kind, Pictures(folder), on_bad=mode).train_dataloader()) for mode in ("raise", "skip")
    )
    assert len(stopping) >= 2
    assert all(map(same, stopping, skipping))
    assert not any(batch.skipped for batch in skipping)


@pytest.mark.parametrize("kind", ["embedder", "reasoner", "egrl"])
@pytest.mark.parametrize("case", some_slow(CASES))
def test_the_next_row_takes_the_place_of_a_bad_one(case, kind, folder):
    cause, bad = CASES[case]
    if cause == "bad_tcot" and kind in READ_WITHOUT_TCOT:
        bad, cause = CASES["long text"][1], "too_long"

    class Repaired(Pictures):  # the data set as if the next row stood in the bad one's place, too
        def __getitem__(self, index):
            return super().__getitem__(index + 1 if index == BAD else index)

    expected = list(training(kind, Repaired(folder)).train_dataloader())
    batches = list(training(kind, Pictures(folder, bad), on_bad="skip").train_dataloader())
    if kind == "embedder":  # the pair's own name
        assert [texts(b) for b in batches] == [texts(b) for b in expected]
    assert [len(b.micro_batches) for b in batches if hasattr(b, "micro_batches")] == [
        len(b.micro_batches) for b in expected if hasattr(b, "micro_batches")
    ]
    assert all(map(same, batches, expected))
    skipped = {(one.dataset, one.cause) for batch in batches for one in batch.skipped}
    assert skipped == {("rows", cause)}
    resumed = training(kind, Pictures(folder, bad), on_bad="skip").train_dataloader()
    assert isinstance(resumed, ResumableLoader)
    resumed.load_state_dict({"batches_seen": 1})
    assert all(map(same, list(resumed), batches[1:]))
    if kind == "egrl" and case in ("1 x 300 in memory", "thin frame", "long text", "malformed T-CoT"):
        return  # the training step names it: tests/rl
    with pytest.raises(DataError, match=rf"rows(/{BAD}|, lesson {BAD})\b|nowhere|empty"):
        list(training(kind, Pictures(folder, bad)).train_dataloader())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedder", "reasoner", "egrl"])
def test_two_workers_replace_as_the_main_process_does(kind, folder):
    bad = CASES["long text"][1]
    runs = [
        list(training(kind, Pictures(folder, bad), on_bad="skip", num_workers=count).train_dataloader())
        for count in (0, 2)
    ]
    assert all(map(same, *runs))
    assert [batch.skipped for batch in runs[0]] == [batch.skipped for batch in runs[1]]
    assert any(batch.skipped for batch in runs[0])


def test_a_data_set_without_good_rows_ends_the_run(folder):
    source = Pictures(folder, CASES["long text"][1], rows=range(SIZE))
    with pytest.raises(TooManyBadError, match="rows: 10 bad rows in a row, the last: rows/"):
        list(training("embedder", source, on_bad="skip").train_dataloader())


@pytest.mark.parametrize("number", ["EMFILE", "EIO"])
def test_a_machine_that_cannot_read_is_no_bad_sample(number, folder, monkeypatch):
    import errno

    def refused(path, *args, **options):
        raise OSError(getattr(errno, number), "no")

    monkeypatch.setattr("embedrl.data.images.os.stat", refused)
    for kind in ("embedder", "reasoner", "egrl"):
        with pytest.raises(StorageError, match=r"good\.png"):
            list(training(kind, Pictures(folder), on_bad="skip").train_dataloader())


# ------------------------------------------------------------------ scoring


def scoring(sides, on_bad):
    """The batches and the task of a validation whose queries are `sides`, each looking for its own text."""
    targets = [Side(f"target {i}", tcot=TEXT_TCOT) for i in range(len(sides))]
    task = RetrievalTask("rows", sides, targets, [{i: 1.0} for i in range(len(sides))])
    source = SimpleNamespace(tasks=lambda: [task])
    data = EmbedderDataModule(4, 4, 3, val=[source], encode_batch_size=5, render=RenderOptions(), on_bad=on_bad)
    data.tasks = [task]
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, overfit_batches=0.0, lightning_module=MODELS)
    return task, list(data.val_dataloader()[0])


@pytest.mark.parametrize("case", some_slow(case for case in CASES if "folder" not in case))
def test_validation_goes_without_a_bad_query(case, folder):
    cause, bad = CASES[case]
    sides = [Pictures(folder)[i].query for i in range(4)]
    sides[BAD] = bad(folder)
    task, batches = scoring(sides, "skip")
    (one,) = [one for batch in batches for one in batch.bad.values()]
    assert (one.dataset, one.id, one.cause) == ("rows", f"query {BAD}", cause)
    _, good = scoring(sides[:BAD], "raise")
    assert sum(len(b.micro_batches) for b in batches) >= sum(len(b.micro_batches) for b in good)
    scorer = TaskScorer([task])
    for batch in batches:
        scorer.add(batch.items, torch.eye(16)[: len(batch.items)], batch.bad)
    (result,) = scorer.results()
    assert result.left_out == 1
    assert [side.text for side in result.task.queries] == ["query 0", "query 1", "query 2"]
    assert len(result.task.candidates) == 4
    with pytest.raises(DataError, match=f"^rows/query {BAD}: "):
        scoring(sides, "raise")


def test_a_bad_candidate_leaves_the_pool_and_takes_its_queries_along():
    task = RetrievalTask(
        "t", [Side("a"), Side("b")], [Side("x"), Side("y"), Side("z")], [{0: 1.0}, {1: 1.0, 2: 0.0}],
        pools=[[0, 1], [1, 2]], query_ids=["qa", "qb"], candidate_ids=["cx", "cy", "cz"],
    )  # fmt: skip
    scorer = TaskScorer([task])
    items = [[Place(0, "query", 0)], [Place(0, "query", 1)], *([Place(0, "candidate", i)] for i in range(3))]
    scorer.add(items, torch.eye(5), bad={2})
    (result,) = scorer.results()
    assert result.left_out == 2  # candidate x, and query a, which nothing answers any more
    assert (list(result.task.query_ids), list(result.task.candidate_ids)) == (["qb"], ["cy", "cz"])
    assert (list(result.task.qrels), list(result.task.pools)) == ([{0: 1.0, 1: 0.0}], [[0, 1]])
    assert torch.equal(result.candidates, torch.eye(5)[3:])
    scorer = TaskScorer([task])
    scorer.add(items, torch.eye(5), bad={0, 1})
    with pytest.raises(DataError, match="t: no query is left to score: 2 of 2 queries and 0 of 3 candidates are bad"):
        scorer.results()


def test_lessons_to_score_on_are_left_out(folder):
    lessons = TCoTLessons([Pictures(folder, CASES["long text"][1], size=4)], "brief", ["query"])
    data = training("reasoner", Pictures(folder), val=lessons, on_bad="skip", generate_batch_size=3)
    batches = list(data.val_dataloader()[0])
    assert [len(batch.lessons) for batch in batches] == [3, 0]
    assert [(one.id, one.cause) for batch in batches for one in batch.skipped] == [("lesson 3", "too_long")]


# ------------------------------------------------------------------ counting


def sample(number, cause="too_long"):
    return BadSample("rows", str(number), cause, f"rows/{number}: long")


def test_each_bad_sample_is_named_once_whoever_meets_it(tmp_path):
    path = tmp_path / "run/skipped.jsonl"
    processes = [OnBad("skip"), OnBad("skip")]
    for rank, process in enumerate(processes):
        process.keep(path, first=rank == 0)
    processes[0].add([sample(1), sample(2, "missing_file"), sample(1)])
    processes[1].add([sample(2, "missing_file"), sample(3)])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"dataset": "rows", "id": "1", "cause": "too_long", "message": "rows/1: long"},
        {"dataset": "rows", "id": "2", "cause": "missing_file", "message": "rows/2: long"},
        {"dataset": "rows", "id": "3", "cause": "too_long", "message": "rows/3: long"},
    ]
    assert [dict(process.counts) for process in processes] == [{"too_long": 1, "missing_file": 1}, {"too_long": 1}]


def test_a_resumed_run_goes_on_counting_and_another_begins_anew(tmp_path):
    path = tmp_path / "skipped.jsonl"
    first = OnBad("skip")
    first.keep(path)
    first.add([sample(1)])
    path.write_text(path.read_text() + '{"dataset": "rows", "id"')  # killed in the middle of a line
    resumed, other = OnBad("skip", max_bad=1), OnBad("skip")
    resumed.keep(path, resume=True)
    other.keep(path, resume=True, first=False)
    assert (dict(resumed.counts), dict(other.counts)) == ({"too_long": 1}, {})
    resumed.add([sample(1)])
    resumed.check()
    resumed.add([sample(2, "bad_tcot")])
    with pytest.raises(TooManyBadError, match=r"^2 bad samples, more than data\.max_bad 1 \(too_long 1, bad_tcot 1, "):
        resumed.check()
    assert len(path.read_text().splitlines()) == 3
    first.keep(path)
    assert not path.exists()


def test_raise_raises_and_a_wrong_limit_is_refused():
    error = DataError("rows/1: broken")
    with pytest.raises(DataError, match="rows/1: broken"):
        OnBad("raise").skip(error, "rows", "1")
    assert OnBad("skip").skip(error, "rows", "1") == ("rows", "1", "broken_row", "rows/1: broken")
    with pytest.raises(TooManyBadError, match=r"--max_bad 0"):
        OnBad("skip", 0, "--").skip(error, "rows", "1")
    with pytest.raises(ConfigError, match=r"data\.max_bad is -1"):
        EmbedderDataModule(1, 1, 1, max_bad=-1)


def test_a_wrapped_error_keeps_its_cause():
    outer = DataError("outer: inner")
    outer.__cause__ = DataError("inner", "bad_tcot")
    assert (outer.cause, DataError("outer", "too_long").cause, DataError("outer").cause) == (
        "bad_tcot",
        "too_long",
        "broken_row",
    )
