"""The KL as a part of the reward."""

import pytest
import torch
from policy_helpers import plain_logprobs, policy_model

from embedrl.rl.divergence import less_divergence
from embedrl.rl.policy import Policy
from embedrl.rl.rewards.combine import StepRewards
from embedrl.rl.rollout import LocalRollout, RolloutOptions
from embedrl.rl.step import make_prompts, roll_out
from embedrl.types import Pair, Side


@torch.no_grad()
def test_it_is_what_the_log_probabilities_of_the_tokens_differ_by():
    model, base = policy_model(path="embedrl:world_base"), policy_model(lora=False, path="embedrl:world_base")
    prompts = make_prompts([Pair(Side("a cat"), Side("a red star"), "demo", "0")], 0, "brief", model.preprocessor())
    rollouts = roll_out(LocalRollout(model, RolloutOptions(max_new_tokens=6, seed=1)), prompts, 2, 0)
    totals = {r.id: 1.0 for r in rollouts} | {rollouts[0].id: None}
    rewards = less_divergence(StepRewards(totals, {}, {"kept": 3.0}), Policy(model), prompts, rollouts, 0.5)
    chats = {prompt.group: prompt.chat for prompt in prompts}
    sums = ([plain_logprobs(m, chats[r.group], [r.tokens])[0].sum() for r in rollouts] for m in (model, base))
    nats = [float(own - before) for own, before in zip(*sums, strict=True)]
    assert max(map(abs, nats)) > 1e-2
    assert rewards.totals[rollouts[0].id] is None
    for rollout, value in list(zip(rollouts, nats, strict=True))[1:]:
        assert rewards.totals[rollout.id] == pytest.approx(1 - 0.5 * value, abs=1e-4)
    assert rewards.metrics == {"kept": 3.0, "reward/divergence": pytest.approx(sum(nats) / len(nats), abs=1e-4)}
