"""An interrupted run that goes on sees what the uninterrupted run sees, bit for bit."""

import pytest
import torch
from fake_data import FakePreprocessor, Numbers, NumberTasks
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from embedrl.data.datamodules.embedder import EmbedderDataModule
from embedrl.data.mix import MixRow
from embedrl.data.render import RenderOptions


class Backbone(torch.nn.Module):
    def preprocessor(self):
        return FakePreprocessor()


class Model(LightningModule):
    """Its weight depends on every batch seen, in order."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def training_step(self, batch, batch_idx):
        values = torch.cat([inputs["value"] for inputs in batch.micro_batches])
        return (self.weight * values.sin()).mean() ** 2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Record(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append((batch.datasets, batch.ids, module.weight.item()))


def run(tmp_path, *, resume=None, workers=0, persistent=False, save=True, **trainer_args):
    data = EmbedderDataModule(
        batch_size=4,
        sub_batch_size=2,
        micro_batch_size=3,
        mix=[MixRow(Numbers("a", 9)), MixRow(Numbers("b", 7), weight=2.0)],
        val=[NumberTasks()],
        render=RenderOptions(tcot="none"),
        num_workers=workers,
        persistent_workers=persistent,
    )
    record = Record()
    callbacks = [record]
    if save:
        for name, every in (("step", {"every_n_train_steps": 1}), ("epoch", {"every_n_epochs": 1})):
            filename = f"{name}-{{step}}"
            callbacks.append(ModelCheckpoint(tmp_path, filename=filename, save_top_k=-1, **every))
    trainer = Trainer(
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=save,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **{"max_epochs": 3, **trainer_args},
    )
    trainer.fit(Model(), data, ckpt_path=resume, weights_only=resume is not None or None)
    return record.seen


def check(tmp_path, only=None, **kwargs):
    """Resume from every checkpoint (or `only` those steps) and compare; returns what the uninterrupted run saw."""
    whole = run(tmp_path, **kwargs)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert {path.stem.split("-")[0] for path in paths} == {"step", "epoch"}
    for path in paths:
        step = int(path.stem.split("=")[1])
        if only is None or step in only:
            resumed = run(tmp_path, resume=path, save=False, **kwargs)
            assert resumed == whole[step * kwargs.get("accumulate_grad_batches", 1) :], path.name
    return whole


def test_from_every_checkpoint(tmp_path):
    whole = check(tmp_path)
    assert len(whole) == 12
    assert len({str(ids) for _, ids, _ in whole}) > 8  # the epochs differ


@pytest.mark.parametrize("persistent", [False, True])
def test_with_workers(tmp_path, persistent):
    kwargs = {"workers": 2, "persistent": persistent, "max_epochs": 2, "limit_val_batches": 0}
    assert check(tmp_path, {2, 4}, **kwargs) == run(tmp_path, save=False, max_epochs=2)


@pytest.mark.parametrize(
    "trainer_args",
    [
        {"max_steps": 10, "max_epochs": -1},
        {"max_steps": 10, "max_epochs": -1, "limit_val_batches": 0},
        {"max_steps": 10, "max_epochs": -1, "limit_train_batches": 3},
        {"limit_train_batches": 3},
        {"val_check_interval": 2},
        {"check_val_every_n_epoch": 2},
        {"limit_val_batches": 0},
        {"accumulate_grad_batches": 2},
    ],
    ids=str,
)
def test_with_trainer_settings(tmp_path, trainer_args):
    check(tmp_path, {2, 3, 4, 6}, **trainer_args)
