"""The whole EG-RL step on the real classes, with random weights."""

import functools

import pytest
import torch
from lightning import Trainer, seed_everything
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from embedrl.cli import main
from embedrl.data.mix import MixRow
from embedrl.data.reasoning import TCoTLessons
from embedrl.data.rollout_pairs import RolloutDataModule
from embedrl.data.world import WorldSource, WorldTasks
from embedrl.models.generator import QwenVLReasoner
from embedrl.models.lora import LoRAOptions
from embedrl.models.preprocess import PixelBudget
from embedrl.models.qwen_vl import QwenVLBackbone
from embedrl.models.reasoned_retrieval import FrozenEmbedder, ReasonedRetrieval
from embedrl.rl.loss import GRPOLoss
from embedrl.rl.module import EGRLModule
from embedrl.rl.policy import PolicyOptions
from embedrl.rl.rewards.combine import RewardRow
from embedrl.rl.rewards.format import FormatReward
from embedrl.rl.rewards.outcome import OutcomeReward
from embedrl.rl.rollout import RolloutOptions

SMALL = PixelBudget(1024, 2304)


def build(**options):
    return EGRLModule(
        generator=QwenVLReasoner("embedrl:tiny", lora=LoRAOptions(r=4, alpha=8, dropout=0.0, scope="all-linear")),
        embedder=FrozenEmbedder(QwenVLBackbone("embedrl:tiny", image_pixels=SMALL)),
        rewards=[RewardRow(FormatReward(), 0.05), RewardRow(OutcomeReward(), 0.95)],
        optimizer=functools.partial(torch.optim.AdamW, lr=1e-2),
        loss=GRPOLoss(),
        **{
            "group_size": 3,
            "rollout": RolloutOptions(max_new_tokens=6),
            "policy": PolicyOptions(max_tokens=200),
            "style": "brief",
            "max_new_tokens": 6,
            **options,
        },
    )


def data():
    mix = [MixRow(WorldSource(family, size=8, teacher="none")) for family in ("vqa", "grounding")]
    lessons = TCoTLessons([WorldSource("vqa", split="val")], style="brief", limit=2)
    return RolloutDataModule(batch_size=2, mix=mix, val=lessons)


def fit(module, folder, steps, ckpt_path=None, **options):
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        **{"limit_val_batches": 0, **options},
    )  # fmt: skip
    trainer.fit(module, datamodule=data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def adapters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.filterwarnings("ignore")
def test_a_step_moves_the_policy_and_nothing_else_and_logs_it(tmp_path):
    module = build(inner_epochs=2)
    module.configure_model()
    before = adapters(module)
    assert all("lora" in name for name in before)
    frozen = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
    tasks = ReasonedRetrieval([WorldTasks(size=2, families=["vqa"])], style="brief", max_new_tokens=4)
    trainer = fit(module, tmp_path, 4, callbacks=[tasks], limit_val_batches=1.0, check_val_every_n_epoch=None,
                  val_check_interval=2)  # fmt: skip
    after = adapters(module)
    assert trainer.global_step == 4  # two batches, two inner epochs each
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(torch.equal(p, frozen[n]) for n, p in module.named_parameters() if not p.requires_grad)
    assert not any(p.requires_grad for p in module.embedder.backbone.parameters())
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert logged["reward/format/mean"] == 0.0  # six random tokens
    assert -2 <= logged["reward/outcome/mean"] <= 2
    assert logged["rollout/length"] <= 6
    assert logged["rollout/truncated"] > 0
    assert logged["policy/engine_gap"] < 1e-4
    assert logged["policy/entropy"] > 1
    assert 0 <= logged["val/hit@1"] <= 1
    assert 0 <= logged["val/vqa/hit@1"] <= 1
    assert logged["val/format"] == 0.0
    assert {"policy/kl", "policy/ratio", "policy/clip_share", "policy/grad_norm", "advantage/zero_variance"} <= set(
        logged
    )


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path):
    whole = build()
    fit(whole, tmp_path, 3)
    first = build()
    fit(first, tmp_path, 1).save_checkpoint(tmp_path / "one.ckpt")
    resumed = build()
    fit(resumed, tmp_path, 3, ckpt_path=tmp_path / "one.ckpt")
    assert [r.text for r, _ in resumed.rollouts] == [r.text for r, _ in whole.rollouts]
    for name, value in adapters(whole).items():
        assert torch.equal(adapters(resumed)[name], value)
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == adapters(whole).keys()
    again = EGRLModule.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    assert [row.weight for row in again.rewards] == [0.05, 0.95]
    assert again.embedder.backbone.path == "embedrl:tiny"


@pytest.mark.filterwarnings("ignore")
def test_the_policy_is_exported_merged_and_as_an_adapter(tmp_path):
    module = build()
    fit(module, tmp_path, 1).save_checkpoint(tmp_path / "one.ckpt")
    module.eval()
    lesson = data().val[0]
    inputs = module.generator.preprocessor().lessons([lesson])
    with torch.no_grad():
        expected = module.generator(inputs)
        for adapter in (False, True):
            out = tmp_path / f"adapter_{adapter}"
            assert main(["export", "--checkpoint", str(tmp_path / "one.ckpt"), "--out", str(out)]
                        + ["--adapter", "true"] * adapter) == 0  # fmt: skip
            again = QwenVLReasoner("embedrl:tiny" if adapter else str(out))
            again.build()
            if adapter:
                again.net = PeftModel.from_pretrained(again.network, out)
            again.eval()
            torch.testing.assert_close(again(inputs), expected, rtol=1e-5, atol=1e-5)
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter_False")).__name__.startswith("Qwen3VL")
