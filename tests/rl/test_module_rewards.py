"""A training step with rewards of sections, of evidence and of crops, and the options of later GRPO work."""

import pytest
import torch
from egrl_module import adapters, build, fit

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.world import WorldSource
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.counterfactual import CounterfactualReward
from embedrl.rl.rewards.evidence import EvidenceReward
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rewards.step_credit import StepCreditReward
from embedrl.rl.rollout import RolloutOptions
from embedrl.rl.token_advantages import AdvantageOptions


def gold_pairs():
    return EGRLDataModule(batch_size=2, mix=[MixRow(WorldSource("grounding", size=8, teacher="none", gold=True))])


@pytest.mark.filterwarnings("ignore")
def test_all_rewards_and_options_together(tmp_path):
    rewards = [FormatReward(), OutcomeReward(), EvidenceReward(), CounterfactualReward(), StepCreditReward()]
    module = build(
        rewards=[RewardRow(reward, 0.5) for reward in rewards],
        loss=GRPOLoss(3e-4, 4e-4, kl_coefficient=0.0, ratio="sequence"),
        rollout=RolloutOptions(max_new_tokens=6, top_p=0.5),
        policy=PolicyOptions(max_tokens=200, correct_top_p=True),
        advantages=AdvantageOptions(scale="none", sft_weight=0.1, sft_gates={"step_credit": 0.0}),
        kl_in_reward=0.1,
        inner_epochs=2,
    )
    module.configure_model()
    before = adapters(module)
    logged = fit(module, tmp_path, 4, datamodule=gold_pairs()).logged_metrics
    assert any(not torch.equal(value, before[name]) for name, value in adapters(module).items())
    assert logged["policy/engine_gap"] < 1e-4  # nothing is left that top_p would have to explain
    assert logged["policy/ratio"] != 1.0
    assert logged["reward/divergence"] != 0.0
    assert logged["advantage/gated"] == 1.0
    assert logged["reward/evidence/known"] == 1.0
    assert logged["reward/step_credit/mean"] > 0
    names = {f"reward/step_credit/gain_{name}" for name in ("thinking", "rethink", "answer")}
    assert names | {"reward/evidence/box", "reward/counterfactual/mean", "reward/step_credit/start"} <= set(logged)
    assert len(module.rollouts[0][1]) == len(rewards)
