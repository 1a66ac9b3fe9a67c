"""GRPO on lessons, on the real classes, with random weights."""

import pytest
import torch
from verifiable import Vowels, adapters, build, data, fit

from embedrl.errors import ConfigError
from embedrl.rl.reply_rewards import ReplyRewardRow
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.verifiable_module import VerifiableRLModule
from embedrl.training.trained_model import load_module


@pytest.mark.filterwarnings("ignore")
def test_a_step_moves_the_adapter_and_validation_scores_by_the_rewards(tmp_path):
    module = build(inner_epochs=2)
    module.configure_model()
    before = adapters(module)
    trainer = fit(module, tmp_path, 4, datamodule=data(), limit_val_batches=1.0, check_val_every_n_epoch=None,
                  val_check_interval=2)  # fmt: skip
    after = adapters(module)
    assert trainer.global_step == 4
    assert before
    assert all("lora" in name for name in before)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    by_hand = [Vowels()(None, rollout.text) for rollout, _ in module.rollouts]
    assert len(by_hand) == 8  # 2 lessons, 4 replies each
    assert logged["reward/vowels/mean"] == pytest.approx(sum(by_hand) / 8)
    assert logged["reward/total/mean"] == pytest.approx(2 * sum(by_hand) / 8)
    assert [parts["vowels"] for _, parts in module.rollouts] == by_hand
    assert logged["policy/engine_gap"] < 1e-4
    greedy = [Vowels()(lesson, reply) for lesson, reply, _ in module.replies]
    assert len(greedy) == 3
    assert logged["val/vowels"] == logged["val/colour/vowels"] == pytest.approx(sum(greedy) / 3)
    assert logged["val/reward"] == pytest.approx(2 * logged["val/vowels"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path):
    whole = build()
    fit(whole, tmp_path, 3, datamodule=data())
    fit(build(), tmp_path, 1, datamodule=data()).save_checkpoint(tmp_path / "one.ckpt")
    resumed = build()
    fit(resumed, tmp_path, 3, ckpt_path=tmp_path / "one.ckpt", datamodule=data())
    assert [r.text for r, _ in resumed.rollouts] == [r.text for r, _ in whole.rollouts]
    for name, value in adapters(whole).items():
        assert torch.equal(adapters(resumed)[name], value)
    again = load_module(tmp_path / "one.ckpt")
    assert type(again) is VerifiableRLModule
    assert [type(row.reward).__name__ for row in again.reply_rewards] == ["Vowels"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group_size": 1}, "group_size is 1"),
        ({"rollout": RolloutOptions(temperature=0.0)}, "temperature is 0"),
        ({"rewards": []}, "rewards is empty"),
        ({"rewards": [ReplyRewardRow(Vowels(), -1.0)]}, "weight -1.0"),
        ({"inner_epochs": 0}, "inner_epochs"),
    ],
)
def test_wrong_options(options, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        fit(build(**options), tmp_path, 1, datamodule=data())


@pytest.mark.filterwarnings("ignore")
def test_pairs_are_no_lessons(tmp_path):
    from egrl_module import data as pairs

    with pytest.raises(ConfigError, match="VerifiableRLDataModule"):
        fit(build(), tmp_path, 1, datamodule=pairs())
