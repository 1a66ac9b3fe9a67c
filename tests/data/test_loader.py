"""An interrupted run that goes on sees what the uninterrupted run sees, bit for bit, whatever the data module."""

import pytest
import torch
from fake_data import DATA_MODULES as DATA
from fake_data import FakePreprocessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


class Model(torch.nn.Module):
    def preprocessor(self):
        return FakePreprocessor()


class Module(LightningModule):
    """Its weight depends on every batch seen, in order."""

    def __init__(self):
        super().__init__()
        self.backbone = self.generator = Model()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch  # as the kit's modules: sides are frozen dataclasses

    def training_step(self, batch, batch_idx):
        values = torch.tensor([float(name.split()[-1]) for name in names(batch)])
        return (self.weight * values.sin()).mean() ** 2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def names(batch):
    """What a batch of any of the data modules holds; every name ends in its row."""
    if hasattr(batch, "pairs"):
        return [f"{pair.dataset} {pair.id}" for pair in batch.pairs]
    if hasattr(batch, "lessons"):
        return [lesson.reply for lesson in batch.lessons]
    return [f"{dataset} {name}" for dataset, name in zip(batch.datasets, batch.ids, strict=True)]


class Record(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append((names(batch), module.weight.item()))


def run(folder, data, *, resume=None, save=True, **options):
    """Train; returns what each step saw and the weight after it."""
    record = Record()
    callbacks = [record]
    if save:
        for name, every in (("step", {"every_n_train_steps": 1}), ("epoch", {"every_n_epochs": 1})):
            callbacks.append(ModelCheckpoint(folder, filename=f"{name}-{{step}}", save_top_k=-1, **every))
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
        default_root_dir=folder,
        **{"max_epochs": 3, **options},
    )
    trainer.fit(Module(), data, ckpt_path=resume, weights_only=resume is not None or None)
    if save:
        trainer.save_checkpoint(folder / f"end-step={trainer.global_step}.ckpt")
    return record.seen


def check(folder, make, only=None, accumulate=1, **options):
    """Resume from every checkpoint (or `only` those steps) and compare; returns what the uninterrupted run saw."""
    options["accumulate_grad_batches"] = accumulate
    whole = run(folder, make(), **options)
    paths = sorted(folder.glob("*.ckpt"))
    assert {path.stem.split("-")[0] for path in paths} == {"step", "epoch", "end"}
    for path in paths:
        step = int(path.stem.split("=")[1])
        if only is None or step in only:
            resumed = run(folder, make(), resume=path, save=False, **options)
            assert resumed == whole[step * accumulate :], path.name
    return whole


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_from_every_checkpoint(tmp_path, make):
    """At the ends of epochs and in their middle."""
    whole = check(tmp_path, make)
    assert len(whole) == 12
    epochs = [[seen for seen, _ in whole[i : i + 4]] for i in (0, 4, 8)]
    assert (epochs[0] != epochs[1] != epochs[2]) == (make is not DATA["curriculum"])


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
@pytest.mark.parametrize("limit", [{"max_epochs": 1}, {"max_steps": 4, "max_epochs": -1}], ids=str)
def test_a_finished_run_goes_on(tmp_path, make, limit):
    """One epoch, then two more: from its checkpoints of the last step, of the epoch and of the end."""
    whole = run(tmp_path, make(), save=False)
    assert run(tmp_path, make(), **limit) == whole[:4]
    for name in ("step-step=4", "epoch-step=4", "end-step=4"):
        assert run(tmp_path, make(), resume=tmp_path / f"{name}.ckpt", save=False) == whole[4:], name


@pytest.mark.parametrize("persistent", [False, True])
def test_with_workers(tmp_path, persistent):
    def make(workers=2):
        return DATA["embedder"](num_workers=workers, persistent_workers=persistent)

    options = {"max_epochs": 2, "limit_val_batches": 0}
    assert check(tmp_path, make, {2, 4}, **options) == run(tmp_path, make(0), save=False, **options)


@pytest.mark.parametrize("name", ["reasoner", "egrl"])
def test_the_others_with_workers(tmp_path, name):
    """Workers load ahead: what they have loaded is not yet seen."""
    make = DATA[name]
    options = {"max_epochs": 2, "limit_val_batches": 0}
    whole = run(tmp_path, make(num_workers=2), **options)
    assert whole == run(tmp_path, make(), save=False, **options)
    for path, step in ((tmp_path / "step-step=2.ckpt", 2), (tmp_path / "epoch-step=4.ckpt", 4)):
        assert run(tmp_path, make(num_workers=2), resume=path, save=False, **options) == whole[step:]


SETTINGS = [
    {"max_steps": 10, "max_epochs": -1},
    {"max_steps": 10, "max_epochs": -1, "limit_val_batches": 0},
    {"max_steps": 10, "max_epochs": -1, "limit_train_batches": 3},
    {"limit_train_batches": 3},
    {"val_check_interval": 2},
    {"check_val_every_n_epoch": 2},
    {"limit_val_batches": 0},
    {"accumulate": 2},
]


@pytest.mark.parametrize("name", ["embedder", *(pytest.param(n, marks=pytest.mark.slow) for n in ("reasoner", "egrl"))])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_with_trainer_settings(tmp_path, name, options):
    check(tmp_path, DATA[name], {2, 3, 4, 6}, **options)
