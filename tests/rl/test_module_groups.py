"""Eq. 6 by hand: groups of equal rewards count in its mean and are held by their KL, unless they are filtered out."""

import functools

import pytest
import torch
from egrl_module import build, fit
from policy_helpers import plain_logprobs

from embedrl.data.datamodules.egrl import EGRLDataModule
from embedrl.data.mix import MixRow
from embedrl.data.world import WorldSource
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.types import RewardResult

BETA = 0.3


class OneGroup:
    """The rollouts of one group differ; those of the other seven are all worth the same."""

    name = "one"

    def __call__(self, step):
        return RewardResult({r.id: float(r.index) if r.group == "1/target" else 0.5 for r in step.rollouts})


class Gradients:
    """What the optimizer is given."""

    def __init__(self, module):
        self.module, self.taken = module, {}

    def __call__(self, *_):
        self.taken = {n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None}


def step_gradients(folder, **options):
    """One step on eight groups of three rollouts: its prompts, rollouts, gradients and the module."""
    module = build(
        rewards=[RewardRow(OneGroup())], loss=GRPOLoss(kl_coefficient=BETA), gradient_clip_val=1e9,
        optimizer=functools.partial(torch.optim.SGD, lr=0.0), **options,
    )  # fmt: skip
    module.configure_model()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)  # else the KL has no gradient in the first step
    gradients, improve, seen = Gradients(module), module._improve, []
    module.configure_model = lambda: None
    module._improve = lambda prompts, *rest: seen.extend(prompts) or improve(prompts, *rest)
    module.on_before_optimizer_step = gradients
    data = EGRLDataModule(batch_size=4, mix=[MixRow(WorldSource("vqa", size=8, teacher="none"))])
    fit(module, folder, 1, datamodule=data)
    return module, seen, [rollout for rollout, _ in module.rollouts], gradients.taken


def eq6(module, prompts, rollouts, counted):
    """The gradients of Eq. 6 over the rollouts of some groups, by plain transformers and autograd."""
    network = module.generator.network
    parts = []
    for prompt in prompts:
        group = [rollout for rollout in rollouts if rollout.group == prompt.group]
        if prompt.group not in counted:
            continue
        rewards = torch.tensor([float(r.index) if r.group == "1/target" else 0.5 for r in group])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        tokens = [list(r.tokens) for r in group]
        logprobs, _, mask = plain_logprobs(module.generator, prompt.chat, tokens)
        with torch.no_grad(), network.disable_adapter():
            reference, _, _ = plain_logprobs(module.generator, prompt.chat, tokens)
        ratio = (logprobs - logprobs.detach()).exp()
        kl = (reference - logprobs).exp() - (reference - logprobs) - 1
        objective = torch.min(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None]) - BETA * kl
        parts.append((objective * mask).sum(1) / mask.sum(1))
    loss = -torch.cat(parts).mean()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    values = torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad], allow_unused=True)
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("filter_groups", [False, True])
def test_the_gradient_of_a_step_in_which_seven_of_eight_groups_are_equal(tmp_path, filter_groups):
    module, prompts, rollouts, found = step_gradients(tmp_path, filter_groups=filter_groups)
    groups = {prompt.group for prompt in prompts}
    assert len(groups) == 8
    module.eval()
    expected = eq6(module, prompts, rollouts, {"1/target"} if filter_groups else groups)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 1e-4 * float(value.norm()), name
