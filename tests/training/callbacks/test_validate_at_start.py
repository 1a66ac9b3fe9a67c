"""A validation at step 0 is logged and leaves no trace in what follows."""

import functools
import random

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from embedrl.data.datamodules.reasoner import ReasonerDataModule
from embedrl.data.world.lessons.curriculum import Stage, WorldExam, WorldLessons
from embedrl.models.lora import LoRAOptions
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.training.callbacks.validate_at_start import ValidateAtStart
from embedrl.training.reasoner import ReasonerModule
from embedrl.training.run_dir import LastCheckpoint


class Trace(lightning.Callback):
    """What every step sees of the random state, the modes and the loss; validations draw random numbers."""

    def __init__(self):
        self.steps, self.validated, self.modes = [], [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.modes.append((module.training, torch.is_grad_enabled(), trainer.training))
        self.drawn = (float(torch.rand(())), float(np.random.rand()), random.random())

    def on_train_batch_end(self, trainer, *_):
        self.steps.append((trainer.global_step, float(trainer.callback_metrics["train/loss"]), *self.drawn))

    def on_validation_end(self, trainer, module):
        assert not trainer.sanity_checking
        self.validated.append(trainer.global_step)
        torch.rand(3), np.random.rand(3), random.random()


def fit(folder, *callbacks, steps=4, ckpt_path=None, **options):
    lightning.seed_everything(0, verbose=False)
    lora = LoRAOptions(r=4, alpha=8, dropout=0.2, scope="all-linear")
    module = ReasonerModule(
        QwenVLReasoner("embedrl:tiny", lora=lora),
        functools.partial(torch.optim.AdamW, lr=1e-3),
        schedule="constant_with_warmup",
        max_new_tokens=3,
    )
    data = ReasonerDataModule(
        2, 2, train=WorldLessons([Stage(None, {"where": 1.0})], 40), val=WorldExam(["where"], each=2)
    )
    trace = Trace()
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, max_steps=steps, num_sanity_val_steps=0, log_every_n_steps=1,
        val_check_interval=2, check_val_every_n_epoch=None, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[trace, *callbacks],
        **{"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=False if ckpt_path else None)
    return trainer, trace


def rows(folder) -> dict[int, dict[str, str]]:
    """The CSV log: the validation scores by step."""
    head, *lines = (line.split(",") for line in next(folder.rglob("metrics.csv")).read_text().splitlines())
    found = [dict(zip(head, line, strict=True)) for line in lines]
    return {int(row["step"]): row for row in found if row["val/exact"]}


@pytest.mark.filterwarnings("ignore")
def test_step_0_is_logged_and_training_goes_on_as_without_it(tmp_path):
    plain, expected = fit(tmp_path / "a")
    started, trace = fit(tmp_path / "b", ValidateAtStart(), logger=CSVLogger(tmp_path / "b"), enable_progress_bar=True)
    assert expected.validated == [2, 4]
    assert trace.validated == [0, 2, 4]
    assert sorted(rows(tmp_path / "b")) == [0, 1, 3]
    assert trace.steps == expected.steps
    assert set(trace.modes) == set(expected.modes) == {(True, True, True)}
    for name, value in plain.lightning_module.state_dict().items():
        assert torch.equal(value, started.lightning_module.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("at", [1, 2])
def test_a_checkpoint_is_the_same_and_a_resumed_run_does_not_start_again(tmp_path, at):
    """Before the first usual validation, and after it."""
    whole, expected = fit(tmp_path / "whole", ValidateAtStart())
    saved = {}
    for name, callbacks in {"with": [ValidateAtStart()], "without": []}.items():
        trainer, _ = fit(tmp_path / name, *callbacks, steps=at)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        saved[name] = torch.load(tmp_path / f"{name}.ckpt", weights_only=False)
    assert saved["with"]["loops"] == saved["without"]["loops"]
    rest, trace = fit(tmp_path / "rest", ValidateAtStart(), ckpt_path=tmp_path / "with.ckpt")
    assert [row[:2] for row in trace.steps] == [row[:2] for row in expected.steps[at:]]
    assert 0 not in trace.validated
    for name, value in whole.lightning_module.state_dict().items():
        assert torch.equal(value, rest.lightning_module.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore")
def test_no_checkpoint_before_the_first_step_and_best_comes_from_training(tmp_path):
    seen = []

    class Listing(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            seen.append([path.name for path in tmp_path.rglob("*.ckpt")])

    best = ModelCheckpoint(tmp_path, "best", monitor="val/exact", mode="max")
    fit(tmp_path, ValidateAtStart(), Listing(), best, LastCheckpoint(100), enable_checkpointing=True, steps=3)
    assert seen == [[], [], ["best.ckpt", "last.ckpt"]] or seen == [[], [], ["last.ckpt", "best.ckpt"]]
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == 2


@pytest.mark.filterwarnings("ignore")
def test_nothing_to_validate_is_no_error(tmp_path):
    _, trace = fit(tmp_path, ValidateAtStart(), limit_val_batches=0, steps=1)
    assert trace.validated == []
