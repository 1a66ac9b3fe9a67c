"""The bar of a terminal counts the steps of the whole run."""

import sys

import lightning
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from embedrl.commands.fit import progress_bar
from embedrl.training.callbacks.progress_lines import ProgressLines
from embedrl.training.callbacks.step_bar import StepBar


class Watch(lightning.Callback):
    """What the bar shows after each batch."""

    def __init__(self):
        self.shown = []

    def on_train_batch_end(self, trainer, module, *_):
        task = trainer.progress_bar_callback.train_progress_bar
        self.shown.append((task.description.strip(), task.completed, task.total))
        self.metrics = trainer.progress_bar_callback.get_metrics(trainer, module)


class Module(BoringModel):
    def training_step(self, batch, batch_idx):
        self.log("train/loss", 1.0, prog_bar=True)
        return super().training_step(batch, batch_idx)


def fit(folder, steps, ckpt_path=None, **options):
    watch = Watch()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, limit_train_batches=4, limit_val_batches=1, enable_model_summary=False,
        default_root_dir=folder, enable_checkpointing=False, callbacks=[StepBar(), watch], **options,
    )  # fmt: skip
    trainer.fit(Module(), ckpt_path=ckpt_path)
    return trainer, watch


@pytest.mark.filterwarnings("ignore")
def test_steps_of_the_run(tmp_path):
    trainer, watch = fit(tmp_path, 6)
    assert watch.shown == [("Step", i, 6) for i in range(1, 7)]  # over two epochs
    assert watch.metrics == {"train/loss": 1.0}  # and no `v_num`
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, watch = fit(tmp_path, 10, tmp_path / "a.ckpt")
    assert watch.shown == [("Step", i, 10) for i in range(7, 11)]


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_an_end_counts_its_epochs(tmp_path):
    _, watch = fit(tmp_path, -1, max_epochs=-1, max_time="00:00:00:01")
    assert watch.shown[:5] == [*(("Epoch 0", i, 4) for i in range(1, 5)), ("Epoch 1", 1, 4)]


@pytest.mark.parametrize(("terminal", "kind"), [(True, StepBar), (False, ProgressLines)])
def test_a_bar_on_a_terminal_and_lines_elsewhere(terminal, kind, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert type(progress_bar()) is kind
