"""Whole runs on data with bad samples: they train, score, count and name, and stop at the limit."""

from __future__ import annotations

import json

import pytest
import torch
from bad_rows import CASES, Pictures, write_pictures
from egrl_module import build
from lightning import Trainer

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.tcot_lessons import TCoTLessons
from embedrl.errors import TooManyBadError
from embedrl.training.callbacks.reasoned_retrieval import ReasonedRetrieval
from embedrl.types import RetrievalTask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class OneTask:
    def __init__(self, folder):
        self.folder = folder

    def tasks(self):
        pairs = [Pictures(self.folder)[i] for i in range(4)]
        queries, targets = [pair.query for pair in pairs], [pair.target for pair in pairs]
        queries[1] = CASES["truncated PNG"][1](self.folder)
        targets[2] = CASES["1 x 300 in memory"][1](self.folder)
        return [RetrievalTask("four", queries, targets, [{i: 1.0} for i in range(4)])]


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path)
    return tmp_path


def fit(folder, source, **options):
    lessons = TCoTLessons([Pictures(folder, CASES["truncated PNG"][1], size=4)], "brief", ["query"])
    data = EGRLDataModule(2, [MixRow(source)], val=lessons, steps_per_epoch=4, seed=1, **options)
    trainer = Trainer(
        accelerator="cpu", max_steps=4, max_epochs=-1, default_root_dir=folder / "run", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=[ReasonedRetrieval([OneTask(folder)], style="brief", max_new_tokens=6)], log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(build(), datamodule=data)
    return trainer


def test_egrl_trains_and_scores_without_bad_samples(folder):
    trainer = fit(folder, Pictures(folder, CASES["1 x 300 in memory"][1], rows=(2, 3)), on_bad="skip")
    named = [json.loads(line) for line in (folder / "run/skipped.jsonl").read_text().splitlines()]
    assert {(row["dataset"], row["id"], row["cause"]) for row in named} == {
        ("rows", "2", "thin_picture"), ("rows", "3", "thin_picture"), ("rows", "lesson 3", "broken_picture"),
        ("four", "query 1", "broken_picture"), ("four", "candidate 2", "thin_picture"),
    }  # fmt: skip
    figures = trainer.callback_metrics
    assert figures["val/four/left_out"] == 3  # and query 2, which candidate 2 answered
    assert figures["val/left_out"] == 1
    assert figures["data/skipped"] == figures["data/skipped/thin_picture"] == 2  # before the validation
    assert torch.isfinite(figures["val/four/hit@1"])


def test_egrl_stops_at_the_limit(folder):
    with pytest.raises(
        TooManyBadError, match=r"more than data\.max_bad 1 \(thin_picture 2, .*skipped\.jsonl names them"
    ):
        fit(folder, Pictures(folder, CASES["1 x 300 in memory"][1], rows=(2, 3)), on_bad="skip", max_bad=1)
