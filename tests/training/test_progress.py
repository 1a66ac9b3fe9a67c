"""The end of a run as it is planned, against where the run ends."""

import lightning
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from embedrl.training.progress import curve_step, total_steps


class Inner(BoringModel):
    """Several optimizer steps a batch, as EG-RL makes them."""

    def __init__(self, steps_per_batch):
        super().__init__()
        self.steps_per_batch, self.automatic_optimization = steps_per_batch, steps_per_batch == 1
        self.batches = 0

    def on_train_start(self):
        self.planned = total_steps(self.trainer)

    def training_step(self, batch, batch_idx):
        self.batches += 1
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        for _ in range(self.steps_per_batch):
            self.optimizers().zero_grad()
            self.manual_backward(self.layer(batch).sum())
            self.optimizers().step()
        return None


CASES = {
    "epochs": (1, {"max_epochs": 2, "limit_train_batches": 5}, 10),
    "accumulated, the last one alone": (
        1,
        {"max_epochs": 2, "limit_train_batches": 5, "accumulate_grad_batches": 2},
        6,
    ),
    "steps": (1, {"max_steps": 7, "max_epochs": -1}, 7),
    "epochs end before steps": (1, {"max_steps": 70, "max_epochs": 1, "limit_train_batches": 5}, 5),
    "inner, epochs": (2, {"max_epochs": 3, "limit_train_batches": 2}, 12),
    "inner, a share of the batches": (3, {"max_epochs": 1, "limit_train_batches": 0.1}, 18),  # 6 of 64
    "inner, steps": (2, {"max_steps": 6, "max_epochs": -1}, 6),
    "inner, a batch is not left half": (3, {"max_steps": 4, "max_epochs": -1}, 6),
    "inner, steps end before epochs": (2, {"max_steps": 5, "max_epochs": 9, "limit_train_batches": 4}, 6),
    "inner, epochs end before steps": (2, {"max_steps": 50, "max_epochs": 2, "limit_train_batches": 4}, 16),
    "inner, overfitting": (2, {"max_epochs": 2, "overfit_batches": 3}, 12),
    "inner, a trial": (2, {"fast_dev_run": True}, 2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("inner", "options", "steps"), CASES.values(), ids=CASES)
def test_a_run_ends_where_it_was_planned_to(tmp_path, inner, options, steps):
    module = Inner(inner)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
        enable_progress_bar=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module)
    assert module.planned == trainer.global_step == steps
    if not options.get("accumulate_grad_batches"):
        assert curve_step(trainer.global_step, module) == module.batches


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_an_end_has_none(tmp_path):
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
        enable_progress_bar=False, default_root_dir=tmp_path, max_epochs=-1, max_time="00:00:00:01",
    )  # fmt: skip
    module = Inner(2)
    trainer.fit(module)
    assert module.planned is None
