"""When `last.ckpt` is written: between steps, and before Lightning has counted an epoch that is not over."""

import lightning
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from embedrl.training.stopping import LastCheckpoint


def fit(folder, every_n_steps, **options):
    """A run, and after how many batches, steps and whole epochs it wrote."""
    last, saved = LastCheckpoint(every_n_steps), []
    write = last._save_last_checkpoint

    def spy(trainer, candidates):
        progress = trainer.fit_loop.epoch_progress.current.completed
        saved.append((trainer.fit_loop.total_batch_idx + 1, trainer.global_step, progress))
        write(trainer, candidates)

    last._save_last_checkpoint = spy
    lightning.Trainer(
        accelerator="cpu", logger=False, enable_model_summary=False, enable_progress_bar=False, callbacks=[last],
        num_sanity_val_steps=0, limit_val_batches=1, default_root_dir=folder, **options,
    ).fit(BoringModel())  # fmt: skip
    return saved


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_written_between_accumulated_batches(tmp_path):
    """A validation after every third batch comes in the middle of every other step of two."""
    options = {"max_steps": 4, "accumulate_grad_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}
    saved = fit(tmp_path, 1, **options)
    assert [(batches, steps) for batches, steps, _ in saved] == [(2, 1), (4, 2), (6, 3), (8, 4)]


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_ends_in_an_epoch_has_not_been_through_it(tmp_path):
    assert fit(tmp_path, 100, max_steps=3, max_epochs=2, limit_train_batches=5) == [(3, 3, 0)]
