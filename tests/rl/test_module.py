"""The whole EG-RL step on the real classes, with random weights."""

import pytest
import torch
from egrl_module import adapters, build, data, fit
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from embedrl.cli import main
from embedrl.data.world import WorldTasks
from embedrl.metrics.ranking import rank
from embedrl.metrics.retrieval import MRR, HitRate, mean_metrics
from embedrl.models.qwen_vl.reasoner import QwenVLReasoner
from embedrl.rl.module import EGRLModule
from embedrl.training.callbacks.reasoned_retrieval import ReasonedRetrieval


@pytest.mark.filterwarnings("ignore")
def test_a_step_moves_the_policy_and_nothing_else_and_logs_it(tmp_path):
    module = build(inner_epochs=2)
    module.configure_model()
    before = adapters(module)
    assert all("lora" in name for name in before)
    frozen = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
    tasks = ReasonedRetrieval([WorldTasks(size=2, families=["vqa"])], style="brief", max_new_tokens=4,
                              metrics=[HitRate(1), MRR(12)])  # fmt: skip
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
    (scored,) = tasks.results
    ranking = rank(scored.queries, scored.candidates, scored.task.qrels, scored.task.pools, k=12)
    expected = mean_metrics(ranking, ks=(1, 12))
    found = {name.removeprefix("val/vqa/"): logged[name] for name in logged if name.startswith("val/vqa/")}
    assert found.keys() == {"hit@1", "mrr@12", "delta_s"}
    assert {name: found[name] for name in ("hit@1", "mrr@12")} == pytest.approx(
        {name: expected[name] for name in ("hit@1", "mrr@12")}
    )
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
