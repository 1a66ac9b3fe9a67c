"""What is counted in optimizer steps and what in batches, where a batch makes two; and settings that teach nothing."""

import functools
import math

import pytest
import torch
from egrl_module import build, data, fit
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.errors import ConfigError
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.permuted import PermutedReward
from embedrl.rl.rollout import RolloutOptions
from embedrl.training.progress import total_steps
from embedrl.training.stopping import LastCheckpoint


class Watch(Callback):
    """The rate of every optimizer step, what is logged of it after every batch, and what is on the disk then."""

    def __init__(self, folder):
        self.folder, self.rates, self.logged, self.saved = folder, [], [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.planned = total_steps(trainer)
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_start(self, trainer, *_):
        last = self.folder / "last.ckpt"
        saved = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
        self.saved.append((trainer.global_step, saved))


@pytest.mark.filterwarnings("ignore")
def test_schedule_rate_and_checkpoints_are_in_steps_of_the_optimizer(tmp_path):
    module = build(inner_epochs=2, schedule="cosine", optimizer=functools.partial(torch.optim.SGD, lr=0.5))
    steps = data()
    steps.steps_per_epoch = 4
    watch, last = Watch(tmp_path), LastCheckpoint(3)
    last.dirpath = str(tmp_path)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = fit(module, tmp_path, -1, datamodule=steps, max_epochs=1, callbacks=[watch, last], logger=logger,
                  enable_checkpointing=True, log_every_n_steps=1)  # fmt: skip
    assert trainer.global_step == watch.planned == 8
    expected = [0.25 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]  # falls to the end, and no further
    assert watch.rates == pytest.approx(expected)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/lr")
    assert [float(row.split(",")[column]) for row in rows[1:]] == pytest.approx(expected[1::2])
    # With 3 steps at most between two checkpoints and 2 a batch, there is one after every batch.
    assert watch.saved == [(0, 0), (2, 2), (4, 4), (6, 6)]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


@pytest.mark.parametrize(
    ("every", "each", "effective"), [(1, 1, 1), (7, 1, 7), (3, 2, 2), (4, 2, 4), (5, 2, 4), (1, 3, 3), (100, 3, 99)]
)
def test_no_more_steps_lie_between_two_checkpoints_than_was_said(tmp_path, every, each, effective):
    last = LastCheckpoint(every)
    last.dirpath = str(tmp_path)
    module = build(inner_epochs=each)
    trainer = type(
        "T", (), {"is_global_zero": False, "strategy": type("S", (), {"broadcast": staticmethod(lambda x: x)})}
    )
    last.setup(trainer, module, "fit")
    assert last._every_n_train_steps == effective


FORMAT = RewardRow(FormatReward())
NOTHING_TO_LEARN = {
    "one rollout a group": ({"group_size": 1}, 2, r"model\.group_size is 1: .*give 2 or more"),
    "no rollout": ({"group_size": 0}, 2, r"model\.group_size is 0"),
    "one pair a step": ({}, 1, r"data\.batch_size is 1: .*\(outcome\)"),
    "one pair a step, permuted": (
        {"rewards": [RewardRow(PermutedReward(OutcomeReward())), FORMAT]}, 1, r"data\.batch_size is 1: .*\(outcome\)"
    ),
    "greedy rollouts": ({"rollout": RolloutOptions(temperature=0)}, 2, r"model\.rollout\.temperature is 0"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("options", "pairs", "told"), NOTHING_TO_LEARN.values(), ids=NOTHING_TO_LEARN)
def test_a_run_that_can_learn_nothing_is_refused_before_it_loads_anything(tmp_path, options, pairs, told):
    module = build(**options)
    with pytest.raises(ConfigError, match=told):
        fit(module, tmp_path, 2, datamodule=EGRLDataModule(pairs, data().mix))
    assert not list(module.parameters())


def test_no_inner_epoch_is_refused():
    with pytest.raises(ConfigError, match=r"model\.inner_epochs is 0"):
        build(inner_epochs=0)


@pytest.mark.filterwarnings("ignore")
def test_one_pair_a_step_is_enough_for_a_reward_that_compares_none(tmp_path):
    fit(build(rewards=[FORMAT]), tmp_path, 1, datamodule=EGRLDataModule(1, data().mix))
