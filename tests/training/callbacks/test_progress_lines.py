"""Lines of progress at the pace that is promised, with right rates and times; nothing in training changes."""

import re
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from embedrl.data.datamodules.egrl import PairBatch
from embedrl.data.sft_batches import LessonBatch
from embedrl.training.callbacks import progress_lines
from embedrl.training.callbacks.progress_lines import ProgressLines, _items
from embedrl.types import Pair, Side


class Module(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", torch.tensor(1.0 / (self.global_step + 1)), prog_bar=True)
        self.log("train/hidden", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        for i in range(8):
            self.log(f"val/m{i}", float(i), prog_bar=True)
        self.log("val/hit@1", 0.5, prog_bar=True)
        self.log("val/vqa/hit@1", 0.25)


class Clock(lightning.Callback):
    """A second a training batch, two a batch of validation."""

    now = 100.0

    def on_train_batch_end(self, *_):
        self.now += 1

    def on_validation_batch_end(self, *_):
        self.now += 2


def fit(folder, monkeypatch, *, bar=True, ckpt_path=None, **options):
    clock = Clock()
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: clock.now))
    lightning.seed_everything(0, verbose=False)
    module = Module()
    settings = {"max_steps": 40, "val_check_interval": 20, "limit_val_batches": 3, "num_sanity_val_steps": 1} | options
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=folder, check_val_every_n_epoch=None,
        callbacks=[clock, *([ProgressLines(8.0)] if bar else [])],
        **{"enable_progress_bar": bar, **settings},
    )  # fmt: skip
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_lines(tmp_path, monkeypatch, capsys):
    fit(tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines() == [
        "step 1/40  loss 1.000  1 steps/s  39 s left",
        "step 3/40  loss 0.333  1 steps/s  37 s left",
        "step 7/40  loss 0.143  1 steps/s  33 s left",
        "step 15/40  loss 0.067  1 steps/s  25 s left",
        "step 20  validation: batch 2/3",
        "step 20  validation (6 s)  hit@1 0.500  m0 0.000  m1 1.000  m2 2.000  m3 3.000",
        "step 26/40  loss 0.038  1 steps/s  17 s left",  # 32 s for 26 steps, validation among them: 14 more
        "step 34/40  loss 0.029  1 steps/s  7 s left",
        "step 40/40  loss 0.025  1 steps/s",
        "step 40  validation: batch 1/3",
        "step 40  validation (6 s)  hit@1 0.500  m0 0.000  m1 1.000  m2 2.000  m3 3.000",
    ]


@pytest.mark.filterwarnings("ignore")
def test_gradients_of_several_batches_make_a_step(tmp_path, monkeypatch, capsys):
    fit(tmp_path, monkeypatch, max_steps=4, accumulate_grad_batches=3, limit_val_batches=0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "4/4"]
    assert lines[0].endswith("0.333 steps/s  9 s left")


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_counts_on_and_training_is_the_same(tmp_path, monkeypatch, capsys):
    fit(tmp_path, monkeypatch, max_steps=10).save_checkpoint(tmp_path / "a.ckpt")
    capsys.readouterr()
    plain = fit(tmp_path, monkeypatch, bar=False, ckpt_path=tmp_path / "a.ckpt").model.state_dict()
    assert capsys.readouterr().out == ""
    rest = fit(tmp_path, monkeypatch, ckpt_path=tmp_path / "a.ckpt").model.state_dict()
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"step 11/40  loss \S+  1 steps/s  29 s left", first)
    assert all(torch.equal(value, plain[name]) for name, value in rest.items())


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_an_end_and_other_ranks(tmp_path, monkeypatch, capsys):
    fit(tmp_path, monkeypatch, max_steps=-1, max_epochs=-1, max_time="00:00:00:01", limit_val_batches=0)
    assert capsys.readouterr().out.splitlines()[0] == "step 1  loss 1.000  1 steps/s"
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    fit(tmp_path, monkeypatch)
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_scoring_alone(stage, tmp_path, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(clock, "on_test_batch_end", clock.on_validation_batch_end)
    monkeypatch.setattr(clock, "on_predict_batch_end", clock.on_validation_batch_end)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[clock, ProgressLines()],
        default_root_dir=tmp_path, **{f"limit_{stage.replace('validate', 'val')}_batches": 4},
    )  # fmt: skip
    loader = Module().train_dataloader()
    options = {} if stage == "predict" else {"verbose": False}
    getattr(trainer, stage)(Module(), loader, **options)
    name = stage.replace("validate", "validation")
    expected = [f"{name}: batch {i}/4" for i in (1, 2, 4)]
    assert capsys.readouterr().out.splitlines() == expected


def test_what_is_counted():
    assert _items(LessonBatch([], [None] * 3), None) == (3, "lessons")
    assert _items(PairBatch([Pair(Side("a"), Side("b"), "set", "1")] * 2, "set"), SimpleNamespace(group_size=8)) == (
        32,
        "rollouts",
    )
    assert _items(torch.zeros(3), None) == (0, "")
