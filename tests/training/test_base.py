"""What the trainings share: hyperparameters from the constructor alone; siblings that inherit nothing else."""

import functools
import inspect

import pytest
import torch

from embedrl.errors import NonFiniteError
from embedrl.inference.frozen_embedder import FrozenEmbedder
from embedrl.losses.info_nce import InfoNCE
from embedrl.models.qwen_vl.backbone import QwenVLBackbone
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.grpo_loss import GRPOLoss
from embedrl.rl.module import EGRLModule
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.policy_module import PolicyModule
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.format import FormatReward
from embedrl.training.base import TrainingModule
from embedrl.training.checkpoints import config_form
from embedrl.training.embedder import EmbedderModule, VectorModule
from embedrl.training.greedy_replies import WritingModule
from embedrl.training.reasoner import ReasonerModule

ADAMW = functools.partial(torch.optim.AdamW, lr=1e-3)
SHARED = ["optimizer", "schedule", "warmup_steps", "seed"]


def embedder(**options):
    return EmbedderModule(QwenVLBackbone("embedrl:tiny"), InfoNCE(0.05), ADAMW, **options)


def reasoner(**options):
    return ReasonerModule(QwenVLReasoner("embedrl:tiny"), ADAMW, **options)


def egrl(**options):
    frozen = FrozenEmbedder(QwenVLBackbone("embedrl:tiny"))
    rewards = [RewardRow(FormatReward(), 0.5)]
    return EGRLModule(QwenVLReasoner("embedrl:tiny"), frozen, rewards, ADAMW, GRPOLoss(), **options)


# Checkpoints hold these names: another one would be a checkpoint that no longer loads.
ARGUMENTS = {
    embedder: ["backbone", "loss", "gradient_cache", "metrics", *SHARED],
    reasoner: ["generator", "schedule_args", "max_new_tokens", *SHARED],
    egrl: [
        "generator", "embedder", "rewards", "loss", "group_size", "rollout", "policy", "reference", "inner_epochs",
        "std_floor", "filter_groups", "gradient_clip_val", "style", "schedule_args", "max_new_tokens", "engine",
        "advantages", "kl_in_reward",
        *SHARED,
    ],
}  # fmt: skip


@pytest.mark.parametrize("build", ARGUMENTS, ids=lambda build: build.__name__)
def test_every_argument_is_a_hyperparameter_in_config_form(build):
    given = {"seed": 7, "warmup_steps": 3, "schedule": "constant"}
    more = {"policy": PolicyOptions(max_tokens=99), "schedule_args": {"num_cycles": 2}} if build is egrl else {}
    module = build(**given, **more)
    saved = dict(module.hparams)
    assert saved.pop("_instantiator") == "lightning.pytorch.cli.instantiate_module"
    assert sorted(saved) == sorted(ARGUMENTS[build])
    parameters = inspect.signature(type(module)).parameters
    for name, value in saved.items():
        if name in given | more:
            assert value == config_form((given | more)[name]), name
        elif parameters[name].default is not inspect.Parameter.empty:
            assert value == config_form(parameters[name].default), name
        elif name == "optimizer":
            assert value["init_args"] == {"lr": 1e-3}
    assert saved.get("backbone", saved.get("generator"))["init_args"]["path"] == "embedrl:tiny"
    assert (module.seed, module.warmup_steps, module.schedule) == (7, 3, "constant")


def test_a_further_subclass_keeps_the_hyperparameters_of_its_parent():
    class Louder(ReasonerModule):
        def __init__(self, volume):
            super().__init__(QwenVLReasoner("embedrl:tiny"), ADAMW, seed=volume)

    assert sorted(set(Louder(11).hparams) - {"_instantiator"}) == sorted(ARGUMENTS[reasoner])
    assert Louder(11).hparams.seed == 11


@pytest.mark.parametrize(
    ("build", "name", "base"),
    [
        (embedder, "backbone", VectorModule),
        (reasoner, "generator", WritingModule),
        (egrl, "generator", PolicyModule),
    ],
)
def test_the_trainings_are_siblings(build, name, base):
    module = build()
    assert type(module).__bases__ == (base,)
    assert base.__bases__ in ((TrainingModule,), (WritingModule,))
    assert module.trained_model is getattr(module, name)
    # What a sibling would have to undo is the work of one training alone.
    assert {"training_step", "backward"}.isdisjoint(vars(TrainingModule) | vars(WritingModule))


@pytest.mark.parametrize("build", [embedder, egrl])
def test_a_gradient_that_is_not_finite_names_step_place_and_samples(build, monkeypatch):
    module = build()
    module.register_parameter("weight", torch.nn.Parameter(torch.ones(2)))
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value: logged.update({name: value}))
    module.weight.grad = torch.tensor([3.0, 4.0])
    assert float(module.gradient_norm()) == 5.0
    module.on_before_optimizer_step(torch.optim.SGD([module.weight], lr=0.5))
    norm = {"train/grad_norm": 5.0} if build is embedder else {}  # EG-RL logs it as `policy/grad_norm`
    assert logged == {"train/lr": 0.5} | norm
    module.weight.grad[1], module.samples = torch.nan, ["data/7", "data/8"]
    message = r"step 0 \(inner epoch 1\): the gradient is not finite \(last batch: data/7, data/8\); lower the learning"
    with pytest.raises(NonFiniteError, match=message):
        module.gradient_norm(" (inner epoch 1)")
